"""A CUDA device that is not there: tensors that say `cuda:0` and hold their numbers on the CPU.

Where no GPU is at hand, code for one can still be held to its rules. Inside `pretend_cuda()` torch
says that it has one CUDA device. A tensor made there, or sent there, computes on the CPU, and:

- an operation that mixes it with a CPU tensor raises, but for what torch allows: a 0-d CPU tensor
  in arithmetic, CPU indices into a tensor of the device, copies;
- its memory cannot be read from the host: no `.numpy()`, no native kernel with mixed arguments;
- whatever makes the host wait for a real device is counted by kind, in `Counts`.

It proves placement and waiting. It proves nothing of CUDA kernels, streams, memory or speed.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten

DEVICE = torch.device("cuda", 0)
# What torch's C++ sees: a device without a driver to ask, for which autograd knows no streams.
STAND_IN = torch.device("lazy", 0)

# Operations whose result's shape or value the host must know: a real device is waited for.
WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "item",
    aten.is_nonzero.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "nonzero",
    aten.repeat_interleave.Tensor: "nonzero",
    aten._unique2.default: "nonzero",
    aten.unique_dim.default: "nonzero",
    aten.unique_consecutive.default: "nonzero",
    aten.bincount.default: "nonzero",
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
COPIES = {aten.copy_.default, aten._to_copy.default}
SCALAR_FRIENDLY = {aten.fill.Tensor, aten.fill_.Tensor}


class DeviceMixError(RuntimeError):
    """An operation of tensors on two devices, which a real device refuses."""


class Counts(Counter[str]):
    """How often the host waited, by kind: "item", "nonzero", "download"; and "upload"s."""

    @property
    def waits(self) -> int:
        """How often the host had to wait for results of the device."""
        return self["item"] + self["nonzero"] + self["download"]


class CudaTensor(torch.Tensor):
    """A tensor of the pretended device; `inner` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CudaTensor:
        assert type(inner) is torch.Tensor, type(inner)
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=STAND_IN,
            requires_grad=False,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, meta: Any, size: Any, stride: Any) -> CudaTensor:
        return CudaTensor(inner["inner"])

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        with torch.no_grad():
            twin: Any = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            twin = torch.nn.Parameter(twin, requires_grad=self.requires_grad)
        else:
            twin.requires_grad_(self.requires_grad)
        memo[id(self)] = twin
        return twin

    def tolist(self) -> Any:
        _state().counts["download"] += 1
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()


class _State:
    def __init__(self) -> None:
        self.counts = Counts()
        self.watch: Callable[[str], None] | None = None
        self.waiting_is_an_error = False


_active: list[_State] = []


def _state() -> _State:
    if not _active:
        raise RuntimeError("a pretended CUDA tensor is used outside `pretend_cuda()`")
    return _active[-1]


def _count(kind: str) -> None:
    state = _state()
    if state.waiting_is_an_error and kind != "upload":
        raise RuntimeError(f"called a synchronizing CUDA operation: {kind}")
    state.counts[kind] += 1
    if state.watch is not None:
        state.watch(kind)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == STAND_IN.type


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs one operation as the device would, or raises as it would."""
    tensors = _tensors_of((args, kwargs))
    pretended = [x for x in tensors if isinstance(x, CudaTensor)]
    target = kwargs.get("device")
    if not pretended and not _is_cuda(target):
        return func(*args, **kwargs)
    if func in COPIES:
        return _copy(func, args, kwargs)
    _check_devices(func, args, tensors, pretended)
    if func in WAITING:
        _count(WAITING[func])
    if func in INDEXING:
        _count_indexing(func, args)
    on_device = True
    if target is not None:
        on_device = _is_cuda(target)
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is aten._fused_sdp_choice.default:
        return 0  # plain operations: the fused kernels of a device are not here
    result = func(*_unwrapped(args), **_unwrapped(kwargs))
    if not on_device:
        _count("download")
        return result
    return return_and_correct_aliasing(func, args, kwargs, _wrapped(result))


def _map(tree: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The arguments or results of an operation, with every tensor changed."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        return type(tree)([_map(x, change) for x in tree])
    return {k: _map(x, change) for k, x in tree.items()} if isinstance(tree, dict) else tree


def _unwrapped(tree: Any) -> Any:
    return _map(tree, lambda x: x.inner if isinstance(x, CudaTensor) else x)


def _wrapped(tree: Any) -> Any:
    return _map(tree, lambda x: x if isinstance(x, CudaTensor) else CudaTensor(x))


def _tensors_of(tree: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map(tree, found.append)
    return found


def _copy(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copies between devices, and from one dtype to another on the device."""
    if func is aten.copy_.default:
        target, source = args[:2]
        _count_transfer(isinstance(source, CudaTensor), isinstance(target, CudaTensor))
        func(*_unwrapped(args), **_unwrapped(kwargs))
        return target
    source = args[0]
    starts = isinstance(source, CudaTensor)
    wanted = kwargs.get("device")
    ends = starts if wanted is None else _is_cuda(wanted)
    _count_transfer(starts, ends)
    kwargs = {**kwargs, "device": torch.device("cpu"), "non_blocking": False}
    kwargs.pop("pin_memory", None)
    result = func(*_unwrapped(args), **kwargs)
    return _wrapped(result) if ends else result


