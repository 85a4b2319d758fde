"""What the rows of `bench/trl_peers.py` come to: score, curve, time and memory, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rounds import ratio_of_pairs
from trl_side.match import ALGORITHMS, CHECKED

import alignzoo.benchmark as benchmark
from alignzoo.errors import ConfigError

Row = dict[str, Any]


def compare(rows: Sequence[Row], task: str, id: str) -> dict[str, Any]:
    """Returns how our algorithm and TRL's differ on a task: score, curve, time and memory."""
    ours, theirs = (
        {row["seed"]: row for row in rows if (row["task"], row["algorithm"]) == (task, name)}
        for name in (id, ALGORITHMS[id])
    )
    both = [*ours.values(), *theirs.values()]
    good = [s for s in ours if s in theirs and ours[s]["status"] == theirs[s]["status"] == "ok"]
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(good)]
    if len({row["policy"] for pair in pairs for row in pair}) > 1:
        raise ConfigError(f"the runs on {task} began with different policies; give another --out")
    if not pairs:
        return {"task": task, "algorithm": id, "seeds": 0, "failed": len(both)}
    change = benchmark.compare(
        [row for row in theirs.values() if row["seed"] in good],
        [row for row in ours.values() if row["seed"] in good],
    ).changes[0]
    sides = list(zip(*pairs, strict=True))
    seconds = [[row["seconds"] for row in side] for side in sides]
    processor = [[row["processor_seconds"] for row in side] for side in sides]
    return {
        "task": task,
        "algorithm": id,
        "seeds": len(pairs),
        "failed": sum(row["status"] != "ok" for row in both),
        "score": {"alignzoo": _estimate(change.mean_b), "trl": _estimate(change.mean_a)},
        "difference": _estimate(change.difference),
        "probability": _estimate(change.pair.probability),
        "p_value": change.pair.p_value,
        "verdict": change.pair.verdict,
        "curve": compare_curves(pairs),
        "kl": [float(np.mean([row["kl"] for row in side])) for side in sides],
        "tokens": [float(np.mean([row["tokens"] for row in s])) for s in sides],
        "seconds": [float(np.median(side)) for side in seconds],
        "seconds_ratio": ratio_of_pairs(*seconds),
        "processor_seconds": [float(np.median(side)) for side in processor],
        "processor_ratio": ratio_of_pairs(*processor),
        "memory": [_memory(side) for side in sides],
    }


def _estimate(found: Any) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _memory(rows: Sequence[Row]) -> dict[str, float]:
    """Returns the mean of peaks, and of what a run held beyond its libraries, in bytes."""
    peaks = np.array([row["peak_memory"] for row in rows], dtype=float)
    libraries = np.array([row["libraries_memory"] for row in rows], dtype=float)
    return {"peak": float(peaks.mean()), "beyond_libraries": float((peaks - libraries).mean())}


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Returns the mean of ours less theirs, with its 95 % interval over pairs of a seed."""
    from scipy.stats import bootstrap

    gaps = np.asarray(ours) - np.asarray(theirs)
    value = float(gaps.mean())
    if len(set(gaps.tolist())) == 1:  # every resample is the same
        return {"value": value, "low": value, "high": value}
    found = bootstrap(
        (gaps,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {"value": value, "low": float(found.low), "high": float(found.high)}


def compare_curves(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Any]:
    """Returns both mean curves, their difference at each point, and a test of the whole.

    The test exchanges whole seeds between the sides; its statistic is the largest difference of
    means at any point, so it answers for all points together.
    """
    from scipy.stats import permutation_test

    a, b = (
        np.array([[point["score"] for point in row["curve"]] for row in side])
        for side in zip(*pairs, strict=True)
    )  # [seeds, points]

    def largest(x: Any, y: Any) -> float:
        rows = np.concatenate([a, b])
        return float(np.abs(rows[x].mean(0) - rows[y].mean(0)).max())

    found = (
        permutation_test(
            (np.arange(len(a)), np.arange(len(a), 2 * len(a))),
            largest,
            alternative="greater",
            n_resamples=9_999,
            rng=np.random.default_rng(0),
        )
        if len(a) > 1
        else None
    )
    points = [difference(a[:, i], b[:, i]) for i in range(a.shape[1])]
    return {
        "samples": [point["samples"] for point in pairs[0][0]["curve"]],
        "alignzoo": a.mean(0).tolist(),
        "trl": b.mean(0).tolist(),
        "difference": points,
        "largest": float(np.abs(a.mean(0) - b.mean(0)).max()),
        "points_within": sum(p["low"] <= 0 <= p["high"] for p in points),
        "p_value": None if found is None else float(found.pvalue),
    }


def check_draws(rows: Sequence[Row], id: str) -> Iterator[dict[str, Any]]:
    """Yields, by task and seed, how far TRL's curve with our draws is from ours."""
    of = {(row["task"], row["algorithm"], row["seed"]): row for row in rows}
    for (task, name, seed), row in of.items():
        ours = of.get((task, id, seed))
        if name == ALGORITHMS[id] + CHECKED and ours and row["status"] == ours["status"] == "ok":
            gaps = [
                abs(a["score"] - b["score"])
                for a, b in zip(ours["curve"], row["curve"], strict=True)
            ]
            same = next((i for i, gap in enumerate(gaps) if gap > 1e-9), len(gaps))
            yield {
                "task": task,
                "algorithm": id,
                "seed": seed,
                "points": len(gaps),
                "points_alike": same,
                "largest": max(gaps),
                "last": gaps[-1],
            }


def tables(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Returns the comparisons as two Markdown tables, of what was learned and of what it took."""
    made = [found for found in comparisons if found["seeds"]]
    return f"{_table(LEARNED, map(_learned, made))}\n\n{_table(TOOK, map(_took, made))}"


LEARNED = ("task", "algorithm", "seeds", "score, ours", "score, TRL's", "difference")
LEARNED += ("P(ours better)", "verdict", "largest gap of mean curves, p", "KL, ours and TRL's")
TOOK = ("task", "algorithm", "seconds, ours and TRL's", "times as fast")
TOOK += ("processor seconds", "times as fast", "peak memory, MB", "of it beyond libraries")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def _learned(found: Mapping[str, Any]) -> list[str]:
    curve, kl = found["curve"], found["kl"]
    p_value = "-" if curve["p_value"] is None else f"{curve['p_value']:.2f}"
    return [
        f"`{found['task']}`",
        f"`{found['algorithm']}`",
        str(found["seeds"]),
        _shown(found["score"]["alignzoo"]),
        _shown(found["score"]["trl"]),
        _shown(found["difference"]),
        _shown(found["probability"], ".2f"),
        found["verdict"],
        f"{curve['largest']:.3f}, {p_value}",
        f"{kl[0]:.2f}, {kl[1]:.2f}",
    ]


def _took(found: Mapping[str, Any]) -> list[str]:
    memory = found["memory"]
    return [
        f"`{found['task']}`",
        f"`{found['algorithm']}`",
        _both(found["seconds"], ".1f"),
        _ratio(found["seconds_ratio"]),
        _both(found["processor_seconds"], ".1f"),
        _ratio(found["processor_ratio"]),
        _both([one["peak"] / 1e6 for one in memory], ".0f"),
        _both([one["beyond_libraries"] / 1e6 for one in memory], ".0f"),
    ]


def _both(values: Sequence[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _shown(found: Mapping[str, float], form: str = ".3f") -> str:
    return f"{found['value']:{form}} ({found['low']:{form}} to {found['high']:{form}})"
