"""What the rows of a benchmark come to: each task, all tasks together, and who beats whom.

Raw scores are in the task's unit. Normalised ones are (score - low) / (high - low) of the task's
range. A failed run counts as the least of the range; a run that was not made is absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from alignzoo.benchmark import statistics
from alignzoo.benchmark.pairs import Pair as Pair
from alignzoo.benchmark.pairs import Runs, compare_pairs
from alignzoo.benchmark.resampling import NOTHING, RESAMPLES, Array
from alignzoo.benchmark.rows import Row, check_rows, is_failed
from alignzoo.benchmark.statistics import Estimate as Estimate

THRESHOLD = 0.9  # of the way from the range's low end to the optimum
NUM_TAUS = 101


@dataclass(frozen=True)
class Line:
    """One algorithm on one task, over seeds.

    Args:
        rows: of the runs that ended well, by seed, with every default that statistics need.
        num_failed: runs that did not; in every number they count as the least of the range.
        mean: of the final scores, raw.
        iqm: their interquartile mean, raw.
        median: theirs, raw.
        share: the mean's place in the range, normalised.
        gap: optimality gap to the optimum, or to the range's high end; normalised.
        kl: mean final KL to the initial policy, nats per response, of runs that know it.
        score_at_kl: mean over runs of the frontier at the task's matched KL, raw.
        area: mean over runs of the normalised frontier's mean from 0 to the largest KL any run of
            the task measured.
        samples_to_threshold: median over runs; infinity where half of them never reach it.
        num_reached: runs that did.
        proxy: mean final score under the reward that is learned from, where another is hidden.
        seconds: mean of one run's sampling and learning.
        memory: the most that a run's process held, bytes.
    """

    task: str
    algorithm: str
    rows: list[Row]
    num_failed: int
    mean: Estimate
    iqm: Estimate
    median: float
    share: Estimate
    gap: Estimate
    kl: float
    score_at_kl: Estimate
    area: Estimate
    samples_to_threshold: float
    num_reached: int
    proxy: float
    seconds: float
    memory: float


@dataclass(frozen=True)
class Aggregate:
    """One algorithm over all tasks, normalised; NaN where it has no run on one of them."""

    algorithm: str
    num_runs: int
    num_failed: int
    iqm: Estimate
    median: Estimate
    mean: Estimate
    gap: Estimate


class Profile(NamedTuple):
    """Share of runs above each tau, and its pointwise band: four of [num_taus]."""

    tau: Array
    share: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Summary:
    """What a benchmark came to.

    Args:
        tasks: lines by mean, the best first; an algorithm without runs on a task has none there.
        matched_kl: nats at which scores of a task are matched; NaN where no KL is known.
        threshold: raw score that `samples_to_threshold` waits for.
        aggregates: by interquartile mean, the best first.
        pairs: by (x, y), in both directions.
        profile: by algorithm; of those that have runs on all tasks.
    """

    tasks: dict[str, list[Line]]
    matched_kl: dict[str, float]
    threshold: dict[str, float]
    aggregates: list[Aggregate]
    pairs: dict[tuple[str, str], Pair]
    profile: dict[str, Profile]


class _Conditions(NamedTuple):
    """What the lines of one task share."""

    low: float
    high: float
    optimum: float | None
    matched_kl: float
    largest_kl: float
    threshold: float


def summarise(
    rows: Iterable[Row],
    tasks: Sequence[str] | None = None,
    algorithms: Sequence[str] | None = None,
    kl: float | Mapping[str, float] | None = None,
    threshold: float | None = None,
    *,
    resamples: int = RESAMPLES,
) -> Summary:
    """Returns what rows come to; the same digits whatever their order.

    Args:
        rows: each with `task`, `algorithm`, `seed`, `score`, and defaults for all else.
        tasks: which, in this order; all that there are, by name, by default.
        algorithms: the same of algorithms.
        kl: nats at which scores are matched, or by task; by default the median over algorithms of
            their mean final KL on the task.
        threshold: share of the way from the range's low end to the optimum, or to its high end
            where no optimum is known; default 0.9.
        resamples: of the bootstrap.
    Raises:
        DataError: a row is none, or two of them cannot both be.
    """
    checked = check_rows((f"row {i}", row) for i, row in enumerate(rows, start=1))
    names = list(tasks or dict.fromkeys(row["task"] for row in checked))
    ids = list(algorithms or sorted({row["algorithm"] for row in checked}))
    mine: dict[tuple[str, str], list[Row]] = {(task, id): [] for task in names for id in ids}
    for row in checked:
        mine.get((row["task"], row["algorithm"]), []).append(row)
    conditions = {
        task: _conditions(
            {id: mine[task, id] for id in ids},
            kl.get(task) if isinstance(kl, Mapping) else kl,
            THRESHOLD if threshold is None else threshold,
        )
        for task in names
    }
    runs = {
        id: {
            task: _normalised(mine[task, id], conditions[task]) for task in names if mine[task, id]
        }
        for id in ids
    }
    compared = compare_pairs(
        {(x, y): (runs[x], runs[y]) for x, y in combinations(sorted(ids), 2)}, resamples=resamples
    )
    pairs = [one for pair in compared.values() for one in (pair, pair.turned())]
    return Summary(
        tasks={
            task: _ranked(
                _line(mine[task, id], conditions[task], resamples) for id in ids if mine[task, id]
            )
            for task in names
        },
        matched_kl={task: conditions[task].matched_kl for task in names},
        threshold={task: conditions[task].threshold for task in names},
        aggregates=_aggregates(mine, names, runs, resamples),
        pairs={(pair.x, pair.y): pair for pair in pairs},
        profile=_profiles(names, runs),
    )


# -- one task ----------------------------------------------------------------------------------


def _conditions(
    mine: Mapping[str, Sequence[Row]], kl: float | None, threshold: float
) -> _Conditions:
    rows = [row for found in mine.values() for row in found]
    low, high = rows[0]["range"] if rows else (math.nan, math.nan)
    optimum = rows[0]["optimum"] if rows else None
    if kl is None:
        means = [_mean(map(_final_kl, found)) for found in mine.values()]
        known = [value for value in means if math.isfinite(value)]
        kl = float(np.median(known)) if known else math.nan
    measured = [point for row in rows if not is_failed(row) for point in _kl_curve(row)[0]]
    aim = high if optimum is None else optimum
    return _Conditions(
        low=low,
        high=high,
        optimum=optimum,
        matched_kl=kl,
        largest_kl=max(measured, default=math.nan),
        threshold=low + threshold * (aim - low),
    )


def _line(rows: Sequence[Row], task: _Conditions, resamples: int) -> Line:
    good = [row for row in rows if not is_failed(row)]
    num_failed = len(rows) - len(good)
    raw = [task.low] * num_failed + [float(row["score"]) for row in good]
    width = task.high - task.low
    target = 1.0 if task.optimum is None else (task.optimum - task.low) / width

    def gap_of(parts: Sequence[Array]) -> Any:
        return statistics.optimality_gap([(p - task.low) / width for p in parts], target)

    mean, iqm, gap = statistics.estimates(
        [raw], [statistics.mean, statistics.iqm, gap_of], resamples=resamples
    )
    at_kl = [statistics.score_at_kl(*_kl_curve(row), task.matched_kl) for row in good]
    areas = [_area(row, task) for row in good]
    waits = [_wait(row, task.threshold) for row in good]
    known_waits = [wait for wait in waits if wait is not None]
    return Line(
        task=rows[0]["task"],
        algorithm=rows[0]["algorithm"],
        rows=good,
        num_failed=num_failed,
        mean=mean,
        iqm=iqm,
        median=float(np.median(raw)),
        share=mean.scaled(1 / width, -task.low / width),
        gap=gap,
        kl=_mean(map(_final_kl, good)),
        score_at_kl=_mean_of_known(at_kl, task.low, num_failed, resamples),
        area=_mean_of_known(areas, 0.0, num_failed, resamples),
        samples_to_threshold=(
            float(np.median([*known_waits, *[math.inf] * num_failed])) if known_waits else math.nan
        ),
        num_reached=sum(math.isfinite(wait) for wait in known_waits),
        proxy=_mean(_number(row["proxy"]) for row in good),
        seconds=_mean(_number(row["seconds"]) for row in good),
        memory=max((_number(r["peak_memory"]) for r in good if r["peak_memory"]), default=math.nan),
    )


def _mean_of_known(
    values: Sequence[float], least: float, num_failed: int, resamples: int
) -> Estimate:
    """Returns the mean of runs that have a value, failed ones as the least; none where none has."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return NOTHING
    return statistics.estimate(
        [[*known, *[least] * num_failed]], statistics.mean, resamples=resamples
    )


