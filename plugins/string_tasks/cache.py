"""What a task makes once and keeps: a folder of the user's cache, named by all it follows from.

    $ALIGNZOO_CACHE/tasks/NAME-DIGEST/     else $XDG_CACHE_HOME/alignzoo/..., ~/.cache/alignzoo/...

An entry is written beside its place and renamed, so that it is whole or not there; of two processes
that make the same at once one keeps what the other wrote. One that was damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import alignzoo as az
from alignzoo import model_files

logger = logging.getLogger("alignzoo")

Made = tuple[dict[str, Any], model_files.Arrays]  # JSON-able settings, and arrays by name


def cache_folder() -> Path:
    """Returns the folder that tasks keep what they made in; it need not exist."""
    own = os.environ.get("ALIGNZOO_CACHE")
    if own:
        return Path(own).expanduser() / "tasks"
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "alignzoo" / "tasks"


def digest_of(facts: Mapping[str, Any], modules: Iterable[str]) -> str:
    """Returns 16 hexadecimal digits of facts, of modules' source, and of libraries' versions."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for module in modules:
        digest.update(Path(inspect.getfile(sys.modules[module])).read_bytes())
    for library in ("torch", "transformers"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:16]


def cached(name: str, make: Callable[[], Made]) -> Made:
    """Returns what `make` made when it was first asked for under this name.

    Raises:
        ConfigError: the cache cannot be written.
    """
    place = cache_folder() / name
    if place.is_dir():
        try:
            return _read(place)
        except az.DataError as error:
            logger.warning("%s It is made again.", error)
            shutil.rmtree(place, ignore_errors=True)
    settings, arrays = make()
    try:
        _write(place, settings, arrays)
    except OSError as error:
        raise az.ConfigError(
            f"the cache '{place.parent}' cannot be written ({error.strerror or error}); set "
            "ALIGNZOO_CACHE to a folder that can"
        ) from error
    return settings, arrays


def _read(place: Path) -> Made:
    """Returns an entry.

    Raises:
        DataError: it is damaged.
    """
    about, arrays = model_files.read_model(place)
    if set(about) != {"settings", "sha256"} or _digest(about["settings"]) != about["sha256"]:
        raise az.DataError(f"{place}: damaged (its settings do not match their checksum).")
    return about["settings"], arrays


def _write(place: Path, settings: Mapping[str, Any], arrays: model_files.Arrays) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        about = {"settings": dict(settings), "sha256": _digest(settings)}
        model_files.write_model(aside, about, arrays)
        with contextlib.suppress(FileExistsError):  # another process made the same
            _rename(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(aside: Path, place: Path) -> None:
    """Renames a folder to a place that is free.

    Raises:
        FileExistsError: it is not.
    """
    try:
        aside.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        raise FileExistsError(place) from None


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
