"""Sentences of two small grammars, in English and in Chinese, that the keywords model is taught.

A sentence is a subject, which is the prompt, and what the subject does, which is the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Grammar:
    """A subject is `subject` with a quality and a noun; an answer is one of `answers` filled in.

    Args:
        subject: with the places {quality} and {noun}.
        answers: with the places {verb}, {noun}, {place} and {end}, likely ones first.
        likely: how likely each of `answers` is.
    """

    subject: str
    answers: tuple[str, ...]
    likely: tuple[float, ...]
    qualities: tuple[str, ...]
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]
    ends: tuple[str, ...]

    def subjects(self, form: str) -> list[str]:
        """Returns a form with every quality and noun, in a fixed order."""
        return [
            form.format(quality=quality, noun=noun)
            for quality in self.qualities
            for noun in self.nouns
        ]

    def answer(self, generator: np.random.Generator) -> str:
        """Returns what a subject does; of each kind of word the n-th is 1 / n as likely."""
        form = self.answers[int(generator.choice(len(self.answers), p=self.likely))]
        drawn = {name: _draw(words, generator) for name, words in self._words().items()}
        return form.format(**drawn)

    def _words(self) -> dict[str, tuple[str, ...]]:
        return {"verb": self.verbs, "noun": self.nouns, "place": self.places, "end": self.ends}

    def is_answer(self, text: str) -> bool:
        """Whether a text is what a subject may do."""
        return bool(self._pattern.fullmatch(text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = {name: f"(?:{'|'.join(words)})" for name, words in self._words().items()}
        return re.compile("|".join(form.format(**parts) for form in self.answers))


def _draw(words: tuple[str, ...], generator: np.random.Generator) -> str:
    import numpy as np

    weights = 1 / np.arange(1, len(words) + 1)
    return str(generator.choice(words, p=weights / weights.sum()))


ENGLISH = Grammar(
    subject="{quality} {noun}",
    answers=(" {verb} a {noun}", " {verb} a {noun} {place}", " {verb} a {noun} {place} {end}"),
    likely=(0.3, 0.4, 0.3),
    qualities=(
        *("red", "big", "old", "shy", "sad", "wet", "new", "tall"),
        *("tiny", "kind", "wild", "fast", "calm", "blue", "warm", "dark"),
        *("loud", "soft", "fat", "slim", "pale", "lazy", "poor", "rich"),
    ),
    nouns=(
        *("dog", "cat", "fox", "boy", "hen", "cow", "bee", "ant"),
        *("owl", "pig", "rat", "ape", "elk", "emu", "cub", "man"),
    ),
    verbs=("saw", "met", "fed", "hit", "led", "bit"),
    places=("in bed", "at sea", "by car", "up top"),
    ends=("now", "too", "again", "twice"),
)

CHINESE = Grammar(
    subject="{quality}{noun}",
    answers=("{verb}一只{noun}", "{place}{verb}一只{noun}", "{end}{place}{verb}一只{noun}"),
    likely=(0.3, 0.4, 0.3),
    qualities=(
        *("红", "大", "老", "新", "高", "小", "好", "野", "快", "蓝", "黑", "白"),
        *("胖", "瘦", "笨", "乖", "坏", "懒", "冷", "热", "美", "矮", "金", "灰"),
    ),
    nouns=(
        *("狗", "猫", "鸟", "牛", "马", "羊", "鱼", "鸡"),
        *("狼", "虎", "兔", "猪", "鸭", "熊", "鹿", "蛙"),
    ),
    verbs=("看", "找", "打", "追", "爱", "怕"),
    places=("在家", "在城里", "在海边", "在山上", "在河里", "在门口"),
    ends=("又", "正", "才", "先"),
)

GRAMMARS: dict[Language, Grammar] = {"en": ENGLISH, "zh": CHINESE}
