"""Kills a command-line run at chosen moments and starts it again, until it ends by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import warm_start

from alignzoo import cli

Moment = Callable[[Path, float], bool]


def environment() -> dict[str, str]:
    """Returns this process's environment, without what would add plugins."""
    return {name: value for name, value in os.environ.items() if name != "ALIGNZOO_PLUGINS"}


def kill_at(words: list[str], out: Path, moment: Moment, *, limit: float = 120.0) -> bool:
    """Starts a run and kills it (SIGKILL) once `moment` says so; False where it ended before.

    Args:
        moment: called with the run's folder, once config.yaml is there, and the seconds since.
    """
    log = out.parent / f"{out.name}.log"
    process = warm_start.start(
        ["train", *words], folder=out.parent, stdout=log, stderr=log, environment=environment()
    )
    config_at: float | None = None
    start = time.monotonic()
    try:
        while process.is_alive():
            now = time.monotonic()
            assert now - start < limit, f"{words} did not end"
            if config_at is None and (out / "config.yaml").exists():
                config_at = now
            if config_at is not None and moment(out, now - config_at):
                process.kill()
                process.join()
                return True
            process.join(timeout=0.02 if config_at is None else 0.002)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == 0, log.read_text()
    return False


def finish(words: list[str]) -> None:
    """Runs to the end, in this process: that is one start of an interpreter less to wait for."""
    assert cli.main(["train", *words]) == 0


def after_update(step: int, *, delay: float = 0.0) -> Moment:
    """Returns the moment `delay` seconds after the line of update `step` was written."""
    seen: list[float] = []

    def moment(out: Path, seconds: float) -> bool:
        if not seen and num_lines(out / "metrics.jsonl") >= step:
            seen.append(seconds)
        return bool(seen) and seconds - seen[0] >= delay

    return moment


def while_writing_checkpoint(step: int) -> Moment:
    """Returns the moment when the checkpoint of an update from `step` on is being written."""

    def moment(out: Path, seconds: float) -> bool:
        found = (out / "checkpoints").glob(".writing_step_*")
        return any(int(path.name.rpartition("_")[2]) >= step for path in found)

    return moment


def while_resuming(out: Path, *, delay: float = 0.0) -> Moment:
    """Returns the moment `delay` seconds after a resumed run wrote its config.yaml anew."""
    before = (out / "config.yaml").stat().st_mtime_ns
    seen: list[float] = []

    def moment(out: Path, seconds: float) -> bool:
        if not seen and (out / "config.yaml").stat().st_mtime_ns != before:
            seen.append(seconds)
        return bool(seen) and seconds - seen[0] >= delay

    return moment


def after_seconds(delay: float, *, last: int) -> Moment:
    """Returns the moment `delay` seconds after config.yaml was there, or at update `last`."""
    return lambda out, seconds: seconds >= delay or num_lines(out / "metrics.jsonl") >= last


def num_lines(path: Path) -> int:
    """Returns how many whole lines a file has; none where there is no file."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
