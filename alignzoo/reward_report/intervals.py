"""Figures with a 95 % bootstrap interval: whole prompts are drawn again, never single responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignzoo.random_streams import stream

NUM_RESAMPLES = 1000
FEWEST_GROUPS = 20  # below this many prompts, rows are drawn again instead
COVERAGE = 0.95

Numbers = NDArray[np.int64]
Weights = Numbers  # [G], how often each group was drawn
Statistic = Callable[[Weights], Mapping[str, float]]


class Measure(NamedTuple):
    """A figure and the ends of its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_json(self) -> dict[str, float | None]:
        """Returns it with null for what is not finite."""
        return {name: finite_or_none(value) for name, value in self._asdict().items()}

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def finite_or_none(value: float) -> float | None:
    """Returns the number as JSON can hold it: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def measure(
    statistic: Statistic, num_groups: int, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Measure]:
    """Returns what `statistic` gives with every group once, each with its interval.

    The interval is the middle 95 % of what it gives when as many groups are drawn with
    replacement. All figures of one call, and of calls with equal `seed` and `num_groups`, are of
    the same draws, so that their differences are paired.

    Args:
        statistic: takes how often each group counts, [G]; NaN where it is not defined.
        num_resamples: 0 gives no intervals.
    """
    point = statistic(np.ones(num_groups, dtype=np.int64))
    drawn = [statistic(weights) for weights in resamples(num_groups, num_resamples, seed=seed)]
    return {
        name: Measure(float(value), *_ends([found[name] for found in drawn]))
        for name, value in point.items()
    }


def resamples(num_groups: int, num_resamples: int, *, seed: int) -> Iterator[Weights]:
    """Yields how often each of the groups is drawn, [G], once for each resample."""
    generator = stream(seed, "bootstrap")
    for _ in range(num_resamples if num_groups else 0):
        drawn = generator.integers(num_groups, size=num_groups)
        yield np.bincount(drawn, minlength=num_groups)


def _ends(draws: list[float]) -> tuple[float, float]:
    """Returns the ends of the middle 95 %; NaN where fewer than half of the draws are finite."""
    values = np.asarray(draws, dtype=np.float64)
    known = values[np.isfinite(values)]
    if not len(known) or 2 * len(known) < len(values):
        return math.nan, math.nan
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def number_groups(prompts: Sequence[bytes], rows: Sequence[int]) -> tuple[Numbers, int]:
    """Returns each response's group [n], and how many there are.

    A group is a prompt; with fewer than 20 distinct prompts it is a row, so that there is
    something to draw from.

    Args:
        prompts: n keys, equal where the prompts are.
        rows: n numbers, of the row each response comes from.
    """
    keys: Sequence[object] = prompts if len(set(prompts)) >= FEWEST_GROUPS else rows
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.int64), len(number)
