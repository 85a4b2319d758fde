"""Two benchmarks side by side: what changed from A to B, how surely, and what else differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alignzoo.benchmark import statistics
from alignzoo.benchmark.conditions import differing_conditions
from alignzoo.benchmark.pairs import Pair, Runs, compare_pairs
from alignzoo.benchmark.resampling import RESAMPLES
from alignzoo.benchmark.rows import Row, check_rows, is_failed
from alignzoo.benchmark.statistics import Estimate
from alignzoo.errors import DataError


@dataclass(frozen=True)
class Change:
    """An algorithm of A and one of B, on a task or on all shared ones.

    Args:
        task: "" where it is all of them; then scores are normalised, else raw.
        first: algorithm of A.
        second: algorithm of B.
        num_runs: of A and of B, failed ones included, which count as the least of the range.
        num_failed: of A and of B.
        num_shared: runs of a seed that both have.
        is_paired: whether the difference is of these alone, as there are two of each task or more.
        mean_a, mean_b: of the final scores.
        difference: mean of B less that of A.
        pair: B against A.
    """

    task: str
    first: str
    second: str
    num_runs: tuple[int, int]
    num_failed: tuple[int, int]
    num_shared: int
    is_paired: bool
    mean_a: Estimate
    mean_b: Estimate
    difference: Estimate
    pair: Pair


@dataclass(frozen=True)
class Comparison:
    """What changed from A to B.

    Args:
        changes: by task and algorithm, and of all tasks together last.
        same_algorithms: whether each algorithm is compared with itself; else each with each.
        conditions: a sentence for each that differs.
        left_out: a sentence for each task or algorithm that only one has.
    """

    changes: list[Change]
    same_algorithms: bool
    conditions: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        from alignzoo.benchmark.tables import comparison_text

        return comparison_text(self)


Rows = dict[str, list[Row]]  # an algorithm's, by task


class _Place(NamedTuple):
    """What is compared: an algorithm of A, one of B, and the tasks, together."""

    first: str
    second: str
    tasks: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Names of B and A, and the tasks."""
        return (self.second, self.first, *self.tasks)


def compare(
    rows_a: Sequence[Row], rows_b: Sequence[Row], *, resamples: int = RESAMPLES
) -> Comparison:
    """Returns what changed from A to B on the tasks that both have.

    An algorithm is compared with that of the same id; where no id is shared, each of A with each of
    B. (A, B) and (B, A) give the same numbers, turned round, whatever the order of rows.

    Raises:
        DataError: rows are none, or there is nothing that both have.
    """
    first = check_rows((f"A, row {i}", row) for i, row in enumerate(rows_a, start=1))
    second = check_rows((f"B, row {i}", row) for i, row in enumerate(rows_b, start=1))
    tasks_a, tasks_b = ({row["task"] for row in rows} for rows in (first, second))
    tasks = sorted(tasks_a & tasks_b)
    if not tasks:
        raise DataError(
            f"A has {_listed('task', tasks_a)} and B {_listed('task', tasks_b)}; expected a task "
            "that both have"
        )
    sides_a, sides_b = _sides(first, tasks), _sides(second, tasks)
    same = sorted(sides_a.keys() & sides_b.keys())
    asked = [(id, id) for id in same] or [(a, b) for a in sorted(sides_a) for b in sorted(sides_b)]
    changes = _changes(sides_a, sides_b, asked, resamples)
    if not changes:
        raise DataError("A and B share tasks, but no algorithm ran on the same one in both")
    return Comparison(
        changes=changes,
        same_algorithms=bool(same),
        conditions=differing_conditions(
            [row for row in first if row["task"] in tasks],
            [row for row in second if row["task"] in tasks],
            same_algorithms=bool(same),
        ),
        left_out=[
            *_left_out("task", tasks_a, tasks_b),
            *(_left_out("algorithm", set(sides_a), set(sides_b)) if same else []),
        ],
    )


def _sides(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        if row["task"] in tasks:
            found.setdefault(row["algorithm"], {}).setdefault(row["task"], []).append(row)
    return found


def _changes(
    sides_a: Mapping[str, Rows],
    sides_b: Mapping[str, Rows],
    asked: Sequence[tuple[str, str]],
    resamples: int,
) -> list[Change]:
    """Returns the changes on each task, then those of pairs that share several tasks."""
    together = [
        _Place(a, b, tuple(sorted(sides_a[a].keys() & sides_b[b].keys()))) for a, b in asked
    ]
    alone = [_Place(a, b, (task,)) for a, b, tasks in together for task in tasks]
    places = sorted(alone, key=lambda place: place.tasks)
    places += [place for place in together if len(place.tasks) > 1]
    runs = {
        p: (_runs(sides_b[p.second], p.tasks), _runs(sides_a[p.first], p.tasks)) for p in places
    }
    pairs = compare_pairs({p.key: found for p, found in runs.items()}, resamples=resamples)
    changes = []
    for place in places:
        rows = sides_a[place.first], sides_b[place.second]
        b, a = runs[place]
        changes.append(_change(place, rows, a, b, pairs[place.key], resamples))
    return changes


def _runs(rows: Rows, tasks: Sequence[str]) -> dict[str, dict[int | str, float]]:
    """Returns scores by task and seed; normalised where they are of several tasks."""
    found: dict[str, dict[int | str, float]] = {}
    for task in tasks:
        for row in rows[task]:
            low, high = row["range"]
            score = low if is_failed(row) else float(row["score"])
            score = score if len(tasks) == 1 else (score - low) / (high - low)
            found.setdefault(task, {})[row["seed"]] = score
    return found


def _change(
    place: _Place, sides: tuple[Rows, Rows], a: Runs, b: Runs, pair: Pair, resamples: int
) -> Change:
    mine = [[row for task in place.tasks for row in rows[task]] for rows in sides]
    shared = {task: list(a[task].keys() & b[task].keys()) for task in place.tasks}
    is_paired = all(len(seeds) > 1 for seeds in shared.values())
    means = [
        statistics.estimate(_all(runs), statistics.mean, resamples=resamples) for runs in (a, b)
    ]
    if is_paired:
        x, y = ([[runs[t][seed] for seed in shared[t]] for t in place.tasks] for runs in (b, a))
    else:
        x, y = _all(b), _all(a)
    return Change(
        task=place.tasks[0] if len(place.tasks) == 1 else "",
        first=place.first,
        second=place.second,
        num_runs=(len(mine[0]), len(mine[1])),
        num_failed=(sum(map(is_failed, mine[0])), sum(map(is_failed, mine[1]))),
        num_shared=sum(map(len, shared.values())),
        is_paired=is_paired,
        mean_a=means[0],
        mean_b=means[1],
        difference=statistics.mean_difference(x, y, paired=is_paired, resamples=resamples),
        pair=pair,
    )


def _all(runs: Runs) -> list[list[float]]:
    return [list(scores.values()) for scores in runs.values()]


def _left_out(word: str, first: set[str], second: set[str]) -> list[str]:
    return [
        f"only in {side}: {_listed(word, names)}"
        for side, names in (("A", first - second), ("B", second - first))
        if names
    ]


def _listed(word: str, names: set[str]) -> str:
    return f"{word}{'s' * (len(names) > 1)} {', '.join(sorted(names))}"
