"""The memory of a rollout buffer: packed columns that grow at the end and leave at the front."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError
from alignzoo.rollout.columns import Column

Array = NDArray[Any]
Positions = slice | Array  # a slice where rows are neighbours, so that reading needs no copy


class Growable:
    """A 1-D array that grows at its end and shrinks at its front.

    Growth doubles, so n elements cost O(n) copies in all; what left at the front is reused before
    anything is allocated.
    """

    def __init__(self, dtype: str) -> None:
        self.memory: Array = np.zeros(0, dtype)
        self.start = 0
        self.stop = 0
        self.num_reallocations = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def data(self) -> Array:
        """The elements held, as a view."""
        return self.memory[self.start : self.stop]

    def extend(self, values: Array) -> None:
        """Appends `values` [n]."""
        self._reserve(len(values))[:] = values

    def extend_zeros(self, count: int) -> None:
        """Appends `count` zeros."""
        self._reserve(count)[:] = 0

    def _reserve(self, count: int) -> Array:
        if self.stop + count > len(self.memory):
            self._make_space(count)
        self.stop += count
        return self.memory[self.stop - count : self.stop]

    def _make_space(self, count: int) -> None:
        used = len(self)
        held = self.data
        # Sliding down moves no more than has left since, so it is paid for.
        if used + count > len(self.memory) or self.start < used:
            self.memory = np.empty(max(used + count, 2 * used), self.memory.dtype)
            self.num_reallocations += 1
        self.memory[:used] = held
        self.start, self.stop = 0, used

    def drop_front(self, count: int) -> None:
        """Lets go of the first `count` elements."""
        self.start += count
        if self.start == self.stop:
            self.start = self.stop = 0

    def keep(self, index: Array) -> None:
        """Keeps the elements at `index` alone."""
        self.memory = self.data[index]
        self.start, self.stop = 0, len(self.memory)


class Ragged:
    """Where each row lies in a flat array."""

    def __init__(self) -> None:
        self._lengths = Growable("int64")
        self._ends = Growable("int64")  # counted from the first token ever appended
        self._base = 0  # tokens that left at the front

    @property
    def lengths(self) -> Array:
        """Tokens per row, [R]."""
        return self._lengths.data

    @property
    def starts(self) -> Array:
        """Flat index of each row's first token, [R]."""
        starts: Array = self._ends.data - self.lengths - self._base
        return starts

    def extend(self, lengths: Array) -> None:
        """Appends rows of these `lengths` [n]."""
        last = int(self._ends.data[-1]) if len(self._ends) else self._base
        self._lengths.extend(lengths)
        self._ends.extend(last + np.cumsum(lengths))

    def tokens(self, positions: Positions) -> Positions:
        """Returns the flat indices of the rows at `positions`; a slice for a slice."""
        if isinstance(positions, slice):
            ends = self._ends.data
            first = int(ends[positions.start - 1]) if positions.start else self._base
            last = int(ends[positions.stop - 1]) if positions.stop else self._base
            return slice(first - self._base, max(first, last) - self._base)
        lengths = self.lengths[positions]
        shift = self.starts[positions] - (np.cumsum(lengths) - lengths)
        tokens: Array = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
        return tokens

    def drop_front(self, count: int) -> None:
        """Lets go of the first `count` rows."""
        if count:
            self._base = int(self._ends.data[count - 1])
            self._lengths.drop_front(count)
            self._ends.drop_front(count)

    def keep(self, index: Array) -> None:
        """Keeps the rows at `index` alone."""
        self._lengths.keep(index)
        self._base = 0
        self._ends = Growable("int64")
        self._ends.extend(np.cumsum(self.lengths))


