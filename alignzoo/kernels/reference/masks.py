"""Array types and masks that the references share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def live_tokens(mask: ArrayLike | None, shape: tuple[int, ...]) -> Bools:
    """The mask as booleans of `shape`, all True without one."""
    return np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool).reshape(shape)


def zero_masked(x: ArrayLike, live: Bools) -> Floats:
    """A float64 copy with 0 wherever the mask is False, so that garbage there cannot matter."""
    return np.where(live, np.asarray(x, np.float64), 0.0)
