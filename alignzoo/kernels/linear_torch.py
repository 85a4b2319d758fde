"""The chunked linear head on torch tensors: forward and backward, without autograd.

On the CPU, rows that do not count are left out of the products. To find them would be to wait for a
CUDA device, so there all rows go through and the row kernel passes over the others: nothing here
asks the device, and a call can be captured in a graph.

What chunks cost on a CUDA device, counted for 4096 rows of width 4096 over V = 128256 in bfloat16.
The four products (the logits forward, and again backward; the gradients of the hidden states and of
the weight) are 17.2 TFLOP, 22 ms at 790 TFLOP/s. Beside them a chunk's logits are read forward, and
backward read, read again and written: 4 times 1.05 GB. The weight's gradient is summed in 2.1 GB of
float32, written by the first chunk's product, read and written by each later one, and rounded to a
result of 1.05 GB. At 4.3 TB/s that makes 1.7 ms in one chunk, 8 % of the products, and 2.7 ms in
two. Hence chunks of 1 GiB there, half of what the sum takes anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from alignzoo import _core
from alignzoo.kernels import linear

Tensor = torch.Tensor

WIDENED_COLUMNS = 8192  # of a chunk below float32 that are in float32 at a time


def leaves_rows_out(x: Tensor) -> bool:
    """Whether rows that do not count enter no product. It takes their number on the host."""
    return not x.is_cuda


class _Chunk(NamedTuple):
    rows: Tensor | slice  # which of all rows
    hidden: Tensor  # [n, D]
    targets: Tensor  # [n]
    logits: Tensor  # [n, V], in the one buffer of all chunks


class _Head:
    """A linear head and the rows that go through it, a chunk of logits at a time."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ignore_index: int,
        chunk_tokens: int | None,
    ) -> None:
        self.hidden = hidden.detach().reshape(-1, hidden.shape[-1])  # [N, D]
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.targets = targets.reshape(-1)
        self.ignore_index = ignore_index
        self.leaves_out = leaves_rows_out(hidden)
        sizes = len(weight), weight.element_size()
        if self.leaves_out:
            self.size = linear.rows_per_chunk(chunk_tokens, *sizes)
        else:
            self.size = linear.cuda_rows_per_chunk(chunk_tokens, len(self.targets), *sizes)

    def counted(self) -> Tensor:
        """[N], whether a row has a target."""
        return self.targets != self.ignore_index

    def chunks(self, counted: Tensor | None) -> Iterator[_Chunk]:
        """All rows, or where rows are left out, those that `counted` [N] keeps."""
        chosen = None if counted is None else counted.nonzero().squeeze(-1)
        num_rows = len(self.targets) if chosen is None else len(chosen)
        size = min(self.size, max(1, num_rows))
        buffer = self.weight.new_empty(size, len(self.weight))
        for start in range(0, num_rows, size):
            stop = min(start + size, num_rows)
            rows = slice(start, stop) if chosen is None else chosen[start:stop]
            chunk = _Chunk(rows, self.hidden[rows], self.targets[rows], buffer[: stop - start])
            if self.bias is None:
                torch.mm(chunk.hidden, self.weight.T, out=chunk.logits)
            else:
                torch.addmm(self.bias, chunk.hidden, self.weight.T, out=chunk.logits)
            yield chunk


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
    head = _Head(hidden, weight, bias, targets, ignore_index, chunk_tokens)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    log_probs = head.hidden.new_zeros(len(head.targets), dtype=wide)
    entropies = torch.zeros_like(log_probs) if entropy else None
    for chunk in head.chunks(head.counted() if head.leaves_out else None):
        log_probs[chunk.rows], some, _ = _core.token_log_probs(
            linear.NAME, chunk.logits, chunk.targets, temperature, entropy, ignore_index, False
        )
        if entropies is not None:
            entropies[chunk.rows] = some
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
    head = _Head(hidden, weight, bias, targets, ignore_index, chunk_tokens)
    sums = _Sums(head, needs)
    # An upstream that is nowhere used stays None: then it is 0 for every row.
    upstream = [None if up is None else up.reshape(-1) for up in (up_log_probs, up_entropy)]
    if any(up is not None for up in upstream):
        _add_chunks(head, sums, upstream, temperature)
    return sums.result(hidden.shape)


