"""A reward against saying the same again: the share of a response's n-grams that are new.

score = max_score * (different n-grams) / (all n-grams)

It is `max_score` where no n-gram occurs twice, as in a response too short to have two, and falls
towards 0 where one is said over and over. An n-gram is `n` words, whatever their case, or `n`
characters that are no white space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

import alignzoo as az


class RepetitionConfig(az.RewardConfig):
    """Options of `repetition`."""

    n: int = Field(3, gt=0, description="length of the n-grams that are counted, in `unit`")
    unit: Literal["words", "characters"] = Field(
        "words",
        description="what an n-gram is made of: words parted by white space, or characters that "
        "are no white space (Chinese)",
    )
    max_score: float = Field(1.0, gt=0, description="score of a response that repeats nothing")


class Repetition(az.RewardModel):
    """Scores the share of n-grams that are new."""

    Config = RepetitionConfig
    examples = (
        # of the pairs "so it", "it goes", "goes so", "so it" three are different
        {"options": {"n": 2}, "completion": "So it goes so it", "score": 0.75},
        {"options": {"n": 2, "max_score": 3}, "completion": "once", "score": 3.0},
    )

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns one score per response, above 0 and at most `max_score`."""
        return [self.config.max_score * self._share_new(response) for response in responses]

    def _share_new(self, response: str) -> float:
        words = response.casefold().split()
        units: Sequence[str] = words if self.config.unit == "words" else "".join(words)
        n = self.config.n
        grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `repetition`."""
    return [
        az.RewardSpec(
            id="repetition",
            target="alignzoo.plugins.repetition:Repetition",
            summary="Against saying the same again",
        )
    ]
