"""`alignzoo` in processes of their own that need not import torch first.

Each is forked from a server that has imported what commands import and has done nothing else, so it
starts as a fresh interpreter does, seconds earlier. Where a test is about the start itself, it runs
`python -m alignzoo` (`fixture_plugins.run_alignzoo`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

IMPORTED_BEFORE = [
    "alignzoo.cli.train",
    "alignzoo.trainer",
    "alignzoo.policy",
    "torch",
    "transformers.models.llama.modeling_llama",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED_BEFORE)


def start(
    words: Sequence[str],
    *,
    folder: Path,
    stdout: Path,
    stderr: Path,
    environment: Mapping[str, str],
) -> ForkServerProcess:
    """Starts `alignzoo` with these arguments in `folder`, and returns the process.

    Args:
        stdout: file that what it prints is appended to; `stderr` may be the same.
        environment: all of its environment; PYTHONPATH is put behind the first place of its path.
    """
    arguments = (list(words), str(folder), str(stdout), str(stderr), dict(environment))
    process = _context.Process(target=_become, args=arguments)
    process.start()
    return process


def _become(
    words: list[str], folder: str, stdout: str, stderr: str, environment: dict[str, str]
) -> None:
    """Turns this process into one that was started there, and ends it with the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    # Behind the script's own folder, as the interpreter does it.
    sys.path[1:1] = [path for path in added if path and path not in sys.path]
    for descriptor, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    from alignzoo import cli

    code = cli.main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
