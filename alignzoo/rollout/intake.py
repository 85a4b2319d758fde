"""What comes into a rollout buffer: conversion to packed arrays, and every check on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError
from alignzoo.rollout.columns import BOUNDS, Column

Array = NDArray[Any]
Label = Callable[[int], str]  # how an error names the row at a position
MAX_TOKEN_ID = 2**31 - 1


def as_array(name: str, values: Any) -> Array:
    """Returns `values` (list, array or tensor) as a NumPy array, bfloat16 as float32."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"`{name}`: the rows differ in length; expected a plain array.") from None
    if name == "scores" and array.dtype == object:  # None is unscorable, like NaN
        array = np.array([np.nan if score is None else score for score in array.flat])
    return array


def pack_ids(name: str, rows: Iterable[Any]) -> tuple[Array, Array]:
    """Returns token ids, packed [N] int32, and the length of each row [B].

    Raises:
        DataError: a row is no flat sequence of integers, or an id is out of range.
    """
    arrays = [as_array(name, row) for row in rows]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise DataError(
                f"`{name}` row {number} is {array.dtype} of shape {array.shape}; "
                "expected a sequence of integer token ids."
            )
    lengths = np.array([len(array) for array in arrays], "int64")
    filled = [array for array in arrays if len(array)]
    flat = np.concatenate(filled) if filled else np.zeros(0, "int32")
    wrong = (flat < 0) | (flat > MAX_TOKEN_ID)
    if wrong.any():
        where = _locate(wrong, lengths, _plain)
        raise DataError(f"`{name}` {where} is {flat[wrong][0]}; token ids are >= 0.")
    return flat.astype("int32", copy=False), lengths


def check_responses(lengths: Array, flat_mask: Array) -> None:
    """Checks that every response has a token, and one that is not masked.

    Raises:
        DataError: names the rows.
    """
    if (lengths == 0).any():
        rows = np.flatnonzero(lengths == 0)
        raise DataError(
            f"`responses` {name_rows(rows)} empty; a response holds at least one token (keep the "
            "end token in it)."
        )
    acting = actions_per_row(flat_mask, lengths)
    if (acting == 0).any():
        rows = np.flatnonzero(acting == 0)
        raise DataError(
            f"`response_masks` {name_rows(rows)} all masked; such a row can teach nothing, "
            "so leave it out."
        )


def actions_per_row(flat_mask: Array, lengths: Array) -> Array:
    """Returns the unmasked tokens of each row [B]; rows are not empty."""
    if not len(lengths):
        return np.zeros(0, "int64")
    sums: Array = np.add.reduceat(flat_mask, np.cumsum(lengths) - lengths, dtype="int64")
    return sums


def name_rows(rows: Array) -> str:
    """Returns "row 3 is", "rows 1, 2 are", naming eight rows at most."""
    if len(rows) == 1:
        return f"row {rows[0]} is"
    names = ", ".join(str(row) for row in rows[:8])
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return f"rows {names}{more} are"


def pack_column(
    name: str,
    column: Column,
    values: Any,
    *,
    lengths: Array,
    flat_mask: Array | None,
    label: Label | None = None,
) -> Array:
    """Returns a column's values, checked and packed: [N] per token, [B] per sequence.

    Token columns come padded [B, T], packed [N] or as a list of one sequence per row; what lies
    under the mask or in padding is never looked at and comes back as 0.

    Args:
        name: of the column, for the errors.
        column: its shape and dtype.
        values: list, array or tensor.
        lengths: response lengths [B].
        flat_mask: which response tokens count, packed bool [N]; None where all do.
        label: how an error names a row; default its place among `lengths`.
    Raises:
        DataError: wrong shape, dtype, range, or a value that is not finite under the mask (NaN
            and inf are legal in `scores` alone); names column, row and value.
    """
    label = label or _plain
    per_token = column.shape == "token"
    if per_token:
        flat = _flatten(name, values, lengths, label)
    else:
        flat = as_array(name, values)
        _check_shape(name, flat.shape, (len(lengths),), "[B]")
        lengths, flat_mask = np.ones(len(lengths), "int64"), None
    if flat_mask is not None:
        flat = np.where(flat_mask, flat, np.zeros((), flat.dtype))

    def where(wrong: Array) -> str:
        return _locate(wrong, lengths, label, per_token=per_token)

    cast = _cast(name, flat, np.dtype(column.dtype), where)
    _check_values(name, cast, where)
    return cast


def _flatten(name: str, values: Any, lengths: Array, label: Label) -> Array:
    if isinstance(values, Sequence) and len(values) and _is_row(values[0]):
        return _flatten_rows(name, values, lengths, label)
    array = as_array(name, values)
    total = int(lengths.sum())
    if array.ndim == 1:
        _check_shape(name, array.shape, (total,), "[N], packed")
        return array
    longest = int(lengths.max(initial=0))
    if array.ndim != 2 or len(array) != len(lengths) or array.shape[1] < longest:
        raise DataError(
            f"`{name}` has shape {array.shape}; expected [B, T] = {(len(lengths), longest)}, "
            f"packed [N] = ({total},), or a list of one sequence per row."
        )
    packed: Array = array[np.arange(array.shape[1]) < lengths[:, None]]
    return packed


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1


