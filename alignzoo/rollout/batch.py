"""What an algorithm sees of a buffer: padded tensors over response tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from alignzoo.errors import ConfigError, RunError, did_you_mean
from alignzoo.rollout import splits
from alignzoo.rollout.columns import ALWAYS_READABLE, ON_REQUEST, WRITABLE, Column
from alignzoo.rollout.rows import Access, Rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class RolloutBatch:
    """Rows of a rollout buffer as padded tensors; columns are attributes.

    Right-padded with 0 everywhere. T is the longest response, L the longest prompt plus response.
    Always there: `token_ids` [B, L] (prompt, then response), `prompt_lengths`, `response_lengths`,
    `rows` (numbers in the buffer), `group_ids`, `pair_labels`, `policy_version`, all [B], and
    `response_ids`, `response_mask` [B, T]. Other columns are there once something has filled them.

    `batch.advantages = x` writes a column that is writable (advantages, returns, weights and an
    algorithm's own): `x` is detached, cast, and zeroed where `response_mask` is False.
    """

    if TYPE_CHECKING:
        token_ids: Tensor
        prompt_lengths: Tensor
        response_lengths: Tensor
        response_ids: Tensor
        response_mask: Tensor
        rows: Tensor
        group_ids: Tensor
        pair_labels: Tensor
        policy_version: Tensor
        sampler_log_probs: Tensor
        old_log_probs: Tensor
        ref_log_probs: Tensor
        rewards: Tensor
        values: Tensor
        advantages: Tensor
        returns: Tensor
        scores: Tensor
        bootstrap_values: Tensor
        weights: Tensor
        terminated: Tensor
        truncated: Tensor
        agent_ids: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        rows: Rows,
        schema: Mapping[str, Column],
        access: Access,
    ) -> None:
        """Not for callers: `RolloutBuffer.batch` makes batches."""
        self._tensors = dict(tensors)
        self._rows = rows
        self._schema = schema
        self._access = access
        self._assigned: set[str] = set()
        self._seen = {name: tensor._version for name, tensor in self._tensors.items()}
        self._num_tokens = int(rows.num_actions.sum())
        self._num_sequences = len(rows.numbers)

    def __len__(self) -> int:
        return len(self._rows.numbers)

    def __repr__(self) -> str:
        width = self._tensors["response_mask"].shape[1]
        return f"RolloutBatch({len(self)} rows, T={width}, columns: {', '.join(self.columns)})"

    # -- counts ---------------------------------------------------------------------------------

    @property
    def num_tokens(self) -> int:
        """Unmasked response tokens of the whole minibatch; kept by micro-batches.

        With several workers, set it to the count over all of them.
        """
        return self._num_tokens

    @num_tokens.setter
    def num_tokens(self, count: int) -> None:
        self._num_tokens = _positive("num_tokens", count)

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole minibatch; kept by micro-batches, settable like `num_tokens`."""
        return self._num_sequences

    @num_sequences.setter
    def num_sequences(self, count: int) -> None:
        self._num_sequences = _positive("num_sequences", count)

    # -- columns --------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are filled and readable here, sorted."""
        return sorted(name for name in self._tensors if self._may_read(name))

    @property
    def row_numbers(self) -> list[int]:
        """The buffer's row numbers as plain integers; `rows` is the same as a tensor."""
        numbers: list[int] = self._rows.numbers.tolist()
        return numbers

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._tensors["token_ids"].device

    @property
    def attention_mask(self) -> Tensor:
        """Which of `token_ids` [B, L] are tokens and not padding; bool, from the lengths alone."""
        import torch

        ids = self._tensors["token_ids"]
        lengths = self._tensors["prompt_lengths"] + self._tensors["response_lengths"]
        return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]

    @property
    def action_positions(self) -> Tensor:
        """Where `response_mask` is True, as positions in the flat [B * T]; int64 [N], ascending.

        How many there are is known here, so a device is not waited for.
        """
        import torch

        mask = self._tensors["response_mask"].reshape(-1)
        if mask.device.type == "cpu":
            return mask.nonzero().squeeze(1)
        count = int(self._rows.num_actions.sum())
        slots = torch.where(mask, mask.cumsum(0) - 1, count)  # the last slot takes all the rest
        found = slots.new_zeros(count + 1)
        found.scatter_(0, slots, torch.arange(len(mask), device=mask.device))
        return found[:count]

    def _may_read(self, name: str) -> bool:
        access = self._access
        if access.readable is None or name in ALWAYS_READABLE:
            return True
        return name in access.readable or name in access.writable

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        known = self._schema.keys() | ALWAYS_READABLE
        if name not in known:
            hint = did_you_mean(name, known)
            raise AttributeError(f"a rollout batch has no column '{name}'.{hint}")
        if not self._may_read(name):
            how = f"set {name}=True in Needs" if name in ON_REQUEST else "add it to Needs.columns"
            raise ConfigError(
                f"{self._access.owner} reads column '{name}', which its needs do not declare; "
                f"{how}."
            )
        if name not in self._tensors:
            raise RunError(
                f"{self._access.owner} reads column '{name}', which nothing has filled for all of "
                "these rows."
            )
        return self._tensors[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
            return
        if name not in self._schema and name not in ALWAYS_READABLE:
            hint = did_you_mean(name, self._schema)
            raise ConfigError(f"{self._access.owner} writes unknown column '{name}'.{hint}")
        if name not in self._access.writable:
            may = ", ".join(sorted(self._access.writable)) or "nothing"
            raise ConfigError(
                f"{self._access.owner} writes column '{name}', which is read-only here; "
                f"it may write {may}."
            )
        self._write(name, value)

    def _write(self, name: str, value: Any) -> None:
        import torch

        column, mask = self._schema[name], self._tensors["response_mask"]
        with plain_tensors():
            tensor = torch.as_tensor(value, device=mask.device).detach()
            dtype = getattr(torch, column.dtype)
            shape = tuple(mask.shape) if column.shape == "token" else (len(self),)
            if tuple(tensor.shape) != shape:
                words = "[B, T]" if column.shape == "token" else "[B]"
                raise ConfigError(
                    f"{self._access.owner} writes '{name}' with shape {tuple(tensor.shape)}; "
                    f"expected {words} = {shape}."
                )
            if not torch.can_cast(tensor.dtype, dtype):
                raise ConfigError(
                    f"{self._access.owner} writes '{name}' as {tensor.dtype}; expected {dtype}."
                )
            zero = torch.zeros((), dtype=dtype, device=mask.device)
            if column.shape == "token":
                tensor = torch.where(mask, tensor.to(dtype), zero)
            else:
                tensor = tensor.to(dtype, copy=True)
        self._check_finite(name, tensor)
        self._tensors[name] = tensor
        self._seen[name] = tensor._version
        self._assigned.add(name)

    def _check_finite(self, name: str, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":  # would wait for the device; `write_back` checks
            return
        wrong = ~tensor.isfinite()
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            token = f", token {place[1]}" if len(place) == 2 else ""
            raise RunError(
                f"{self._access.owner} writes '{name}': row {self.row_numbers[place[0]]}{token} "
                f"is {tensor[tuple(place)].item()}; expected a finite value."
            )

    # -- what was written -----------------------------------------------------------------------

    @property
    def modified(self) -> list[str]:
        """Columns changed in place since the batch was made or last assigned, sorted.

        Read from torch's version counters: costs nothing, and misses what goes through `.data` or
        a NumPy view; `fingerprint` misses nothing.
        """
        return sorted(n for n, tensor in self._tensors.items() if tensor._version != self._seen[n])

    @property
    def written(self) -> list[str]:
        """Writable columns that were assigned or changed in place, sorted."""
        changed = self._access.writable.intersection(self.modified)
        return sorted(self._assigned | changed)

    def fingerprint(self) -> dict[str, str]:
        """Returns a hash of every column's bytes, by name, to show that nothing was changed."""
        return {
            name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            for name, tensor in sorted(self._tensors.items())
        }

    def mark_clean(self) -> None:
        """Forgets what was written; `RolloutBuffer.write_back` does so."""
        self._assigned.clear()
        self._seen.update({name: tensor._version for name, tensor in self._tensors.items()})

    # -- parts ----------------------------------------------------------------------------------

    def restrict(
        self, owner: str, readable: Collection[str], writable: Collection[str] = WRITABLE
    ) -> RolloutBatch:
        """Returns a view of the same data that may read and write these columns alone.

        What is written through it shows here. What it may write it may read.
        """
        for name in (*readable, *writable):
            if name not in self._schema and name not in ALWAYS_READABLE:
                raise ConfigError(f"a rollout batch has no column '{name}'.")
        view = self._with(self._tensors, self._rows)
        view._tensors, view._seen, view._assigned = self._tensors, self._seen, self._assigned
        view._access = Access(owner, frozenset(readable), frozenset(writable))
        view._num_tokens, view._num_sequences = self._num_tokens, self._num_sequences
        return view

    def select(self, rows: Any, *, keep_counts: bool = False) -> RolloutBatch:
        """Returns the rows at these positions, padding cut to the longest of them.

        Args:
            rows: positions in this batch, in the order wanted: integers or a bool mask [B]; list,
                array or tensor.
            keep_counts: keep this batch's `num_tokens` and `num_sequences`.
        """
        index = splits.as_index(rows, len(self))
        chosen = self._rows.take(index)
        widths = {
            "token_ids": int(chosen.total_lengths.max(initial=0)),
            "token": int(chosen.response_lengths.max(initial=0)),
        }
        import torch

        with plain_tensors():
            where = torch.from_numpy(index).to(self.device)
            tensors = {
                name: self._narrow(name, widths).index_select(0, where) for name in self._tensors
            }
        part = self._with(tensors, chosen)
        if keep_counts:
            part._num_tokens, part._num_sequences = self._num_tokens, self._num_sequences
        return part

    def _narrow(self, name: str, widths: Mapping[str, int]) -> Tensor:
        column = self._schema.get(name)
        kind = name if column is None else column.shape
        tensor = self._tensors[name]
        return tensor[:, : widths[kind]] if kind in widths else tensor

    def _with(self, tensors: Mapping[str, Tensor], rows: Rows) -> RolloutBatch:
        return RolloutBatch(tensors, rows, self._schema, self._access)

    def minibatches(
        self, size: int | None = None, *, generator: np.random.Generator | None = None
    ) -> Iterator[RolloutBatch]:
        """Yields every row once, in minibatches of about `size` sequences.

        Rows of one group stay together and in order, so no group and no pair is cut; sizes are
        balanced rather than leaving a small rest. With `size=None`: one minibatch, all rows in
        order.

        Args:
            size: sequences per minibatch, at least 1.
            generator: shuffles the groups; None keeps their order.
        """
        if size is None:
            yield self.select(np.arange(len(self)))
            return
        for index in splits.cut_groups(self._rows.group_ids, size, generator):
            yield self.select(index)

    def micro_batches(
        self, *, max_tokens: int | None = None, max_rows: int | None = None
    ) -> Iterator[RolloutBatch]:
        """Yields the rows in order, in parts that keep `num_tokens` and `num_sequences`.

        No part ends between the rows of a preference pair, so pairs belong side by side, as
        `minibatches` leaves them; a row or pair that is larger than a limit comes alone.

        Args:
            max_tokens: bound on rows times longest prompt plus response: padding counts.
            max_rows: bound on rows.
        """
        blocks = splits.pair_blocks(self._rows.group_ids, self._rows.pair_labels)
        for index in splits.cut_to_fit(self._rows.total_lengths, blocks, max_tokens, max_rows):
            yield self.select(index, keep_counts=True)

    def to(self, device: str | torch.device) -> RolloutBatch:
        """Returns the batch on `device`; counts, permissions and `written` stay."""
        written = set(self.written)
        with plain_tensors():
            tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        moved = self._with(tensors, self._rows)
        moved._assigned = written
        moved._num_tokens, moved._num_sequences = self._num_tokens, self._num_sequences
        return moved


def last_action_positions(batch: RolloutBatch) -> Tensor:
    """Returns the index of each row's last unmasked response token, int64 [B].

    Found by length and mask, never by token id: the pad token may equal the end token.
    """
    import torch

    mask = batch.response_mask
    index = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, index, torch.zeros_like(index)).amax(dim=1)


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Tensors made here carry version counters and no graph, also under inference mode."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def _positive(name: str, count: int) -> int:
    if int(count) < 1:
        raise ConfigError(f"{name} is {count}; expected at least 1.")
    return int(count)
