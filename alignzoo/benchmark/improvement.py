"""One algorithm against another: probability of improvement, difference, permutation test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alignzoo.benchmark.resampling import (
    RESAMPLES,
    Array,
    Estimate,
    Scores,
    arrays_of,
    bootstrap_ends,
    checked_scores,
    counts_of,
    split_p_values,
)

PAIRS_AT_A_TIME = 50  # bounds the memory; changes no result

Matched = list[tuple[Array, Array]]  # runs of x and of y, by task


def probability_of_improvement(
    x: Scores, y: Scores, *, paired: bool = False, resamples: int = RESAMPLES
) -> Estimate:
    """Returns P(X > Y), the mean over tasks of the probability that a run of x beats one of y.

    P_t = U_t / (n_t m_t) = mean over pairs of runs of [x > y] + [x = y] / 2, by Mann-Whitney's U
    (scipy.stats.mannwhitneyu); Agarwal et al. 2021, section 4.4. The interval is of the stratified
    bootstrap of both, each on its own.

    Args:
        x: an array of runs for each task.
        y: the same for the other, of as many tasks; the numbers of runs may differ.
        paired: entry i of x and of y are of one seed. Then only runs of one seed are compared,
            P_t = mean over seeds of [x_s > y_s] + [x_s = y_s] / 2, and the same seeds are drawn
            again for both.
    Raises:
        ValueError: they differ in tasks, or where paired in runs; or as `estimate` says.
    """
    return probabilities_of_improvement([(x, y)], paired=paired, resamples=resamples)[0]


def probabilities_of_improvement(
    pairs: Sequence[tuple[Scores, Scores]], *, paired: bool = False, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Returns what `probability_of_improvement` does of each pair, in less time for many."""
    found: dict[int, Estimate] = {}
    shapes: dict[tuple[tuple[int, int], ...], list[tuple[int, Matched]]] = {}
    turned = set()
    for i, (x, y) in enumerate(pairs):
        matched, against = _matched(x, y, paired=paired), _matched(y, x, paired=paired)
        if _content(against) < _content(matched):  # so that (x, y) and (y, x) have the same digits
            matched = against
            turned.add(i)
        shapes.setdefault(tuple((a.size, b.size) for a, b in matched), []).append((i, matched))
    for shape, group in shapes.items():
        for start in range(0, len(group), PAIRS_AT_A_TIME):
            part = group[start : start + PAIRS_AT_A_TIME]
            estimates = _win_estimates(shape, [one for _, one in part], paired, resamples)
            found |= {i: one for (i, _), one in zip(part, estimates, strict=True)}
    return [found[i].scaled(-1.0, 1.0) if i in turned else found[i] for i in range(len(pairs))]


def _win_estimates(
    shape: tuple[tuple[int, int], ...], pairs: Sequence[Matched], paired: bool, resamples: int
) -> list[Estimate]:
    """Returns the estimates of pairs that have the same numbers of runs.

    A resample is how often each run was drawn: c of x, d of y. Its U is sum_ij c_i d_j W_ij, where
    W_ij says whether run i of x beats run j of y; paired, it is sum_s c_s W_ss.
    """
    # By task [pairs, ...]: every number is a multiple of 1/2, so no sum is rounded.
    wins = [
        np.stack([_wins(*pair[t]).diagonal() if paired else _wins(*pair[t]) for pair in pairs])
        for t in range(len(shape))
    ]
    values = _mean_wins(pairs, wins, paired)
    sizes = [n for n, _ in shape] if paired else [size for both in shape for size in both]
    if max(sizes) == 1:
        return [Estimate(value, math.nan, math.nan) for value in values]

    def of_resamples(drawn: list[NDArray[np.intp]]) -> Array:
        counts = [counts_of(one) for one in drawn]
        total = np.zeros((len(pairs), len(counts[0])))
        for t, won in enumerate(wins):
            if paired:
                total += won @ counts[t].T / won[0].size
            else:
                total += _wins_of_counts(won, *counts[2 * t : 2 * t + 2]) / won[0].size
        return total / len(wins)

    low, high = bootstrap_ends([np.arange(size) for size in sizes], of_resamples, resamples)
    return [Estimate(*ends) for ends in zip(values, low, high, strict=True)]


