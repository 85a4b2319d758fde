"""Replay: the last versions stay, older ones leave, bytes are bounded, files bring all back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout.strategies import draws

from alignzoo.errors import DataError
from alignzoo.rollout import Column, RolloutBuffer


@given(st.lists(draws(max_rows=3), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_last_versions_are_kept_for_replay(appends, keep):
    buffer = RolloutBuffer(keep_versions=keep)
    held = {}
    for version, draw in enumerate(appends):
        held[version] = (buffer.append(**draw, policy_version=version), draw)
    kept = range(max(0, len(appends) - keep), len(appends))
    assert buffer.versions == list(kept)
    for version in kept:
        rows, draw = held[version]
        assert buffer.rows(version) == rows
        assert [buffer.column("response_ids", [row]).tolist() for row in rows] == draw["responses"]
        assert [buffer.column("prompt_ids", [row]).tolist() for row in rows] == draw["prompts"]


def test_a_late_version_joins_if_it_is_kept():
    buffer = RolloutBuffer(keep_versions=2)
    buffer.append([[1]], [[2]], policy_version=3)
    buffer.append([[1]], [[2]], policy_version=5)
    buffer.append([[1]], [[2]], policy_version=3)
    assert buffer.rows(3).tolist() == [0, 2]
    with pytest.raises(
        DataError, match=r"policy_version is 2, older than every version kept \(3, 5\)"
    ):
        buffer.append([[1]], [[2]], policy_version=2)
    buffer.append([[1]], [[2]], policy_version=6)
    assert buffer.versions == [5, 6]
    assert buffer.rows().tolist() == [1, 3]


def test_a_version_not_held_has_no_rows():
    assert RolloutBuffer().rows(7) == range(0)


def one_row_nbytes() -> int:
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2]], policy_version=0)
    return buffer.nbytes


def test_oldest_versions_leave_to_stay_within_the_bytes():
    size = one_row_nbytes()
    buffer = RolloutBuffer(keep_versions=10, max_bytes=3 * size)
    for version in range(6):
        buffer.append([[1]], [[2]], policy_version=version)
        assert buffer.nbytes <= 3 * size
    assert buffer.versions == [3, 4, 5]


def test_a_version_that_does_not_fit_is_an_error_with_both_numbers():
    size = one_row_nbytes()
    buffer = RolloutBuffer(keep_versions=10, max_bytes=2 * size)
    buffer.append([[1]] * 2, [[2]] * 2, policy_version=0)
    with pytest.raises(
        DataError, match=rf"max_bytes is {2 * size}.* version 1 .* takes {3 * size}"
    ):
        buffer.append([[1]] * 3, [[2]] * 3, policy_version=1)
    assert buffer.versions == [0]
    with pytest.raises(DataError, match="max_bytes"):
        buffer.append([[1]], [[2]], policy_version=0)


def test_filling_a_new_column_also_makes_room():
    size = one_row_nbytes()
    buffer = RolloutBuffer(keep_versions=10, max_bytes=3 * size + 4)
    for version in range(3):
        buffer.append([[1]], [[2]], policy_version=version)
    buffer.set("values", [1.0], [2])
    assert buffer.versions == [1, 2]
    assert buffer.column("values", [2]).tolist() == [1.0]
    assert buffer.nbytes <= 3 * size + 4
    buffer = RolloutBuffer(max_bytes=size)
    buffer.append([[1]], [[2]], policy_version=0)
    with pytest.raises(DataError, match=f"max_bytes is {size}"):
        buffer.set("values", [1.0])
    assert not buffer.is_filled("values")


@given(st.lists(draws(max_rows=3), max_size=4), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_save_and_load_bring_everything_back(tmp_path_factory, appends, keep):
    folder = tmp_path_factory.mktemp("saved")
    own = {"hint": Column("token", "float64"), "kind": Column("sequence", "int8")}
    buffer = RolloutBuffer(own, keep_versions=keep, max_bytes=10**6, float_dtype="float64")
    for version, draw in enumerate(appends):
        rows = buffer.append(**draw, policy_version=version)
        buffer.set("kind", np.arange(len(rows)), rows)
    buffer.save(folder / "rollouts")
    loaded = RolloutBuffer.load(folder / "rollouts")
    assert_equal(loaded, buffer)
    more = {"prompts": [[1]], "responses": [[2]], "policy_version": 9, "hint": [[0.25]]}
    assert loaded.append(**more) == buffer.append(**more)
    assert_equal(loaded, buffer)


def assert_equal(one: RolloutBuffer, other: RolloutBuffer) -> None:
    for name in ("own_columns", "keep_versions", "max_bytes", "float_dtype", "versions", "nbytes"):
        assert getattr(one, name) == getattr(other, name)
    assert one._table.numbers.data.tolist() == other._table.numbers.data.tolist()
    assert one._table.prompt_ids.data.tolist() == other._table.prompt_ids.data.tolist()
    assert one.lengths().tolist() == other.lengths().tolist()
    assert one._table.columns.keys() == other._table.columns.keys()
    for name, column in one._table.columns.items():
        assert column.data.dtype == other._table.columns[name].data.dtype
        assert column.data.tobytes() == other._table.columns[name].data.tobytes()
        assert one._table.filled[name].data.tolist() == other._table.filled[name].data.tolist()


def saved(folder):
    buffer = RolloutBuffer()
    buffer.append([[1]], [[2, 3]], policy_version=0)
    buffer.save(folder)
    return folder


def test_a_folder_gets_two_files_without_pickle(tmp_path):
    saved(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["buffer.json", "buffer.safetensors"]
    assert len(RolloutBuffer.load(tmp_path)) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.safetensors: no such file"):
        RolloutBuffer.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("columns", {"x": {"shape": "token"}, "values": {"shape": "token"}}),
     ("keep_versions", None), ("next_row", 0), ("next_group", 0)],
)  # fmt: skip
def test_a_damaged_state_is_refused(tmp_path, key, value):
    file = saved(tmp_path) / "buffer.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, key: value}))
    with pytest.raises(DataError, match=str(tmp_path)):
        RolloutBuffer.load(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    file = saved(tmp_path) / "buffer.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match="not a saved rollout buffer"):
        RolloutBuffer.load(tmp_path)


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    file = saved(tmp_path) / "buffer.safetensors"
    save_file({**load_file(file), "column.weights": np.ones(3, "float32")}, file)
    with pytest.raises(DataError, match=r"'weights' is float32 of shape \(3,\)"):
        RolloutBuffer.load(tmp_path)
