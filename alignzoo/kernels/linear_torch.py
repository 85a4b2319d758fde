"""The chunked linear head on torch tensors: forward and backward, without autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from alignzoo import _core
from alignzoo.kernels import linear

Tensor = torch.Tensor

WIDENED_COLUMNS = 8192  # of a chunk below float32 that are in float32 at a time


class _Head:
    """A linear head and the rows that go through it, a chunk of logits at a time."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk_tokens: int | None,
    ) -> None:
        self.hidden = hidden.detach().reshape(-1, hidden.shape[-1])  # [N, D]
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.targets = targets.reshape(-1)
        self.size = linear.rows_per_chunk(chunk_tokens, len(weight), weight.element_size())

    def chunks(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(row numbers, hidden, logits) of each chunk; the logits share one buffer."""
        size = min(self.size, max(1, len(rows)))
        buffer = self.weight.new_empty(size, len(self.weight))
        for chunk in rows.split(size) if len(rows) else ():
            hidden = self.hidden.index_select(0, chunk)
            logits = buffer[: len(chunk)]
            if self.bias is None:
                torch.mm(hidden, self.weight.T, out=logits)
            else:
                torch.addmm(self.bias, hidden, self.weight.T, out=logits)
            yield chunk, hidden, logits


@torch.no_grad()
def forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    entropy: bool,
    temperature: float,
    ignore_index: int,
    chunk_tokens: int | None,
    *,
    checked: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs and, if asked for, entropies [...]."""
    if not checked:
        linear.check(
            hidden, weight, bias, targets, ignore_index, temperature, entropy, chunk_tokens
        )
    head = _Head(hidden, weight, bias, targets, chunk_tokens)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    log_probs = torch.zeros(len(head.targets), dtype=wide)
    entropies = torch.zeros(len(head.targets), dtype=wide) if entropy else None
    rows = (head.targets != ignore_index).nonzero().squeeze(-1)
    for chunk, _, logits in head.chunks(rows):
        log_probs[chunk], some, _ = _core.token_log_probs(
            linear.NAME, logits, head.targets[chunk], temperature, entropy, ignore_index, False
        )
        if entropies is not None:
            entropies[chunk] = some
    shape = targets.shape
    return log_probs.reshape(shape), None if entropies is None else entropies.reshape(shape)


@torch.no_grad()
def backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    up_log_probs: Tensor | None,
    up_entropy: Tensor | None,
    needs: Sequence[bool],
    temperature: float,
    ignore_index: int,
    chunk_tokens: int | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden, weight and bias, where `needs` asks for them."""
    head = _Head(hidden, weight, bias, targets, chunk_tokens)
    sums = _Sums(head, needs)
    # An upstream that is nowhere used stays None: then it is 0 for every row.
    upstream = [None if up is None else up.reshape(-1) for up in (up_log_probs, up_entropy)]
    _add_chunks(head, sums, upstream, temperature, ignore_index)
    return sums.result(hidden.shape)


class _Sums:
    """Gradients as they grow: the weight's and the bias's in float32 or wider."""

    def __init__(self, head: _Head, needs: Sequence[bool]) -> None:
        weight = head.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.hidden = torch.zeros_like(head.hidden) if needs[0] else None
        self.weight = torch.zeros_like(weight, dtype=wide) if needs[1] else None
        self.bias = torch.zeros(len(weight), dtype=wide) if needs[2] else None
        self.dtype = weight.dtype

    def add(self, head: _Head, chunk: Tensor, inputs: Tensor, gradient: Tensor) -> None:
        """Takes in rows `chunk`: their hidden states and the gradient of their logits."""
        if self.hidden is not None:
            self.hidden[chunk] = torch.mm(gradient, head.weight)
        if self.weight is not None:
            _add_product(self.weight, gradient, inputs)
        if self.bias is not None:
            self.bias += gradient.sum(0, dtype=self.bias.dtype)

    def result(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients in the inputs' dtype and shape."""
        return (
            None if self.hidden is None else self.hidden.reshape(shape),
            None if self.weight is None else self.weight.to(self.dtype),
            None if self.bias is None else self.bias.to(self.dtype),
        )


def _add_product(total: Tensor, gradient: Tensor, inputs: Tensor) -> None:
    """total += gradient.T @ inputs; a narrower chunk is widened a slice at a time."""
    wide = inputs.to(total.dtype)
    size = len(total) if gradient.dtype == total.dtype else WIDENED_COLUMNS
    for rows, columns in zip(total.split(size), gradient.split(size, dim=1), strict=True):
        rows.addmm_(columns.to(total.dtype).T, wide)


def _add_chunks(
    head: _Head,
    sums: _Sums,
    upstream: Sequence[Tensor | None],
    temperature: float,
    ignore_index: int,
) -> None:
    """Adds every row with an upstream gradient. The chunk's memory is free again on return."""
    active = torch.zeros_like(head.targets, dtype=torch.bool)
    for up in upstream:
        if up is not None:
            active |= up != 0
    active &= head.targets != ignore_index
    for chunk, inputs, logits in head.chunks(active.nonzero().squeeze(-1)):
        wanted = head.targets[chunk]
        _, _, saved = _core.token_log_probs(
            linear.NAME, logits, wanted, temperature, upstream[1] is not None, ignore_index, True
        )
        ups = [None if up is None else up[chunk] for up in upstream]
        _core.token_log_probs_backward(
            logits, wanted, temperature, ignore_index, saved, *ups, logits
        )
        sums.add(head, chunk, inputs, logits)
