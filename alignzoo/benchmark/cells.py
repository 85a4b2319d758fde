"""The cells of a benchmark: each is one algorithm on one task with one seed, checked before work.

This module knows no registry: it is handed one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.benchmark.budget import Budget
from alignzoo.config import AlgorithmConfig, build_config
from alignzoo.errors import ConfigError
from alignzoo.run_options import TrainerOptions

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm
    from alignzoo.plugin_registry import Entry, Registry
    from alignzoo.task import Task

# The trainer's options that a task does not choose: the benchmark measures by itself.
NOT_A_SETTING = ("seed", "eval_every", "eval_fraction", "max_eval_rows")


Key = tuple[str, str, int]  # task, algorithm, seed


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark.

    Args:
        task: id, as it was typed; options may follow it, as in `chain:{"length": 5}`.
        algorithm: id, as it was typed.
        seed: of the run, and of the task's reward and rows.
        budget: what it may use up.
        threads: CPU threads.
        given: options that were given for this algorithm, over those of the task.
        tuned: options that a sweep chose for it, over those of the task and below the given ones.
        tuning: how they were chosen; None without a sweep.
    """

    task: str
    algorithm: str
    seed: int
    budget: Budget
    threads: int
    given: Mapping[str, Any]
    tuned: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None

    @property
    def key(self) -> Key:
        """What tells it from the other cells of a benchmark."""
        return self.task, self.algorithm, self.seed

    @property
    def place(self) -> Path:
        """The folder of its run, below the benchmark's."""
        names = (re.sub(r"[^\w.-]+", "_", name) for name in (self.task, self.algorithm))
        return Path("runs", *names, str(self.seed))


@dataclass(frozen=True)
class Choice:
    """Options that a sweep chose for an algorithm on a task, and what results say of it."""

    options: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """The cells of a benchmark in the order of its results: by task, algorithm and seed.

    Args:
        identities: by cell, all that its result follows from; see `identify`.
    """

    tasks: tuple[str, ...]
    algorithms: tuple[str, ...]
    cells: tuple[Cell, ...]
    identities: Mapping[Key, Mapping[str, Any]]

    @property
    def order(self) -> list[Key]:
        """What tells each cell from the others, in order."""
        return [cell.key for cell in self.cells]


def make_plan(
    registry: Registry,
    algorithms: Sequence[str],
    tasks: Sequence[str],
    *,
    seeds: Sequence[int],
    budget: Budget | None,
    threads: int,
    given: Mapping[str, Mapping[str, Any]],
    tuned: Mapping[tuple[str, str], Choice] | None = None,
) -> Plan:
    """Returns the cells, after everything that can be known before any work was checked.

    Args:
        budget: default each task's own, in samples.
        given: options by algorithm and name.
        tuned: what a sweep chose, by task and algorithm.
    Raises:
        ConfigError: an unknown task, algorithm or option, or an algorithm that cannot run on a
            task; the message says why.
    """
    for word, ids in (("algorithm", algorithms), ("task", tasks)):
        twice = sorted({id for id in ids if ids.count(id) > 1})
        if twice:
            raise ConfigError(f"{word} '{twice[0]}' is given twice; say it once")
    made_tasks = {text: make_task(registry, text) for text in tasks}
    for id in algorithms:
        registry.find("algorithm", id)
    cells = []
    identities: dict[Key, dict[str, Any]] = {}
    for task_id, task in made_tasks.items():
        amount = Budget("samples", task.samples) if budget is None else budget
        for id in algorithms:
            choice = (tuned or {}).get((task_id, id), Choice())
            own = given.get(id, {})
            mine = [
                Cell(task_id, id, seed, amount, threads, own, choice.options, choice.record)
                for seed in seeds
            ]
            algorithm = make_algorithm(registry, task, id, own, choice.options)
            _check_can_run(task, task_id, algorithm, id, amount)
            identity = identify(registry, mine[0], task, algorithm)
            identities |= {cell.key: {**identity, "seed": cell.seed} for cell in mine}
            cells += mine
    return Plan(tuple(tasks), tuple(algorithms), tuple(cells), identities)


