"""The project's sources, its wheel built once, and an environment that holds nothing else."""

from __future__ import annotations

import fcntl
import os
import shutil
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
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


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
        return interpreter(folder)

    return create


def interpreter(environment: Path) -> Path:
    """Returns where a virtual environment keeps its interpreter."""
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """A function that makes a folder in the first worker that asks for it; the others wait."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        path, done = shared / name, shared / f"{name}.done"
        with locked(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
                path.mkdir()
                make(path)
                done.touch()
        return path

    return folder


def is_build_folder(folder: Path) -> bool:
    """Whether CMake has built this tree there."""
    cache = folder / "CMakeCache.txt"
    return cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" in cache.read_text()


@pytest.fixture(scope="session")
def wheel_build(pytestconfig: pytest.Config) -> Path:
    """Where the wheel's core is compiled: where the editable install's was, or in pytest's cache.

    Only what changed since is compiled again.
    """
    build = Path(sys.prefix) / "build"
    return build if is_build_folder(build) else pytestconfig.cache.mkdir("wheel-build")


@pytest.fixture(scope="session")
def wheel(run: Run, made_once: MadeOnce, wheel_build: Path) -> Path:
    """The wheel of this tree, built with the build requirements that are installed here."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")

    def make(folder: Path) -> None:
        run(
            *(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation"),
            *(f"--config-settings=build-dir={wheel_build}", "--wheel-dir", folder, "."),
            cwd=ROOT,
        )

    (made,) = made_once("wheel", make).glob("*.whl")
    return made


@pytest.fixture(scope="session")
def empty_environment(
    wheel: Path, run: Run, made_once: MadeOnce, new_environment: Callable[[Path], Path]
) -> Path:
    """The interpreter of an environment into which nothing but the wheel was installed.

    Tests that install more take it away again. Others may be looking meanwhile.
    """

    def make(folder: Path) -> None:
        run(
            *(new_environment(folder / "env"), "-m", "pip", "--disable-pip-version-check"),
            *("install", "--no-compile", "--constraint", CONSTRAINTS, wheel),
            cwd=folder,
        )

    return interpreter(made_once("empty", make) / "env")
