"""Who beats whom: every pair of algorithms over the tasks that both have, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from alignzoo.benchmark import statistics
from alignzoo.benchmark.resampling import NOTHING, RESAMPLES
from alignzoo.benchmark.statistics import Estimate

SIGNIFICANT = 0.05
OPPOSITE = {"better": "worse", "worse": "better", "not told apart": "not told apart"}

Runs = Mapping[str, Mapping[int | str, float]]  # an algorithm's scores by task and seed
Key = tuple[str, ...]  # names of x and y, and what else tells it from others


@dataclass(frozen=True)
class Pair:
    """Algorithm x against y over the tasks that both have.

    Args:
        probability: of improvement, P(X > Y).
        paired: the same of runs of one seed; None where they share no seed.
        p_value: of the permutation test of seeds, adjusted for all pairs that are asked about.
        verdict: "better" or "worse" where the p-value is below 0.05, else "not told apart".
    """

    x: str
    y: str
    probability: Estimate
    paired: Estimate | None
    p_value: float
    verdict: str

    def turned(self) -> Pair:
        """Returns y against x."""
        return replace(
            self,
            x=self.y,
            y=self.x,
            probability=self.probability.scaled(-1.0, 1.0),
            paired=self.paired and self.paired.scaled(-1.0, 1.0),
            verdict=OPPOSITE[self.verdict],
        )


def compare_pairs(
    sides: Mapping[Key, tuple[Runs, Runs]], *, resamples: int = RESAMPLES
) -> dict[Key, Pair]:
    """Returns each pair's comparison, by key; p-values are adjusted for all of them.

    A pair without a common task is not told apart, with NaN for its numbers.
    """
    tasks = {key: sorted(x.keys() & y.keys()) for key, (x, y) in sides.items()}
    asked = [key for key in sides if tasks[key]]
    probabilities = statistics.probabilities_of_improvement(
        [_by_task(sides[key], tasks[key]) for key in asked], resamples=resamples
    )
    p_values = statistics.adjusted_p_values(
        statistics.permutation_tests([_by_seed(sides[key], tasks[key]) for key in asked])
    )
    same_seeds = {key: _of_same_seeds(sides[key], tasks[key]) for key in asked}
    with_some = [key for key in asked if same_seeds[key][0]]
    paired = statistics.probabilities_of_improvement(
        [same_seeds[key] for key in with_some], paired=True, resamples=resamples
    )
    by_key = dict(zip(with_some, paired, strict=True))
    found = {key: Pair(key[0], key[1], NOTHING, None, math.nan, "not told apart") for key in sides}
    for key, chance, p in zip(asked, probabilities, p_values, strict=True):
        found[key] = Pair(key[0], key[1], chance, by_key.get(key), p, _verdict(chance.value, p))
    return found


def _verdict(probability: float, p_value: float) -> str:
    if p_value >= SIGNIFICANT or probability == 0.5:
        return "not told apart"
    return "better" if probability > 0.5 else "worse"


def _of_same_seeds(
    sides: tuple[Runs, Runs], tasks: list[str]
) -> tuple[list[list[float]], list[list[float]]]:
    """Returns scores by task of the seeds that both have there; tasks without any are left out."""
    shared = [(task, list(sides[0][task].keys() & sides[1][task].keys())) for task in tasks]
    x, y = ([[side[task][s] for s in seeds] for task, seeds in shared if seeds] for side in sides)
    return x, y


def _by_task(
    sides: tuple[Runs, Runs], tasks: list[str]
) -> tuple[list[list[float]], list[list[float]]]:
    x, y = ([list(side[task].values()) for task in tasks] for side in sides)
    return x, y


def _by_seed(
    sides: tuple[Runs, Runs], tasks: list[str]
) -> tuple[list[list[float]], list[list[float]]]:
    """Returns scores by task, in each those of the same seeds; NaN where a task lacks one."""
    x, y = (
        [[side[t].get(s, math.nan) for s in _seeds(side, tasks)] for t in tasks] for side in sides
    )
    return x, y


def _seeds(runs: Runs, tasks: list[str]) -> list[int | str]:
    return sorted({seed for task in tasks for seed in runs[task]}, key=_place)


def _place(seed: int | str) -> tuple[bool, int | str]:
    return isinstance(seed, str), seed
