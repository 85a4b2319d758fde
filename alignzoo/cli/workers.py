"""Runs of a benchmark in processes of their own: a crash is a row, and memory is the run's alone.

The processes are forked from a server that has imported torch and started nothing, which takes
a fraction of a second each; where that is not possible they start from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.errors import ConfigError, DataError, RunError
from alignzoo.plugin_registry import Registry, registry, select_plugins, selected_plugins

if TYPE_CHECKING:
    from alignzoo.benchmark import Cell

IMPORTED = ["alignzoo.cli.workers", "alignzoo.trainer", "alignzoo.benchmark", "transformers"]
IMPORTED += ["transformers.modeling_utils"]


@dataclass
class Worker:
    """One process and what it runs; its row comes through `receiver`."""

    cell: Cell
    process: Any
    receiver: Connection


def run_cells(
    found: Registry, cells: Sequence[Cell], folder: Path, *, jobs: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yields each cell and its row as it ends, at most `jobs` at a time; all are ended with us."""
    waiting, running = list(cells), list[Worker]()
    context = _context(cells[0].threads if cells else 1)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, waiting.pop(0), folder))
            ready = wait([worker.receiver for worker in running])
            for worker in [worker for worker in running if worker.receiver in ready]:
                running.remove(worker)
                yield worker.cell, _row(found, worker)
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()


def prepare_tasks(
    found: Registry, tasks: Iterable[str], *, threads: int
) -> Iterator[tuple[str, float]]:
    """Lets each task make what its runs start from, in a process of its own.

    Yields:
        each task that has something to make, and the seconds that took.
    Raises:
        ConfigError: a task was given something that cannot be; the message says what.
        RunError: a task fails otherwise.
    """
    from alignzoo.benchmark import make_task
    from alignzoo.task import Task

    for text in tasks:
        if type(make_task(found, text)).prepare is Task.prepare:
            continue
        start = time.perf_counter()
        context = _context(threads)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_prepare, args=(text, selected_plugins(), sender))
        process.start()
        sender.close()
        try:
            error = receiver.recv()
        except EOFError:
            error = RunError("its process died")
        finally:
            process.terminate()
            process.join()
        if error is not None:
            raise type(error)(f"task '{text}' cannot be prepared: {error}")
        yield text, time.perf_counter() - start


def _prepare(text: str, selection: Sequence[str], sender: Connection) -> None:
    """Prepares one task, in a process of its own; sends why it could not, or None."""
    from alignzoo.benchmark import explain, make_task
    from alignzoo.cli.train import quiet_transformers

    _begin(selection)
    quiet_transformers()
    os.dup2(2, 1)  # standard output is for results
    try:
        make_task(registry(), text).prepare()
    except Exception as error:
        kind = ConfigError if isinstance(error, (ConfigError, DataError)) else RunError
        sender.send(kind(explain(registry(), error)))
    else:
        sender.send(None)


def _context(threads: int) -> Any:
    """Returns how processes are started; threads are limited before any is."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ALIGNZOO_NUM_THREADS")
    os.environ.update(dict.fromkeys(limits, str(threads)))
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(IMPORTED)
    return context


def _start(context: Any, cell: Cell, folder: Path) -> Worker:
    receiver, sender = context.Pipe(duplex=False)
    out = folder / cell.place
    out.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_work, args=(cell, out, selected_plugins(), sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    return Worker(cell, process, receiver)


def _row(found: Registry, worker: Worker) -> dict[str, Any]:
    """Returns the row a worker sent, or one that says how its process ended."""
    from alignzoo.benchmark import failed_row

    try:
        row: dict[str, Any] = worker.receiver.recv()
    except EOFError:
        worker.process.join()
        code = worker.process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return failed_row(found, worker.cell, f"its process {how}")
    worker.process.join()
    return row


def _work(cell: Cell, out: Path, selection: Sequence[str], sender: Connection) -> None:
    """Runs one cell, in a process of its own; what it prints goes to a file beside the run."""
    from alignzoo.benchmark import run_cell
    from alignzoo.cli.train import quiet_transformers, set_threads

    _begin(selection)
    with open(f"{out}.log", "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    set_threads(cell.threads)
    quiet_transformers()
    sender.send(run_cell(registry(), cell, out))
    sys.stdout.flush()
    sys.stderr.flush()


def _begin(selection: Sequence[str]) -> None:
    """Ties this process to the one that started it, and selects that one's plugins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started us ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if list(selection) != list(selected_plugins()):
        select_plugins(selection)


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
