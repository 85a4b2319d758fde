"""Our `grpo` and `rloo` beside TRL's on the benchmark's tasks: scores, curves, time and memory.

    PYTHONPATH=PEERS python bench/trl_peers.py --task reverse --seeds 10 --out DIR

Both sides begin with the same policy, take the same prompts in the same order, call the same
reward, and are measured by the benchmark's own judge at the same points; each run has a process of
its own, the two sides take turns, and a run that is done already is not made again. Options are
matched by `bench/trl_side/match.py`, which says how, and what cannot be matched. That the match
holds is checked by runs of TRL in which our sampler draws (`--checks`): with the same draws the
two sides are to learn the same.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rounds import describe_machine
from trl_side.comparing import check_draws, compare, tables
from trl_side.match import ALGORITHMS, CHECKED, REVISION, NoMatchError, our_options, trl_options

import alignzoo.benchmark as benchmark
from alignzoo.errors import AlignzooError
from alignzoo.plugin_registry import registry
from alignzoo.run_options import TrainerOptions

HERE = Path(__file__).parent
SIDE = HERE / "trl_side"
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning workers take the core from whoever runs
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Row = dict[str, Any]


class PeerError(Exception):
    """The command cannot be run here."""


@dataclass(frozen=True)
class Run:
    """One cell of one side.

    Args:
        side: "alignzoo" or "trl".
        identity: what its row says before anything was run.
        request: what its process is told, apart from where to write.
    """

    side: str
    identity: Mapping[str, Any]
    request: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from the others."""
        return self.identity["task"], self.identity["algorithm"], self.identity["seed"]


def plan_runs(options: argparse.Namespace) -> list[Run]:
    """Returns the runs in the order they are made, after all that can be checked was.

    Raises:
        AlignzooError: an unknown task, or one that an algorithm cannot run on.
        NoMatchError: TRL cannot do what a task asks for.
    """
    found = registry()
    given = {
        task: {id: _given(found, task, id) for id in options.algorithms} for task in options.task
    }
    plans = [
        benchmark.make_plan(
            found,
            options.algorithms,
            [task],
            seeds=range(options.seeds),
            budget=benchmark.parse_budget(options.budget),
            threads=options.threads,
            given=given[task],
        )
        for task in options.task
    ]
    runs: list[Run] = []
    for seed in range(options.seeds):
        for plan in plans:
            for cell in (cell for cell in plan.cells if cell.seed == seed):
                pair = _pair(found, cell, plan.identities[cell.key], checks=options.checks)
                runs += pair if seed % 2 == 0 else pair[1::-1] + pair[2:]
    return runs


def _given(found: Any, task: str, id: str) -> dict[str, Any]:
    """Returns the options of ours that make it TRL's, on a task."""
    config_class = found.algorithm(id).Config
    by_task = benchmark.make_task(found, task).options(id, config_class)
    return our_options(config_class(**{**our_options(1.0), **by_task}).kl_coef)


def _pair(found: Any, cell: Any, identity: Mapping[str, Any], *, checks: int) -> list[Run]:
    """Returns our run of a cell, TRL's, and for the first seeds TRL's with our draws."""
    if cell.budget.unit != "samples":
        raise PeerError(f"--budget is {cell.budget}; TRL's runs are counted in samples=N")
    task = benchmark.make_task(found, cell.task)
    about = {
        "chosen": {
            "task": dict(task.options(cell.algorithm, found.algorithm(cell.algorithm).Config))
        }
        | {"given": dict(cell.given), "tuned": {}},
        "tuning": None,
        "metric": task.metric,
        "range": list(task.range),
        "optimum": task.optimum,
        "status": "ok",
        "error": None,
    }
    request = {
        "task": cell.task,
        "algorithm": cell.algorithm,
        "seed": cell.seed,
        "budget": int(cell.budget.amount),
        "threads": cell.threads,
        "given": dict(cell.given),
        "same_draws": False,
    }
    ours = Run("alignzoo", identity, {**request, "row": {**identity, **about}})
    config = found.algorithm(cell.algorithm).Config(**identity["options"])
    settings = TrainerOptions(**identity["settings"])
    theirs = {
        **identity,
        "algorithm": ALGORITHMS[cell.algorithm],
        "revision": REVISION,
        "distribution": "trl",
        "version": importlib.metadata.version("trl"),
        "options": trl_options(cell.algorithm, config, settings, cell.seed),
        "code": hashlib.sha256((SIDE / "training.py").read_bytes()).hexdigest(),
    }
    runs = [ours, Run("trl", theirs, {**request, "row": {**theirs, **about}})]
    if cell.seed < checks:
        checked = {**theirs, "algorithm": theirs["algorithm"] + CHECKED}
        row = {**checked, **about}
        runs.append(Run("trl", checked, {**request, "same_draws": True, "row": row}))
    return runs


