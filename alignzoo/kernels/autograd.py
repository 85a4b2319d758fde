"""The functions that torch differentiates. Imported when a torch tensor first arrives."""

from __future__ import annotations

from typing import Any

import torch

from alignzoo import _core
from alignzoo.kernels import linear_torch

Tensor = torch.Tensor


class _OnceOnly(torch.autograd.Function):
    """A gradient that depends on inputs it cannot be differentiated by."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise RuntimeError(
            "alignzoo.kernels: these functions are differentiable once, and this asks for the "
            "second derivative; use plain torch operations there, with eager attention"
        )


def _once_only(gradient: Tensor, *inputs: Tensor | None) -> Tensor:
    """`gradient`, which says so when it is differentiated. Only `create_graph` records that."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    result: Tensor = _OnceOnly.apply(gradient, *inputs)  # type: ignore[no-untyped-call]
    return result


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """gradient * upstream, without the work where a loss is the end of the graph."""
    if torch.compiler.is_compiling() or type(gradient) is not Tensor or gradient.is_cuda:
        return gradient * upstream  # a look at a device's number would wait for it
    if upstream.ndim == 0 and upstream == 1:
        return gradient
    return torch.mul(gradient, upstream, out=_core.empty_like(gradient))


class _Attach(torch.autograd.Function):
    """A value whose elementwise gradient by x is known. The backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(x, gradient)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        x, gradient = ctx.saved_tensors
        return _once_only(_scaled(gradient, upstream.detach()), x, upstream), None, None


def needs_gradient(x: object) -> bool:
    """Whether torch records what is done with x."""
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


def attach(x: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
    """`value`, differentiable by x where its gradient is given."""
    if gradient is None:
        return value
    result: Tensor = _Attach.apply(x, value, gradient)  # type: ignore[no-untyped-call]
    return result


class _Native:
    """What the compiled graph takes from `torch_ops`, for plain calls."""

    token_log_probs = _core.token_log_probs
    kl_divergence = _core.kl_divergence
    kl_divergence_backward = _core.kl_divergence_backward
    max_and_gather = _core.max_and_gather
    linear_forward = staticmethod(linear_torch.forward)
    linear_backward = staticmethod(linear_torch.backward)

    @staticmethod
    def token_log_probs_gradient(*arguments: Any) -> Tensor:
        gradient: Tensor = _core.token_log_probs_backward(*arguments, None)
        return gradient


def _native() -> Any:
    if torch.compiler.is_compiling():
        from alignzoo.kernels import torch_ops

        return torch_ops
    return _Native


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float,
        entropy: bool,
        ignore_index: int,
    ) -> Any:
        log_probs, entropies, saved = _native().token_log_probs(
            "token_log_probs", logits, targets, temperature, entropy, ignore_index, True
        )
        ctx.save_for_backward(logits, targets, saved)
        ctx.temperature, ctx.ignore_index = temperature, ignore_index
        ctx.set_materialize_grads(False)
        return (log_probs, entropies) if entropy else log_probs

    @staticmethod
    def backward(ctx: Any, up_log_probs: Tensor | None, up_entropy: Tensor | None = None) -> Any:
        logits, targets, saved = ctx.saved_tensors
        gradient = _native().token_log_probs_gradient(
            logits, targets, ctx.temperature, ctx.ignore_index, saved, up_log_probs, up_entropy
        )
        return _once_only(gradient, logits, up_log_probs, up_entropy), None, None, None, None


def token_log_probs(
    logits: Tensor, targets: Tensor, temperature: float, entropy: bool, ignore_index: int
) -> Any:
    """See `alignzoo.kernels.token_log_probs`."""
    if needs_gradient(logits):
        return _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
            logits, targets, temperature, entropy, ignore_index
        )
    log_probs, entropies, _ = _native().token_log_probs(
        "token_log_probs", logits, targets, temperature, entropy, ignore_index, False
    )
    return (log_probs, entropies) if entropy else log_probs


class _LinearTokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        entropy: bool,
        temperature: float,
        ignore_index: int,
        chunk_tokens: int | None,
    ) -> Any:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.options = temperature, ignore_index, chunk_tokens
        ctx.set_materialize_grads(False)
        log_probs, entropies = _native().linear_forward(
            hidden, weight, bias, targets, entropy, temperature, ignore_index, chunk_tokens
        )
        return (log_probs, entropies) if entropy else log_probs

    @staticmethod
    def backward(ctx: Any, up_log_probs: Tensor | None, up_entropy: Tensor | None = None) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        upstream = up_log_probs, up_entropy
        needs = [bool(need) for need in ctx.needs_input_grad[:3]]
        gradients = _native().linear_backward(
            hidden, weight, bias, targets, *upstream, needs, *ctx.options
        )
        inputs = hidden, weight, bias, *upstream
        once = [None if g is None else _once_only(g, *inputs) for g in gradients]
        return *once, None, None, None, None, None


def linear_token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float,
    entropy: bool,
    ignore_index: int,
    chunk_tokens: int | None,
) -> Any:
    """See `alignzoo.kernels.linear_token_log_probs`. The arguments are checked."""
    arguments = hidden, weight, bias, targets, entropy, temperature, ignore_index, chunk_tokens
    if needs_gradient(hidden) or needs_gradient(weight) or needs_gradient(bias):
        return _LinearTokenLogProbs.apply(*arguments)  # type: ignore[no-untyped-call]
    log_probs, entropies = _native().linear_forward(*arguments)
    return (log_probs, entropies) if entropy else log_probs


class _KlDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_p: Tensor, logits_q: Tensor, direction: str, temperature: float
    ) -> Tensor:
        divergences, saved = _native().kl_divergence(
            logits_p, logits_q, direction, temperature, True
        )
        ctx.save_for_backward(logits_p, logits_q, saved)
        ctx.options = direction, temperature
        result: Tensor = divergences
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        logits_p, logits_q, saved = ctx.saved_tensors
        needs = [bool(need) for need in ctx.needs_input_grad[:2]]
        gradients = _native().kl_divergence_backward(
            logits_p, logits_q, *ctx.options, saved, upstream, *needs
        )
        inputs = logits_p, logits_q, upstream
        once = [None if g is None else _once_only(g, *inputs) for g in gradients]
        return *once, None, None


def kl_divergence(logits_p: Any, logits_q: Any, direction: str, temperature: float) -> Any:
    """See `alignzoo.kernels.kl_divergence`."""
    if needs_gradient(logits_p) or needs_gradient(logits_q):
        return _KlDivergence.apply(  # type: ignore[no-untyped-call]
            logits_p, logits_q, direction, temperature
        )
    return _native().kl_divergence(logits_p, logits_q, direction, temperature, False)[0]


class _MaxAndGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        largest, argmax, chosen = _native().max_and_gather(q, actions)
        ctx.save_for_backward(argmax, actions)
        ctx.shape, ctx.dtype, ctx.device = q.shape, q.dtype, q.device
        ctx.mark_non_differentiable(argmax)
        return largest, argmax, chosen

    @staticmethod
    def backward(ctx: Any, up_max: Tensor, _: Any, up_chosen: Tensor) -> Any:
        argmax, actions = ctx.saved_tensors
        gradient = torch.zeros(ctx.shape, dtype=ctx.dtype, device=ctx.device)
        for index, up in ((argmax, up_max), (actions.long(), up_chosen)):
            gradient.scatter_add_(-1, index[..., None], up.detach().to(ctx.dtype)[..., None])
        return _once_only(gradient, up_max, up_chosen), None


def max_and_gather(q: Any, actions: Any) -> Any:
    """See `alignzoo.kernels.max_and_gather`."""
    if needs_gradient(q):
        return _MaxAndGather.apply(q, actions)  # type: ignore[no-untyped-call]
    return _native().max_and_gather(q, actions)
