"""Which responses are compared, whatever the kind of judgement."""

from __future__ import annotations

import numpy as np
import pytest
from reward_report.cases import Fixed, fixed, judged, rows_of
from reward_report.small_rewards import Words, WordsConfig

import alignzoo as az
from alignzoo.errors import ConfigError, DataError, PluginError
from alignzoo.reward_report import judged as judged_module
from alignzoo.reward_report.judged import ALL_ROWS, ONE_PROMPT, judge


def compared(found):
    """Returns the compared texts, better first, in any order."""
    text = [item.response for item in found.items]
    return {(text[b], text[w]) for b, w in zip(found.better, found.worse, strict=True)}


def test_a_ranking_is_all_the_pairs_it_implies() -> None:
    found = judged("rankings", [("a", "b", "c")])
    assert compared(found) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_ratings_without_prompts_are_compared_with_each_other() -> None:
    found = judged("ratings", [("a", 1.0), ("b", 2.0), ("c", 2.0)])
    assert compared(found) == {("b", "a"), ("c", "a")}
    assert found.pairs_of == ALL_ROWS


def test_ratings_of_one_prompt_are_compared_within_it() -> None:
    rows = rows_of("ratings", [("a", 1.0), ("b", 2.0)], prompt="x")
    rows += rows_of("ratings", [("c", 3.0), ("d", 0.0)], prompt="y")
    found = judge(fixed(), "ratings", rows)
    assert compared(found) == {("b", "a"), ("c", "d")}
    assert found.pairs_of == ONE_PROMPT


def test_a_lone_pair_of_one_prompt_does_not_stand_for_all_rows() -> None:
    rows = rows_of("ratings", [(f"t{i}", float(i)) for i in range(10)], prompt="prompt {}")
    rows += rows_of("ratings", [("again", 7.0)], prompt="prompt 0")
    assert judge(fixed(), "ratings", rows).pairs_of == ALL_ROWS


def test_steps_of_one_response_are_compared_and_scored_one_by_one() -> None:
    rows = rows_of("steps", [(("a", 1.0), ("b", 0.0)), (("c", 0.0), ("d", float("nan")))])
    words = Words(WordsConfig())
    words.fit(rows)
    found = judge(words, "steps", rows)
    assert [item.response for item in found.items] == ["a", "b", "c"]
    assert found.scores.tolist() == [1.0, 0.0, 0.0]


def test_a_step_that_holds_the_marker_is_located() -> None:
    rows = rows_of("steps", [(("a", 1.0), ("b\nc", 0.0))])
    words = Words(WordsConfig())
    words.fit(rows)
    with pytest.raises(DataError, match=r"data\[0\]: the reward sees 3 steps.*has 2.*marker '\\n'"):
        judge(words, "steps", rows)


def test_classes_are_compared_by_their_value() -> None:
    found = judged("classes", [("a", "bad"), ("b", "good"), ("c", "odd")])
    assert compared(found) == {("b", "a")}
    assert found.left_out == {"of a class that the reward has no value for": 1}


def test_many_comparisons_are_drawn_evenly_and_alike_for_a_seed(monkeypatch) -> None:
    monkeypatch.setattr(judged_module, "MAX_PAIRS", 500)
    given = [(f"t{i}", float(i)) for i in range(100)]  # 4950 pairs
    found, again = judged("ratings", given), judged("ratings", given)
    assert len(found.better) == 500
    assert (found.better == again.better).all()
    assert (found.truth[found.better] > found.truth[found.worse]).all()
    assert np.mean(found.better) == pytest.approx(66, abs=4)


def test_messages_are_scored_as_text() -> None:
    row = {
        "prompt": [{"role": "user", "content": "hi"}],
        "chosen": [{"role": "assistant", "content": "hello"}],
        "rejected": "no",
    }
    found = judge(fixed(hello=1.0), "preferences", az.data.read_preferences([row]))
    assert found.scores.tolist() == [1.0, 0.0]


def test_a_reward_is_given_the_rows_other_columns() -> None:
    class Column(Fixed):
        def score(self, prompts, responses, answer):
            return [float(a == r) for a, r in zip(answer, responses, strict=True)]

    row = {"prompt": "", "completion": "x", "rating": 1, "answer": "x"}
    found = judge(Column({}), "ratings", az.data.read_ratings([row]))
    assert found.scores.tolist() == [1.0]


def test_nothing_to_measure_on_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to measure the reward on: of 1 held-out rows"):
        judged("ratings", [("a", float("nan"))])


def test_too_few_probabilities_are_an_error() -> None:
    class Short(Fixed):
        def class_probabilities(self, prompts, responses):
            return {"bad": [1.0]}

    rows = rows_of("classes", [("a", "bad"), ("b", "good")])
    with pytest.raises(ConfigError, match="1 probabilities of class 'bad' for 2 responses"):
        judge(Short({}), "classes", rows)


def test_a_reward_that_fails_is_named() -> None:
    class Failing(Fixed):
        def score(self, prompts, responses):
            raise KeyError("no such word")

    with pytest.raises(PluginError, match="reward 'Failing' failed: KeyError"):
        judge(Failing({}), "ratings", rows_of("ratings", [("a", 1.0)]))
