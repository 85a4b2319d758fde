"""How a batch is cut: never through a group, never through a pair, and the same way every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import ConfigError

Array = NDArray[Any]


def as_index(rows: Any, count: int) -> Array:
    """Returns positions [n], int64, from integers or a bool mask [count].

    Raises:
        ConfigError: neither, or a position out of range.
    """
    index = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    if index.dtype == bool and index.shape == (count,):
        return np.flatnonzero(index)
    if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
        raise ConfigError(
            f"rows: expected positions [n] or a bool mask [{count}], "
            f"got {index.dtype} of shape {index.shape}."
        )
    if len(index) and (index.min() < 0 or index.max() >= count):
        wrong = index[(index < 0) | (index >= count)][0]
        raise ConfigError(f"rows: position {wrong} is out of range; the batch has {count} rows.")
    return index.astype("int64")


def blocks_of(labels: Array) -> list[Array]:
    """Returns the positions of each label, labels in order of first appearance."""
    if not len(labels):
        return []
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    blocks = np.split(order, np.cumsum(np.bincount(inverse.reshape(-1)))[:-1])
    return [blocks[label] for label in np.argsort(first, kind="stable")]


def pair_blocks(group_ids: Array, pair_labels: Array) -> list[Array]:
    """Returns consecutive positions in the smallest blocks that cut no pair, in order."""
    positions = np.arange(len(group_ids))
    reach = positions.copy()  # the last position a cut after this one must not come before
    for block in blocks_of(np.where(pair_labels >= 0, group_ids, -1 - positions)):
        reach[block] = block[-1]  # group ids are >= 0, so an unpaired row is a block of its own
    (ends,) = np.nonzero(np.maximum.accumulate(reach) == positions)
    return np.split(positions, ends[:-1] + 1) if len(ends) else []


def cut_groups(
    group_ids: Array, size: int, generator: np.random.Generator | None
) -> Iterator[Array]:
    """Yields positions, about `size` at a time; the fewest parts of that size, evenly filled.

    A group goes where its middle falls, so a part differs from its share by less than a group.
    """
    if size < 1:
        raise ConfigError(f"a minibatch's size is {size}; expected at least 1.")
    groups = blocks_of(group_ids)
    if not groups:
        return
    order = range(len(groups)) if generator is None else generator.permutation(len(groups))
    groups = [groups[number] for number in order]
    sizes = np.array([len(group) for group in groups])
    total = int(sizes.sum())
    parts = -(-total // size)
    part = (2 * np.cumsum(sizes) - sizes) * parts // (2 * total)
    for number in np.unique(part):
        yield np.concatenate([groups[i] for i in np.flatnonzero(part == number)])


def cut_to_fit(
    lengths: Array, blocks: list[Array], max_tokens: int | None, max_rows: int | None
) -> Iterator[Array]:
    """Yields positions whose padded size, rows times longest, stays within both limits."""
    for name, limit in (("max_tokens", max_tokens), ("max_rows", max_rows)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}; expected at least 1.")
    part: list[Array] = []
    rows = longest = 0
    for block in blocks:
        widest = max(longest, int(lengths[block].max()))
        more = rows + len(block)
        over_tokens = max_tokens is not None and more * widest > max_tokens
        if part and (over_tokens or (max_rows is not None and more > max_rows)):
            yield np.concatenate(part)
            part, more, widest = [], len(block), int(lengths[block].max())
        part.append(block)
        rows, longest = more, widest
    if part:
        yield np.concatenate(part)
