"""A reward for what a response matches: score = the weighted share of `patterns` that match.

Each pattern is searched for in the response, or must match all of it (`match="whole"`). Patterns
that should not match go into `avoid`. With several, each counts alike:

score = match_score * (patterns found + avoided ones absent) / (all of both)

Patterns are those of the package `regex`, which knows all that Python's `re` does and can be
stopped: a response on which a pattern takes longer than `timeout` seconds cannot be scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import options


class RegexConfig(az.RewardConfig):
    """Options of `regex`."""

    patterns: list[str] = Field(default_factory=list, description="what should match")
    avoid: list[str] = Field(default_factory=list, description="what should not match")
    match: Literal["search", "whole"] = Field(
        "search", description="somewhere in the response, or all of it from end to end"
    )
    ignore_case: bool = Field(False, description="letters match whatever their case")
    multiline: bool = Field(False, description="^ and $ match at every line")
    dotall: bool = Field(True, description="a dot matches a line break too")
    match_score: options.Score = Field(1.0, description="score of a response that meets everything")
    timeout: float = Field(1.0, gt=0, description="most seconds a pattern may take on a response")

    @model_validator(mode="after")
    def _check_something_is_asked(self) -> RegexConfig:
        if not self.patterns and not self.avoid:
            raise ValueError("give at least one of patterns and avoid")
        return self


class Regex(az.RewardModel):
    """Scores the share of patterns that a response meets."""

    Config = RegexConfig
    examples = (
        {
            "options": {"patterns": ["^dog", "[0-9]+"], "avoid": ["cat"], "match_score": 3},
            "completion": "dog, no cat: 7",
            "score": 2.0,  # two of the three hold
        },
    )

    def __init__(self, config: RegexConfig) -> None:
        super().__init__(config)
        self._wanted = [self._compiled(pattern) for pattern in config.patterns]
        self._unwanted = [self._compiled(pattern) for pattern in config.avoid]

    def _compiled(self, pattern: str) -> Any:
        import regex

        config = self.config
        flags = regex.IGNORECASE * config.ignore_case | regex.MULTILINE * config.multiline
        try:
            return regex.compile(pattern, flags | regex.DOTALL * config.dotall)
        except regex.error as error:
            raise az.ConfigError(
                f"regex: the pattern {pattern!r} is none: {error}. In JSON a backslash is written "
                "twice."
            ) from None

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """Returns one score per response, from 0 to `match_score`; None after a time-out."""
        return [self._score_one(response) for response in responses]

    def _score_one(self, response: str) -> float | None:
        try:
            met = sum(self._matches(pattern, response) for pattern in self._wanted)
            met += sum(not self._matches(pattern, response) for pattern in self._unwanted)
        except TimeoutError:
            return None
        share: float = met / (len(self._wanted) + len(self._unwanted))
        return float(self.config.match_score) * share

    def _matches(self, pattern: Any, response: str) -> bool:
        function = pattern.search if self.config.match == "search" else pattern.fullmatch
        return function(response, timeout=self.config.timeout) is not None


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `regex`."""
    return [
        az.RewardSpec(
            id="regex",
            target="alignzoo.plugins.regex:Regex",
            summary="Patterns that a response should and should not match",
        )
    ]