class _Sums:
    """Gradients as they grow: the weight's and the bias's in float32 or wider."""

    def __init__(self, head: _Head, needs: Sequence[bool]) -> None:
        self.head = head
        self.needs_weight, self.needs_bias = needs[1:]
        self.hidden = torch.zeros_like(head.hidden) if needs[0] else None
        self.wide = torch.promote_types(head.weight.dtype, torch.float32)
        # Written by the first chunk, so that nothing is cleared and read again.
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def add(self, chunk: _Chunk, counted: Tensor | None) -> None:
        """Takes in a chunk whose logits have become their gradients.

        `counted` [n] where rows among them do not count: their hidden states may be anything.
        """
        gradient, head = chunk.logits, self.head
        if self.hidden is not None:
            if isinstance(chunk.rows, slice):
                torch.mm(gradient, head.weight, out=self.hidden[chunk.rows])
            else:
                self.hidden[chunk.rows] = torch.mm(gradient, head.weight)
        if self.needs_weight:
            inputs = chunk.hidden
            if counted is not None:
                inputs = inputs.masked_fill(~counted[:, None], 0)
            first = self.weight is None
            if self.weight is None:
                self.weight = torch.empty_like(
                    head.weight, dtype=self.wide, memory_format=torch.contiguous_format
                )
            _add_product(self.weight, gradient, inputs, first=first)
        if self.needs_bias:
            sums = gradient.sum(0, dtype=self.wide)
            self.bias = sums if self.bias is None else self.bias.add_(sums)

    def result(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients in the inputs' dtype and shape."""
        weight, bias = self.weight, self.bias
        like = self.head.weight
        if self.needs_weight and weight is None:
            weight = torch.zeros_like(like)
        if self.needs_bias and bias is None:
            bias = like.new_zeros(len(like))
        return (
            None if self.hidden is None else self.hidden.reshape(shape),
            None if weight is None else weight.to(like.dtype),
            None if bias is None else bias.to(like.dtype),
        )


def adds_in_float32(x: Tensor) -> bool:
    """Whether torch multiplies matrices of this dtype straight into a sum in float32.

    For bfloat16 and float16 on CUDA `torch.addmm` does from 2.10 on (pytorch/pytorch#167931).
    """
    return x.is_cuda and torch.__version__ >= "2.10"  # compared as versions


def _add_product(total: Tensor, gradient: Tensor, inputs: Tensor, *, first: bool) -> None:
    """total += gradient.T @ inputs, or for the `first` time = instead of +=."""
    if gradient.dtype == total.dtype:
        _accumulate(total, gradient.T, inputs, first)
    elif adds_in_float32(gradient):
        if first:
            torch.mm(gradient.T, inputs, out_dtype=total.dtype, out=total)
        else:
            torch.addmm(total, gradient.T, inputs, out_dtype=total.dtype, out=total)
    else:  # widened a slice at a time
        wide = inputs.to(total.dtype)
        slices = total.split(WIDENED_COLUMNS), gradient.split(WIDENED_COLUMNS, dim=1)
        for rows, columns in zip(*slices, strict=True):
            _accumulate(rows, columns.to(total.dtype).T, wide, first)


def _accumulate(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    if first:
        torch.mm(a, b, out=total)
    else:
        total.addmm_(a, b)


def _add_chunks(
    head: _Head, sums: _Sums, upstream: Sequence[Tensor | None], temperature: float
) -> None:
    """Adds every row with an upstream gradient. The chunk's memory is free again on return."""
    counted = torch.zeros_like(head.targets, dtype=torch.bool)
    for up in upstream:
        if up is not None:
            counted |= up != 0
    counted &= head.counted()
    for chunk in head.chunks(counted if head.leaves_out else None):
        _, _, saved = _core.token_log_probs(
            linear.NAME,
            chunk.logits,
            chunk.targets,
            temperature,
            upstream[1] is not None,
            head.ignore_index,
            True,
        )
        ups = [None if up is None else up[chunk.rows] for up in upstream]
        _core.token_log_probs_backward(
            chunk.logits, chunk.targets, temperature, head.ignore_index, saved, *ups, chunk.logits
        )
        sums.add(chunk, None if head.leaves_out else counted[chunk.rows])