def _count_transfer(starts: bool, ends: bool) -> None:
    if starts != ends:
        _count("download" if starts else "upload")


def _check_devices(func: Any, args: Any, tensors: list[Any], pretended: list[Any]) -> None:
    strangers = [x for x in tensors if not isinstance(x, CudaTensor) and x.device.type != "meta"]
    if not strangers or not pretended:
        return
    pointwise = torch.Tag.pointwise in func.tags or func in SCALAR_FRIENDLY
    if pointwise and all(x.ndim == 0 for x in strangers):
        return
    if func in INDEXING:
        values = args[2:3] if "put" in str(func) else ()
        indexed = isinstance(args[0], CudaTensor)
        if indexed and all(isinstance(v, CudaTensor) or v.ndim == 0 for v in values):
            for _ in strangers:
                _count("upload")
            return
    shapes = [(tuple(x.shape), str(x.device)) for x in tensors]
    raise DeviceMixError(
        f"{func}: expected all tensors to be on the same device, but found at least two devices, "
        f"cuda:0 and cpu: {shapes}"
    )


def _count_indexing(func: Any, args: Any) -> None:
    """A mask as an index is turned into positions, which the host waits for."""
    masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
    if not masks:
        return
    values = args[2] if "put" in str(func) else None
    if values is not None and values.numel() == 1 and len(masks) == 1:
        return  # torch turns it into masked_fill
    _count("nonzero")


class _Mode(TorchDispatchMode):
    """Sees what has no pretended argument: factories, and copies to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _is_composite(func):  # arrives whole under inference mode
            with self:
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return run(func, args, kwargs or {})


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is made of others, which say more about what is waited for."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


class _Calls(torch.overrides.TorchFunctionMode):
    """Keeps torch from asking the driver, which is not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = _numbered(kwargs["device"])
        if func is torch.Tensor.to:
            args = tuple(_numbered(value) for value in args)
        if func in (torch.tensor, torch.as_tensor) and _is_cuda(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    """The pretended device by its number, where it was named without one."""
    if isinstance(value, torch.device):
        return STAND_IN if value.type == "cuda" else value
    return STAND_IN if isinstance(value, str) and value in ("cuda", "cuda:0") else value


@contextlib.contextmanager
def pretend_cuda() -> Iterator[Counts]:
    """One pretended CUDA device while it is open; what it yields counts the host's waits."""
    state = _State()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        _patch_torch(patch, state)
        _patch_kernels(patch)
        _active.append(state)
        stack.callback(_active.pop)
        stack.enter_context(_Calls())
        stack.enter_context(_Mode())
        yield state.counts


@contextlib.contextmanager
def no_waiting(allowed: int = 0) -> Iterator[None]:
    """Fails where the host waits for the device more than `allowed` times inside."""
    counts = _state().counts
    before = counts.waits
    yield
    assert counts.waits - before <= allowed, f"{counts.waits - before} waits, {allowed} allowed"


def _patch_torch(patch: pytest.MonkeyPatch, state: _State) -> None:
    for name, answer in {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "pretended",
        "_lazy_init": None,
        "manual_seed_all": None,
    }.items():
        patch.setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)

    def set_sync_debug_mode(mode: int | str) -> None:
        state.waiting_is_an_error = mode in (2, "error")

    patch.setattr(torch.cuda, "set_sync_debug_mode", set_sync_debug_mode)
    patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 2 * state.waiting_is_an_error)
    generator = torch.Generator()
    patch.setattr(torch.cuda, "get_rng_state_all", lambda: [generator.get_state()])
    patch.setattr(torch.cuda, "set_rng_state", lambda state, device: generator.set_state(state))


def _patch_kernels(patch: pytest.MonkeyPatch) -> None:
    """Lets every kernel of the core run on the device's tensors, all of them or none."""
    from alignzoo import _core
    from alignzoo.kernels import autograd, linear

    for name in dir(_core):
        function = getattr(_core, name)
        if not name.startswith("_") and callable(function):
            patch.setattr(_core, name, _kernel(name, function))
    for name in vars(autograd._Native):
        if not name.startswith("_"):
            plain = getattr(autograd._Native, name)
            patch.setattr(autograd._Native, name, staticmethod(_kernel(name, plain)))
    patch.setattr(linear, "check", _kernel("linear_token_log_probs", linear.check))
    patch.setattr(_core, "cuda_built", True)
    patch.setattr(_core, "take_faults", lambda device: 0)  # the CPU's kernels raise at once


def _kernel(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = _tensors_of((args, kwargs))
        if not any(isinstance(x, CudaTensor) for x in tensors):
            return function(*args, **kwargs)
        if not all(isinstance(x, CudaTensor) for x in tensors):
            raise DeviceMixError(f"kernels.{name}: tensors on cuda:0 and on the CPU")
        result = function(*_unwrapped(args), **_unwrapped(kwargs))
        originals = {id(x.inner): x for x in tensors}
        return _map(result, lambda x: originals[id(x)] if id(x) in originals else CudaTensor(x))

    return call
