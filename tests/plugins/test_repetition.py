"""`repetition`: the share of n-grams that are new."""

from __future__ import annotations

from typing import Any

import pytest
from alignzoo.plugins.repetition import Repetition, RepetitionConfig

from alignzoo.config import build_config


def make(**options: Any) -> Repetition:
    return Repetition(build_config(RepetitionConfig, options, "repetition"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 1.0),
        ("one two", 1.0),
        ("one two three four", 1.0),
        ("a b c A B C a b c", 3 / 7),  # abc bca cab abc bca cab abc
        ("ha " * 12, 1 / 10),
    ],
)
def test_the_score_is_the_share_of_new_trigrams(text: str, expected: float) -> None:
    assert make().score([""], [text]) == [pytest.approx(expected, abs=1e-12)]


def test_characters_may_be_counted_instead() -> None:
    assert make(n=2, unit="characters", max_score=3).score([""], ["小狗 小狗"]) == [2.0]