def _area(row: Row, task: _Conditions) -> float:
    nats, scores = _kl_curve(row)
    shares = [(score - task.low) / (task.high - task.low) for score in scores]
    return statistics.area_under_frontier(nats, shares, task.largest_kl)


def _kl_curve(row: Row) -> tuple[list[float], list[float]]:
    """Returns KL and score of a run's points that have both; the initial policy is at 0 nats."""
    points = [p for p in row["curve"] if _known(p.get("kl")) and _known(p.get("score"))]
    if not row["curve"] and _known(row["kl"]):
        points = [{"kl": row["kl"], "score": row["score"]}]
    starts = [p.get("step", p.get("samples")) == 0 for p in points]
    nats = [0.0 if starts[i] else max(0.0, p["kl"]) for i, p in enumerate(points)]
    return nats, [float(p["score"]) for p in points]


def _final_kl(row: Row) -> float:
    if _known(row["kl"]):
        return float(row["kl"])
    last = row["curve"][-1] if row["curve"] else {}
    return float(last["kl"]) if _known(last.get("kl")) and not is_failed(row) else math.nan


def _wait(row: Row, threshold: float) -> float | None:
    """Returns samples until a run's score reaches a threshold; None where it has no curve."""
    points = [p for p in row["curve"] if _known(p.get("samples")) and _known(p.get("score"))]
    if not points:
        return None
    return statistics.samples_to_threshold(
        [p["samples"] for p in points], [p["score"] for p in points], threshold
    )


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _ranked(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (-line.mean.value, line.algorithm))


