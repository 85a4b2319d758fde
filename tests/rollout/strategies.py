"""Rows to append: ragged, masked, grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

TOKENS = st.integers(0, 2**31 - 1)


@st.composite
def draws(draw: st.DrawFn, *, min_rows: int = 1, max_rows: int = 6) -> dict[str, Any]:
    """Returns the arguments of one `append`: every row has at least one unmasked token."""
    count = draw(st.integers(min_rows, max_rows))
    prompts = [draw(st.lists(TOKENS, max_size=4)) for _ in range(count)]
    responses = [draw(st.lists(TOKENS, min_size=1, max_size=5)) for _ in range(count)]
    masks = [
        draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)).filter(any))
        for row in responses
    ]
    log_probs = [
        np.linspace(-3, -0.5, len(row)).astype("float32") - i for i, row in enumerate(responses)
    ]
    ends = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    score = st.one_of(st.just(float("nan")), st.floats(-5, 5, width=32))
    return {
        "prompts": prompts,
        "responses": responses,
        "response_masks": masks,
        "sampler_log_probs": log_probs,
        "terminated": ends,
        "truncated": [not end for end in ends],
        "group_ids": draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)),
        "scores": draw(st.lists(score, min_size=count, max_size=count)),
    }


def masked(values: Any, mask: Any) -> np.ndarray:
    """Returns `values` with 0 where the mask is False."""
    return np.where(np.asarray(mask, bool), np.asarray(values), 0)
