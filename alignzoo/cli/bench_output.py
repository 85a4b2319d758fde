"""What `alignzoo bench` prints and writes of results that are there."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.cli.output import print_table

if TYPE_CHECKING:
    from alignzoo.benchmark import Plan
    from alignzoo.benchmark.summary import Estimate, Line, Summary

Row = dict[str, Any]


def report(
    folder: str,
    *,
    plan: Plan | None = None,
    kl: float | None = None,
    threshold: float | None = None,
) -> int:
    """Prints a table for each task; writes table.md, report.html and figures beside the rows.

    Args:
        plan: the cells to report on; default all that the folder has.
        kl, threshold: as `summarise` takes them.
    Returns:
        1 where a run failed, else 0.
    """
    from alignzoo.benchmark import is_failed, load_rows, markdown, summarise, write_page

    place = Path(folder).expanduser()
    rows = load_rows(place)
    if plan is None:
        summary = summarise(rows, kl=kl, threshold=threshold)
    else:
        wanted = set(plan.order)
        rows = [row for row in rows if (row["task"], row["algorithm"], row["seed"]) in wanted]
        summary = summarise(rows, plan.tasks, plan.algorithms, kl=kl, threshold=threshold)
    for task, lines in summary.tasks.items():
        _print_task(next(row for row in rows if row["task"] == task), lines)
    place = place if place.is_dir() else place.parent
    (place / "table.md").write_text(markdown(summary), encoding="utf-8")
    write_page(summary, rows, place / "report.html")
    print(f"results: {place / 'results.jsonl'}")
    print(f"report:  {place / 'report.html'}")
    print(f"table:   {place / 'table.md'}")
    print(f"figures: {_write_figures(summary, rows, place / 'figures')}")
    num_failed = sum(is_failed(row) for row in rows)
    if num_failed:
        print(f"runs that failed: {num_failed}; the same command makes them again", file=sys.stderr)
    return int(num_failed > 0)


def compare(first: str, second: str) -> int:
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


def _print_task(row: Row, lines: Sequence[Line]) -> None:
    optimum = "" if row["optimum"] is None else f", optimum {row['optimum']:g}"
    low, high = row["range"]
    budget = "".join(f"; {amount:,} {unit} a run" for unit, amount in row["budget"].items())
    title = f"{row['task']}: {row['metric']}, range {low:g} to {high:g}{optimum}{budget}"
    heads = ("algorithm", "mean", "95 % interval", "of range", "IQM", "KL, nats", "seconds", "runs")
    print_table(title, heads, [_cells(line) for line in lines])


def _cells(line: Line) -> tuple[str, ...]:
    from alignzoo.benchmark.charts import number

    failed = f", {line.num_failed} failed" if line.num_failed else ""
    return (
        line.algorithm,
        number(line.mean.value, ".4f"),
        _interval(line.mean),
        number(line.share.value, ".1%"),
        number(line.iqm.value, ".4f"),
        number(line.kl, ".2f"),
        number(line.seconds, ".1f"),
        f"{len(line.rows)}{failed}",
    )


def _interval(estimate: Estimate) -> str:
    """Returns the ends of an interval; "-" where there is none."""
    if math.isnan(estimate.low):
        return "-"
    return f"{estimate.low:.4f} to {estimate.high:.4f}"
