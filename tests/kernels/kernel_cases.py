"""Arrays, masks, layouts and error bounds that the kernel tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

# Around the virtual width of 16 lanes, primes that no tile divides, and one above 1024 and, times
# 17 rows, 16384 elements: blocks that work is cut into.
LENGTHS = (0, 1, 15, 16, 17, 31, 33, 37, 127, 1031)
ROWS = (0, 1, 2, 3, 5, 17)
FLOATS = ("float32", "float64")
LIBRARIES = ("numpy", "torch")

settings.register_profile("kernels", deadline=None, derandomize=True, max_examples=40)
few_examples = settings(settings.get_profile("kernels"))
fewer_examples = settings(few_examples, max_examples=20)

rows = st.sampled_from(ROWS)
lengths = st.sampled_from(LENGTHS)
seeds = st.integers(0, 2**32 - 1)
libraries = st.sampled_from(LIBRARIES)
layouts = st.sampled_from(("contiguous", "transposed", "strided", "reversed", "read_only"))
mask_kinds = st.sampled_from(("absent", "all", "none", "right_padded", "left_padded", "holes"))


def make_mask(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
    """A boolean mask [B, T] of the kind named, or None."""
    num_rows, length = shape
    if kind == "absent":
        return None
    if kind in ("all", "none"):
        return np.full(shape, kind == "all")
    if kind == "holes":
        return rng.random(shape) < 0.6
    kept = rng.integers(0, length + 1, size=(num_rows, 1))
    position = np.arange(length)[None, :]
    return position < kept if kind == "right_padded" else position >= length - kept


def poison(x: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """A copy with NaN, infinities and huge numbers wherever the mask is False."""
    if mask is None:
        return x.copy()
    bad = rng.choice([np.nan, np.inf, -np.inf, 1e38], size=x.shape).astype(x.dtype)
    return np.where(mask, x, bad)


def lay_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers in another memory layout."""
    if x.ndim == 0:
        return np.array(x)
    if layout == "transposed":
        return np.ascontiguousarray(x.T).T
    if layout == "strided":
        fill = np.nan if x.dtype.kind == "f" else 1
        spacious = np.full((*x.shape[:-1], 2 * x.shape[-1]), fill, x.dtype)
        spacious[..., ::2] = x
        return spacious[..., ::2]
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    if layout == "read_only":
        copy = x.copy()
        copy.flags.writeable = False
        return copy
    return np.ascontiguousarray(x)


def given_as(library: str, x: np.ndarray | None, layout: str = "contiguous") -> Any:
    """The array as `library` holds it. torch has no negative strides and no read-only tensors."""
    if x is None:
        return None
    if library == "numpy":
        return lay_out(x, layout)
    return torch.from_numpy(
        lay_out(x, layout if layout in ("transposed", "strided") else "contiguous")
    )


def to_numpy(x: Any) -> np.ndarray:
    """A NumPy array of a kernel's output; float64 for what NumPy has no type for."""
    if isinstance(x, torch.Tensor):
        x = x.detach()
        return (x.double() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    return np.asarray(x)


def bits(x: Any) -> bytes:
    """Shape, dtype and every bit of an output."""
    array = to_numpy(x)
    return repr((array.shape, array.dtype.str)).encode() + array.tobytes()


def assert_exact_to(actual: Any, expected: Any, bound: float, scale: float | None = None) -> None:
    """|actual - expected| <= bound * max(|expected|, scale), NaN and inf in the same places.

    `scale` is the size of the numbers that were summed; default the largest expected.
    """
    actual, expected = to_numpy(actual).astype(np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    if scale is None:
        scale = float(np.abs(expected[finite]).max(initial=0.0))
    error = np.abs(actual[finite] - expected[finite])
    allowed = bound * np.maximum(np.abs(expected[finite]), scale)
    worst = int(np.argmax(error - allowed)) if error.size else 0
    assert np.all(error <= allowed), (
        f"{actual[finite].flat[worst]!r} should be {expected[finite].flat[worst]!r} to {bound:g}"
    )


def largest_error(actual: Any, expected: np.ndarray) -> float:
    """Largest absolute difference from the truth."""
    return float(np.abs(to_numpy(actual).astype(np.float64) - expected).max(initial=0.0))


def assert_at_most_twice_the_error(actual: Any, peer: Any, expected: np.ndarray) -> None:
    """The kernel's largest error is no more than twice the peer's own.

    Half a unit in the last place of the largest number is allowed to both, since correct rounding
    itself costs that.
    """
    dtype = to_numpy(actual).dtype
    rounding = 0.5 * float(np.spacing(np.abs(expected).max(initial=0.0).astype(dtype)))
    assert largest_error(actual, expected) <= 2 * max(largest_error(peer, expected), rounding)