class Side:
    """One side's process, which runs cells in forks of itself, one after the other."""

    def __init__(self, name: str, threads: int) -> None:
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ALIGNZOO_NUM_THREADS")
        self._process = subprocess.Popen(
            [sys.executable, str(SIDE / "cell.py"), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, **dict.fromkeys(limits, str(threads))},
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, run: Run, folder: Path) -> Row:
        """Returns the row of a run, whose own folder is below `folder`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task, algorithm, seed = run.key
        place = folder / "runs" / re.sub(r"[^\w.-]+", "_", task) / algorithm
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            row = Path(scratch) / "row.json"
            request = {**run.request, "out": str(place / str(seed))}
            asked = {"request": request, "row": str(row), "log": str(place / f"{seed}.log")}
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            code = self._process.stdout.readline().strip()
            if row.exists():
                made: Row = json.loads(row.read_text(encoding="utf-8"))
                return made
        if not code:
            raise PeerError(f"the process of {run.side} ended before its time")
        reason = f"its process exited with {code}; what it wrote is in {place.name}/{seed}.log"
        return {**run.request["row"], "status": "failed", "error": reason}


def make_runs(runs: Sequence[Run], results: Any, threads: int) -> None:
    """Makes the runs that have no row yet, one after the other, and says how each ended."""
    missing = [run for run in runs if run.key not in results.rows]
    if not missing:
        return
    for task in dict.fromkeys(run.key[0] for run in missing):
        benchmark.make_task(registry(), task).prepare()
    order = sorted(run.key for run in runs)
    with Side("alignzoo", threads) as ours, Side("trl", threads) as theirs:
        sides = {"alignzoo": ours, "trl": theirs}
        for number, run in enumerate(missing, start=1):
            row = sides[run.side].run(run, results.folder)
            results.add(row, order)
            name = f"{number}/{len(missing)} {row['task']} {row['algorithm']} seed {row['seed']}"
            came = f"{row['score']:.4f}, {row['seconds']:.1f} s" if row["status"] == "ok" else None
            print(f"{name}: {came or 'failed: ' + row['error']}", file=sys.stderr, flush=True)


def published(value: Any) -> Any:
    """Returns a value with names of files in the place of whole paths, and null for no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {published(name): published(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [published(one) for one in value]
    if isinstance(value, str):
        return re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)*([\w.@+-]+)", r"\1", value)
    return value


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--task", action="append", help="id, or id:{json options}; may be repeated; default reverse"
    )
    parser.add_argument(
        "--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS)
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", help="samples=N; default the task's own")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument(
        "--checks", type=int, default=1, help="seeds that TRL also runs with our sampler's draws"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results.jsonl")
    parser.add_argument(
        "--summary", type=Path, help="JSON file that the comparison and all rows are written to"
    )
    options = parser.parse_args(arguments)
    options.task = options.task or ["reverse"]
    if min(options.seeds, options.threads) < 1 or options.checks < 0:
        parser.error("--seeds and --threads are at least 1, and --checks at least 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the runs that are missing, prints the table, and writes the summary where asked."""
    options = parse_arguments(arguments)
    check_peer()
    runs = plan_runs(options)
    results = benchmark.Results(options.out)
    results.open({run.key: run.identity for run in runs})
    make_runs(runs, results, options.threads)
    rows = [results.rows[key] for key in sorted(run.key for run in runs)]
    comparisons = [compare(rows, task, id) for task in options.task for id in options.algorithms]
    checks = [found for id in options.algorithms for found in check_draws(rows, id)]
    print(tables(comparisons))
    for check in checks:
        print(
            f"{check['task']} {check['algorithm']} seed {check['seed']}, TRL with our draws: "
            f"{check['points_alike']} of {check['points']} points the same, largest gap "
            f"{check['largest']:.4f}"
        )
    if options.summary:
        write_summary(options, rows, comparisons, checks)
    return int(any(row["status"] != "ok" for row in rows))


def check_peer() -> None:
    """Checks that TRL is here.

    Raises:
        PeerError: it is not; the message says what to install.
    """
    for name in ("trl", "accelerate", "datasets"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise PeerError(
                f"{name} is not installed beside alignzoo: pip install --no-deps trl==1.16.0 "
                "accelerate==1.15.0, and pip install datasets"
            ) from None


def write_summary(
    options: argparse.Namespace,
    rows: Sequence[Row],
    comparisons: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the comparison and every row to one JSON file, without paths of this machine."""
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(options.threads),
        "comparisons": comparisons,
        "our_draws": checks,
        "rows": rows,
    }
    options.summary.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(published(report), allow_nan=False)
    options.summary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PeerError, NoMatchError, AlignzooError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