def split_task(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the id and the options of `id`, `distribution:id` or `id:{json options}`.

    Raises:
        ConfigError: what follows the id is no JSON object.
    """
    id, brace, rest = text.partition(":{")
    if not brace:
        return text, {}
    try:
        options = json.loads("{" + rest)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--task '{text}': the options after '{id}' are no JSON ({error.msg}); expected "
            f'{id}:{{"option": value}}'
        ) from None
    return id, dict(options)


def make_task(registry: Registry, text: str) -> Task:
    """Returns the task that a text names, with its options."""
    id, options = split_task(text)
    return registry.build("task", id, options)  # type: ignore[no-any-return]


def make_algorithm(
    registry: Registry,
    task: Task,
    id: str,
    given: Mapping[str, Any],
    tuned: Mapping[str, Any] | None = None,
) -> Algorithm:
    """Returns an algorithm with options as given, else as tuned, else the task's, else its own."""
    config_class: type[AlgorithmConfig] = registry.algorithm(id).Config
    options = {**task.options(id, config_class), **(tuned or {}), **given}
    spelling = {n: f"--sweep {n}" for n in tuned or {}}
    spelling |= {n: f"--option {id}.{n}" for n in given}
    config = build_config(config_class, options, id, spelling=spelling)
    return registry.build("algorithm", id, dict(config))  # type: ignore[no-any-return]


def trainer_settings(task: Task, task_id: str) -> TrainerOptions:
    """Returns the trainer's options on a task.

    Raises:
        ConfigError: the task sets one that is not its to set, or that is out of range.
    """
    settings = dict(task.settings)
    for name in NOT_A_SETTING:
        if name in settings:
            raise ConfigError(f"task '{task_id}' sets '{name}', which the benchmark sets")
    return build_config(TrainerOptions, settings, f"task '{task_id}'")


def _check_can_run(task: Task, task_id: str, algorithm: Algorithm, id: str, budget: Budget) -> None:
    source, size = algorithm.needs.source, trainer_settings(task, task_id).batch_size
    if source not in task.sources:
        raise ConfigError(
            f"{id} learns from {source}, and task '{task_id}' has {', '.join(task.sources)}; "
            f"leave {id} or the task out"
        )
    group = algorithm.needs.group_size
    if size % group:
        raise ConfigError(
            f"{id} compares groups of {group} responses, and task '{task_id}' has {size} responses "
            f"an update, which is no multiple; give --option {id}.group_size=N that divides {size}"
        )
    if source == "preferences" and size % 2:
        raise ConfigError(
            f"{id} learns from pairs, and task '{task_id}' has {size} responses an update, an odd "
            f"number; leave {id} or the task out"
        )
    if budget.unit != "seconds" and budget.amount < size:
        raise ConfigError(
            f"--budget {budget} is less than one update of task '{task_id}', which has "
            f"{size} responses; give more"
        )


def identify(registry: Registry, cell: Cell, task: Task, algorithm: Algorithm) -> dict[str, Any]:
    """Returns all that a cell's result follows from, JSON-able; a result is reused if it agrees."""
    task_entry = registry.find("task", split_task(cell.task)[0])
    entry = registry.find("algorithm", cell.algorithm)
    return {
        "task": cell.task,
        "task_revision": task_entry.spec.revision,
        **{f"task_{name}": value for name, value in _owner(task_entry).items()},
        "task_options": task.config.model_dump(mode="json"),
        "task_code": _code(type(task)),
        "algorithm": cell.algorithm,
        "revision": entry.spec.revision,
        **_owner(entry),
        "options": algorithm.config.model_dump(mode="json"),
        "code": _code(type(algorithm)),
        "settings": trainer_settings(task, cell.task).model_dump(mode="json", exclude={"seed"}),
        "budget": cell.budget.record,
        "threads": cell.threads,
        "seed": cell.seed,
    }


def _owner(entry: Entry) -> dict[str, str | None]:
    return {
        "distribution": entry.plugin.distribution or None,
        "version": entry.plugin.version or None,
    }


def _code(kind: type) -> str | None:
    """Returns the SHA-256 of the file that a class is in, so that an edit is noticed."""
    try:
        path = inspect.getsourcefile(kind)
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, before, now) of what two identities disagree about."""
    for name, value in now.items():
        if before.get(name) != value:
            yield name, before.get(name), value
