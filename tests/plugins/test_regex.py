"""`regex`: the share of patterns a response meets."""

from __future__ import annotations

from typing import Any

import pytest
from alignzoo.plugins.regex import Regex, RegexConfig

from alignzoo.config import build_config
from alignzoo.errors import ConfigError


def make(**options: Any) -> Regex:
    return Regex(build_config(RegexConfig, options, "regex"))


def test_the_score_is_the_share_of_patterns_met() -> None:
    reward = make(patterns=[r"\bdog\b", r"^The"], avoid=["sad", "cry"], match_score=2.0)
    texts = ["The dog ran.", "The sad dog.", "A dog may cry, sad.", "dogs"]
    assert reward.score([""] * 4, texts) == [2.0, 1.5, 0.5, 1.0]


def test_a_pattern_may_have_to_match_the_whole_response() -> None:
    reward = make(patterns=[r"<a>.*</a>\s*"], match="whole")
    assert reward.score([""] * 3, ["<a>x\ny</a>\n", "so <a>x</a>", ""]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({"ignore_case": True}, "DOG", 1.0),
        ({}, "DOG", 0.0),
        ({"multiline": True}, "a\ndog", 1.0),
        ({}, "a\ndog", 0.0),
    ],
)
def test_flags_are_options(options: dict[str, Any], text: str, expected: float) -> None:
    assert make(patterns=["^dog"], **options).score([""], [text]) == [expected]


def test_a_response_that_takes_a_pattern_too_long_cannot_be_scored() -> None:
    reward = make(patterns=["(a|aa)+$"], timeout=0.05)
    assert reward.score([""] * 2, ["a" * 80 + "b", "aaa"]) == [None, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give at least one of patterns and avoid"),
        ({"patterns": ["(a"]}, r"the pattern '\(a' is none: .*backslash"),
    ],
)
def test_what_is_no_pattern_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
