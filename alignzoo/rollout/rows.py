"""What a batch knows of its rows and of its holder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """What is known of a batch's rows without asking a device; every array is [B]."""

    numbers: Array
    prompt_lengths: Array
    response_lengths: Array
    num_actions: Array
    group_ids: Array
    pair_labels: Array

    def take(self, index: Array) -> Rows:
        """Returns the rows at `index`."""
        return Rows(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    @property
    def total_lengths(self) -> Array:
        """Prompt and response tokens of each row."""
        total: Array = self.prompt_lengths + self.response_lengths
        return total


@dataclass(frozen=True)
class Access:
    """Who holds a batch, and what it may read and write; `readable=None` is everything."""

    owner: str
    readable: frozenset[str] | None
    writable: frozenset[str]
