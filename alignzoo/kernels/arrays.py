"""Which library an array belongs to. torch is looked at only if something has imported it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from alignzoo import _core

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# A function's arrays all come from one library, and so does what it returns.
Array = TypeVar("Array", "NDArray[Any]", "torch.Tensor")

Moments = tuple[Array, Array, Array]  # (n, mean, m2), each 0-d
Stats = dict[str, Array]  # each 0-d


def is_torch(array: object) -> bool:
    """Whether `array` is a torch tensor. Does not import torch."""
    if isinstance(array, np.ndarray):
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_compiled() -> bool:
    """Whether torch.compile or torch.export is reading the code rather than running it."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def native() -> Any:
    """The native core; in compiled code its functions as torch operators."""
    if is_compiled():
        from alignzoo.kernels import torch_ops

        return torch_ops
    return _core
