"""Logits of every kind that the kernels over a vocabulary must bear."""

import numpy as np
import torch
from hypothesis import strategies as st

# Below, at and above one vector, one block of vectors and one tile of the reduction.
VOCABULARIES = (1, 2, 15, 16, 17, 31, 33, 127, 257, 1031, 4099)
HALVES = (torch.bfloat16, torch.float16)

vocabularies = st.sampled_from(VOCABULARIES)
logit_kinds = st.sampled_from(("normal", "huge", "minus_inf", "window", "ties", "peaked"))
leading_shapes = st.sampled_from(((), (0,), (1,), (5,), (17,), (2, 3), (3, 0), (2, 1, 3)))
logit_shapes = st.tuples(leading_shapes, vocabularies)
tensor_layouts = st.sampled_from(("contiguous", "transposed", "strided"))


def make_logits(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """float64 logits of the kind named; at least one of each row is finite."""
    logits = rng.normal(size=shape)
    if kind == "huge":
        logits *= 1e4
    elif kind == "minus_inf":
        is_cut = rng.random(shape) < 0.5
        is_cut[..., rng.integers(shape[-1])] = False
        logits = np.where(is_cut, -np.inf, logits)
    elif kind == "window":  # nothing but -inf outside a stretch of the vocabulary
        first, last = np.sort(rng.integers(0, shape[-1], 2))
        logits[..., :first] = logits[..., last + 1 :] = -np.inf
    elif kind == "ties":
        logits = rng.integers(0, 2, shape).astype(np.float64)
    elif kind == "peaked":
        logits[..., 0] += 60
    return logits
