"""How a response relates to its prompt: which of its words the prompt has, where, and how rare."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignzoo.features.words import words_of

COLUMNS = (
    "share of words in the prompt",
    "share of rare words in the prompt",
    "rarity of words in the prompt",
    "number of words in the prompt",
    "share of character runs in the prompt",
    "character runs in common",
    "share of word pairs in the prompt",
    "all words are in the prompt",
    "no word is in the prompt",
    "the prompt holds the response",
    "share of words in the prompt's last line",
    "share of words in the prompt's first line",
    "share of words in the first line and not in the last",
    "mean rarity of words",
    "largest rarity of words",
)
RUN = 4  # characters
_SPACE = re.compile(r"\s+")


class _Text(NamedTuple):
    """What is counted of a text: words, pairs of neighbours, runs of characters."""

    words: list[str]
    pairs: list[tuple[str, str]]
    runs: set[str]


class _Prompt(NamedTuple):
    """What is looked up in a prompt."""

    text: str
    words: set[str]
    pairs: set[tuple[str, str]]
    runs: set[str]
    first: set[str]
    last: set[str]


class Overlap:
    """The columns above. A word's rarity is log((1 + P) / (1 + prompts that hold it)).

    P counts distinct prompts; a word of fewer than two has the rarity of one never seen.
    """

    def __init__(self) -> None:
        self.rarity: dict[str, float] = {}
        self.unseen = 0.0

    def fit(self, prompts: Sequence[str]) -> None:
        """Learns how rare words are in prompts."""
        distinct = list(dict.fromkeys(prompts))
        held = Counter(word for prompt in distinct for word in set(words_of(prompt)))
        self.unseen = math.log(1 + len(distinct))
        self.rarity = {
            word: math.log((1 + len(distinct)) / (1 + count))
            for word, count in sorted(held.items())
            if count > 1
        }

    def transform(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        """Returns [B, len(COLUMNS)]."""
        known: dict[str, _Prompt] = {}  # a prompt has several responses
        rows = []
        for prompt, response in zip(prompts, responses, strict=True):
            if prompt not in known:
                known[prompt] = _read_prompt(prompt)
            rows.append(self._row(known[prompt], response))
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))

    def _row(self, prompt: _Prompt, response: str) -> list[float]:
        words, pairs, runs = _read(response)
        rarity = [self.rarity.get(word, self.unseen) for word in words]
        inside = [word in prompt.words for word in words]
        in_last = [word in prompt.last for word in words]
        in_first = [word in prompt.first for word in words]
        shared_rarity = sum(r for r, found in zip(rarity, inside, strict=True) if found)
        shared_runs = len(runs & prompt.runs)
        text = response.lower().strip(" .\n")
        return [
            _share(sum(inside), len(words)),
            _share(shared_rarity, sum(rarity)),
            shared_rarity,
            float(sum(inside)),
            _share(shared_runs, len(runs)),
            _share(shared_runs, len(runs | prompt.runs)),
            _share(sum(pair in prompt.pairs for pair in pairs), len(pairs)),
            float(bool(words) and all(inside)),
            float(bool(words) and not any(inside)),
            float(bool(text) and text in prompt.text),
            _share(sum(in_last), len(words)),
            _share(sum(in_first), len(words)),
            _share(sum(a and not b for a, b in zip(in_first, in_last, strict=True)), len(words)),
            _share(sum(rarity), len(words)),
            max(rarity, default=0.0),
        ]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns words and their rarity; that of a word never seen comes last."""
        values = np.array([*self.rarity.values(), self.unseen])
        return {"vocabulary": list(self.rarity)}, {"rarity": values}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes what `state` returned."""
        *values, self.unseen = map(float, arrays["rarity"])
        self.rarity = dict(zip(settings["vocabulary"], values, strict=True))


def _read(text: str) -> _Text:
    words = words_of(text)
    spaced = " " + _SPACE.sub(" ", text.lower()) + " "
    runs = {spaced[i : i + RUN] for i in range(len(spaced) - RUN + 1)}
    return _Text(words, list(itertools.pairwise(words)), runs)


def _read_prompt(prompt: str) -> _Prompt:
    words, pairs, runs = _read(prompt)
    lines = prompt.split("\n")
    first = set(words_of(lines[0])) if len(lines) > 1 else set()
    return _Prompt(prompt.lower(), set(words), set(pairs), runs, first, set(words_of(lines[-1])))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
