"""Checkpoints: safetensors and JSON, written aside, synced, renamed, and checksummed.

A checkpoint is a folder `step_N` with a `manifest.json` that names every file, its size and its
SHA-256. It appears by one rename, so a run killed at any moment leaves whole ones only; a damaged
one is refused by name and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alignzoo")

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: the step, the JSON state, the tensors, and the folder."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: Path


def write_checkpoint(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    write_more: Callable[[Path], None] | None = None,
    keep: int = 2,
) -> Path:
    """Writes `root/step_N` atomically and removes all but the last `keep`; returns the folder.

    Args:
        write_more: writes further files into the folder it is given (the rollout buffer).
    """
    from safetensors.torch import save_file

    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    aside = root / f".writing_step_{step}"
    aside.mkdir()
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, aside / TENSORS)
    (aside / STATE).write_text(json.dumps(dict(state)))
    if write_more is not None:
        write_more(aside)
    _write_manifest(aside)
    for path in [*sorted(aside.iterdir()), aside]:
        _sync(path)
    final = root / f"step_{step}"
    if final.exists():  # a damaged one of the same step, refused before
        shutil.rmtree(final)
    aside.rename(final)
    _sync(root)
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return final


def _write_manifest(folder: Path) -> None:
    files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:
            digest = hashlib.sha256(file.read())
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(root: Path) -> list[Path]:
    """Returns the checkpoint folders, oldest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def remove_leftovers(root: Path) -> None:
    """Removes what a killed run was still writing."""
    for path in root.glob(".writing_step_*"):
        shutil.rmtree(path)


def find_fault(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None where every checksum holds."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        expected = {
            name: (int(about["bytes"]), str(about["sha256"])) for name, about in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(present - set(expected)):
        return f"{name} is not in {MANIFEST}"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _describe(path)["sha256"] != digest:
            return f"{name} was altered: its SHA-256 is not the one in {MANIFEST}"
    return None if {STATE, TENSORS} <= present else f"{STATE} or {TENSORS} is missing"


def read_latest_checkpoint(root: Path) -> Checkpoint | None:
    """Returns the newest whole checkpoint, warning of each damaged one; None where there is none.

    Raises:
        RunError: there are checkpoints and every one is damaged.
    """
    folders = list_checkpoints(root)
    faults = []
    for folder in reversed(folders):
        fault = find_fault(folder)
        if fault is None:
            return _read(folder)
        faults.append(f"{folder.name}: {fault}")
        logger.warning("checkpoint %s is damaged and not used: %s", folder, fault)
    if faults:
        raise RunError(f"every checkpoint in {root} is damaged: {'; '.join(faults)}")
    return None


def _read(folder: Path) -> Checkpoint:
    from safetensors.torch import load_file

    state = json.loads((folder / STATE).read_text())
    return Checkpoint(int(folder.name[5:]), state, load_file(folder / TENSORS), folder)
