"""What counts as a word, in languages that part words and in those that do not."""

from __future__ import annotations

import re

# Chinese and Japanese do not part their words: there each character is one.
UNPARTED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = rf"[{UNPARTED}]|[^\W{UNPARTED}]+"
_WORD = re.compile(WORD)
_ENDINGS = ("ing", "ed", "es", "s", "ly")
_SHORTEST_STEM = 3


def words_of(text: str) -> list[str]:
    """Returns the words of a text in order, in small letters, without common English endings.

    Of Chinese and Japanese, each character is a word.
    """
    return [_stem(word) for word in _WORD.findall(text.lower())]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)]
    return word
