"""One side of `bench/trl_peers.py`: `python cell.py SIDE THREADS` runs cells, each in a fork.

It imports what the side trains with, and then forks for each line of its standard input, which is
JSON: `request` says which task, algorithm, seed, budget and options, and what the row says before
anything was run; `row` and `log` are files to write. It answers with the exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# What a side trains with; what a process holds before its cell is these libraries' alone.
IMPORTED = {
    "alignzoo": ("alignzoo.trainer", "transformers.modeling_utils"),
    "trl": (
        "alignzoo.trainer",
        "transformers.modeling_utils",
        "datasets",
        "trl.trainer.grpo_trainer",
        "trl.trainer.rloo_trainer",
    ),
}


class Meter:
    """Processor time from the first measurement to the last, what measuring took left out.

    The making of the trainer, log files and checkpoints are in it, unlike in a row's seconds.
    """

    def __init__(self) -> None:
        self.measuring, self.began, self.ended, self._last = 0.0, 0.0, 0.0, 0.0
        self._num_measured = 0

    def watch(self, judge: type) -> None:
        """Takes the time of every measurement of a kind of judge."""
        measure = judge.measure  # type: ignore[attr-defined]

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.ended = time.process_time()
            found = measure(*args, **kwargs)
            now = time.process_time()
            if self._num_measured == 0:
                self.began = self.ended = now
            else:
                self.measuring += now - self.ended
                self._last = now - self.ended
            self._num_measured += 1
            return found

        judge.measure = timed  # type: ignore[attr-defined]

    @property
    def seconds(self) -> float:
        """What was taken so far; the last measurement ends it."""
        return self.ended - self.began - self.measuring + self._last


def run(side: str, request: dict[str, Any], libraries: int | None) -> dict[str, Any]:
    """Returns the row of a cell; a failure is a row too.

    Args:
        libraries: the most memory that was held before it, in bytes.
    """
    from training import peak_memory

    from alignzoo.benchmark import explain
    from alignzoo.benchmark.measuring import Judge
    from alignzoo.plugin_registry import registry

    meter, found = Meter(), registry()
    meter.watch(Judge)
    try:
        row = run_ours(found, request) if side == "alignzoo" else run_trl(found, request)
    except Exception as error:
        return {**request["row"], "status": "failed", "error": explain(found, error)}
    more = {"libraries_memory": libraries, "processor_seconds": meter.seconds}
    return {**row, **more, "peak_memory": peak_memory()}


def run_ours(found: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of our algorithm, made by the benchmark itself."""
    from alignzoo.benchmark import Budget, Cell, run_cell

    cell = Cell(
        task=request["task"],
        algorithm=request["algorithm"],
        seed=request["seed"],
        budget=Budget("samples", request["budget"]),
        threads=request["threads"],
        given=request["given"],
    )
    return run_cell(found, cell, Path(request["out"]))


def run_trl(found: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of TRL's algorithm."""
    import training

    from alignzoo.benchmark import make_task
    from alignzoo.benchmark.running import NUM_POINTS
    from alignzoo.run_options import TrainerOptions

    task = make_task(found, request["task"])
    settings = TrainerOptions(**request["row"]["settings"])
    made = training.train(
        request["algorithm"],
        request["row"]["options"],
        task=task,
        settings=settings,
        seed=request["seed"],
        budget=request["budget"],
        num_points=NUM_POINTS,
        same_draws=request["same_draws"],
    )
    about = {"policy": task.policy().fingerprint(), "python": platform.python_version()}
    return {**request["row"], **about, **made}


def serve(side: str, threads: int) -> None:
    """Forks for every cell that is asked for, one at a time."""
    import torch
    from transformers.utils import logging

    from alignzoo.plugin_registry import registry

    for name in IMPORTED[side]:
        importlib.import_module(name)
    registry()
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 1
            try:
                work(side, **asked)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def work(side: str, request: dict[str, Any], row: str, log: str) -> None:
    """Runs one cell in this process and writes its row in one step; its prints go to a log."""
    from training import peak_memory

    libraries = peak_memory()
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    made = run(side, request, libraries)
    aside = Path(f"{row}.part")
    aside.write_text(json.dumps(made, default=str), encoding="utf-8")
    os.replace(aside, row)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