class Table:
    """Rows with packed prompts, packed responses and columns; nothing is validated here.

    A row keeps its number for good: numbers count up from 0 and are never given twice. A row's
    *position* is where it lies now.
    """

    def __init__(self, schema: Mapping[str, Column]) -> None:
        self.schema = schema
        self.next_row = 0
        self.numbers = Growable("int64")  # row numbers, ascending
        self.prompts = Ragged()
        self.responses = Ragged()
        self.prompt_ids = Growable("int32")
        self.columns: dict[str, Growable] = {}
        self.filled: dict[str, Growable] = {}  # bool per row

    def __len__(self) -> int:
        return len(self.numbers)

    def extend(
        self, prompts: tuple[Array, Array], lengths: Array, values: Mapping[str, Array]
    ) -> range:
        """Appends rows and returns their numbers.

        Args:
            prompts: token ids, packed, and the length of each prompt [B].
            lengths: response lengths [B].
            values: columns, packed; any other column is zero and unfilled in these rows.
        """
        for name in values:
            self.add_column(name)
        count = len(lengths)
        numbers = range(self.next_row, self.next_row + count)
        self.next_row += count
        self.numbers.extend(np.arange(numbers.start, numbers.stop))
        self.prompt_ids.extend(prompts[0])
        self.prompts.extend(prompts[1])
        self.responses.extend(lengths)
        for name, column in self.columns.items():
            if name in values:
                column.extend(values[name])
            else:
                per_token = self.schema[name].shape == "token"
                column.extend_zeros(int(lengths.sum()) if per_token else count)
            self.filled[name].extend(np.full(count, name in values))
        return numbers

    def add_column(self, name: str) -> None:
        """Makes room for column `name`, unfilled, if it has none yet."""
        if name not in self.columns:
            data, filled = Growable(self.schema[name].dtype), Growable("bool")
            per_token = self.schema[name].shape == "token"
            data.extend_zeros(int(self.responses.lengths.sum()) if per_token else len(self))
            filled.extend_zeros(len(self))
            self.columns[name], self.filled[name] = data, filled

    def positions(self, rows: Any = None) -> Positions:
        """Returns where `rows` (row numbers; None for all) lie.

        Raises:
            DataError: a row was never given out, or has left.
        """
        if rows is None:
            return slice(0, len(self))
        if isinstance(rows, range) and rows.step == 1:
            numbers = np.array([rows.start, rows.stop - 1] if rows else [], "int64")
        else:
            numbers = row_numbers(rows)
        held = self.numbers.data
        found = np.searchsorted(held, numbers)
        wrong = found >= len(held)
        wrong[~wrong] = held[found[~wrong]] != numbers[~wrong]
        if wrong.any():
            row = int(numbers[wrong][0])
            why = "has left the buffer" if 0 <= row < self.next_row else "was never appended"
            raise DataError(f"rows: row {row} {why}; `rows()` lists the {len(held)} rows held.")
        return self._neighbours(rows, found)

    def _neighbours(self, rows: Any, found: Array) -> Positions:
        if not len(found):
            return slice(0, 0)
        first, last = int(found[0]), int(found[-1])
        if isinstance(rows, range) and rows.step == 1:
            if last - first + 1 == len(rows):
                return slice(first, last + 1)
            return self.positions(np.arange(rows.start, rows.stop))
        if last - first + 1 == len(found) and bool((np.diff(found) == 1).all()):
            return slice(first, last + 1)
        return found

    def index(self, name: str, positions: Positions) -> Positions:
        """Returns the flat indices of column `name` in the rows at `positions`."""
        if name == "prompt_ids":
            return self.prompts.tokens(positions)
        return self.responses.tokens(positions) if self.schema[name].shape == "token" else positions

    def get(self, name: str, positions: Positions) -> Array:
        """Returns column `name`, packed; a view where `positions` is a slice."""
        column = self.prompt_ids if name == "prompt_ids" else self.columns[name]
        values: Array = column.data[self.index(name, positions)]
        return values

    def put(self, name: str, positions: Positions, values: Array) -> None:
        """Writes column `name`, packed, in the rows at `positions`."""
        self.add_column(name)
        self.columns[name].data[self.index(name, positions)] = values
        self.filled[name].data[positions] = True

    def drop(self, leaving: Array) -> None:
        """Lets go of the rows where `leaving` [R] is True; the front leaves without a copy."""
        count = int(leaving.sum())
        if count == 0:
            return
        if leaving[:count].all():
            self._drop_front(count)
        else:
            self._keep(np.flatnonzero(~leaving))

    def _drop_front(self, count: int) -> None:
        for name, column in self.columns.items():
            tokens = int(self.responses.lengths[:count].sum())
            column.drop_front(tokens if self.schema[name].shape == "token" else count)
            self.filled[name].drop_front(count)
        self.prompt_ids.drop_front(int(self.prompts.lengths[:count].sum()))
        self.prompts.drop_front(count)
        self.responses.drop_front(count)
        self.numbers.drop_front(count)

    def _keep(self, kept: Array) -> None:
        tokens = self.responses.tokens(kept)
        assert not isinstance(tokens, slice)
        for name, column in self.columns.items():
            column.keep(tokens if self.schema[name].shape == "token" else kept)
            self.filled[name].keep(kept)
        prompt_tokens = self.prompts.tokens(kept)
        assert not isinstance(prompt_tokens, slice)
        self.prompt_ids.keep(prompt_tokens)
        self.prompts.keep(kept)
        self.responses.keep(kept)
        self.numbers.keep(kept)

    def row_nbytes(self, prompt_lengths: Array, lengths: Array, new: Collection[str]) -> Array:
        """Returns the bytes [B] of rows of these lengths, with the columns `new` besides."""
        names = set(self.columns) | set(new)
        sizes = {name: np.dtype(self.schema[name].dtype).itemsize for name in names}
        per_token = sum(size for name, size in sizes.items() if self.schema[name].shape == "token")
        per_row = sum(sizes.values()) - per_token + len(names)  # one filled flag a column
        fixed = 8 * 5  # number, and length and end of prompt and response
        total: Array = 4 * prompt_lengths + per_token * lengths + per_row + fixed
        return total


def row_numbers(rows: Any) -> Array:
    """Returns `rows` (integers: list, range, array or tensor) as int64 [n].

    Raises:
        DataError: not a flat sequence of integers.
    """
    array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise DataError(
            f"rows: expected row numbers [n], got {array.dtype} of shape {array.shape}."
        )
    return array.astype("int64")
