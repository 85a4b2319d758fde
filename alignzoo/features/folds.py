"""Parts of the data for cross-validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    prompts: Sequence[str], responses: Sequence[str], num_folds: int
) -> NDArray[np.int64]:
    """Returns the part each row belongs to, [B], from 0 to num_folds - 1.

    Rows of one prompt share a part; where the prompt is empty, or all rows have the same one, rows
    of one response do. Parts depend on the texts alone, not on their order, and differ by at most
    one prompt in number.
    """
    is_one = len(set(prompts)) == 1
    texts = [
        response if is_one or not prompt else prompt
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    order = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())
    part = {text: number % num_folds for number, text in enumerate(order)}
    return np.array([part[text] for text in texts], dtype=np.int64)