# -- all tasks together ------------------------------------------------------------------------


def _normalised(rows: Sequence[Row], task: _Conditions) -> dict[int | str, float]:
    """Returns scores by seed, 0 where a run failed."""
    width = task.high - task.low
    return {
        row["seed"]: 0.0 if is_failed(row) else (row["score"] - task.low) / width for row in rows
    }


def _whole(tasks: Sequence[str], runs: Mapping[str, Runs]) -> dict[str, list[list[float]]]:
    """Returns scores by task of the algorithms that have runs on all tasks."""
    return {
        id: [list(mine[task].values()) for task in tasks]
        for id, mine in runs.items()
        if tasks and all(task in mine for task in tasks)
    }


def _aggregates(
    mine: Mapping[tuple[str, str], Sequence[Row]],
    tasks: Sequence[str],
    runs: Mapping[str, Runs],
    resamples: int,
) -> list[Aggregate]:
    kinds = [statistics.iqm, statistics.median, statistics.mean, statistics.optimality_gap]
    whole = _whole(tasks, runs)
    found = []
    for id in runs:
        rows = [row for task in tasks for row in mine[task, id]]
        numbers = [NOTHING] * len(kinds)
        if id in whole:
            numbers = statistics.estimates(whole[id], kinds, resamples=resamples)
        found.append(Aggregate(id, len(rows), sum(map(is_failed, rows)), *numbers))
    return sorted(found, key=_rank_of_aggregate)


def _rank_of_aggregate(found: Aggregate) -> tuple[float, str]:
    value = found.iqm.value
    return (-value if math.isfinite(value) else math.inf), found.algorithm


def _profiles(tasks: Sequence[str], runs: Mapping[str, Runs]) -> dict[str, Profile]:
    """Returns profiles over 0 to 1, or to the largest score of all where that is more."""
    whole = _whole(tasks, runs)
    most = max((score for parts in whole.values() for part in parts for score in part), default=1.0)
    taus = np.linspace(0.0, max(1.0, most), NUM_TAUS)
    return {
        id: Profile(taus, *statistics.performance_profile(parts, taus))
        for id, parts in whole.items()
    }
