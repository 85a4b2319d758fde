"""One cell: a trainer's run under the task's conditions, and the row that says what came of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.algorithm import Algorithm
from alignzoo.benchmark.cells import identify, make_algorithm, make_task, trainer_settings
from alignzoo.benchmark.measuring import Judge
from alignzoo.checkpoint import list_checkpoints
from alignzoo.errors import AlignzooError
from alignzoo.run_folder import RunFolder

if TYPE_CHECKING:
    from alignzoo.benchmark.budget import Budget
    from alignzoo.benchmark.cells import Cell
    from alignzoo.plugin_registry import Registry
    from alignzoo.policy import Policy
    from alignzoo.run_options import TrainerOptions
    from alignzoo.task import Task
    from alignzoo.trainer import Trainer

NUM_POINTS = 10  # of a learning curve, beside its start


def run_cell(registry: Registry, cell: Cell, out: Path) -> dict[str, Any]:
    """Returns the row of one cell, after its run in `out`; a failure is a row too.

    A run that was interrupted goes on from its last checkpoint. One that belongs to other
    conditions, or that failed, is made again.
    """
    task, algorithm, row = _describe(registry, cell)
    try:
        return {**row, **_train(task, algorithm, cell, out, row)}
    except Exception as error:
        return failed_row(registry, cell, explain(registry, error))


def failed_row(registry: Registry, cell: Cell, reason: str) -> dict[str, Any]:
    """Returns the row of a cell that came to nothing."""
    return {**_describe(registry, cell)[2], "status": "failed", "error": reason}


def _describe(registry: Registry, cell: Cell) -> tuple[Task, Algorithm, dict[str, Any]]:
    """Returns a cell's task and algorithm, and what its row says before anything was run."""
    task = make_task(registry, cell.task)
    algorithm = make_algorithm(registry, task, cell.algorithm, cell.given, cell.tuned)
    by_task = task.options(cell.algorithm, type(algorithm).Config)
    row = {
        **identify(registry, cell, task, algorithm),
        "chosen": {
            "task": dict(by_task),
            "given": dict(cell.given),
            "tuned": dict(cell.tuned),
        },
        "tuning": cell.tuning,
        "metric": task.metric,
        "range": list(task.range),
        "optimum": task.optimum,
        "status": "ok",
        "error": None,
    }
    return task, algorithm, json.loads(json.dumps(row, default=str))


def explain(registry: Registry, error: Exception) -> str:
    """Returns one line that says what failed, and whose it is where that is known."""
    blamed = None if isinstance(error, AlignzooError) else registry.blame(error)
    found = blamed or error
    text = " ".join(str(found).split())
    return text if isinstance(found, AlignzooError) else f"{type(found).__name__}: {text}"


