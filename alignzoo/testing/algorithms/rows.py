"""The rows a scene is played with: made, not sampled, so that lengths and masks are all there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignzoo.algorithm import Needs
from alignzoo.random_streams import stream

Layout = Literal["mixed", "one_token", "full_length"]

# Which response tokens the policy chose, a row each: holes in the middle, at either end, or none.
MIXED = ("11011", "111", "011101", "1", "1101", "11", "111110", "0111")
FULL = 8  # tokens of a response that uses all the room there is
FIRST_TOKEN, NUM_TOKENS = 6, 262  # of the tiny policy: those below are special


@dataclass(frozen=True)
class Rows:
    """Prompts and responses as a buffer takes them; every list has one item a row."""

    prompts: list[list[int]]
    responses: list[list[int]]
    masks: list[list[bool]]
    group_ids: NDArray[np.int64]
    pair_labels: NDArray[np.int64] | None
    terminated: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.prompts)


def make_rows(
    needs: Needs, layout: Layout, number: int, *, scores: Sequence[float] | float | None = None
) -> Rows:
    """Returns the rows of the rollout `number`: other tokens and scores, the same lengths.

    Args:
        needs: how many rows a group has, and whether they are pairs.
        layout: "mixed" lengths and masks, all of one token, or all as long as there is room.
        scores: one for all rows, or one each; default all different.
    """
    draws = stream(0, "rows", number)
    size = 2 if needs.source == "preferences" else needs.group_size
    num_groups = max(2, -(-8 // size))
    count = size * num_groups
    masks = [_mask(layout, row) for row in range(count)]
    prompts = [draws.integers(FIRST_TOKEN, NUM_TOKENS, 2 + n % 3).tolist() for n in range(count)]
    return Rows(
        prompts=[prompts[row // size * size] for row in range(count)],
        responses=[draws.integers(FIRST_TOKEN, NUM_TOKENS, len(mask)).tolist() for mask in masks],
        masks=masks,
        group_ids=np.arange(count) // size,
        pair_labels=1 - np.arange(count) % 2 if needs.source == "preferences" else None,
        terminated=np.arange(count) % 3 > 0
        if layout == "mixed"
        else np.full(count, layout != "full_length"),
        scores=_scores(needs, count, draws, scores),
    )


def _mask(layout: Layout, row: int) -> list[bool]:
    pattern = {"mixed": MIXED[row % len(MIXED)], "one_token": "1", "full_length": "1" * FULL}
    return [character == "1" for character in pattern[layout]]


def _scores(needs: Needs, count: int, draws: np.random.Generator, given: Any) -> Any:
    if given is not None:
        return np.broadcast_to(np.asarray(given, dtype=np.float64), (count,)).copy()
    if needs.source == "ratings":  # good and bad ones, whatever a threshold in [0, 1] is
        return draws.permutation((np.arange(count) + 0.5) / count)
    return draws.normal(size=count)
