"""A reward for what a response says: words to include, words to avoid, and its length.

score = include_weight * (share of `include` that is present)
      + avoid_weight   * (1 if none of `avoid` is present, else 0)
      + length_weight  * (1 if min_words <= length <= max_words, else 0)

It reads the response alone, never the prompt. A criterion that is not given earns its full
weight, so a response that meets everything asked scores 1 with the default weights. Letters match
whatever their case. With `match="word"` a keyword must stand between characters that are no
letters, digits or underscores; Chinese, which does not part its words, needs "substring".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

import alignzoo as az


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it should not be empty")
    return text


Keyword = Annotated[str, AfterValidator(_check_not_blank)]


class KeywordsConfig(az.RewardConfig):
    """Options of `keywords`."""

    include: list[Keyword] = Field(default_factory=list, description="words that should appear")
    avoid: list[Keyword] = Field(default_factory=list, description="words that should not")
    min_words: int | None = Field(None, ge=0, description="shortest length, in `unit`")
    max_words: int | None = Field(None, ge=0, description="longest length, in `unit`")
    include_weight: float = Field(0.6, ge=0, description="earned by the share of include present")
    avoid_weight: float = Field(0.2, ge=0, description="earned if nothing of avoid is present")
    length_weight: float = Field(0.2, ge=0, description="earned by a length within the bounds")
    unit: Literal["words", "characters"] = Field(
        "words",
        description="what length counts: words parted by white space, or characters that are no "
        "white space (Chinese)",
    )
    match: Literal["substring", "word"] = Field(
        "substring", description="whether a keyword may be part of a longer word"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> KeywordsConfig:
        low, high = self.min_words, self.max_words
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_words is {low}, above max_words, which is {high}")
        return self


class Keywords(az.RewardModel):
    """Scores keywords included, keywords avoided, and length."""

    Config = KeywordsConfig
    examples = (
        {
            "options": {"include": ["dog", "park"], "avoid": ["sad"], "max_words": 4},
            "completion": "A dog, sad.",
            "score": 0.5,  # 0.6 * 1/2 + 0.2 * 0 + 0.2 * 1
        },
        {"completion": "anything", "score": 1.0},
    )

    def __init__(self, config: KeywordsConfig) -> None:
        super().__init__(config)
        self._include = [self._pattern(word) for word in config.include]
        self._avoid = [self._pattern(word) for word in config.avoid]

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns one score per response, between 0 and the sum of the weights."""
        return [self._score_one(response) for response in responses]

    def _score_one(self, response: str) -> float:
        config = self.config
        text = response.casefold()
        found = sum(1 for word in self._include if word.search(text))
        share = found / len(self._include) if self._include else 1.0
        avoids = not any(word.search(text) for word in self._avoid)
        length = len(response.split() if config.unit == "words" else "".join(response.split()))
        long_enough = config.min_words is None or length >= config.min_words
        short_enough = config.max_words is None or length <= config.max_words
        score: float = config.include_weight * share
        score += config.avoid_weight * avoids
        score += config.length_weight * (long_enough and short_enough)
        return score

    def _pattern(self, word: str) -> re.Pattern[str]:
        pattern = re.escape(word.casefold())
        return re.compile(rf"(?<!\w){pattern}(?!\w)" if self.config.match == "word" else pattern)


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `keywords`."""
    return [
        az.RewardSpec(
            id="keywords",
            target="alignzoo.plugins.keywords:Keywords",
            summary="Words to include, words to avoid, and length",
            revision=1,
        )
    ]
