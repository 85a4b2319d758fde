"""A reward for one length: score = max(0, 1 - |length - target| / target).

It is 1 at the target and falls linearly to 0 at length 0 and at twice the target; longer
responses score 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

import alignzoo as az


class LengthConfig(az.RewardConfig):
    """Options of `length`."""

    target: int = Field(50, gt=0, description="length that scores 1, in `unit`")
    unit: Literal["words", "characters"] = Field(
        "words",
        description="what length counts: words parted by white space, or characters that are no "
        "white space (Chinese)",
    )


class Length(az.RewardModel):
    """Scores how near a response's length is to the target."""

    Config = LengthConfig
    examples = (
        {"options": {"target": 4}, "completion": "one two three", "score": 0.75},
        {"options": {"target": 2, "unit": "characters"}, "completion": "小 狗", "score": 1.0},
        {"options": {"target": 1}, "completion": "one two", "score": 0.0},
    )

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns one score per response, in [0, 1]."""
        target = self.config.target
        return [max(0.0, 1 - abs(self._length(text) - target) / target) for text in responses]

    def _length(self, text: str) -> int:
        return len(text.split() if self.config.unit == "words" else "".join(text.split()))


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `length`."""
    return [
        az.RewardSpec(
            id="length",
            target="alignzoo.plugins.length:Length",
            summary="Nearness of a response's length to a target",
            revision=1,
        )
    ]
