"""How often a benchmark's statistics see a difference where there is none, and where there is one.

    python bench/calibration.py

Draws pairs of algorithms whose runs have one distribution, with few seeds, and counts how often the
95 % bootstrap interval of the probability of improvement leaves out 1/2, and how often the
permutation test gives p < 0.05; the same where one is a standard deviation better, and how often
the interval of a mean holds the true mean. Writes bench/results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alignzoo.benchmark import statistics

SEEDS, TASKS, SHIFTS = (5, 10), (1, 6), (0.0, 1.0)
RESAMPLES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2_000, help="of each kind")
    parser.add_argument("--out", default="bench/results/calibration.json")
    given = parser.parse_args()
    found = {
        "command": "python bench/calibration.py",
        "pairs": given.pairs,
        "resamples": RESAMPLES,
        "distribution": "normal; the better one is higher by `shift` standard deviations",
        "rates": [
            rates(given.pairs, num_seeds=n, num_tasks=tasks, shift=shift)
            for n in SEEDS
            for tasks in TASKS
            for shift in SHIFTS
        ],
        "versions": {name: version(name) for name in ("alignzoo", "numpy", "scipy")},
        "python": platform.python_version(),
    }
    Path(given.out).write_text(json.dumps(found, indent=1) + "\n")
    for one in found["rates"]:
        print(json.dumps(one))


def rates(num_pairs: int, *, num_seeds: int, num_tasks: int, shift: float) -> dict[str, Any]:
    """Returns shares of pairs, each of which has a standard error of at most 0.011 at 2,000."""
    rng = np.random.default_rng([num_seeds, num_tasks, int(10 * shift)])
    x = rng.normal(size=(num_pairs, num_tasks, num_seeds)) + shift
    y = rng.normal(size=x.shape)
    pairs = list(zip(x, y, strict=True))
    chances = statistics.probabilities_of_improvement(pairs, resamples=RESAMPLES)
    p_values = np.array(statistics.permutation_tests(pairs))
    means = [statistics.estimate(one, statistics.mean, resamples=RESAMPLES) for one in y]
    return {
        "seeds": num_seeds,
        "tasks": num_tasks,
        "shift": shift,
        "interval_leaves_out_half": share([one.low > 0.5 or one.high < 0.5 for one in chances]),
        "p_below_0.05": share(p_values < 0.05),
        "mean_interval_holds_the_mean": share([one.low <= 0 <= one.high for one in means]),
    }


def share(claims: Any) -> float:
    return round(float(np.mean(claims)), 4)


if __name__ == "__main__":
    main()
