"""The chunked linear head: what its NumPy and torch forms share, and the NumPy form."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignzoo import _core
from alignzoo.kernels.arrays import is_torch

NAME = "linear_token_log_probs"
CHUNK_BYTES = 64 << 20
# On a CUDA device chunks are larger: each adds to the whole sum of the weight's gradient, which is
# in memory. See `linear_torch`.
CUDA_CHUNK_BYTES = 1 << 30
CUDA_TILE = 128  # rows of a product's tile on such a device


def check(
    hidden: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    ignore_index: int,
    temperature: float,
    entropy: bool,
    chunk_tokens: int | None,
) -> None:
    """Raises for arguments that are wrong or do not fit together."""
    arrays = {"hidden": hidden, "weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) and not is_torch(array):
            came = "None" if array is None else f"a {type(array).__name__}"
            raise TypeError(f"{NAME}: `{name}` is {came}; expected a NumPy array or a torch tensor")
        if is_torch(array) != is_torch(hidden):
            raise TypeError(
                f"{NAME}: `{name}` and `hidden` come from different libraries; both must be NumPy "
                "arrays or torch tensors"
            )
        if is_torch(array) and str(array.layout) != "torch.strided":
            raise TypeError(f"{NAME}: `{name}` is {array.layout}; expected a dense tensor")
        if array.dtype != hidden.dtype:
            raise TypeError(
                f"{NAME}: `{name}` is {_dtype(array)} but `hidden` is {_dtype(hidden)}; both must "
                "have one dtype"
            )
        if is_torch(array) and array.device != hidden.device:
            raise ValueError(
                f"{NAME}: `{name}` lies on {array.device} but `hidden` on {hidden.device}; both "
                "must lie on one device"
            )
    legal = ["float32", "float64"] + (["bfloat16", "float16"] if is_torch(hidden) else [])
    if _dtype(hidden) not in legal:
        raise TypeError(f"{NAME}: `hidden` is {_dtype(hidden)}; expected {' or '.join(legal)}")
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if hidden.ndim < 1 or weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"{NAME}: `weight` is {shapes['weight']} but `hidden` is {shapes['hidden']}; they must "
            "be [V, D] and [..., D]"
        )
    if bias is not None and shapes["bias"] != [weight.shape[0]]:
        raise ValueError(
            f"{NAME}: `bias` is {shapes['bias']} but `weight` is {shapes['weight']}; `bias` must "
            f"be [{weight.shape[0]}]"
        )
    if chunk_tokens is not None and (
        not isinstance(chunk_tokens, (int, np.integer)) or isinstance(chunk_tokens, bool)
    ):
        raise TypeError(
            f"{NAME}: `chunk_tokens` is a {type(chunk_tokens).__name__}; expected an integer"
        )
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"{NAME}: `chunk_tokens` is {chunk_tokens}; expected 1 or more")
    _core.check_linear(NAME, hidden, weight, targets, ignore_index, temperature, entropy)


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def rows_per_chunk(chunk_tokens: int | None, vocabulary: int, itemsize: int) -> int:
    """Rows whose logits make a chunk on the CPU; at least 1."""
    if chunk_tokens is not None:
        return int(chunk_tokens)
    return max(1, CHUNK_BYTES // max(1, vocabulary * itemsize))


def cuda_rows_per_chunk(
    chunk_tokens: int | None, num_rows: int, vocabulary: int, itemsize: int
) -> int:
    """The same on a CUDA device: as few chunks as hold `num_rows`, of about one size; at least 1.

    A few rows left over for a last chunk would cost a product of its own that does not fill the
    device.
    """
    if chunk_tokens is not None:
        return int(chunk_tokens)
    most = max(1, CUDA_CHUNK_BYTES // max(1, vocabulary * itemsize))
    if most < CUDA_TILE:
        return most
    most -= most % CUDA_TILE
    num_chunks = -(-max(1, num_rows) // most)
    even = -(-num_rows // num_chunks)
    return max(1, -(-even // CUDA_TILE) * CUDA_TILE)


def numpy_forward(
    hidden: Any,
    weight: Any,
    targets: Any,
    bias: Any,
    temperature: float,
    entropy: bool,
    ignore_index: int,
    chunk_tokens: int | None,
) -> tuple[Any, Any]:
    """Log-probs and, if asked for, entropies [...]. The arguments are checked."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    wanted = targets.reshape(-1)
    rows = np.flatnonzero(wanted != ignore_index)
    log_probs = np.zeros(len(wanted), hidden.dtype)
    entropies = np.zeros(len(wanted), hidden.dtype) if entropy else None
    size = min(rows_per_chunk(chunk_tokens, len(weight), hidden.itemsize), max(1, len(rows)))
    buffer = np.empty((size, len(weight)), hidden.dtype)
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        logits = buffer[: len(chunk)]
        np.matmul(flat[chunk], weight.T, out=logits)
        if bias is not None:
            logits += bias
        log_probs[chunk], some, _ = _core.token_log_probs(
            NAME, logits, wanted[chunk], temperature, entropy, ignore_index, False
        )
        if entropies is not None:
            entropies[chunk] = some
    shape = targets.shape
    return log_probs.reshape(shape), None if entropies is None else entropies.reshape(shape)
