"""The rollout buffer: every sequence an algorithm learns from, sampled or read from a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import ConfigError, DataError, did_you_mean
from alignzoo.rollout import archive, collate, eviction, intake
from alignzoo.rollout.batch import RolloutBatch
from alignzoo.rollout.columns import STRUCTURE, WRITABLE, Column, all_columns
from alignzoo.rollout.rows import Access
from alignzoo.rollout.table import Table

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]


class RolloutBuffer:
    """One columnar store for on-policy, off-policy and offline rows.

    Sequences are ragged and packed: a token column is flat [N] over the response tokens of all
    rows, prompts have a flat array of their own. A row is known by its number, which counts up
    from 0, stays with it for good and is never given to another row, so numbers may be kept
    while older rows leave. Empty prompts are legal; empty responses are not.

    Args:
        columns: an algorithm's own columns by name.
        keep_versions: policy versions kept; when a newer one is appended, the oldest leave.
        max_bytes: bound on `nbytes`; oldest versions leave to meet it. Memory allocated may be
            twice that, because it grows by doubling.
        float_dtype: of the built-in real columns, "float32" or "float64".
    """

    def __init__(
        self,
        columns: Mapping[str, Column] | None = None,
        *,
        keep_versions: int = 1,
        max_bytes: int | None = None,
        float_dtype: str = "float32",
    ) -> None:
        if not isinstance(keep_versions, int) or keep_versions < 1:
            raise ConfigError(f"keep_versions is {keep_versions}; expected at least 1.")
        if max_bytes is not None and max_bytes < 1:
            raise ConfigError(f"max_bytes is {max_bytes}; expected at least 1, or None.")
        self.own_columns = dict(columns or {})
        self.keep_versions = keep_versions
        self.max_bytes = max_bytes
        self.float_dtype = float_dtype
        self._schema = all_columns(self.own_columns, float_dtype, set(dir(RolloutBatch)))
        self._table = Table(self._schema)
        self._next_group = 0

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return (
            f"RolloutBuffer({len(self)} rows, {self.num_tokens} tokens, versions {self.versions})"
        )

    # -- what is held ---------------------------------------------------------------------------

    @property
    def versions(self) -> list[int]:
        """Policy versions held, oldest first."""
        found: list[int] = np.unique(self._held("policy_version")).tolist()
        return found

    @property
    def num_tokens(self) -> int:
        """Unmasked response tokens held."""
        return int(self._held("response_mask").sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the rows held, bookkeeping included."""
        table = self._table
        return int(table.row_nbytes(table.prompts.lengths, table.responses.lengths, ()).sum())

    def rows(self, version: int | None = None) -> range | Array:
        """Returns the numbers of the rows held, of one version if given, ascending.

        A range where they follow each other, else int64 [n]; empty for a version not held.
        """
        numbers = self._table.numbers.data
        if version is not None:
            numbers = numbers[self._held("policy_version") == version]
        if not len(numbers):
            return range(0)
        first, last = int(numbers[0]), int(numbers[-1])
        return range(first, last + 1) if last - first + 1 == len(numbers) else numbers.copy()

    def is_filled(self, name: str, rows: Any = None) -> bool:
        """Returns whether column `name` has been filled for all of `rows` (default all held)."""
        self._known(name)
        if name == "prompt_ids":
            return True
        filled = self._table.filled.get(name)
        return filled is not None and bool(filled.data[self._table.positions(rows)].all())

    def unscorable(self, rows: Any = None) -> list[int]:
        """Returns the numbers of the rows whose score is NaN."""
        return self._rows_where(np.isnan(self.column("scores", rows)), rows)

    def infinite_scores(self, rows: Any = None) -> list[int]:
        """Returns the numbers of the rows whose score is infinite: kept, but not to learn from."""
        return self._rows_where(np.isinf(self.column("scores", rows)), rows)

    def _rows_where(self, found: Array, rows: Any) -> list[int]:
        numbers: list[int] = self._table.numbers.data[self._table.positions(rows)][found].tolist()
        return numbers

    def _held(self, name: str) -> Array:
        column = self._table.columns.get(name)
        return np.zeros(0, self._schema[name].dtype) if column is None else column.data

    # -- in -------------------------------------------------------------------------------------

    def append(
        self,
        prompts: Iterable[Any],
        responses: Iterable[Any],
        *,
        policy_version: int,
        response_masks: Any = None,
        sampler_log_probs: Any = None,
        terminated: Any = None,
        truncated: Any = None,
        group_ids: Any = None,
        pair_labels: Any = None,
        scores: Any = None,
        weights: Any = None,
        **columns: Any,
    ) -> range:
        """Appends B rows and returns their numbers; on an error nothing has changed.

        Rows of versions beyond `keep_versions`, or that `max_bytes` leaves no room for, leave.

        Args:
            prompts: B sequences of token ids; may be empty ones.
            responses: B sequences of token ids, at least one each, the end token included.
            policy_version: of the policy that wrote the responses, >= 0. May be older than the
                newest held, as long as it is one of the newest `keep_versions`.
            response_masks: True where the policy chose the token; False on tool or prefix tokens.
                Padded [B, T], packed [N] or a list of rows, like every token column.
            sampler_log_probs: of the distribution drawn from.
            terminated: [B], the sampler stopped at an end token.
            truncated: [B], the sampler ran out of tokens.
            group_ids: [B]; equal labels are one draw of one prompt. Labels count within this call:
                groups are numbered afresh, so no two calls share a group. Default one a row.
            pair_labels: [B], 1 chosen, 0 rejected, -1 none (the default).
            scores: [B]; NaN or None is unscorable.
            weights: [B], default 1.
            columns: any other column by name.
        Raises:
            DataError: names column, row (its place in this call) and value.
            ConfigError: an unknown column.
        """
        prompt_flat, prompt_lengths = intake.pack_ids("prompts", prompts)
        response_flat, lengths = intake.pack_ids("responses", responses)
        if len(prompt_lengths) != len(lengths):
            raise DataError(f"`responses` has {len(lengths)} rows; expected {len(prompt_lengths)}.")
        version = intake.check_version(policy_version)
        for name in columns:
            self._settable(name)
        given = {
            **columns,
            "sampler_log_probs": sampler_log_probs,
            "terminated": terminated,
            "truncated": truncated,
            "group_ids": np.arange(len(lengths)) if group_ids is None else group_ids,
            "pair_labels": np.full(len(lengths), -1) if pair_labels is None else pair_labels,
            "scores": scores,
            "weights": np.ones(len(lengths)) if weights is None else weights,
            "policy_version": np.full(len(lengths), version),
        }
        values = self._checked(given, self._mask(response_masks, lengths), lengths)
        values["response_ids"] = response_flat
        if not len(lengths):
            return range(self._table.next_row, self._table.next_row)
        new_bytes = self._table.row_nbytes(prompt_lengths, lengths, values.keys()).sum()
        self._make_room(version, values.keys(), int(new_bytes), self.keep_versions)
        values["group_ids"] = self._fresh_groups(values["group_ids"])
        return self._table.extend((prompt_flat, prompt_lengths), lengths, values)

    def _checked(self, given: Mapping[str, Any], mask: Array, lengths: Array) -> dict[str, Array]:
        """Returns the columns given, packed, the mask among them."""
        intake.check_responses(lengths, mask)
        values = {
            name: intake.pack_column(
                name, self._schema[name], value, lengths=lengths, flat_mask=mask
            )
            for name, value in given.items()
            if value is not None
        }
        intake.check_ends(values.get("terminated"), values.get("truncated"))
        intake.check_pairs(values["pair_labels"], values["group_ids"])
        return {**values, "response_mask": mask}

    def _mask(self, response_masks: Any, lengths: Array) -> Array:
        if response_masks is None:
            return np.ones(int(lengths.sum()), "bool")
        return intake.pack_column(
            "response_masks",
            self._schema["response_mask"],
            response_masks,
            lengths=lengths,
            flat_mask=None,
        )

    def _fresh_groups(self, labels: Array) -> Array:
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # groups are numbered as they appear
        fresh: Array = self._next_group + order[inverse.reshape(-1)]
        self._next_group += len(first)
        return fresh

    def set(self, name: str, values: Any, rows: Any = None) -> None:
        """Fills column `name` of `rows` (row numbers; default all held).

        Args:
            name: a built-in column that is no part of the rows' structure, or an own one.
            values: token columns padded [B, T] over response tokens, packed [N], or a list of one
                sequence per row; sequence columns [B]. Lists, NumPy arrays or torch tensors. What
                lies under the mask or in padding is not looked at; 0 is stored there.
            rows: each at most once.
        Raises:
            DataError: names column, row number and value.
            ConfigError: an unknown column, or one that cannot be set.
        """
        self._settable(name)
        positions = self._table.positions(rows)
        numbers = self._table.numbers.data[positions].copy()
        intake.check_distinct(numbers)
        flat = intake.pack_column(
            name,
            self._schema[name],
            values,
            lengths=self._table.responses.lengths[positions],
            flat_mask=self._table.get("response_mask", positions) if len(self) else None,
            label=lambda position: f"row {numbers[position]}",
        )
        if not len(numbers):
            return
        if name not in self._table.columns:
            oldest = int(self._table.get("policy_version", positions).min())
            self._make_room(oldest, [name], 0, len(self.versions))
            positions = self._table.positions(numbers)
        self._table.put(name, positions, flat)

    def write_back(self, batch: RolloutBatch) -> None:
        """Stores the columns that were written in `batch`, which then counts as clean."""
        for name in batch.written:
            self.set(name, getattr(batch, name), batch.row_numbers)
        batch.mark_clean()

    def _known(self, name: str) -> None:
        if name not in self._schema and name != "prompt_ids":
            hint = did_you_mean(name, self._schema)
            raise ConfigError(f"the rollout buffer has no column '{name}'.{hint}")

    def _settable(self, name: str) -> None:
        self._known(name)
        if name in STRUCTURE:
            raise ConfigError(f"column '{name}' is given when rows are appended, and stays.")

    # -- out ------------------------------------------------------------------------------------

    def column(self, name: str, rows: Any = None) -> Array:
        """Returns column `name` as NumPy: [B] per sequence, packed [N] per token.

        For neighbouring rows a read-only view without a copy, valid until rows next come or leave;
        a copy otherwise. `prompt_ids` and `response_ids` are columns too.

        Raises:
            DataError: a row is not held, or nothing has filled the column there.
        """
        self._known(name)
        positions = self._table.positions(rows)
        if not self.is_filled(name, rows):
            if len(self):
                raise DataError(f"column '{name}' has not been filled for all of these rows.")
            return np.zeros(0, self._schema[name].dtype)
        values: Array = self._table.get(name, positions).view()
        values.flags.writeable = False
        return values

    def padded(self, name: str, rows: Any = None) -> Array:
        """Returns token column `name` [B, T] (or `prompt_ids` [B, P]), right-padded with 0."""
        flat, lengths = self.column(name, rows), self.lengths(name, rows)
        return collate.pad(flat, collate.prefix_mask(lengths))

    def lengths(self, name: str = "response_ids", rows: Any = None) -> Array:
        """Returns the tokens of each row [B] in token column `name`, or in `prompt_ids`."""
        self._known(name)
        if name != "prompt_ids" and self._schema[name].shape != "token":
            raise ConfigError(f"column '{name}' has one value a row; `column` returns it.")
        ragged = self._table.prompts if name == "prompt_ids" else self._table.responses
        lengths: Array = ragged.lengths[self._table.positions(rows)].copy()
        return lengths

    def batch(
        self,
        rows: Any = None,
        *,
        device: str | torch.device = "cpu",
        readable: Collection[str] | None = None,
        writable: Collection[str] | None = None,
        owner: str = "this code",
    ) -> RolloutBatch:
        """Returns `rows` (numbers, in the order given; default all held) as padded tensors.

        A copy: writing to it changes the buffer only through `write_back`.

        Args:
            rows: row numbers; one may come twice.
            device: where the tensors go.
            readable: columns that may be read besides those every batch has; default all.
            writable: default advantages, returns, weights and own columns.
            owner: who is named when something else is read or written.
        """
        if writable is None:
            writable = WRITABLE | self.own_columns.keys()
        for name in (*(readable or ()), *writable):
            self._known(name)
        may_read = None if readable is None else frozenset(readable)
        access = Access(owner, may_read, frozenset(writable))
        return collate.make_batch(self._table, self._table.positions(rows), access, str(device))

    # -- leaving --------------------------------------------------------------------------------

    def drop(self, rows: Any) -> None:
        """Lets `rows` go: dropped or unusable ones. Other rows keep their numbers."""
        leaving = np.zeros(len(self), "bool")
        leaving[self._table.positions(rows)] = True
        self._table.drop(leaving)

    def _make_room(self, version: int, columns: Collection[str], new_bytes: int, keep: int) -> None:
        """Lets rows go so that `version`, with `columns` and `new_bytes` more, has room."""
        versions, table = self._held("policy_version"), self._table
        if self.max_bytes is None and len(versions) and versions[-1] == version:
            return  # no newer version has come, so nothing has to leave
        sizes = table.row_nbytes(table.prompts.lengths, table.responses.lengths, columns)
        leaving = eviction.beyond_bytes(
            versions,
            sizes,
            eviction.beyond_kept(versions, version, keep),
            version=version,
            new_bytes=new_bytes,
            max_bytes=self.max_bytes,
        )
        table.drop(leaving)

    # -- files ----------------------------------------------------------------------------------

    def save(self, prefix: str | Path) -> None:
        """Writes `PREFIX.safetensors` and `PREFIX.json`, or buffer.* in an existing folder."""
        state = {
            "columns": {
                name: {"shape": column.shape, "dtype": column.dtype}
                for name, column in self.own_columns.items()
            },
            "keep_versions": self.keep_versions,
            "max_bytes": self.max_bytes,
            "float_dtype": self.float_dtype,
            "next_group": self._next_group,
        }
        archive.save(prefix, state, self._table)

    @classmethod
    def load(cls, prefix: str | Path) -> RolloutBuffer:
        """Returns the buffer that `save` wrote: every row, number, version and option.

        Raises:
            DataError: a file is missing, is no buffer, or does not fit the other.
        """
        state, tensors = archive.read(prefix)
        with archive.naming(prefix):
            own = {name: Column(**column) for name, column in state["columns"].items()}
            buffer = cls(
                own,
                keep_versions=state["keep_versions"],
                max_bytes=state["max_bytes"],
                float_dtype=state["float_dtype"],
            )
            archive.restore(buffer._table, state["next_row"], tensors)
            buffer._next_group = archive.check_next(
                "next_group", state["next_group"], buffer._held("group_ids")
            )
        return buffer
