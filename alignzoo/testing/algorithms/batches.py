"""The same batch in another form: wider padding, junk under the mask, other rows, other columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from alignzoo.policy import PolicyOutput
from alignzoo.rollout import RolloutBatch
from alignzoo.rollout.columns import WRITABLE
from alignzoo.testing.algorithms.calls import OUTPUTS

BIG = 1e4  # junk where a value or a logit should be
FAR = 20.0  # nats between junk and the log-prob beside it


def with_columns(batch: RolloutBatch, **columns: Tensor) -> RolloutBatch:
    """Returns a view with these tensors in the place of some columns; the rest is shared."""
    view = RolloutBatch({**batch._tensors, **columns}, batch._rows, batch._schema, batch._access)
    view._num_tokens, view._num_sequences = batch._num_tokens, batch._num_sequences
    return view


def copied(batch: RolloutBatch) -> RolloutBatch:
    """Returns the same batch with tensors of its own."""
    return with_columns(batch, **{name: x.clone() for name, x in batch._tensors.items()})


def token_columns(batch: RolloutBatch) -> list[str]:
    """Returns the names of the columns [B, T] that are filled, readable or not."""
    return [n for n in batch._tensors if n in batch._schema and batch._schema[n].shape == "token"]


def widened(batch: RolloutBatch, by: int) -> RolloutBatch:
    """Returns the batch with `by` more columns of padding, 0 like all padding."""
    names = ["token_ids", *token_columns(batch)]
    return with_columns(batch, **{name: pad(batch._tensors[name], (0, by)) for name in names})


def widened_output(out: PolicyOutput, by: int) -> PolicyOutput:
    """Returns the output of a policy on the widened batch."""
    return _mapped(out, lambda x: torch.cat([x, x.new_zeros(x.shape[0], by, *x.shape[2:])], 1))


def rows_of(out: PolicyOutput, rows: Sequence[int], width: int | None = None) -> PolicyOutput:
    """Returns the output of some rows, cut to `width` tokens."""
    return _mapped(out, lambda x: x[list(rows), :width])


def part(batch: RolloutBatch, out: PolicyOutput, rows: Sequence[int]) -> Any:
    """Returns batch and output of some rows; the counts stay those of the whole."""
    chosen = batch.select(list(rows), keep_counts=True)
    return chosen, rows_of(out, rows, chosen.response_mask.shape[1])


def _mapped(out: PolicyOutput, change: Any) -> PolicyOutput:
    found = {name: getattr(out, name) for name in OUTPUTS}
    return replace(out, **{name: change(x) for name, x in found.items() if x is not None})


def poisoned(
    batch: RolloutBatch, out: PolicyOutput, sign: int
) -> tuple[RolloutBatch, PolicyOutput]:
    """Returns both with finite junk under the mask: in `out`, and in what `prepare` wrote.

    Log-probs lie `FAR` nats above or below the 0 beside them, in turn; all else is `BIG`.
    """
    mask = batch.response_mask
    turns = torch.ones(mask.shape).cumsum(1).remainder(2) * 2 - 1  # 1, -1, 1, ...

    def junk(x: Tensor, size: float) -> Tensor:
        shape = (*mask.shape, *[1] * (x.ndim - 2))
        values = (sign * size * turns).to(x.dtype).view(shape).expand_as(x)
        return torch.where(mask.view(shape), x, values)

    sizes = {name: FAR if name == "log_probs" else BIG for name in OUTPUTS}
    outputs = {n: getattr(out, n) for n in OUTPUTS if getattr(out, n) is not None}
    spoiled = replace(out, **{name: junk(x, sizes[name]) for name, x in outputs.items()})
    written = [n for n in token_columns(batch) if n in WRITABLE]
    return with_columns(batch, **{n: junk(batch._tensors[n], BIG) for n in written}), spoiled


def extreme(batch: RolloutBatch, out: PolicyOutput, pattern: str) -> Any:
    """Returns both with log-ratios of 100 nats to the old policy and to the reference.

    "up": the policy is all but certain of what was all but impossible; "down": the reverse; "both"
    in turn along a response.
    """
    mask = batch.response_mask
    turns = torch.ones(mask.shape).cumsum(1).remainder(2) == 1
    is_up = {"up": turns | True, "down": turns & False, "both": turns}[pattern]
    likely, unlikely = torch.tensor(-1e-4), torch.tensor(-100.0)
    now = torch.where(is_up, likely, unlikely) * mask
    before = torch.where(is_up, unlikely, likely) * mask
    names = [n for n in batch._tensors if n.endswith("_log_probs")]
    columns = {name: before.to(batch._tensors[name].dtype) for name in names}
    return with_columns(batch, **columns), replace(out, log_probs=now.to(out.log_probs.dtype))


def shifted(batch: RolloutBatch) -> tuple[RolloutBatch, Tensor]:
    """Returns the batch with each row's masked tokens behind the others, and the order [B, T].

    `moved = column.gather(1, order)`. A response then has the same tokens that the policy chose,
    next to each other.
    """
    order = (~batch.response_mask).int().argsort(dim=1, stable=True)
    moved = {name: batch._tensors[name].gather(1, order) for name in token_columns(batch)}
    return with_columns(batch, **moved), order
