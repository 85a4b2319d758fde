"""Statistics of scores over runs and tasks, of arrays alone.

    from alignzoo.benchmark import statistics
    statistics.estimate([runs_of_one_task, runs_of_another], statistics.iqm)

Scores are one 1-D array for each task, an entry for each run, so tasks may differ in how many runs
they have; a 2-D array [num_tasks, num_runs] works too. They are normalised: 0 is the least of a
task and 1 its most, though larger ones are allowed (those of Atari, say, where 1 is a human's).
Definitions are those of Agarwal et al. 2021, arXiv:2108.13264, and its library rliable, whose
matrices are [num_runs, num_tasks]: transpose them.

The order of runs within a task, and that of tasks, changes no digit of a result; neither does what
else is computed beside it, as every interval draws from a generator of its own, seeded with 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignzoo.benchmark.frontier import area_under_frontier as area_under_frontier
from alignzoo.benchmark.frontier import samples_to_threshold as samples_to_threshold
from alignzoo.benchmark.frontier import score_at_kl as score_at_kl
from alignzoo.benchmark.improvement import adjusted_p_values as adjusted_p_values
from alignzoo.benchmark.improvement import mean_difference as mean_difference
from alignzoo.benchmark.improvement import permutation_test as permutation_test
from alignzoo.benchmark.improvement import permutation_tests as permutation_tests
from alignzoo.benchmark.improvement import (
    probabilities_of_improvement as probabilities_of_improvement,
)
from alignzoo.benchmark.improvement import probability_of_improvement as probability_of_improvement
from alignzoo.benchmark.resampling import (
    RESAMPLES,
    Array,
    Scores,
    arrays_of,
    bootstrap_ends,
    checked_scores,
    counts_of,
)
from alignzoo.benchmark.resampling import Estimate as Estimate

PROFILE_RESAMPLES = 10_000

Statistic = Callable[[Sequence[Array]], Any]


# -- one number of all runs --------------------------------------------------------------------


def iqm(scores: Scores) -> Any:
    """Returns the interquartile mean: of the runs of all tasks together, less a quarter each end.

    IQM = scipy.stats.trim_mean(runs, 0.25), which leaves out floor(n / 4) at each end. Agarwal et
    al. 2021, section 4.3. Runs are pooled: a task that has more of them weighs more.

    Args:
        scores: an array for each task; the last axis is over runs, and results have the others.
    """
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(arrays_of(scores), axis=-1), 0.25, axis=-1)


def mean(scores: Scores) -> Any:
    """Returns the mean over tasks of the mean over runs; every task weighs the same."""
    return np.mean(_task_means(scores), axis=0)


def median(scores: Scores) -> Any:
    """Returns the median over tasks of the mean over runs; of one task, the median of its runs.

    For one task rliable returns the mean, which there is `mean`.
    """
    parts = arrays_of(scores)
    if len(parts) == 1:
        return np.median(parts[0], axis=-1)
    return np.median(_task_means(parts), axis=0)


def optimality_gap(scores: Scores, target: float = 1.0) -> Any:
    """Returns by how much runs fall short of a target: the mean of target - min(score, target).

    Agarwal et al. 2021, section 4.3 (gamma is the target). Mean over tasks of the mean over runs,
    so every task weighs the same; what a run has above the target makes up for nothing.
    """
    return mean([target - np.minimum(part, target) for part in arrays_of(scores)])


def _task_means(scores: Scores) -> Array:
    return np.stack([part.mean(axis=-1) for part in arrays_of(scores)])


# -- and its interval --------------------------------------------------------------------------


def estimate(scores: Scores, statistic: Statistic = iqm, *, resamples: int = RESAMPLES) -> Estimate:
    """Returns a statistic and its 95 % stratified percentile bootstrap interval.

    Runs are drawn again with replacement within each task, as many as there are, and the ends are
    the 2.5 and 97.5 percentiles (linear) of the statistic (scipy.stats.bootstrap). A task of one
    run is always drawn as it is; where all have one, there is no interval. Where the runs of each
    task are all alike, both ends are the value.

    Args:
        scores: an array of runs for each task.
        statistic: one of this module, or a function like them: it takes arrays, the last axis
            over runs, and reduces that axis.
    Raises:
        ValueError: no task, a task without runs, or a score that is no finite number.
    """
    return estimates(scores, [statistic], resamples=resamples)[0]


def estimates(
    scores: Scores, statistics: Sequence[Statistic], *, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Returns what `estimate` does for several statistics of the same resamples."""
    parts = sorted(
        (np.sort(part) for part in checked_scores(scores)), key=lambda part: part.tolist()
    )
    values = [float(statistic(parts)) for statistic in statistics]
    if all(part.size == 1 for part in parts):
        return [Estimate(value, math.nan, math.nan) for value in values]
    if all(part[0] == part[-1] for part in parts):
        return [Estimate(value, value, value) for value in values]

    def of_resamples(drawn: list[Array]) -> Array:
        return np.stack([np.asarray(statistic(drawn)) for statistic in statistics])

    low, high = bootstrap_ends(parts, of_resamples, resamples)
    return [Estimate(*ends) for ends in zip(values, low, high, strict=True)]


def performance_profile(
    scores: Scores, taus: ArrayLike, *, resamples: int = PROFILE_RESAMPLES
) -> tuple[Array, Array, Array]:
    """Returns the share of runs whose score is above each tau, and its band: three of [num_taus].

    Runs of all tasks are pooled. Agarwal et al. 2021, section 4.2; the band is pointwise, the
    percentiles that `estimate` takes.
    """
    parts = sorted(
        (np.sort(part) for part in checked_scores(scores)), key=lambda part: part.tolist()
    )
    above = [np.asarray(taus, dtype=np.float64) < part[:, None] for part in parts]  # [runs, taus]
    num_runs = sum(part.size for part in parts)
    share = np.concatenate(above).mean(axis=0)
    if all(part.size == 1 for part in parts):
        return share, np.full_like(share, math.nan), np.full_like(share, math.nan)

    def of_resamples(drawn: list[NDArray[np.intp]]) -> Array:
        total = np.zeros((len(drawn[0]), len(share)))
        for count, one in zip(map(counts_of, drawn), above, strict=True):
            total += count @ one.astype(np.float64)
        shares: Array = total.T / num_runs
        return shares

    low, high = bootstrap_ends([np.arange(part.size) for part in parts], of_resamples, resamples)
    return share, np.array(low), np.array(high)
