"""Rows that a benchmark's report is made from, without running anything."""

from __future__ import annotations

import math
import random
from typing import Any


def made_rows(
    algorithms, tasks=("chain",), *, num_seeds=3, unit="samples", num_points=6, proxy=False
) -> list[dict[str, Any]]:
    """Returns a finished row for each cell; the earlier an algorithm, the better it is."""
    return [
        _row(task, algorithm, seed, place / len(algorithms), unit, num_points, proxy)
        for task in tasks
        for place, algorithm in enumerate(algorithms)
        for seed in range(num_seeds)
    ]


def _row(task, algorithm, seed, place, unit, num_points, proxy):
    draw = random.Random(repr((task, algorithm, seed)))
    final = 0.9 - 0.6 * place + draw.uniform(-0.04, 0.04)
    curve = []
    for i in range(num_points):
        done = i / max(1, num_points - 1)
        point = {"samples": 64 * i, "tokens": 200 * i, "score": 0.1 + (final - 0.1) * done}
        point |= {"kl": 3.0 * done, "seconds": 2.0 * done * draw.uniform(0.9, 1.0)}
        if proxy:
            point |= {"proxy": 4.0 * done, "score": point["score"] - 0.5 * done**4}
        curve.append(point)
    return {
        "task": task, "algorithm": algorithm, "seed": seed, "metric": "expected score",
        "range": [0.0, 1.0], "optimum": 1.0, "status": "ok", "error": None,
        "budget": {unit: 320}, "score": curve[-1]["score"], "kl": curve[-1]["kl"],
        "proxy": curve[-1].get("proxy"), "samples": 320, "seconds": 1.5 + place,
        "peak_memory": (300 + seed) * 2**20, "curve": curve, "revision": 2,
        "distribution": "alignzoo", "version": "0.1.0", "threads": 1, "cpu": "x86_64",
        "versions": {"alignzoo": "0.1.0", "torch": "2.6.0"}, "task_revision": 1,
        "options": {"learning_rate": 0.1, "clip_range": 0.2, "gamma": 1.0},
        "chosen": {"task": {"learning_rate": 0.1}, "given": {}, "tuned": {}}, "tuning": None,
    }  # fmt: skip


def minimal(rows):
    """Returns rows with no more than statistics need."""
    return [{name: row[name] for name in ("task", "algorithm", "seed", "score")} for row in rows]


def failed(row, reason="ZeroDivisionError: no <third> update"):
    """Returns the row of the same cell as if it had failed."""
    kept = {n: v for n, v in row.items() if n not in ("score", "kl", "curve", "seconds")}
    return {**kept, "status": "failed", "error": reason}


def is_shown(value: float, text: str) -> bool:
    """Whether a text is a number, rounded to the decimals it has."""
    if not math.isfinite(value):
        return text in ("-", "never")
    shown = text.replace(",", "")
    scale = 100 if shown.endswith("%") else 1
    decimals = len(shown.rstrip("%").partition(".")[2])
    return f"{value * scale:.{decimals}f}" == shown.rstrip("%")
