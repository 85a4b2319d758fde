"""Array types, masks and the bound on log-ratios that the references share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before exp; the gradient beyond is 0."""


def live_tokens(mask: ArrayLike | None, shape: tuple[int, ...]) -> Bools:
    """The mask as booleans of `shape`, all True without one."""
    return np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool).reshape(shape)


def zero_masked(x: ArrayLike, live: Bools) -> Floats:
    """A float64 copy with 0 wherever the mask is False, so that garbage there cannot matter."""
    return np.where(live, np.asarray(x, np.float64), 0.0)


def row_numbers(shape: tuple[int, ...], cu_seqlens: ArrayLike | None) -> Ints:
    """Each token's row: of [B, T] padded, of [N] packed, or 0 throughout for [N] alone."""
    if cu_seqlens is not None:
        offsets = np.asarray(cu_seqlens, np.int64)
        return np.repeat(np.arange(offsets.size - 1), offsets[1:] - offsets[:-1])
    num_rows = shape[0] if len(shape) == 2 else 1
    return np.broadcast_to(np.arange(num_rows)[:, None], (num_rows, shape[-1])).reshape(shape)
