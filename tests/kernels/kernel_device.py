"""Where the kernel suite computes: on the CPU, on a CUDA device, or on one that is emulated.

`ALIGNZOO_TEST_DEVICE` is `cpu` (default), `cuda`, or `emulated`: then `ALIGNZOO_CUDA_LIBRARY` names
the library that tests/native builds from the CUDA kernels, and torch's CPU tensors go through them.

Tests take `kernels` from here. On the CPU it is `alignzoo.kernels` itself. Elsewhere it sends what
it is given to the device, arrays of NumPy too, and fetches what comes back, gradients included; a
tensor arrives with the strides and the alignment it had. So a test need not know where it computes.
What differs by right, because a device is not waited for, is asserted by `refused`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import TEST_DEVICE, bits, to_numpy

import alignzoo.kernels

if TEST_DEVICE not in ("cpu", "cuda", "emulated"):
    raise ValueError(f"ALIGNZOO_TEST_DEVICE is {TEST_DEVICE!r}; it can be cpu, cuda or emulated")
ON_CUDA = TEST_DEVICE != "cpu"
DEVICE = torch.device("cuda" if TEST_DEVICE == "cuda" else "cpu")


def copied_to_device(x: torch.Tensor) -> torch.Tensor:
    """The numbers on the device, with the strides they have and as far from an aligned address."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    shift = x.data_ptr() % 16 // x.element_size()
    if x.numel() == 0 or DEVICE.type == "cpu":
        return x.to(DEVICE)
    held = torch.empty(shift + extent, dtype=x.dtype, device=DEVICE)[shift:]
    held.copy_(x.as_strided((extent,), (1,)))
    return held.as_strided(x.shape, x.stride())


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return copied_to_device(x.detach())

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
        return upstream.cpu()


def _sent(x: Any) -> Any:
    """What a kernel is given in place of x. What no device takes stays, for it to refuse."""
    if isinstance(x, np.ndarray):
        is_readable = x.flags.writeable and min(x.strides, default=0) >= 0
        try:
            return _sent(torch.from_numpy(x if is_readable else x.copy()))
        except (TypeError, ValueError):
            return x
    is_plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.layout == torch.strided
    if not is_plain or x.device.type != "cpu" or DEVICE.type == "cpu":
        return x
    return _Send.apply(x) if x.requires_grad else copied_to_device(x)


def _each(change: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, tuple):
        return tuple(_each(change, x) for x in tree)
    if isinstance(tree, dict):
        return {name: _each(change, x) for name, x in tree.items()}
    return change(tree)


def _any(kind: Any, tree: Any) -> bool:
    found = []
    _each(lambda x: found.append(isinstance(x, kind)), tree)
    return any(found)


class _OnDevice:
    """`alignzoo.kernels`, whose functions compute on the device."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(alignzoo.kernels, name)
        if name == "check_faults" or not callable(function):
            return function

        def call(*arrays: Any, **options: Any) -> Any:
            given = arrays, options
            is_numpy = not _any(torch.Tensor, given) and _any(np.ndarray, given)
            if is_numpy or not _any(np.ndarray, given):
                given = _each(_sent, given)
            found = function(*given[0], **given[1])
            if is_numpy:
                return _each(lambda x: x.numpy(force=True) if torch.is_tensor(x) else x, found)
            return _each(lambda x: x.cpu() if torch.is_tensor(x) else x, found)

        return functools.wraps(function)(call)


kernels: Any = _OnDevice() if ON_CUDA else alignzoo.kernels


def assert_same(one: Any, other: Any) -> None:
    """The same bits on the CPU. On a device equal to rounding: padding, packing or tokens left out
    change the order of its sums.
    """
    if not ON_CUDA:
        assert bits(one) == bits(other)
        return
    one, other = to_numpy(one), to_numpy(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    bound = 1e-12 if one.dtype == np.float64 else 4e-6
    scale = float(np.abs(other[np.isfinite(other)]).max(initial=1.0))
    np.testing.assert_allclose(one, other, rtol=0, atol=bound * scale)


@contextlib.contextmanager
def faults(*words: str) -> Iterator[None]:
    """Expects that what runs inside leaves these faults on the device, and no word of others."""
    yield
    with pytest.raises(ValueError, match=r"check_faults\(\)") as noted:
        alignzoo.kernels.check_faults()
    assert all(word in str(noted.value) for word in words), str(noted.value)
    alignzoo.kernels.check_faults()  # they are told once


def refused(call: Callable[[], Any], match: str, fault: str | None) -> Any:
    """Data that no kernel can use: a ValueError on the CPU.

    On a device a fault (None: not even that), and the results of the call, for a look at their NaN.
    """
    if not ON_CUDA:
        with pytest.raises(ValueError, match=match):
            call()
        return None
    if fault is None:
        return call()
    with faults(fault):
        return call()
