"""Splitting: every row once, no group or pair cut, counts of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout.strategies import draws

from alignzoo.errors import ConfigError
from alignzoo.rollout import RolloutBuffer


def rows_of(count: int, group_size: int = 1) -> RolloutBuffer:
    buffer = RolloutBuffer()
    groups = np.arange(count) // group_size
    lengths = 1 + np.arange(count) % 5
    buffer.append([[1]] * count, [[2] * n for n in lengths], policy_version=0, group_ids=groups)
    return buffer


@given(draws(max_rows=10), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_minibatches_hold_every_row_once_and_cut_no_group(draw, size, seed):
    buffer = RolloutBuffer()
    buffer.append(**draw, policy_version=0)
    batch = buffer.batch()
    parts = list(batch.minibatches(size, generator=np.random.default_rng(seed)))
    assert sorted(row for part in parts for row in part.row_numbers) == batch.row_numbers
    groups = [set(part.group_ids.tolist()) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert sum(part.num_tokens for part in parts) == batch.num_tokens
    assert [part.num_sequences for part in parts] == [len(part) for part in parts]


@pytest.mark.parametrize(
    ("count", "group_size", "size", "sizes"),
    [
        (64, 1, 16, [16] * 4),
        (64, 4, 16, [16] * 4),
        (65, 1, 64, [32, 33]),
        (12, 4, 2, [4] * 3),
        (24, 4, 6, [4, 8, 4, 8]),
        (5, 1, 100, [5]),
        (6, 6, 1, [6]),
    ],
)
def test_minibatches_are_about_the_size_asked_for(count, group_size, size, sizes):
    batch = rows_of(count, group_size).batch()
    generator = np.random.default_rng(0)
    assert [len(part) for part in batch.minibatches(size, generator=generator)] == sizes


def test_minibatches_of_single_rows_never_exceed_the_size():
    for count in range(1, 40):
        batch = rows_of(count).batch()
        for size in range(1, 12):
            sizes = [len(part) for part in batch.minibatches(size)]
            assert max(sizes) <= size
            assert max(sizes) - min(sizes) <= 1


def test_minibatches_are_the_same_for_the_same_seed():
    batch = rows_of(40, 2).batch()

    def order(seed: int) -> list[list[int]]:
        parts = batch.minibatches(8, generator=np.random.default_rng(seed))
        return [part.row_numbers for part in parts]

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_one_minibatch_of_all_rows_is_in_order():
    batch = rows_of(7).batch()
    (part,) = batch.minibatches(None, generator=np.random.default_rng(0))
    assert part.fingerprint() == batch.fingerprint()
    part.weights = torch.zeros(7)
    assert batch.written == []


@given(draws(max_rows=8), st.integers(1, 20), st.one_of(st.none(), st.integers(1, 4)))
@settings(max_examples=60, deadline=None)
def test_micro_batches_keep_order_and_counts_and_fit(draw, max_tokens, max_rows):
    buffer = RolloutBuffer()
    buffer.append(**draw, policy_version=0)
    batch = buffer.batch()
    parts = list(batch.micro_batches(max_tokens=max_tokens, max_rows=max_rows))
    assert [row for part in parts for row in part.row_numbers] == batch.row_numbers
    for part in parts:
        assert (part.num_tokens, part.num_sequences) == (batch.num_tokens, len(batch))
        assert len(part) == 1 or part.token_ids.numel() <= max_tokens
        assert max_rows is None or len(part) <= max_rows
        assert part.token_ids.shape[1] == int((part.prompt_lengths + part.response_lengths).max())
        assert part.response_mask.shape[1] == int(part.response_lengths.max())


def test_micro_batches_without_a_limit_are_the_batch():
    batch = rows_of(5).batch()
    (part,) = batch.micro_batches()
    assert part.fingerprint() == batch.fingerprint()


def pairs(order: list[int], labels: list[int]):
    buffer = RolloutBuffer()
    count = len(order)
    buffer.append(
        [[1]] * count, [[2]] * count, policy_version=0, group_ids=order, pair_labels=labels
    )
    return buffer.batch()


def test_minibatches_leave_the_rows_of_a_pair_side_by_side():
    batch = pairs([0, 1, 2, 3, 0, 1, 2, 3], [1] * 4 + [0] * 4)
    for part in batch.minibatches(3, generator=np.random.default_rng(1)):
        assert part.pair_labels.tolist() == [1, 0] * (len(part) // 2)
        assert part.group_ids[::2].tolist() == part.group_ids[1::2].tolist()
        assert [len(micro) for micro in part.micro_batches(max_rows=1)] == [2] * (len(part) // 2)


@pytest.mark.parametrize(
    ("order", "labels", "sizes"),
    [
        ([0, 0, 1, 1, 2], [1, 0, 0, 1, -1], [2, 2, 1]),
        ([0, 1, 0, 1, 2], [1, 1, 0, 0, -1], [4, 1]),
        ([3, 0, 1, 0, 4], [-1, 1, -1, 0, -1], [1, 3, 1]),
        ([0, 0, 0], [-1, -1, -1], [1, 1, 1]),
    ],
)
def test_micro_batches_keep_the_order_and_cut_no_pair(order, labels, sizes):
    batch = pairs(order, labels)
    for parts in (batch.micro_batches(max_rows=1), batch.micro_batches(max_tokens=3)):
        found = [part.row_numbers for part in parts]
        assert [row for rows in found for row in rows] == batch.row_numbers
        assert [len(rows) for rows in found] == sizes


def test_select_takes_positions_masks_and_tensors():
    batch = rows_of(5).batch()
    assert batch.select([3, 0]).row_numbers == [3, 0]
    assert batch.select(torch.tensor([4])).row_numbers == [4]
    assert batch.select(torch.tensor([True, False, False, True, False])).row_numbers == [0, 3]
    assert batch.select([0, 1]).response_ids.shape == (2, 2)
    assert batch.select([0]).num_tokens == 1
    assert batch.select([0], keep_counts=True).num_tokens == batch.num_tokens == 15
    assert len(batch.select([])) == 0


def test_wrong_positions_and_limits_are_refused():
    batch = rows_of(5).batch()
    with pytest.raises(ConfigError, match="position 5 is out of range; the batch has 5 rows"):
        batch.select([5])
    with pytest.raises(ConfigError, match=r"bool mask \[5\]"):
        batch.select([True])
    with pytest.raises(ConfigError, match="size is 0"):
        list(batch.minibatches(0))
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        list(batch.micro_batches(max_tokens=0))
