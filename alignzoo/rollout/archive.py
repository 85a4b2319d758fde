"""A rollout buffer on disk: safetensors for the columns, JSON for the rest, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import AlignzooError, DataError
from alignzoo.rollout.table import Table

Array = NDArray[Any]
FORMAT = 1


def _files(prefix: str | Path) -> tuple[Path, Path]:
    path = Path(prefix)
    path = path / "buffer" if path.is_dir() else path
    return path.with_name(path.name + ".safetensors"), path.with_name(path.name + ".json")


def save(prefix: str | Path, state: Mapping[str, Any], table: Table) -> None:
    """Writes the table and what belongs to it."""
    from safetensors.numpy import save_file

    tensors = {
        "rows": table.numbers.data,
        "prompt_lengths": table.prompts.lengths,
        "response_lengths": table.responses.lengths,
        "prompt_ids": table.prompt_ids.data,
    }
    for name, column in table.columns.items():
        tensors[f"column.{name}"] = column.data
        tensors[f"filled.{name}"] = table.filled[name].data
    data_file, state_file = _files(prefix)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, data_file)
    state = {"format": FORMAT, **state, "next_row": table.next_row}
    state_file.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read(prefix: str | Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Returns what `save` wrote: the state and the arrays.

    Raises:
        DataError: a file is missing, damaged, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    data_file, state_file = _files(prefix)
    for file in (data_file, state_file):
        if not file.is_file():
            raise DataError(f"{file}: no such file; a rollout buffer is two files, see `save`.")
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        tensors = load_file(data_file)
    except (ValueError, SafetensorError) as error:
        raise DataError(f"{prefix}: not a saved rollout buffer ({error}).") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{state_file}: not a rollout buffer of format {FORMAT}.")
    return state, tensors


@contextmanager
def naming(prefix: str | Path) -> Iterator[None]:
    """Turns what a damaged state raises into an error that names the file."""
    try:
        yield
    except (KeyError, TypeError, AlignzooError) as error:
        raise DataError(f"{prefix}: the saved rollout buffer is damaged ({error}).") from None


def restore(table: Table, next_row: int, tensors: Mapping[str, Array]) -> None:
    """Fills an empty `table`.

    Raises:
        DataError: the arrays do not fit each other.
    """
    numbers = tensors["rows"]
    count = len(numbers)
    lengths, prompt_lengths = tensors["response_lengths"], tensors["prompt_lengths"]
    _check("prompt_ids", tensors["prompt_ids"], int(prompt_lengths.sum()), "int32")
    for name in ("rows", "prompt_lengths", "response_lengths"):
        _check(name, tensors[name], count, "int64")
    if (lengths < 1).any() or (prompt_lengths < 0).any() or (np.diff(numbers) < 1).any():
        raise DataError("lengths or row numbers are out of range")
    columns = {key[7:]: array for key, array in tensors.items() if key.startswith("column.")}
    for name, array in columns.items():
        column = table.schema[name]
        size = int(lengths.sum()) if column.shape == "token" else count
        _check(name, array, size, column.dtype)
        _check(f"filled.{name}", tensors[f"filled.{name}"], count, "bool")
    table.extend((tensors["prompt_ids"], prompt_lengths), lengths, columns)
    table.numbers.data[:] = numbers
    table.next_row = check_next("next_row", next_row, numbers)
    for name in columns:
        table.filled[name].data[:] = tensors[f"filled.{name}"]


def check_next(name: str, number: Any, used: Array) -> int:
    """Returns `number`, which is to be given out next.

    Raises:
        DataError: not an integer above all of `used`.
    """
    least = int(used.max(initial=-1)) + 1
    if not isinstance(number, int) or number < least:
        raise DataError(f"{name} is {number}; expected at least {least}")
    return number


def _check(name: str, array: Array, size: int, dtype: str) -> None:
    if array.shape != (size,) or array.dtype != np.dtype(dtype):
        raise DataError(
            f"'{name}' is {array.dtype} of shape {array.shape}; expected {dtype} of ({size},)"
        )