def _train(
    task: Task, algorithm: Algorithm, cell: Cell, out: Path, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what training came to; goes on with the run in `out` where it was interrupted."""
    from alignzoo.trainer import Trainer

    settings = trainer_settings(task, cell.task)
    policy = task.policy()
    initial = policy.snapshot()
    judge = Judge(task, initial, settings, seed=cell.seed)
    folder = RunFolder(out)
    if folder.path.exists() and not _may_go_on(folder, identity):
        shutil.rmtree(folder.path)
    recorder = Recorder(judge, policy, folder, cell.budget, algorithm, settings)
    trainer = Trainer(
        policy=policy,
        algorithm=algorithm,
        out=out,
        **_data(task, algorithm, cell.seed),
        observers=[recorder],
        record={"cell": identity},
        **{**dict(settings), "seed": cell.seed, "eval_fraction": 0.0},
    )
    trainer.run(_most_updates(cell.budget, settings), resume=folder.holds_run)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # nothing is left to go on with
    return {"policy": initial.fingerprint(), **_outcome(trainer, recorder)}


def _most_updates(budget: Budget, settings: TrainerOptions) -> int:
    """Returns the number of updates that no run exceeds; the recorder ends it where it is due."""
    if budget.unit == "seconds":
        return sys.maxsize
    return int(budget.amount // settings.batch_size)  # a response has a token at least


def _may_go_on(folder: RunFolder, identity: Mapping[str, Any]) -> bool:
    """Whether the folder holds a run of these very conditions that was interrupted."""
    try:
        saved = folder.read_config().get("cell")
    except AlignzooError:
        return False
    return saved == identity and bool(list_checkpoints(folder.checkpoints))


def _data(task: Task, algorithm: Algorithm, seed: int) -> dict[str, Any]:
    source = algorithm.needs.source
    if source == "rollouts":
        return {"prompts": list(task.prompts()), "reward": task.reward(seed)}
    return {"data": list(task.rows(source, seed))}


class Recorder:
    """Watches a run: measures its policy at each tenth of the budget, and ends it in time.

    The curve is kept in `curve.json` beside the run, so that a run that goes on has all of it. What
    is measured after the budget was overstepped does not count, so the policy is also measured
    after each update that may be the last to count.
    """

    def __init__(
        self,
        judge: Judge,
        policy: Policy,
        folder: RunFolder,
        budget: Budget,
        algorithm: Algorithm,
        settings: TrainerOptions,
    ) -> None:
        self.judge, self.policy, self.folder, self.budget = judge, policy, folder, budget
        self.path = folder.path / "curve.json"
        self.batch_size = settings.batch_size
        self.most_of_an_update = _most_of_an_update(budget, algorithm, settings)
        self.used: list[float] = []  # of the budget, after each update of the run
        saved = json.loads(self.path.read_text()) if self.path.exists() else {"points": []}
        self.points: dict[int, dict[str, Any]] = {p["step"]: p for p in saved["points"]}
        if not self.points:
            self._measure({"step": 0, "samples": 0, "tokens": 0}, 0.0)

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Measures where it is due; returns True where the budget has no room for an update."""
        if not self.used:
            self._begin(step)
        before = self.used[-1]
        used = self.budget.used(metrics, before)
        self.used.append(used)
        budget = self.budget.amount
        crossed = NUM_POINTS * used // budget > NUM_POINTS * before // budget
        if used <= budget and (crossed or used + self._room() > budget):
            self._measure(metrics, used)
            self._save()
        least = 0 if self.budget.unit == "seconds" else self.batch_size  # a token a response
        return used + least > budget

    def _begin(self, step: int) -> None:
        """Takes up what the run used before this process; forgets what was measured since."""
        self.used = [0.0]
        for line in self.folder.read("metrics.jsonl"):
            if line["step"] < step:
                self.used.append(self.budget.used(line, self.used[-1]))
        self.points = {at: point for at, point in self.points.items() if at < step}

    def _room(self) -> float:
        """Returns what the next update may use; where no bound is known, twice the most so far."""
        if self.most_of_an_update is not None:
            return self.most_of_an_update
        return 2 * max(after - before for before, after in pairwise(self.used))

    def _measure(self, metrics: Mapping[str, Any], used: float) -> None:
        step = int(metrics["step"])
        point = {"step": step, "samples": metrics["samples"], "tokens": metrics["tokens"]}
        if self.budget.unit == "seconds":
            point["seconds"] = used
        self.points[step] = {**point, **self.judge.measure(self.policy)._asdict()}

    def _save(self) -> None:
        aside = self.path.with_name(".curve.json")
        aside.write_text(json.dumps({"points": self.curve}), encoding="utf-8")
        os.replace(aside, self.path)

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The points in order, the initial policy first."""
        return [self.points[step] for step in sorted(self.points)]


def _most_of_an_update(
    budget: Budget, algorithm: Algorithm, settings: TrainerOptions
) -> float | None:
    """Returns the most that one update can use; None where no bound is known.

    An algorithm that drops responses samples again for them.
    """
    may_drop = type(algorithm).keep is not Algorithm.keep
    samples = settings.batch_size * (1 + may_drop * settings.max_refills)
    if budget.unit == "samples":
        return samples
    if budget.unit == "tokens" and algorithm.needs.source == "rollouts":
        return samples * settings.max_new_tokens
    return None


def _outcome(trainer: Trainer, recorder: Recorder) -> dict[str, Any]:
    """Returns what a run measured; seconds are of collecting and learning, not of measuring."""
    last = recorder.curve[-1]
    lines = [line for line in trainer.folder.read("metrics.jsonl") if line["step"] <= last["step"]]
    timings = trainer.folder.read("timings.jsonl")[: len(lines)]
    environment = trainer.config["environment"]
    return {
        "score": last["score"],
        "kl": last["kl"],
        "proxy": last["proxy"],
        "samples": last["samples"],
        "tokens": last["tokens"],
        "updates": last["step"],
        "skipped_updates": lines[-1]["skipped_updates"] if lines else 0,
        "curve": recorder.curve,
        "seconds": sum(line["collect"] + line["learn"] for line in timings),
        "peak_memory": _peak_memory(),
        "versions": environment["versions"],
        "python": environment["python"],
        "cpu": environment["cpu"],
    }


def _peak_memory() -> int | None:
    """Returns the most memory this process has held, in bytes; None where that is not told."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
