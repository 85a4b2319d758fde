"""A sweep: every algorithm's options chosen from one grid, on seeds that are not reported.

A grid names options and values, the same for all; an algorithm is tried at each combination of
those it has. For each task and algorithm the combination with the best mean score over the
tuning seeds is taken, the first of equal ones; a failed run counts as the least of the range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from alignzoo.benchmark.cells import Choice, Plan
from alignzoo.benchmark.results import Row
from alignzoo.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from alignzoo.plugin_registry import Registry

FIRST_SEED = 1_000_000  # of tuning; reported seeds are 0, 1, ...
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Trial:
    """One combination of options, and the cells that try it."""

    options: Mapping[str, Any]
    plan: Plan

    @property
    def place(self) -> str:
        """The name of its folder, below the benchmark's."""
        name = ",".join(f"{name}={value}" for name, value in self.options.items())
        return "tuning/" + re.sub(r"[^\w.,=+-]+", "_", name)


def parse_grid(texts: Sequence[str]) -> Grid:
    """Returns the grid that texts such as `learning_rate=1e-4,1e-3` say.

    Raises:
        ConfigError: no `name=value,value`, or an option or value that is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        left, _, right = text.partition("=")
        name, values = left.strip().replace("-", "_"), [_value(v) for v in right.split(",")]
        if not name or "" in values:
            raise ConfigError(
                f"--sweep is '{text}'; expected name=value,value, such as learning_rate=1e-4,1e-3"
            )
        if name in grid or len({str(value) for value in values}) < len(values):
            raise ConfigError(f"--sweep {text}: an option or value is given twice; say it once")
        grid[name] = values
    return grid


def _value(text: str) -> Any:
    """Returns a number, true, false or null as that, and any other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.strip()


def combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Yields each choice of one value per option, the last option changing fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def check_grid(registry: Registry, grid: Grid, algorithms: Sequence[str]) -> None:
    """Checks that each option is one of some algorithm's.

    Raises:
        ConfigError: it is none's; with a did-you-mean.
    """
    known = {name for id in algorithms for name in registry.algorithm(id).Config.model_fields}
    for name in grid:
        if name not in known:
            raise ConfigError(
                f"--sweep {name}: none of {', '.join(algorithms)} has such an option."
                f"{did_you_mean(name, sorted(known))}"
            )


def grid_of(registry: Registry, grid: Grid, id: str, given: Mapping[str, Any]) -> Grid:
    """Returns the part of a grid that is tried for an algorithm: what it has and was not given."""
    fields = registry.algorithm(id).Config.model_fields
    return {name: grid[name] for name in grid if name in fields and name not in given}


def make_trials(
    registry: Registry,
    algorithms: Sequence[str],
    tasks: Sequence[str],
    *,
    grid: Grid,
    num_seeds: int,
    given: Mapping[str, Mapping[str, Any]],
    make: Callable[..., Plan],
) -> list[Trial]:
    """Returns the trials of a sweep, checked before any work as `make_plan` checks.

    Args:
        num_seeds: seeds of each trial, from 1,000,000 on.
        given: options by algorithm, which are not tried.
        make: `make_plan` under the conditions of the benchmark.
    """
    check_grid(registry, grid, algorithms)
    users: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for id in algorithms:
        mine = grid_of(registry, grid, id, given.get(id, {}))
        for options in combinations(mine) if mine else ():
            users.setdefault(tuple(options.items()), []).append(id)
    trials = []
    for items, ids in users.items():
        options = dict(items)
        plan = make(
            ids,
            tasks,
            seeds=range(FIRST_SEED, FIRST_SEED + num_seeds),
            tuned={(task, id): Choice(options) for task in tasks for id in ids},
        )
        trials.append(Trial(options, plan))
    return trials


def choose(
    tried: Sequence[tuple[Trial, Sequence[Row]]], grid: Grid
) -> dict[tuple[str, str], Choice]:
    """Returns the best options by task and algorithm.

    Args:
        tried: each trial with the rows of its cells.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trial, rows in tried:
        for task in trial.plan.tasks:
            for id in trial.plan.algorithms:
                mine = [r for r in rows if (r["task"], r["algorithm"]) == (task, id)]
                found.setdefault((task, id), []).append(_record(trial, mine))
    return {
        key: Choice(
            max(records, key=lambda record: record["score"])["options"],
            {
                "grid": {name: list(values) for name, values in grid.items()},
                "seeds": sorted({cell.seed for trial, _ in tried for cell in trial.plan.cells}),
                "tried": records,
            },
        )
        for key, records in found.items()
    }


def _record(trial: Trial, rows: Sequence[Row]) -> dict[str, Any]:
    scores = [row["score"] if row["status"] == "ok" else row["range"][0] for row in rows]
    failed = sum(row["status"] != "ok" for row in rows)
    return {
        "options": dict(trial.options),
        "score": sum(scores) / len(scores),
        "failed": failed,
    }
