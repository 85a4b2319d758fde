"""Drawing runs again: bootstrap intervals and permutation tests of scipy, in batches.

Each call has a generator of its own, seeded with 0, so that the same numbers give the same digits
whatever else is computed. Batches bound the memory; their size follows from the sizes alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COVERAGE = 0.95
RESAMPLES = 50_000
PERMUTATIONS = 20_000
NUMBERS_AT_A_TIME = 1_000_000  # that a batch holds; results depend on it

Array = NDArray[np.float64]
Scores = Sequence[ArrayLike] | Array  # of runs, by task


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float

    def scaled(self, scale: float, shift: float = 0.0) -> Estimate:
        """Returns scale * self + shift; a negative scale exchanges the ends."""
        ends = sorted((self.low * scale + shift, self.high * scale + shift))
        return Estimate(self.value * scale + shift, *ends)


NOTHING = Estimate(math.nan, math.nan, math.nan)


def arrays_of(scores: Scores) -> list[Array]:
    """Returns the scores of each task as an array of any shape."""
    return [np.asarray(part, dtype=np.float64) for part in scores]


def checked_scores(scores: Scores) -> list[Array]:
    """Returns the scores as arrays [num_runs], by task.

    Raises:
        ValueError: no task, a task without runs, or a score that is no finite number.
    """
    parts = arrays_of(scores)
    if not parts:
        raise ValueError("scores has no task; expected one array of runs for each")
    for i, part in enumerate(parts):
        if part.ndim != 1 or not part.size:
            raise ValueError(
                f"scores of task {i} have shape {part.shape}; expected [num_runs], at least one "
                "run; for one task give [runs]"
            )
        if not np.isfinite(part).all():
            raise ValueError(f"scores of task {i} are not all finite; leave out or score such runs")
    return parts


def bootstrap_ends(
    parts: Sequence[NDArray[Any]], statistic: Callable[[list[Any]], Array], resamples: int
) -> tuple[list[float], list[float]]:
    """Returns the ends of the intervals of a statistic of [resamples, runs] arrays."""
    from scipy.stats import bootstrap

    varying = [part for part in parts if part.size > 1]

    def of_all(*drawn: NDArray[Any], axis: int) -> Array:
        # scipy draws from two observations or more; one alone is drawn as it is.
        rest, alone = iter(drawn), (*drawn[0].shape[:-1], 1)
        return statistic([next(rest) if p.size > 1 else np.broadcast_to(p, alone) for p in parts])

    found = bootstrap(
        varying,
        of_all,
        n_resamples=resamples,
        batch=_batch(sum(part.size for part in parts), resamples),
        vectorized=True,
        axis=-1,
        confidence_level=COVERAGE,
        method="percentile",
        **{generator_argument(bootstrap): np.random.default_rng(0)},
    ).confidence_interval
    return np.atleast_1d(found.low).tolist(), np.atleast_1d(found.high).tolist()


def _batch(size: int, most: int) -> int:
    return max(1, min(most, NUMBERS_AT_A_TIME // size))


def generator_argument(function: Callable[..., Any]) -> str:
    """Returns what scipy calls the generator: `rng` since 1.15."""
    return "rng" if "rng" in inspect.signature(function).parameters else "random_state"


def counts_of(drawn: NDArray[np.intp]) -> Array:
    """Returns how often each run was drawn, [resamples, runs], for run numbers of that shape."""
    *_, rows, runs = drawn.shape
    places = drawn.astype(np.intp) + np.arange(rows)[:, None] * runs
    return np.bincount(places.ravel(), minlength=rows * runs).reshape(rows, runs).astype(np.float64)


def split_p_values(
    sizes: tuple[int, int], statistics: Sequence[Callable[[Array], Array]]
) -> list[float]:
    """Returns the two-sided p-value of each statistic of how things are split in two.

    Args:
        sizes: of both sides; as observed the first things are on the first.
        statistics: each takes [..., things], 1 on the first side and 0 on the second.
    """
    num_things = sum(sizes)
    if min(sizes) == 1:  # scipy asks for two; here any one thing may be the one alone
        splits = np.eye(num_things) if sizes[0] == 1 else 1.0 - np.eye(num_things)[::-1]
        return [_p_value_of_all(statistic(splits)) for statistic in statistics]
    from scipy.stats import permutation_test

    def of_splits(first: NDArray[Any], second: NDArray[Any], axis: int) -> Array:
        side = np.zeros((*first.shape[:-1], num_things))
        np.put_along_axis(side, first.astype(np.intp), 1.0, axis=-1)
        return np.stack([statistic(side) for statistic in statistics], axis=-1)

    found = permutation_test(
        (np.arange(sizes[0]), np.arange(sizes[0], num_things)),
        of_splits,
        permutation_type="independent",
        vectorized=True,
        axis=-1,
        n_resamples=PERMUTATIONS,
        batch=_batch(num_things, PERMUTATIONS),
        alternative="two-sided",
        **{generator_argument(permutation_test): np.random.default_rng(0)},
    )
    return [float(p) for p in np.atleast_1d(found.pvalue)]


def _p_value_of_all(values: Array) -> float:
    """Returns the two-sided p-value of the first of all values there can be."""
    slack = 100 * np.finfo(np.float64).eps * abs(values[0])  # as scipy's
    sides = np.mean(values <= values[0] + slack), np.mean(values >= values[0] - slack)
    return float(min(1.0, 2 * min(sides)))
