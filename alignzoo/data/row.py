"""One row of data, and the words in which errors speak of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from alignzoo.errors import DataError

DataSource = str | Path | Sequence[Any]
OnError = Callable[[DataError], None]


@dataclass(frozen=True)
class Row:
    """One row: its columns by name, and where it came from.

    Args:
        values: the columns.
        source: path of the file, hub id, or what a list was called.
        line: line in a text file, from 1; number of the row from 1 in Parquet and on the hub;
            index from 0 in a list.
        unit: which of the three `line` is.
    """

    values: Mapping[str, Any]
    source: str
    line: int
    unit: Literal["line", "row", "index"] = "line"

    @property
    def where(self) -> str:
        """The row's place, as error messages give it: "prompts.jsonl, line 3" or "prompts[2]"."""
        if self.unit == "index":
            return f"{self.source}[{self.line}]"
        return f"{self.source}, {self.unit} {self.line}"


def refuse(error: DataError) -> NoReturn:
    """Raises the error: what to do about a wrong row, unless told otherwise."""
    raise error


def describe(value: Any) -> str:
    """Returns what `value` is, in words, without its content: "a list", "the number 3"."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {_short(value)}"
    names = {"str": "text", "list": "a list", "dict": "an object"}
    name = type(value).__name__
    return names.get(name, f"a {name}")


def _short(value: bool | int | float) -> str:
    """Returns a number as it is written; of one too long for a line, how it begins."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"of {value.bit_length()} bits"
    return str(value)
