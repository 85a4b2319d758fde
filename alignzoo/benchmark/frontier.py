"""What a run's learning curve says: score at a KL, area under the score-KL frontier, sample count.

The frontier of a run at k nats is the best score that was measured with no more than k nats from
the initial policy: a step function that only rises. A sampled KL below 0 counts as 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def frontier(kl: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Returns where the frontier may step, in nats and rising, and its values from there on."""
    nats = np.maximum(np.asarray(kl, dtype=np.float64), 0.0)
    order = np.argsort(nats, kind="stable")
    return nats[order], np.maximum.accumulate(np.asarray(scores, dtype=np.float64)[order])


def score_at_kl(kl: ArrayLike, scores: ArrayLike, at: float) -> float:
    """Returns the best score measured with at most `at` nats; NaN where none was.

    Args:
        kl: [points], of a run's curve, nats per response.
        scores: [points].
        at: nats.
    """
    nats, best = frontier(kl, scores)
    num_below = int(np.searchsorted(nats, at, side="right"))
    return float(best[num_below - 1]) if num_below else math.nan


def area_under_frontier(kl: ArrayLike, scores: ArrayLike, up_to: float) -> float:
    """Returns the mean of the frontier over [0, up_to] nats: its area there over `up_to`.

    At `up_to` 0 it is the frontier's value there. NaN where the curve does not begin at 0 nats.
    """
    nats, best = frontier(kl, scores)
    if not nats.size or nats[0] > 0:
        return math.nan
    if up_to <= 0:
        return score_at_kl(kl, scores, 0.0)
    from scipy.integrate import trapezoid

    inside = nats < up_to
    ends = np.append(nats[inside], up_to)
    # Each step has two corners, so that the trapezoids are its rectangles.
    return float(trapezoid(np.repeat(best[inside], 2), np.repeat(ends, 2)[1:-1])) / up_to


def samples_to_threshold(samples: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Returns the samples of the first measured point at or above a threshold; else infinity."""
    counts = np.asarray(samples, dtype=np.float64)
    reached = counts[np.asarray(scores, dtype=np.float64) >= threshold]
    return float(reached.min()) if reached.size else math.inf
