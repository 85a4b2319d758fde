"""What the rows of a benchmark come to: one line per algorithm on a task.

The interval is of the mean over seeds, by percentiles of 10,000 bootstrap resamples of them. Failed
runs have no score: they are counted beside the mean, which is of the others.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
COVERAGE = 0.95


@dataclass(frozen=True)
class Line:
    """One algorithm on one task, over seeds.

    Args:
        rows: of the seeds that ended well.
        num_failed: seeds that did not.
        mean: of the final scores; NaN where there is none.
        low, high: ends of the 95 % interval of the mean; NaN below two seeds.
        share: the mean's place in the task's range, 0 to 1.
        kl: mean KL to the initial policy, nats per response.
        seconds: mean of collecting and learning, of one run.
        memory: the most that a run's process held, in bytes.
    """

    task: str
    algorithm: str
    rows: list[Row]
    num_failed: int
    mean: float
    low: float
    high: float
    share: float
    kl: float
    seconds: float
    memory: float


def summarise(rows: Sequence[Row], task: str, algorithm: str) -> Line:
    """Returns the line of one algorithm on one task."""
    mine = [row for row in rows if (row["task"], row["algorithm"]) == (task, algorithm)]
    good = [row for row in mine if row["status"] == "ok"]
    scores = [row["score"] for row in good]
    low, high = interval(scores)
    mean = _mean(scores)
    share = math.nan
    if good:
        least, most = good[0]["range"]
        share = (mean - least) / (most - least)
    return Line(
        task=task,
        algorithm=algorithm,
        rows=good,
        num_failed=len(mine) - len(good),
        mean=mean,
        low=low,
        high=high,
        share=share,
        kl=_mean([row["kl"] for row in good if row["kl"] is not None]),
        seconds=_mean([row["seconds"] for row in good]),
        memory=max((row["peak_memory"] or math.nan for row in good), default=math.nan),
    )


def ranked(lines: Sequence[Line]) -> list[Line]:
    """Returns the lines by mean, the best first; those without one come last."""
    return sorted(lines, key=lambda line: -line.mean if math.isfinite(line.mean) else math.inf)


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of the bootstrap interval of a mean; NaN below two scores."""
    if len(scores) < 2:
        return math.nan, math.nan
    if len(set(scores)) == 1:  # every resample is the same, which scipy calls degenerate
        return scores[0], scores[0]
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(scores),),
        np.mean,
        confidence_level=COVERAGE,
        n_resamples=10_000,
        method="percentile",
        **{_generator_argument(): np.random.default_rng(0)},
    ).confidence_interval
    return float(found.low), float(found.high)


def _generator_argument() -> str:
    """Returns what scipy calls the generator: `rng` since 1.15."""
    from scipy.stats import bootstrap

    return "rng" if "rng" in inspect.signature(bootstrap).parameters else "random_state"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
