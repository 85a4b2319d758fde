"""`length`: 1 at the target, falling linearly to 0 at nothing and at twice the target."""

from __future__ import annotations

from typing import Any

import pytest
from alignzoo.plugins.length import Length, LengthConfig

from alignzoo.config import build_config
from alignzoo.errors import ConfigError


def make(**options: Any) -> Length:
    return Length(build_config(LengthConfig, options, "length"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [(0, 0.0), (1, 0.02), (25, 0.5), (50, 1.0), (60, 0.8), (100, 0.0), (150, 0.0)],
)
def test_the_score_is_a_tent_around_fifty_words(words: int, expected: float) -> None:
    assert make().score([""], ["word " * words]) == pytest.approx([expected], abs=1e-12)


def test_target_and_unit_may_be_changed() -> None:
    reward = make(target=4, unit="characters")
    assert reward.score([""] * 3, ["小狗公园", "小 狗\n", "小狗公园小狗公园"]) == [1.0, 0.5, 0.0]


def test_a_response_scores_the_same_in_any_batch() -> None:
    reward = make(target=5)
    batch = ["a " * count for count in range(12)]
    together = reward.score([""] * 12, batch)
    assert together == [reward.score([""], [response])[0] for response in batch]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "'target'"),
        ({"target": "many"}, "'target'"),
        ({"unit": "tokens"}, "'unit'"),
        ({"traget": 3}, "no option 'traget'. Did you mean 'target'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^length.*{message}"):
        make(**options)
