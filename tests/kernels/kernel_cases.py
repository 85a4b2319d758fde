"""Arrays, masks and layouts that the kernel tests share."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

FLOATS = ("float32", "float64")
TEST_DEVICE = os.environ.get("ALIGNZOO_TEST_DEVICE", "cpu")  # see kernel_device.py
LIBRARIES = ("numpy", "torch") if TEST_DEVICE == "cpu" else ("torch",)
LAYOUTS = ("contiguous", "transposed", "strided", "reversed", "read_only", "unaligned")
# Around 16 lanes and every power of two that a tile may be made of, and one row far beyond.
BORDER_LENGTHS = (*(2**k + d for k in range(4, 14) for d in (-1, 0, 1)), 100_003)
NUM_DRAWS = 40_000
if TEST_DEVICE == "emulated":  # which is slow
    BORDER_LENGTHS = (*BORDER_LENGTHS[::2], 20_003)
    NUM_DRAWS = 400


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
    if layout == "unaligned" and x.size:
        held = bytearray(1) + bytearray(x.tobytes())
        return np.frombuffer(held, x.dtype, offset=1).reshape(x.shape)
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
        x = x.detach().cpu()
        return (x.double() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    return np.asarray(x)


def bits(x: Any) -> bytes:
    """Shape, dtype and every bit of an output."""
    array = to_numpy(x)
    return repr((array.shape, array.dtype.str)).encode() + array.tobytes()


def leaves(result: Any) -> list[Any]:
    """The arrays of a kernel's result, in order."""
    if isinstance(result, dict):
        return [x for name in sorted(result) for x in leaves(result[name])]
    if isinstance(result, tuple):
        return [x for part in result for x in leaves(part)]
    return [result]