def _wins_of_counts(wins: Array, first: Array, second: Array) -> Array:
    """Returns U, [pairs, resamples], of wins [pairs, n, m] and counts [resamples, n] and [., m]."""
    num_pairs, n, m = wins.shape
    of_first = first @ wins.transpose(1, 0, 2).reshape(n, num_pairs * m)
    found: Array = np.einsum("rpm,rm->pr", of_first.reshape(-1, num_pairs, m), second)
    return found


def _mean_wins(pairs: Sequence[Matched], wins: Sequence[Array], paired: bool) -> list[float]:
    if paired:
        shares = [won.mean(axis=-1) for won in wins]
    else:
        from scipy.stats import mannwhitneyu

        # The method is that of a p-value which is not used; this one takes no time.
        shares = [
            mannwhitneyu(
                np.stack([pair[t][0] for pair in pairs]),
                np.stack([pair[t][1] for pair in pairs]),
                axis=-1,
                method="asymptotic",
            ).statistic
            / won[0].size
            for t, won in enumerate(wins)
        ]
    return [float(value) for value in np.mean(shares, axis=0)]


def _wins(x: Array, y: Array) -> Array:
    """Returns [runs of x, runs of y]: 1 where x is larger, 1/2 where they are equal, else 0."""
    wins: Array = (x[:, None] > y) + (x[:, None] == y) / 2
    return wins


def _matched(x: Scores, y: Scores, *, paired: bool) -> Matched:
    """Returns both by task, the tasks and runs in an order that is no matter of how they came."""
    first, second = checked_scores(x), checked_scores(y)
    if len(first) != len(second):
        raise ValueError(f"x has {len(first)} tasks and y {len(second)}; expected the same tasks")
    both = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if paired and a.size != b.size:
            raise ValueError(
                f"x has {a.size} runs of task {i} and y {b.size}; expected those of the same seeds"
            )
        order = np.lexsort((b, a)) if paired else None
        both.append((np.sort(a), np.sort(b)) if order is None else (a[order], b[order]))
    return sorted(both, key=lambda pair: (pair[0].tolist(), pair[1].tolist()))


def _content(matched: Matched) -> list[tuple[list[float], list[float]]]:
    return [(a.tolist(), b.tolist()) for a, b in matched]


def mean_difference(
    x: Scores, y: Scores, *, paired: bool = False, resamples: int = RESAMPLES
) -> Estimate:
    """Returns the mean of x less that of y, each over tasks of means over runs, and its interval.

    Args:
        x: an array of runs for each task.
        y: the same for the other.
        paired: entry i of both is of one seed; the same seeds are drawn again for both.
    Raises:
        ValueError: as `probability_of_improvement` says.
    """
    matched, against = _matched(x, y, paired=paired), _matched(y, x, paired=paired)
    turned = _content(against) < _content(matched)
    matched = against if turned else matched
    if paired:
        parts = [a - b for a, b in matched]
    else:
        parts = [one for pair in matched for one in pair]

    def of_resamples(drawn: Sequence[Array]) -> Array:
        means = np.stack([one.mean(axis=-1) for one in drawn])
        found: Array = np.mean(means if paired else means[::2] - means[1::2], axis=0)
        return found

    value = float(of_resamples(parts))
    if all(one.size == 1 for one in parts):
        found = Estimate(value, math.nan, math.nan)
    elif all((one == one[0]).all() for one in parts):
        found = Estimate(value, value, value)
    else:
        low, high = bootstrap_ends(parts, of_resamples, resamples)
        found = Estimate(value, low[0], high[0])
    return found.scaled(-1.0) if turned else found


def permutation_test(x: Scores, y: Scores) -> float:
    """Returns the two-sided p-value of "whether a seed is of x or of y makes no difference".

    Whole seeds change sides, all their tasks together: entry i of every task is of one seed. The
    statistic is that of `probability_of_improvement`. All splits of the seeds are tried where
    there are at most 20,000 (up to 8 against 8), else 20,000 random ones
    (scipy.stats.permutation_test). NaN is a run that a seed does not have; a task that a split
    leaves without runs on a side has no part in its statistic.

    Args:
        x: an array of seeds for each task, each of the same seeds; a shorter one lacks the last.
        y: the same for the other.
    Raises:
        ValueError: they differ in tasks, or a side has no run of a task.
    """
    return permutation_tests([(x, y)])[0]


