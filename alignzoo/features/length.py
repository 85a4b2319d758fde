"""How long a response is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignzoo.features.words import words_of

COLUMNS = ("log of characters", "log of words", "log of lines")


def lengths(responses: Sequence[str]) -> NDArray[np.float64]:
    """Returns log(1 + number) of characters, words and lines, [B, 3]."""
    rows = [
        [math.log1p(count) for count in (len(text), len(words_of(text)), text.count("\n"))]
        for text in responses
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))
