"""Damaged checkpoints are refused by name, and the one before is used."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from trainer.runs import (
    assert_same_outcome,
    copy_run,
    flip_byte,
    listing,
    make_trainer,
    truncate,
)

import alignzoo as az
from alignzoo.checkpoint import (
    find_fault,
    list_checkpoints,
    read_latest_checkpoint,
    write_checkpoint,
)
from alignzoo.errors import RunError

DONE, END = 3, 5
OPTIONS = {"checkpoint_every": 1, "keep_checkpoints": 2}


def make(out, policy, **options):
    algorithm = az.make("ppo", learning_rate=1e-3)
    return make_trainer(policy, out, algorithm, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy):
    """An uninterrupted run of END updates, and one that stopped at DONE."""
    folder = tmp_path_factory.mktemp("runs")
    make(folder / "whole", policy).run(END)
    make(folder / "first", policy).run(DONE)
    return folder / "whole", folder / "first"


def drop_entry(path):
    manifest = json.loads(path.read_text())
    del manifest["files"]["state.safetensors"]
    path.write_text(json.dumps(manifest))
    flip_byte(path.with_name("state.safetensors"))


DAMAGES = {
    "tensors cut short": ("state.safetensors", truncate),
    "tensors altered": ("state.safetensors", flip_byte),
    "tensors gone": ("state.safetensors", lambda path: path.unlink()),
    "tensors emptied": ("state.safetensors", lambda path: path.write_bytes(b"")),
    "state cut short": ("state.json", truncate),
    "state altered": ("state.json", flip_byte),
    "state gone": ("state.json", lambda path: path.unlink()),
    "manifest cut short": ("manifest.json", truncate),
    "manifest altered": ("manifest.json", flip_byte),
    "manifest gone": ("manifest.json", lambda path: path.unlink()),
    "manifest emptied": ("manifest.json", lambda path: path.write_bytes(b"")),
    "manifest of another kind": ("manifest.json", lambda path: path.write_text("[]")),
    "manifest without files": ("manifest.json", lambda path: path.write_text('{"files": {}}')),
    "manifest without one file": ("manifest.json", drop_entry),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name(damage, runs, tmp_path, caplog):
    name, spoil = DAMAGES[damage]
    root = copy_run(runs[1], tmp_path / "run") / "checkpoints"
    spoil(root / "step_3" / name)
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        found = read_latest_checkpoint(root)
    assert found is not None
    assert found.step == DONE - 1
    (record,) = caplog.records
    assert "step_3 is damaged and not used" in record.getMessage()
    assert name in record.getMessage()


@pytest.mark.parametrize("damage", ["tensors cut short", "tensors altered"])
def test_the_checkpoint_before_is_used(damage, runs, policy, tmp_path):
    whole, first = runs
    name, spoil = DAMAGES[damage]
    out = copy_run(first, tmp_path / "run")
    spoil(out / "checkpoints" / "step_3" / name)
    make(out, policy).run(END, resume=True)
    assert_same_outcome(out, whole)
    assert [find_fault(path) for path in list_checkpoints(out / "checkpoints")] == [None, None]


def test_a_damaged_checkpoint_of_a_step_to_come_is_written_anew(runs, policy, tmp_path):
    out = copy_run(runs[1], tmp_path / "run")
    flip_byte(out / "checkpoints" / "step_3" / "state.safetensors")
    make(out, policy).run(DONE, resume=True)
    assert_same_outcome(out, runs[1])
    assert find_fault(out / "checkpoints" / "step_3") is None


def test_a_run_whose_checkpoints_are_all_damaged_fails_naming_them(runs, policy, tmp_path):
    out = copy_run(runs[1], tmp_path / "run")
    truncate(out / "checkpoints" / "step_2" / "state.safetensors")
    flip_byte(out / "checkpoints" / "step_3" / "state.json")
    before = listing(out)
    with pytest.raises(RunError) as caught:
        make(out, policy).run(END, resume=True)
    for part in ("step_2: state.safetensors", "step_3: state.json"):
        assert part in str(caught.value)
    assert listing(out) == before


def test_any_altered_byte_of_a_checkpoint_is_found(tmp_path):
    write_checkpoint(tmp_path, 1, {"name": "value", "number": 1.5}, {"w": torch.ones(3)})
    folder = tmp_path / "step_1"
    unnoticed = []
    for path in folder.iterdir():
        whole = path.read_bytes()
        for place in range(len(whole)):
            altered = bytearray(whole)
            altered[place] ^= 1
            path.write_bytes(altered)
            fault = find_fault(folder)
            same_json = path.name == "manifest.json" and _same_json(altered, whole)
            if not fault and not same_json:
                unnoticed.append((path.name, place))
            path.write_bytes(whole)
    assert unnoticed == []
    assert find_fault(folder) is None


def _same_json(left, right):
    try:
        return json.loads(left) == json.loads(right)
    except ValueError:
        return False


def test_what_a_killed_run_was_writing_is_removed(runs, policy, tmp_path):
    out = copy_run(runs[1], tmp_path / "run")
    leftover = out / "checkpoints" / ".writing_step_4"
    shutil.copytree(out / "checkpoints" / "step_3", leftover)
    (leftover / "manifest.json").unlink()
    make(out, policy).run(END, resume=True)
    assert_same_outcome(out, runs[0])
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_4", "step_5"]


def test_a_leftover_is_never_taken_for_a_checkpoint(runs, tmp_path):
    root = copy_run(runs[1], tmp_path / "run") / "checkpoints"
    shutil.copytree(root / "step_3", root / ".writing_step_9")
    found = read_latest_checkpoint(root)
    assert found is not None
    assert found.step == DONE


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_checkpoints_are_kept(keep, policy, tmp_path):
    make(tmp_path / "run", policy, keep_checkpoints=keep, eval_every=100).run(4)
    names = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == [f"step_{step}" for step in range(5 - keep, 5)]


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (9, 10, 100):
        write_checkpoint(tmp_path, step, {}, {"w": torch.ones(1)}, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_9", "step_10", "step_100"]


def test_a_checkpoint_is_safetensors_and_json_alone(runs):
    folder = runs[1] / "checkpoints" / "step_3"
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "state.json",
        "state.safetensors",
    }
    json.loads((folder / "state.json").read_text())


def test_no_checkpoint_at_all_is_no_error(tmp_path):
    assert read_latest_checkpoint(tmp_path / "none") is None
