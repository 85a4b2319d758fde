"""Packed memory: views without copies, growth by doubling, rows that leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignzoo.errors import DataError
from alignzoo.rollout import RolloutBuffer
from alignzoo.rollout.table import Growable


def test_columns_of_neighbouring_rows_are_views():
    buffer = RolloutBuffer()
    buffer.append([[1]] * 5, [[2, 3]] * 5, policy_version=0, scores=[0.0, 1, 2, 3, 4])
    whole = buffer.column("response_ids")
    for rows in (range(1, 4), [1, 2, 3], np.array([1, 2, 3])):
        assert np.shares_memory(buffer.column("response_ids", rows), whole)
        assert np.shares_memory(buffer.column("scores", rows), buffer.column("scores"))
        assert buffer.column("scores", rows).tolist() == [1, 2, 3]
    assert not np.shares_memory(buffer.column("response_ids", [3, 1]), whole)
    assert buffer.column("scores", [3, 1]).tolist() == [3, 1]


def test_a_view_cannot_be_written():
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2]], policy_version=0)
    with pytest.raises(ValueError, match="read-only"):
        buffer.column("response_ids")[0] = 5


def test_growth_is_amortised():
    buffer = RolloutBuffer()
    for _ in range(1000):
        buffer.append([[1]], [[2, 3, 4]], policy_version=0)
    column = buffer._table.columns["response_ids"]
    assert len(column) == 3000
    assert column.num_reallocations <= math.log2(3000) + 2


def test_a_full_sliding_window_stops_allocating():
    buffer = RolloutBuffer(keep_versions=3)
    counts = []
    for version in range(40):
        buffer.append([[1]] * 4, [[2, 3]] * 4, policy_version=version)
        counts.append(buffer._table.columns["response_ids"].num_reallocations)
    assert len(set(counts[20:])) == 1


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(-9, -1)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_growable_array_is_a_queue(steps):
    array, model, counter = Growable("int64"), [], 0
    for step in steps:
        if step >= 0:
            new = list(range(counter, counter + step))
            array.extend(np.array(new, "int64"))
            model, counter = model + new, counter + step
        else:
            count = min(-step, len(model))
            array.drop_front(count)
            model = model[count:]
        assert array.data.tolist() == model


def test_dropped_rows_leave_and_the_others_keep_their_numbers():
    buffer = RolloutBuffer()
    buffer.append(
        [[1] * n for n in range(5)], [[n] * (n + 1) for n in range(5)], policy_version=0,
        scores=np.arange(5.0), sampler_log_probs=[[-n] * (n + 1) for n in range(5)],
    )  # fmt: skip
    buffer.drop([1, 3])
    assert buffer.rows().tolist() == [0, 2, 4]
    assert buffer.column("scores").tolist() == [0, 2, 4]
    assert buffer.column("scores", [4, 2]).tolist() == [4, 2]
    assert buffer.column("response_ids", [2]).tolist() == [2, 2, 2]
    assert buffer.column("sampler_log_probs", [4]).tolist() == [-4] * 5
    assert buffer.lengths("prompt_ids").tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="row 3 has left the buffer"):
        buffer.column("scores", [3])
    with pytest.raises(DataError, match="row 1 has left the buffer"):
        buffer.column("scores", range(3))
    assert buffer.append([[7]], [[8]], policy_version=0) == range(5, 6)
    assert buffer.column("prompt_ids", [5]).tolist() == [7]


def test_an_unfilled_column_says_so():
    buffer = RolloutBuffer()
    first = buffer.append([[1]], [[2]], policy_version=0, scores=[1.0])
    buffer.append([[1]], [[2]], policy_version=0)
    assert buffer.is_filled("scores", first)
    assert not buffer.is_filled("scores")
    assert buffer.column("scores", first).tolist() == [1]
    with pytest.raises(DataError, match="'scores' has not been filled"):
        buffer.column("scores")


@pytest.mark.parametrize("rows", [[0.5], [[0]], [True]])
def test_rows_must_be_numbers(rows):
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2]], policy_version=0)
    with pytest.raises(DataError, match="expected row numbers"):
        buffer.column("weights", rows)
