"""What the charts of a benchmark draw: curves of several runs brought onto common places.

Runs of one algorithm seldom measure at the same places: one that drops responses overshoots, and
seconds never agree. Such runs are interpolated linearly between their own measured points, and
only where every one of them has been: nothing is carried beyond what a run measured, and the mean
is of the same runs all along.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.benchmark.frontier import frontier
from alignzoo.benchmark.resampling import bootstrap_ends, counts_of
from alignzoo.benchmark.summary import Line, Summary

Row = dict[str, Any]
Array = NDArray[np.float64]
Run = tuple[Array, Array]  # x ascending and y, each [P]

UNITS = {"samples": "responses", "tokens": "response tokens", "seconds": "seconds"}
MAX_PLACES = 101  # on the common axis, where the runs' own places differ and are more
RESAMPLES = 2000  # of a drawn band; the tables have more


@dataclass(frozen=True)
class Band:
    """Several runs as one curve: mean and 95 % interval at common places, each [P].

    Args:
        low, high: NaN where there are fewer than two runs.
        runs: what was measured, run by run.
    """

    x: Array
    mean: Array
    low: Array
    high: Array
    runs: list[Run]


def part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a mapping that a row has; an empty one where it has none, as rows of others may."""
    found = row.get(name)
    return found if isinstance(found, Mapping) else {}


def budget_unit(rows: Iterable[Row]) -> str:
    """Returns what learning curves go by: the budget's unit, else the first that points have."""
    rows = list(rows)
    of_budget = [unit for row in rows for unit in UNITS if unit in part(row, "budget")]
    points = [point for row in rows for point in _points(row)]
    units = dict.fromkeys((*of_budget, *UNITS))
    return next((unit for unit in units if any(unit in point for point in points)), "step")


def learning_band(line: Line, unit: str) -> Band | None:
    """Returns the score by what was spent of the budget; None without curves."""
    return band([_series(row, unit, "score") for row in line.rows])


def frontier_band(line: Line) -> Band | None:
    """Returns the best score measured with no more than k nats, by k; None without KL.

    Each run's is a step function from its first point; the mean goes to the largest KL that any
    of the runs measured, those that stopped before it at what they had by then.
    """
    runs = [found for row in line.rows if (found := _frontier(row)) is not None]
    if not runs:
        return None
    first = max(x[0] for x, _ in runs)
    places = np.unique(np.concatenate([x for x, _ in runs]))
    places = places[places >= first]
    if len(places) > MAX_PLACES:
        places = np.linspace(first, places[-1], MAX_PLACES)
    values = [y[np.searchsorted(x, places, side="right") - 1] for x, y in runs]
    return _banded(places, np.stack(values), runs)


def proxy_path(line: Line, unit: str) -> Band | None:
    """Returns the mean true score by the mean reward learned from (x), along the run.

    Both are taken at the same places of the budget, so x need not ascend; there is no interval.
    None where the task hides no other reward.
    """
    found = ((_series(row, unit, "proxy"), _series(row, unit, "score")) for row in line.rows)
    pairs = [(proxy, score) for proxy, score in found if len(proxy[0])]
    if not pairs:
        return None
    places = _common_places([run[0] for pair in pairs for run in pair])
    proxy, score = (
        np.mean([np.interp(places, *pair[i]) for pair in pairs], axis=0) for i in (0, 1)
    )
    nothing = np.full(len(places), math.nan)
    return Band(proxy, score, nothing, nothing, [(p[1], s[1]) for p, s in pairs])


def profile_band(summary: Summary, algorithm: str) -> Band | None:
    """Returns the share of runs above each normalised score, at no more places than are drawn."""
    found = summary.profile.get(algorithm)
    if found is None or not np.isfinite(found[1]).any():
        return None
    tau, share, low, high = (np.asarray(part, dtype=np.float64) for part in found)
    kept = np.unique(np.linspace(0, len(tau) - 1, min(len(tau), MAX_PLACES)).round().astype(int))
    return Band(tau[kept], share[kept], low[kept], high[kept], [])


def band(runs: Sequence[Run]) -> Band | None:
    """Returns the mean of curves and its interval where all of them have been; None for none."""
    runs = [run for run in runs if len(run[0])]
    if not runs:
        return None
    places = _common_places([x for x, _ in runs])
    return _banded(places, np.stack([np.interp(places, x, y) for x, y in runs]), runs)


def _common_places(axes: Sequence[Array]) -> Array:
    """Returns the places measured within what all runs cover; evenly spaced ones if too many."""
    first, last = max(x[0] for x in axes), min(x[-1] for x in axes)
    if first > last:  # they never were at the same place: no mean
        return np.empty(0)
    places = np.unique(np.concatenate(axes))
    places = places[(places >= first) & (places <= last)]
    return places if len(places) <= MAX_PLACES else np.linspace(first, last, MAX_PLACES)


def _banded(places: Array, values: Array, runs: list[Run]) -> Band:
    """Returns the band of values [R, P] at places [P]."""
    low, high = _interval(values)
    return Band(places, values.mean(axis=0), low, high, runs)


def _interval(values: Array) -> tuple[Array, Array]:
    """Returns the ends [P] of the bootstrap interval of the mean over the first axis of [R, P].

    The same resampled runs are taken at every place. NaN below two runs.
    """
    if len(values) < 2 or values.shape[1] == 0:
        return np.full(values.shape[1], math.nan), np.full(values.shape[1], math.nan)

    def of_resamples(drawn: list[NDArray[np.intp]]) -> Array:
        means: Array = (counts_of(drawn[0]) @ values).T / len(values)
        return means

    low, high = bootstrap_ends([np.arange(len(values))], of_resamples, RESAMPLES)
    return np.array(low), np.array(high)


def _points(row: Row) -> list[dict[str, Any]]:
    return [point for point in row.get("curve") or () if isinstance(point, dict)]


def _number(value: object) -> float:
    """Returns a finite number; NaN for everything else a file may have in its place."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan  # type: ignore[arg-type]


def _series(row: Row, x: str, y: str) -> Run:
    """Returns one run's values by place, ascending; points without either are left out."""
    pairs = {_number(point.get(x)): _number(point.get(y)) for point in _points(row)}
    known = sorted((a, b) for a, b in pairs.items() if math.isfinite(a + b))
    return np.array([a for a, _ in known]), np.array([b for _, b in known])


def _frontier(row: Row) -> Run | None:
    """Returns a run's frontier where more than one point has a KL."""
    points = [(_number(point.get("kl")), _number(point.get("score"))) for point in _points(row)]
    known = [(kl, score) for kl, score in points if math.isfinite(kl + score)]
    return frontier(*zip(*known, strict=True)) if len(known) > 1 else None