def _flatten_rows(name: str, values: Sequence[Any], lengths: Array, label: Label) -> Array:
    if len(values) != len(lengths):
        raise DataError(f"`{name}` has {len(values)} rows; expected {len(lengths)}.")
    arrays = [as_array(name, row) for row in values]
    for position, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if array.shape != (length,):
            raise DataError(
                f"`{name}` {label(position)} has shape {array.shape}, "
                f"but its response has {length} tokens."
            )
    return np.concatenate([array for array in arrays if len(array)])


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], words: str) -> None:
    if shape != expected:
        raise DataError(f"`{name}` has shape {shape}; expected {expected} ({words}).")


def _cast(name: str, flat: Array, dtype: np.dtype[Any], where: Callable[[Array], str]) -> Array:
    if flat.dtype == dtype:
        return flat
    if not len(flat):
        return flat.astype(dtype) if flat.dtype.kind in "biuf" else np.zeros(0, dtype)
    if dtype.kind == "b" and flat.dtype.kind in "iu":
        legal = (flat == 0) | (flat == 1)
    elif dtype.kind in "iu" and flat.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        legal = (flat >= limits.min) & (flat <= limits.max)
    elif flat.dtype.kind not in "biuf" or not np.can_cast(flat.dtype, dtype, "same_kind"):
        raise DataError(f"`{name}` is {flat.dtype}; expected {dtype}.")
    else:
        legal = np.ones(len(flat), "bool")
    if not legal.all():
        raise DataError(f"`{name}` {where(~legal)} is {flat[~legal][0]}; expected {dtype}.")
    with np.errstate(over="ignore"):  # becomes inf, which is checked
        return flat.astype(dtype)


def _check_values(name: str, flat: Array, where: Callable[[Array], str]) -> None:
    if flat.dtype.kind == "f" and name != "scores":
        wrong = ~np.isfinite(flat)
        if wrong.any():
            raise DataError(
                f"`{name}` {where(wrong)} is {flat[wrong][0]}; expected a finite value."
            )
    if name in BOUNDS:
        low, high = BOUNDS[name]
        wrong = (flat < low) | (flat > high)
        if wrong.any():
            raise DataError(
                f"`{name}` {where(wrong)} is {flat[wrong][0]}; expected {low:g} to {high:g}."
            )


def _plain(position: int) -> str:
    return f"row {position}"


def _locate(wrong: Array, lengths: Array, label: Label, *, per_token: bool = True) -> str:
    """Returns "row 3, token 5" for the first True of `wrong` [N]."""
    index = int(np.argmax(wrong))
    ends = np.cumsum(lengths)
    position = int(np.searchsorted(ends, index, side="right"))
    if not per_token:
        return label(position)
    return f"{label(position)}, token {index - int(ends[position] - lengths[position])}"


def check_ends(terminated: Array | None, truncated: Array | None) -> None:
    """Checks that no row both terminated and was truncated.

    Raises:
        DataError: names the rows.
    """
    if terminated is not None and truncated is not None and (terminated & truncated).any():
        rows = np.flatnonzero(terminated & truncated)
        raise DataError(f"`terminated` and `truncated`: {name_rows(rows)} both; expected one.")


def check_pairs(pair_labels: Array, group_ids: Array) -> None:
    """Checks that every group with a chosen row has a rejected one, and the other way round.

    Raises:
        DataError: names the row that is alone.
    """
    chosen = np.flatnonzero(pair_labels == 1)
    rejected = np.flatnonzero(pair_labels == 0)
    for one, other, words in (
        (chosen, rejected, "chosen (1) but its group has no rejected row (0)"),
        (rejected, chosen, "rejected (0) but its group has no chosen row (1)"),
    ):
        alone = one[~np.isin(group_ids[one], group_ids[other])]
        if len(alone):
            raise DataError(
                f"`pair_labels` row {alone[0]} is {words}; a pair shares one of `group_ids`."
            )


def check_version(policy_version: int) -> int:
    """Returns the version as a plain integer.

    Raises:
        DataError: not an integer, or below 0.
    """
    if isinstance(policy_version, bool) or int(policy_version) != policy_version:
        raise DataError(f"policy_version is {policy_version!r}; expected an integer.")
    if policy_version < 0:
        raise DataError(f"policy_version is {policy_version}; expected at least 0.")
    return int(policy_version)


def check_distinct(numbers: Array) -> None:
    """Checks that no row number comes twice.

    Raises:
        DataError: names the first that does.
    """
    unique, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"rows: row {unique[counts > 1][0]} comes twice; expected each once.")
