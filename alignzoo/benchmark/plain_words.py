"""What a benchmark found, in sentences: who is best, told apart from whom, and what failed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from alignzoo.benchmark.bands import budget_unit, part, proxy_path
from alignzoo.benchmark.page_tables import score_form
from alignzoo.benchmark.rows import is_failed
from alignzoo.benchmark.summary import Estimate, Line, Summary
from alignzoo.report.samples import visible

Row = Mapping[str, Any]
NAMES_TOLD = 8
CALLED = ("better", "worse")  # verdicts of pairs that are told apart


def in_short(summary: Summary, rows: Sequence[Row]) -> Iterator[str]:
    """Yields the sentences at the top of a report; names are as they were given."""
    yield from _best(summary)
    yield from _told_apart(summary)
    if len(summary.tasks) > 1:
        yield from (_best_on(task, lines) for task, lines in summary.tasks.items())
    for task, lines in summary.tasks.items():
        yield from _over_optimised(task, lines)
    yield from _failed(rows)
    yield from _not_run(rows)
    yield from _options(rows)


def failures(rows: Iterable[Row]) -> Iterator[str]:
    """Yields a line for each algorithm and reason that runs of one task failed by."""
    seeds: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        if is_failed(row):
            reason = row.get("error") or (
                "its score is not finite"
                if row.get("status", "ok") == "ok"
                else "no reason is given"
            )
            seeds.setdefault((row["algorithm"], str(reason)), []).append(row["seed"])
    for (algorithm, reason), found in seeds.items():
        word = "seed" if len(found) == 1 else "seeds"
        yield visible(f"{algorithm}, {word} {', '.join(map(str, found))}: {reason}")


def _best(summary: Summary) -> Iterator[str]:
    if len(summary.tasks) == 1:
        ((task, lines),) = summary.tasks.items()
        yield _best_on(task, lines)
        best = lines[0].algorithm if lines and math.isfinite(lines[0].mean.value) else None
    else:
        ranked = [found for found in summary.aggregates if math.isfinite(found.iqm.value)]
        best = ranked[0].algorithm if ranked else None
        if ranked:
            yield (
                f"Over {_all(len(summary.tasks))} tasks {visible(ranked[0].algorithm)} has the "
                f"highest interquartile mean of normalised scores: "
                f"{_number(ranked[0].iqm, '.3f')}."
            )
        else:
            yield "No algorithm was run on every task, so there is no ranking over all of them."
    if best is not None and any(pair.verdict in CALLED for pair in summary.pairs.values()):
        yield from _against_others(summary, best)


def _best_on(task: str, lines: Sequence[Line]) -> str:
    known = [line for line in lines if math.isfinite(line.mean.value) and line.rows]
    if not known:
        return f"On {visible(task)} no run ended well."
    best = known[0]
    equal = [line.algorithm for line in known if line.mean.value == best.mean.value]
    form = score_form(best.rows[0].get("range") or (0.0, 1.0))
    if len(lines) == 1:
        has = "has a mean of"
    else:
        has = "has the highest mean:" if len(equal) == 1 else "have the highest mean:"
    optimum = best.rows[0].get("optimum")
    beside = "" if optimum is None else f"; the best possible is {optimum:.4g}"
    return (
        f"On {visible(task)} {_listed(equal)} {has} "
        f"{_number(best.mean, form)}, {best.share.value:.1%} of the range{beside}."
    )


def _against_others(summary: Summary, best: str) -> Iterator[str]:
    verdicts: dict[str, list[str]] = {}
    for (x, y), pair in summary.pairs.items():
        if x == best:
            verdicts.setdefault(pair.verdict, []).append(y)
    for verdict, told in (
        ("better", "is called better than"),
        ("worse", "is called worse, run against run, than"),
        ("not told apart", "is not told apart from"),
    ):
        if verdict in verdicts:
            yield f"{visible(best)} {told} {_listed(verdicts[verdict])}."


def _told_apart(summary: Summary) -> Iterator[str]:
    pairs = {frozenset(key): pair.verdict for key, pair in summary.pairs.items()}
    if not pairs:
        return
    told = sum(verdict in CALLED for verdict in pairs.values())
    test = "a permutation test of whole seeds, false discoveries held to 5 % over all pairs"
    if told:
        yield f"{told} of the {len(pairs)} pairs of algorithms are told apart by {test}."
        return
    one = len(pairs) == 1
    yield (
        f"{'The two algorithms are' if one else f'None of the {len(pairs)} pairs is'} "
        f"{'not ' if one else ''}told apart by {test}. That is no proof that they are equal"
        f"{_too_few(summary)}."
    )


def _too_few(summary: Summary) -> str:
    counts = [
        len(line.rows) + line.num_failed for lines in summary.tasks.values() for line in lines
    ]
    most = max(counts, default=0)
    least = 2 / math.comb(2 * most, most)
    if least < 0.05:
        return ""
    runs = "one run" if most == 1 else f"{most} runs"
    return f": with {runs} each the test can find no difference, however large"


def _over_optimised(task: str, lines: Sequence[Line]) -> Iterator[str]:
    unit = budget_unit(row for line in lines for row in line.rows)
    hurt = []
    for line in lines:
        band = proxy_path(line, unit)
        if band is None or not len(band.x):
            continue
        low, high = line.rows[0].get("range") or (0.0, 1.0)
        lost = (float(band.mean.max()) - float(band.mean[-1])) / (high - low)
        if lost > 0.01 and band.x[-1] > band.x[int(band.mean.argmax())]:
            hurt.append(f"{line.algorithm} ({lost:.1%} of the range)")
    if hurt:
        yield (
            f"On {visible(task)} the proxy, the reward learned from, kept rising while the true "
            f"score fell from its highest mean: {_listed(hurt)}."
        )


def _failed(rows: Sequence[Row]) -> Iterator[str]:
    bad = [row for row in rows if is_failed(row)]
    runs = f"{len(rows):,} run{'s' if len(rows) != 1 else ''}"
    if not bad:
        yield f"{runs}; none failed."
        return
    counts: dict[str, int] = {}
    for row in bad:
        name = f"{row['algorithm']} on {row['task']}"
        counts[name] = counts.get(name, 0) + 1
    told = _listed([f"{name} ({count})" for name, count in counts.items()])
    yield f"{runs}; {len(bad):,} failed and count as the least of the range: {told}."


def _not_run(rows: Sequence[Row]) -> Iterator[str]:
    """Yields which algorithms have no run, or fewer seeds than others, on a task of the report."""
    names = dict.fromkeys(row["algorithm"] for row in rows)
    missing, fewer = [], []
    for task in dict.fromkeys(row["task"] for row in rows):
        seeds: dict[str, set[Any]] = {name: set() for name in names}
        for row in rows:
            if row["task"] == task:
                seeds[row["algorithm"]].add(row["seed"])
        most = max(map(len, seeds.values()))
        missing += [f"{name} on {task}" for name, found in seeds.items() if not found]
        fewer += [
            f"{name} on {task} ({len(found)} of {most})"
            for name, found in seeds.items()
            if 0 < len(found) < most
        ]
    if missing:
        yield f"Not run: {_listed(missing)}."
    if fewer:
        yield f"Run on fewer seeds than others: {_listed(fewer)}."


def _options(rows: Sequence[Row]) -> Iterator[str]:
    """Yields how options were chosen, as far as the rows say."""
    if not any(part(row, "chosen") for row in rows):
        yield "The rows do not say how options were chosen."
        return
    by: dict[str, dict[str, None]] = {"task": {}, "given": {}}
    for row in rows:
        for name in part(part(row, "chosen"), "task"):
            by["task"][name] = None
        for name in part(part(row, "chosen"), "given"):
            by["given"][f"{row['algorithm']}.{name}"] = None
    parts = []
    if by["task"]:
        parts.append(f"set by the task, the same for everyone who has them: {_listed(by['task'])}")
    if by["given"]:
        parts.append(f"given by hand: {_listed(by['given'])}")
    sweeps = _sweeps(rows)
    parts += sweeps
    nothing = "" if sweeps else " Nothing was tuned."
    if parts:
        yield f"Options {'; '.join(parts)}; all others are defaults.{nothing}"
    else:
        yield f"All options are defaults.{nothing}"


def _sweeps(rows: Sequence[Row]) -> list[str]:
    """Returns each grid that was swept, for how many algorithms, and on how many other seeds."""
    swept: dict[tuple[str, int], dict[str, None]] = {}
    for row in rows:
        tuning = part(row, "tuning")
        grid = part(tuning, "grid")
        if grid:
            text = " and ".join(f"{k} in {', '.join(map(str, v))}" for k, v in grid.items())
            key = (visible(text), len(tuning.get("seeds") or ()))
            swept.setdefault(key, {})[row["algorithm"]] = None
    return [
        f"tuned for {_listed(names)}: {text}, by the best mean over {count} "
        f"seed{'s' if count != 1 else ''} that are not reported"
        for (text, count), names in swept.items()
    ]


def _all(count: int) -> str:
    return "both" if count == 2 else f"all {count}"


def _number(found: Estimate, form: str) -> str:
    text = f"{found.value:{form}}"
    if math.isfinite(found.low) and math.isfinite(found.high):
        text += f" (95 % interval {found.low:{form}} to {found.high:{form}})"
    return text


def _listed(names: Iterable[str]) -> str:
    """Returns names as a sentence has them, the first eight and how many more."""
    shown = [visible(name) for name in names]
    if len(shown) > NAMES_TOLD + 1:
        shown = [*shown[:NAMES_TOLD], f"{len(shown) - NAMES_TOLD} others"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
