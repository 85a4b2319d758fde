"""readability: how easy a response is to read, from its words, sentences and syllables.

    ease  = base - a * words / sentences - b * syllables / words
    score = ease / 100, held to [0, 1], times min(1, words / min_words)

English: 206.835, 1.015, 84.6 (Flesch 1948, doi:10.1037/h0057532). Other languages have numbers of
their own, of Amstad (German), Fernandez Huerta (Spanish), Kandel and Moles (French), Franchina and
Vacca (Italian) and Douma (Dutch). An ease of 60 to 70 is plain English; 0.65 is that as a score.

Syllables are where Pyphen would hyphenate, which is a little less often than people would count.
The formula knows nothing of sense: use it beside a reward that does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import alignzoo as az

if TYPE_CHECKING:
    from pyphen import Pyphen

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)")
# Base, weight of words per sentence, weight of syllables per word, and Pyphen's dictionary.
FORMULAS = {
    "en": (206.835, 1.015, 84.6, "en_US"),
    "de": (180.0, 1.0, 58.5, "de_DE"),
    "es": (206.84, 1.02, 60.0, "es"),
    "fr": (207.0, 1.015, 73.6, "fr"),
    "it": (217.0, 1.3, 60.0, "it_IT"),
    "nl": (206.835, 0.93, 77.0, "nl_NL"),
}


class ReadabilityConfig(az.RewardConfig):
    """Options of `readability`."""

    language: Literal["en", "de", "es", "fr", "it", "nl"] = Field(
        "en", description="whose syllables and numbers count"
    )
    min_words: int = Field(5, ge=1, description="length below which the score falls towards 0")


class Readability(az.RewardModel):
    """Scores how easy a response is to read; higher is easier."""

    Config = ReadabilityConfig

    # Worked by hand; the syllables are Pyphen's: un-der, ta-ble, Win-ter, im-proves, read-ing.
    examples = (
        {
            "prompt": "Write.",
            "completion": "The dog ran under the table. Winter improves reading.",
            # 9 words, 2 sentences, 14 syllables
            "score": (206.835 - 1.015 * 9 / 2 - 84.6 * 14 / 9) / 100,
        },
        {
            "options": {"language": "de", "min_words": 1},
            "prompt": "Schreib.",
            "completion": "Die Donaudampfschifffahrt ist kalt.",
            # 4 words, 8 syllables, 5 of them in Do-nau-dampf-schiff-fahrt
            "score": (180 - 4 - 58.5 * 2) / 100,
        },
    )

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns one score per response, from 0 to 1; 0 where it has no words."""
        return [self._score_one(response) for response in responses]

    def _score_one(self, text: str) -> float:
        words = WORD.findall(text)
        if not words:
            return 0.0
        base, per_sentence, per_word, language = FORMULAS[self.config.language]
        sentences = max(1, len(SENTENCE_END.findall(text)))
        syllables = sum(len(_dictionary(language).positions(word)) + 1 for word in words)
        ease = base - per_sentence * len(words) / sentences - per_word * syllables / len(words)
        long_enough: float = min(1.0, len(words) / self.config.min_words)
        return min(max(ease / 100, 0.0), 1.0) * long_enough


@functools.cache
def _dictionary(language: str) -> Pyphen:
    import pyphen  # only now: alignzoo lists this reward without reading a dictionary

    return pyphen.Pyphen(lang=language)


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Tells alignzoo what this module provides."""
    return [
        az.RewardSpec(
            id="readability",
            target="alignzoo_readability:Readability",
            summary="Flesch reading ease of a response",
            paper="doi:10.1037/h0057532",
            revision=1,  # raise it when the same response may score otherwise
        )
    ]
