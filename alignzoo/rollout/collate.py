"""From packed rows to padded tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.rollout.batch import RolloutBatch, plain_tensors
from alignzoo.rollout.intake import actions_per_row
from alignzoo.rollout.rows import Access, Rows
from alignzoo.rollout.table import Positions, Table

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]


def prefix_mask(lengths: Array, starts: Array | None = None, width: int | None = None) -> Array:
    """Returns a bool mask [B, width], True at `lengths` slots of each row from `starts` (0) on."""
    starts = np.zeros_like(lengths) if starts is None else starts
    ends = starts + lengths
    slots = np.arange(int(ends.max(initial=0)) if width is None else width)
    mask: Array = (slots >= starts[:, None]) & (slots < ends[:, None])
    return mask


def pad(flat: Array, where: Array) -> Array:
    """Returns [B, T] with packed `flat` [N] where the mask is True, 0 elsewhere."""
    padded = np.zeros(where.shape, flat.dtype)
    padded[where] = flat
    return padded


def make_batch(table: Table, positions: Positions, access: Access, device: str) -> RolloutBatch:
    """Returns the rows at `positions` as a batch with every column that is filled for all."""
    rows = _rows(table, positions)
    slots = prefix_mask(rows.response_lengths)
    arrays: dict[str, Array] = {
        "token_ids": _token_ids(table, positions, rows),
        "prompt_lengths": rows.prompt_lengths,
        "response_lengths": rows.response_lengths,
        "rows": rows.numbers,
    }
    for name, column in table.schema.items():
        if name in table.columns and table.filled[name].data[positions].all():
            flat = table.get(name, positions)
            arrays[name] = pad(flat, slots) if column.shape == "token" else flat
    arrays["response_ids"] = arrays["response_ids"].astype("int64")
    with plain_tensors():
        tensors = {name: _tensor(array, device) for name, array in arrays.items()}
    return RolloutBatch(tensors, rows, table.schema, access)


def _rows(table: Table, positions: Positions) -> Rows:
    lengths = table.responses.lengths[positions].copy()
    for name in ("response_ids", "response_mask", "group_ids", "pair_labels", "policy_version"):
        table.add_column(name)  # an empty buffer has an empty batch
    return Rows(
        numbers=table.numbers.data[positions].copy(),
        prompt_lengths=table.prompts.lengths[positions].copy(),
        response_lengths=lengths,
        num_actions=actions_per_row(table.get("response_mask", positions), lengths),
        group_ids=table.get("group_ids", positions).copy(),
        pair_labels=table.get("pair_labels", positions).copy(),
    )


def _token_ids(table: Table, positions: Positions, rows: Rows) -> Array:
    width = int(rows.total_lengths.max(initial=0))
    ids = np.zeros((len(rows.numbers), width), "int64")
    ids[prefix_mask(rows.prompt_lengths, width=width)] = table.get("prompt_ids", positions)
    response_slots = prefix_mask(rows.response_lengths, rows.prompt_lengths, width)
    ids[response_slots] = table.get("response_ids", positions)
    return ids


def _tensor(array: Array, device: str) -> Tensor:
    import torch

    return torch.from_numpy(np.array(array)).to(device)  # its own memory: batches are copies