def permutation_tests(pairs: Sequence[tuple[Scores, Scores]]) -> list[float]:
    """Returns what `permutation_test` does of each pair, in less time for many."""
    found: dict[int, float] = {}
    shapes: dict[tuple[int, int], list[tuple[int, Array]]] = {}
    for i, (x, y) in enumerate(pairs):
        seeds, num_first = _pooled_seeds(x, y)
        shapes.setdefault((num_first, seeds.shape[1] - num_first), []).append((i, seeds))
    for sizes, group in shapes.items():
        for start in range(0, len(group), PAIRS_AT_A_TIME):
            part = group[start : start + PAIRS_AT_A_TIME]
            values = split_p_values(sizes, [_split_statistic(seeds) for _, seeds in part])
            found |= {i: p for (i, _), p in zip(part, values, strict=True)}
    return [found[i] for i in range(len(pairs))]


def _pooled_seeds(x: Scores, y: Scores) -> tuple[Array, int]:
    """Returns [tasks, seeds], those of one side first, and how many these are."""
    first, second = _by_seed(x, "x"), _by_seed(y, "y")
    if len(first) != len(second):
        raise ValueError(f"x has {len(first)} tasks and y {len(second)}; expected the same tasks")
    keys = [(one.shape[1], np.nan_to_num(one, nan=-math.inf).tolist()) for one in (first, second)]
    if keys[0] > keys[1]:  # the same digits for (x, y) and (y, x)
        first, second = second, first
    return np.concatenate([first, second], axis=1), first.shape[1]


def _by_seed(scores: Scores, name: str) -> Array:
    """Returns [tasks, seeds], NaN where a run is missing, sorted by seed's scores."""
    parts = arrays_of(scores)
    if not parts or any(part.ndim != 1 or np.isnan(part).all() for part in parts):
        raise ValueError(f"{name} has no task, or one without runs; expected [num_runs] for each")
    table = np.full((len(parts), max(part.size for part in parts)), math.nan)
    for row, part in zip(table, parts, strict=True):
        row[: part.size] = part
    return table[:, np.lexsort(table[::-1])]


def _split_statistic(seeds: Array) -> Callable[[Array], Array]:
    """Returns the probability of improvement of a side over the rest, for [..., seeds] of 0 and 1.

    With s the seeds of the side, the U of a task is s' W (1 - s); multiples of 1/2, so no rounding.
    """
    present = ~np.isnan(seeds)
    wins = np.stack([_wins(task, task) for task in seeds])  # NaN never wins and is never equal

    def of_splits(side: Array) -> Array:
        rest = 1.0 - side
        if present.all():
            num_pairs = side.sum(axis=-1) * rest.sum(axis=-1) * len(seeds)
            whole: Array = ((side @ wins.sum(axis=0)) * rest).sum(axis=-1) / num_pairs
            return whole
        total, num_tasks = np.zeros(side.shape[:-1]), np.zeros(side.shape[:-1])
        for here, won in zip(present.astype(np.float64), wins, strict=True):
            num_pairs = (side @ here) * (rest @ here)
            total += ((side @ won) * rest).sum(axis=-1) / np.maximum(num_pairs, 1.0)
            num_tasks += num_pairs > 0
        return np.array(np.where(num_tasks > 0, total / np.maximum(num_tasks, 1.0), 0.5))

    return of_splits


def adjusted_p_values(p_values: Sequence[float]) -> list[float]:
    """Returns p-values for many tests at once, by Benjamini and Hochberg 1995; NaN stays NaN.

    Of those below 0.05 at most 5 % are false on average (scipy.stats.false_discovery_control).
    """
    from scipy.stats import false_discovery_control

    found = np.asarray(p_values, dtype=np.float64)
    defined = ~np.isnan(found)
    if defined.any():
        found[defined] = false_discovery_control(found[defined])
    return [float(p) for p in found]
