"""The functions that torch differentiates. Imported when a torch tensor first arrives."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from alignzoo import _core
from alignzoo.kernels.linear import NAME as LINEAR
from alignzoo.kernels.linear import rows_per_chunk

Tensor = torch.Tensor


class _Attach(torch.autograd.Function):
    """A value whose elementwise gradient by x is already known. The backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


def needs_gradient(x: object) -> bool:
    """Whether torch records what is done with x."""
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


def attach(x: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
    """`value`, differentiable by x where its gradient is given."""
    if gradient is None:
        return value
    result: Tensor = _Attach.apply(x, value, gradient)  # type: ignore[no-untyped-call]
    return result


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
        log_probs, entropies, saved = _core.token_log_probs(
            "token_log_probs", logits, targets, temperature, entropy, ignore_index, True
        )
        ctx.save_for_backward(logits, targets, saved)
        ctx.options = temperature, ignore_index
        ctx.set_materialize_grads(False)
        return (log_probs, entropies) if entropy else log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_log_probs: Tensor | None, up_entropy: Tensor | None = None) -> Any:
        logits, targets, saved = ctx.saved_tensors
        temperature, ignore_index = ctx.options
        gradient = torch.empty(logits.shape, dtype=logits.dtype)
        _core.token_log_probs_backward(
            logits, targets, temperature, ignore_index, saved, up_log_probs, up_entropy, gradient
        )
        return gradient, None, None, None, None


def token_log_probs(
    logits: Tensor, targets: Tensor, temperature: float, entropy: bool, ignore_index: int
) -> Any:
    """See `alignzoo.kernels.token_log_probs`."""
    if needs_gradient(logits):
        return _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
            logits, targets, temperature, entropy, ignore_index
        )
    log_probs, entropies, _ = _core.token_log_probs(
        "token_log_probs", logits, targets, temperature, entropy, ignore_index, False
    )
    return (log_probs, entropies) if entropy else log_probs


class _Head:
    """A linear head and the rows that go through it, a chunk of logits at a time."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        ignore_index: int,
        chunk_tokens: int | None,
    ) -> None:
        self.hidden = hidden.detach().reshape(-1, hidden.shape[-1])  # [N, D]
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.targets = targets.reshape(-1)
        self.options = temperature, ignore_index
        self.size = rows_per_chunk(chunk_tokens, len(weight), weight.element_size())

    def chunks(self, rows: Tensor) -> Any:
        """(row numbers, hidden, logits) of each chunk; the logits share one buffer."""
        size = min(self.size, max(1, len(rows)))
        buffer = self.weight.new_empty(size, len(self.weight))
        for chunk in rows.split(size):
            hidden = self.hidden.index_select(0, chunk)
            logits = buffer[: len(chunk)]
            if self.bias is None:
                torch.mm(hidden, self.weight.T, out=logits)
            else:
                torch.addmm(self.bias, hidden, self.weight.T, out=logits)
            yield chunk, hidden, logits

    def log_probs(self, logits: Tensor, chunk: Tensor, entropy: bool, save: bool) -> Any:
        temperature, ignore_index = self.options
        return _core.token_log_probs(
            LINEAR, logits, self.targets[chunk], temperature, entropy, ignore_index, save
        )

    def forward(self, entropy: bool) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(self.hidden.dtype, torch.float32)
        log_probs = torch.zeros(len(self.targets), dtype=wide)
        entropies = torch.zeros(len(self.targets), dtype=wide) if entropy else None
        rows = (self.targets != self.options[1]).nonzero().squeeze(-1)
        for chunk, _, logits in self.chunks(rows):
            log_probs[chunk], some, _ = self.log_probs(logits, chunk, entropy, False)
            if entropies is not None:
                entropies[chunk] = some
        return log_probs, entropies

    def backward(
        self, up_log_probs: Tensor | None, up_entropy: Tensor | None, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of hidden [N, D], weight and bias, where needed."""
        wide = torch.promote_types(self.hidden.dtype, torch.float32)
        by_hidden = torch.zeros_like(self.hidden) if needs[0] else None
        by_weight = torch.zeros_like(self.weight, dtype=wide) if needs[1] else None
        by_bias = torch.zeros(len(self.weight), dtype=wide) if needs[2] else None
        active = self.targets != self.options[1]
        upstream = [up for up in (up_log_probs, up_entropy) if up is not None]
        active &= torch.stack([up != 0 for up in upstream]).any(0)
        for chunk, hidden, logits in self.chunks(active.nonzero().squeeze(-1)):
            _, _, saved = self.log_probs(logits, chunk, up_entropy is not None, True)
            temperature, ignore_index = self.options
            _core.token_log_probs_backward(
                logits,
                self.targets[chunk],
                temperature,
                ignore_index,
                saved,
                None if up_log_probs is None else up_log_probs[chunk],
                None if up_entropy is None else up_entropy[chunk],
                logits,
            )
            if by_hidden is not None:
                by_hidden[chunk] = torch.mm(logits, self.weight)
            if by_weight is not None:
                by_weight.addmm_(logits.to(wide).T, hidden.to(wide))
            if by_bias is not None:
                by_bias += logits.sum(0, dtype=wide)
        return (
            by_hidden,
            None if by_weight is None else by_weight.to(self.weight.dtype),
            None if by_bias is None else by_bias.to(self.weight.dtype),
        )


class _LinearTokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        entropy: bool,
        options: tuple[float, int, int | None],
    ) -> Any:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.options = options
        ctx.set_materialize_grads(False)
        log_probs, entropies = _Head(hidden, weight, bias, targets, *options).forward(entropy)
        log_probs = log_probs.reshape(targets.shape)
        return log_probs if entropies is None else (log_probs, entropies.reshape(targets.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_log_probs: Tensor | None, up_entropy: Tensor | None = None) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        if up_log_probs is None and up_entropy is None:
            return (None,) * 6
        by_hidden, by_weight, by_bias = _Head(hidden, weight, bias, targets, *ctx.options).backward(
            None if up_log_probs is None else up_log_probs.reshape(-1),
            None if up_entropy is None else up_entropy.reshape(-1),
            ctx.needs_input_grad[:3],
        )
        if by_hidden is not None:
            by_hidden = by_hidden.reshape(hidden.shape)
        return by_hidden, by_weight, by_bias, None, None, None


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
    options = temperature, ignore_index, chunk_tokens
    if needs_gradient(hidden) or needs_gradient(weight) or needs_gradient(bias):
        return _LinearTokenLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, entropy, options
        )
    log_probs, entropies = _Head(hidden, weight, bias, targets, *options).forward(entropy)
    log_probs = log_probs.reshape(targets.shape)
    return log_probs if entropies is None else (log_probs, entropies.reshape(targets.shape))
