"""Weighted sums of rewards: the numbers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from alignzoo.config import RewardConfig
from alignzoo.errors import ConfigError, DataError, PluginError
from alignzoo.reward import FunctionReward, RewardModel
from alignzoo.scoring import RewardSum, WeightedReward

NAN, INF = math.nan, math.inf


def giving(result: Any) -> FunctionReward:
    """Returns a reward that gives `result` whatever it is asked."""

    def fixed(completions: Any) -> Any:
        return result

    return FunctionReward(fixed)


def score(result: Any, rows: int = 3) -> np.ndarray[Any, Any]:
    """Returns the total of a single reward that gives `result`."""
    return RewardSum([("fixed", giving(result), 1.0)]).score(["p"] * rows, ["r"] * rows).total


def test_scores_are_summed_by_weight_and_kept_apart() -> None:
    total = RewardSum([("a", giving([1.0, 2.0]), 0.5), ("b", giving([10.0, 30.0]), -0.1)])
    scores = total.score(["p", "q"], ["r", "s"])
    assert scores.total.tolist() == [0.5 - 1.0, 1.0 - 3.0]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "a": [1.0, 2.0],
        "b": [10.0, 30.0],
    }
    assert scores.total.dtype == np.float64


def test_what_one_reward_cannot_score_is_unscorable() -> None:
    parts = [("a", giving([1.0, None, 1.0]), 1.0), ("b", giving([NAN, 1.0, 2.0]), 1.0)]
    scores = RewardSum(parts).score(["p"] * 3, ["r"] * 3)
    assert np.array_equal(scores.total, [NAN, NAN, 3.0], equal_nan=True)
    assert np.array_equal(scores.parts["a"], [1.0, NAN, 1.0], equal_nan=True)


def test_infinite_scores_stay_infinite() -> None:
    parts = [("a", giving([INF, INF, -INF, NAN]), 1.0), ("b", giving([1.0, -INF, 0.0, INF]), 1.0)]
    total = RewardSum(parts).score(["p"] * 4, ["r"] * 4).total
    assert np.isinf(total).tolist() == [True, True, True, False]
    assert (total[0], total[2]) == (INF, -INF)
    assert math.isnan(total[3])


def test_a_reward_of_weight_zero_is_only_logged() -> None:
    parts = [("a", giving([1.0, 1.0]), 1.0), ("b", giving([INF, 5.0]), 0.0)]
    scores = RewardSum(parts).score(["p"] * 2, ["r"] * 2)
    assert scores.total.tolist() == [1.0, 1.0]
    assert scores.parts["b"].tolist() == [INF, 5.0]


@pytest.mark.parametrize(
    "result",
    [
        [1, 0.5, True],
        (1, 0.5, 1),
        np.array([1, 0.5, 1], dtype=np.float32),
        torch.tensor([1.0, 0.5, 1.0], requires_grad=True),
        [torch.tensor(1.0), np.float32(0.5), np.bool_(True)],
        [Decimal(1), Fraction(1, 2), 1],
        (x for x in (1.0, 0.5, 1.0)),
    ],
)
def test_numbers_of_every_kind_are_scores(result: Any) -> None:
    assert score(result).tolist() == [1.0, 0.5, 1.0]


def test_a_whole_number_too_large_for_a_float_is_infinite() -> None:
    assert score([10**400, -(10**400), 0]).tolist() == [INF, -INF, 0.0]


BAD_RESULTS: dict[str, tuple[Any, str]] = {
    "too few": ([1.0, 2.0], "returned 2 scores; expected 3 numbers, one per response"),
    "too many": (np.zeros(4), "returned 4 scores; expected 3"),
    "text": ("good", r"returned 'good' \(str\); expected 3 numbers"),
    "number": (1.0, r"returned 1.0 \(float\); expected 3"),
    "0-d": (np.float64(1.0), r"returned 1.0 \(float\); expected 3"),
    "nothing": (None, r"returned None \(NoneType\); expected 3"),
    "mapping": ({0: 1.0, 1: 2.0, 2: 3.0}, "returned {0: 1.0.*; expected 3"),
    "a text": ([1.0, "0.5", 1.0], r"returned '0.5' \(str\) for row 1; expected a number"),
    "a list": ([[1.0], [1.0], [1.0]], r"returned \[1.0\] \(list\) for row 0"),
    "a column": (np.zeros((3, 1)), r"returned \[0.0\] \(list\) for row 0"),
    "complex": ([1.0, 1j, 1.0], r"returned 1j \(complex\) for row 1"),
    "words": (np.array(["a", "b", "c"]), r"returned 'a' \(str\) for row 0"),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_what_is_no_score_is_an_error_naming_the_reward(case: str) -> None:
    result, message = BAD_RESULTS[case]
    with pytest.raises(ConfigError, match=f"reward 'fixed' {message}"):
        score(result)


def test_what_a_reward_raises_is_named_and_chained() -> None:
    def broken(completions: Any) -> Any:
        raise KeyError("x")

    with pytest.raises(PluginError, match="reward 'broken' failed: KeyError: 'x'") as caught:
        RewardSum.of(broken).score(["p"], ["r"])
    assert isinstance(caught.value.__cause__, KeyError)
    labelled = WeightedReward("broken", FunctionReward(broken), 1.0, "reward 'b' (plugin c 1.2)")
    with pytest.raises(PluginError, match=r"reward 'b' \(plugin c 1\.2\) failed"):
        RewardSum([labelled]).score(["p"], ["r"])


def test_errors_of_our_own_pass_unchanged() -> None:
    def refuses(completions: Any) -> Any:
        raise DataError("row 3 is empty")

    with pytest.raises(DataError, match=r"^row 3 is empty$"):
        RewardSum.of(refuses).score(["p"], ["r"])


def test_equal_names_are_told_apart() -> None:
    terms = [("a", giving([0.0]), 1.0), ("a", giving([0.0]), 1.0), ("a#2", giving([0.0]), 1.0)]
    assert RewardSum([*terms, terms[0]]).names == ("a", "a#2", "a#2#2", "a#3")


@pytest.mark.parametrize("weight", [NAN, INF, "1", None, True])
def test_a_weight_that_is_no_finite_number_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"a: option 'weight' is .*; expected a finite number"):
        RewardSum([("a", giving([0.0]), weight)])


def test_columns_reach_rewards_that_ask_and_no_others() -> None:
    class Plain(RewardModel):
        def score(self, prompts: Any, responses: Any) -> Any:  # type: ignore[override]
            return [1.0] * len(responses)

    class Asking(RewardModel):
        def score(
            self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
        ) -> Any:
            assert "responses" not in columns
            return columns["gain"]

    columns = {"gain": [2.0], "self": ["x"], "responses": ["x"], "prompts": ["x"]}
    total = RewardSum.of([Plain(RewardConfig()), Asking(RewardConfig())])
    assert total.score(["p"], ["r"], columns).total.tolist() == [3.0]


def test_no_responses_have_no_scores_and_disturb_no_reward() -> None:
    def broken(completions: Any) -> Any:
        raise AssertionError

    scores = RewardSum.of(broken).score([], [])
    assert scores.total.shape == (0,)


def test_rewards_functions_and_pairs_make_a_sum() -> None:
    def brief(completions: Any) -> Any:
        return [1.0] * len(completions)

    class LongWinded(RewardModel):
        def score(self, prompts: Any, responses: Any, **columns: Any) -> Any:
            return [10.0] * len(responses)

    total = RewardSum.of([brief, (LongWinded(RewardConfig()), 0.5)])
    assert total.names == ("brief", "long_winded")
    assert total.score(["p"], ["r"]).total.tolist() == [6.0]
    assert RewardSum.of(total) is total


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("keywords", "reward is the text 'keywords'; expected a reward or a function"),
        (3, r"reward is 3 \(int\); expected a reward, a function"),
        (RewardModel, r"reward is the class RewardModel; make one"),
        ([], "no reward was given"),
    ],
)
def test_what_can_score_nothing_is_refused(reward: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardSum.of(reward)
