"""`keywords`: share of words included, none avoided, and length."""

from __future__ import annotations

import random
from typing import Any

import pytest
from alignzoo.plugins.keywords import Keywords, KeywordsConfig

from alignzoo.config import build_config
from alignzoo.errors import ConfigError

PARK: dict[str, Any] = {
    "include": ["dog", "park"],
    "avoid": ["sad", "cry"],
    "min_words": 4,
    "max_words": 8,
}


def make(**options: Any) -> Keywords:
    return Keywords(build_config(KeywordsConfig, options, "keywords"))


def score(response: str, **options: Any) -> float:
    return make(**options).score(["prompt"], [response])[0]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The dog ran in the park.", 0.6 + 0.2 + 0.2),
        ("The dog ran in the street.", 0.3 + 0.2 + 0.2),
        ("The cat ran in the street.", 0.0 + 0.2 + 0.2),
        ("The sad dog ran in the park.", 0.6 + 0.0 + 0.2),
        ("The sad dog did cry in the park.", 0.6 + 0.0 + 0.2),
        ("Dog park.", 0.6 + 0.2 + 0.0),
        ("The dog ran in the park with two more dogs.", 0.6 + 0.2 + 0.0),
        ("Sad.", 0.0),
        ("", 0.2),
    ],
)
def test_the_score_is_the_weighted_sum_of_its_criteria(response: str, expected: float) -> None:
    assert score(response, **PARK) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("count", "fits"), [(3, False), (4, True), (8, True), (9, False)])
def test_both_bounds_of_the_length_belong_to_it(count: int, fits: bool) -> None:
    options = {"min_words": 4, "max_words": 8}
    assert score("word " * count, **options) == pytest.approx(1.0 if fits else 0.8)


def test_a_criterion_that_is_not_given_earns_its_full_weight() -> None:
    assert score("anything") == pytest.approx(1.0)
    assert score("nothing", include=["dog"]) == pytest.approx(0.4)
    assert score("sad", avoid=["sad"]) == pytest.approx(0.8)
    assert score("a b", max_words=1) == pytest.approx(0.8)
    assert score("a b", min_words=2) == pytest.approx(1.0)


def test_weights_may_be_changed() -> None:
    weights = {"include_weight": 2.0, "avoid_weight": 0.0, "length_weight": 1.0}
    assert score("a dog, sad", **PARK, **weights) == pytest.approx(1.0 + 0.0 + 0.0)
    assert score("a dog in the park", **PARK, **weights) == pytest.approx(3.0)


def test_letters_match_whatever_their_case() -> None:
    assert score("DOG", include=["dOg"]) == pytest.approx(1.0)
    assert score("die STRASSE", include=["Straße"]) == pytest.approx(1.0)


def test_match_says_whether_a_keyword_may_be_part_of_a_word() -> None:
    assert score("hotdogs", include=["dog"]) == pytest.approx(1.0)
    assert score("hotdogs", include=["dog"], match="word") == pytest.approx(0.4)
    assert score("a dog, no cat", include=["Dog"], match="word") == pytest.approx(1.0)
    assert score("crying", avoid=["cry"], match="word") == pytest.approx(1.0)
    assert score("I like c++.", include=["C++"], match="word") == pytest.approx(1.0)
    assert score("big red ball", include=["red ball"], match="word") == pytest.approx(1.0)


def test_chinese_is_counted_in_characters() -> None:
    options: dict[str, Any] = {"include": ["公园"], "unit": "characters", "min_words": 6}
    assert score("小狗在公园。", **options) == pytest.approx(1.0)
    assert score("在 公 园 。\n", **options) == pytest.approx(0.2)


def test_the_prompt_does_not_matter() -> None:
    reward = make(**PARK)
    assert reward.score(["a dog in the park"], ["x"]) == reward.score([""], ["x"])


def test_a_response_scores_the_same_in_any_batch() -> None:
    """Batch invariance: alone, among others, in any order."""
    generator = random.Random(0)
    words = ["dog", "park", "sad", "cry", "the", "runs"]
    batch = [" ".join(generator.choices(words, k=generator.randrange(12))) for _ in range(50)]
    reward = make(**PARK)
    together = reward.score([""] * 50, batch)
    assert together == [reward.score([""], [response])[0] for response in batch]
    assert together[::-1] == reward.score([""] * 50, batch[::-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "dog"}, "'include'"),
        ({"include": ["dog", ""]}, "'include'"),
        ({"avoid": [" "]}, "'avoid'"),
        ({"avoid": [3]}, "'avoid'"),
        ({"min_words": -1}, "'min_words'"),
        ({"min_words": 5, "max_words": 4}, "min_words is 5, above max_words, which is 4"),
        ({"include_weight": -0.1}, "'include_weight'"),
        ({"avoid_weight": float("nan")}, "'avoid_weight'"),
        ({"unit": "letters"}, "'unit'"),
        ({"match": "regex"}, "'match'"),
        ({"includes": []}, "no option 'includes'. Did you mean 'include'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^keywords.*{message}"):
        make(**options)
