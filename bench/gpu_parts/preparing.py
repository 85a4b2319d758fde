"""What comes before measuring: an installed alignzoo with CUDA kernels, and its tests."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ASK = "import json; from alignzoo import _core; print(json.dumps(_core.cuda_built))"


class PreparingError(Exception):
    """No build, or tests that could not be run; the message says why."""


def has_kernels() -> bool:
    """Whether the installed alignzoo imports and has CUDA kernels."""
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=False, cwd=_elsewhere()
    )
    return done.returncode == 0 and done.stdout.strip() == "true"


def run_limited(
    command: list[str], timeout: float, log: Path, **options: Any
) -> subprocess.Popen[bytes]:
    """Runs a command with its output in `log`; ends it and all that it started at `timeout`.

    Raises:
        subprocess.TimeoutExpired: it was ended.
    """
    with log.open("a") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process


def build(timeout: float, log: Path) -> None:
    """Installs this source folder with CUDA kernels, by what is installed already.

    Raises:
        PreparingError: it failed, or took longer than `timeout` seconds.
    """
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "."]
    environment = {**os.environ, "ALIGNZOO_CUDA": "ON"}
    try:
        done = run_limited(command, timeout, log, cwd=ROOT, env=environment)
    except subprocess.TimeoutExpired:
        raise PreparingError(f"the build took more than {timeout:.0f} seconds") from None
    if done.returncode != 0:
        raise PreparingError(f"`{' '.join(command[1:])}` failed: {last_lines(log)}")
    if not has_kernels():
        raise PreparingError("alignzoo was installed, but has no CUDA kernels")


def run_tests(timeout: float, log: Path, folder: Path = ROOT / "tests" / "gpu") -> dict[str, Any]:
    """Runs the tests that need a GPU; returns how many passed, failed, and were skipped.

    Raises:
        PreparingError: there are none, or they took longer than `timeout` seconds.
    """
    if not folder.is_dir():
        raise PreparingError(f"there is no {folder}")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
        command += ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
        command += [f"--junitxml={report}", *in_parallel(), str(folder)]
        begins = log.stat().st_size if log.exists() else 0
        try:
            # Not in the source folder: it would hide what is installed.
            run_limited(
                command, timeout, log, cwd=scratch, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        except subprocess.TimeoutExpired:
            said = log.read_bytes()[begins:].decode(errors="replace")
            raise PreparingError(
                f"the tests took more than {timeout:.0f} seconds; before, {progress(said)}"
            ) from None
        if not report.exists():
            raise PreparingError(f"pytest wrote no report: {last_lines(log)}")
        return counts(report)


def in_parallel() -> list[str]:
    """Options that share the tests among processes, where pytest-xdist is installed.

    Most of their time is imports, so that several fit beside each other on one device.
    """
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]


def progress(said: str) -> str:
    """What pytest's lines tell of tests that were not all run."""
    found = {word: len(re.findall(rf"\b{word}\b", said)) for word in ("PASSED", "FAILED", "ERROR")}
    names = re.findall(r"FAILED (\S+::\S+)|(\S+::\S+) FAILED", said)
    shown = sorted({one or other for one, other in names})
    text = ", ".join(f"{number} {word.lower()}" for word, number in found.items())
    return text + (f" ({', '.join(shown)})" if shown else "")


def counts(report: Path) -> dict[str, Any]:
    """What a JUnit report counts, and the names of what failed."""
    suite = ElementTree.parse(report).getroot()
    cases = list(suite.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    broken = [case for case in cases if case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(broken) - len(skipped),
        "failed": len(failed),
        "errors": len(broken),
        "skipped": len(skipped),
        "names": [f"{c.get('classname')}::{c.get('name')}" for c in failed + broken],
    }


def last_lines(log: Path, count: int = 6) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-count:]) or "it wrote nothing"


def _elsewhere() -> str:
    return tempfile.gettempdir()
