"""What `alignzoo bench` prints and writes of results that are there."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.cli.output import print_table

if TYPE_CHECKING:
    from alignzoo.benchmark import Plan
    from alignzoo.benchmark.summary import Estimate, Line, Summary

Row = Mapping[str, Any]


def report(folder: str, *, plan: Any = None, **options: Any) -> int:
    """Prints a table for each task, and writes the page."""
    from alignzoo.benchmark import Results, ranked, summarise, write_page

    results = Results(folder)
    results.check_conditions({})
    rows = list(results.rows.values())
    num_failed = 0
    for task in plan.tasks:
        lines = [summarise(rows, task, id) for id in plan.algorithms]
        num_failed += sum(line.num_failed for line in lines)
        one = next(row for row in rows if row["task"] == task)
        _print_task(one, ranked(lines))
    page = results.folder / "report.html"
    write_page(rows, plan, page)
    print(f"results: {results.path}")
    print(f"report:  {page}")
    if num_failed:
        _say(f"runs that failed: {num_failed}; the same command makes them again")
    return int(num_failed > 0)


def compare(
    first: str, second: str, *, kl: float | None = None, threshold: float | None = None
) -> int:
    """Prints how the results in two folders differ."""
    from alignzoo.benchmark import compare as compare_rows
    from alignzoo.benchmark import load_rows

    print(compare_rows(load_rows(first), load_rows(second)))
    return 0


def _write_figures(summary: Summary, rows: Sequence[Row], folder: Path) -> str:
    """Writes the figures and returns where they are, or what is missing for them."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return "none, since matplotlib is not installed; pip install 'alignzoo[bench]' brings it"
    from alignzoo.benchmark import write_figures

    return f"{folder} ({len(write_figures(summary, rows, folder))} files)"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_task(row: Row, lines: Sequence[Line]) -> None:
    optimum = "" if row.get("optimum") is None else f", optimum {row['optimum']:g}"
    low, high = row["range"]
    ((unit, amount),) = row["budget"].items() if row.get("budget") else [("", 0)]
    budget = f"; {amount:,} {unit} a run" if unit else ""
    title = f"{row['task']}: {row['metric']}, range {low:g} to {high:g}{optimum}{budget}"
    heads = ("algorithm", "mean", "95 % interval", "of range", "KL, nats", "seconds", "runs")
    print_table(title, heads, [_cells(line) for line in lines])


def _cells(line: Line) -> tuple[str, ...]:
    failed = f", {line.num_failed} failed" if line.num_failed else ""
    return (
        line.algorithm,
        number(line.mean, ".4f"),
        f"{line.low:.4f} to {line.high:.4f}",
        number(line.share, ".1%"),
        number(line.kl, ".2f"),
        number(line.seconds, ".1f"),
        f"{len(line.rows)}{failed}",
    )


def interval(estimate: Estimate) -> str:
    """Returns the ends of an interval; "-" where there is none."""
    if math.isnan(estimate.low):
        return "-"
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


def number(value: float, form: str) -> str:
    """Returns a number as text; "-" where there is none."""
    return format(value, form) if math.isfinite(value) else "-"
