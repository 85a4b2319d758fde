"""The project's sources, its wheel built once, and an environment that holds nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
# What a developer's shell may hold and a newcomer's does not.
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "ALIGNZOO_PLUGINS", "ALIGNZOO_DATA")

Run = Callable[..., str]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out of the block that lock the same file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def project() -> Mapping[str, Any]:
    """What pyproject.toml says."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def run() -> Run:
    """A function that runs a command and returns what it printed, or fails with all of it."""

    def run_command(*words: object, cwd: Path, **variables: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**kept, "ALIGNZOO_CUDA": "OFF", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            shown = " ".join(str(word) for word in words)
            pytest.fail(f"{shown}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    return run_command


@pytest.fixture(scope="session")
def new_environment() -> Callable[[Path], Path]:
    """A function that makes a virtual environment and returns its interpreter."""

    def create(folder: Path) -> Path:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        return folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    return create


@pytest.fixture(scope="session")
def wheel(run: Run, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The wheel of this tree, built with the build requirements that are installed here.

    Its build folder lies in pytest's cache, so that only what changed is compiled again.
    """
    out = tmp_path_factory.mktemp("wheel")
    build = pytestconfig.cache.mkdir("wheel-build")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    with locked(build / "lock"):  # workers that test side by side share the folder
        run(
            *(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation"),
            *(f"--config-settings=build-dir={build}", "--wheel-dir", out, "."),
            cwd=ROOT,
        )
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def empty_environment(
    wheel: Path,
    run: Run,
    new_environment: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The interpreter of an environment into which nothing but the wheel was installed."""
    folder = tmp_path_factory.mktemp("empty")
    python = new_environment(folder / "env")
    run(
        *(python, "-m", "pip", "--disable-pip-version-check"),
        *("install", "--constraint", CONSTRAINTS, wheel),
        cwd=folder,
    )
    return python
