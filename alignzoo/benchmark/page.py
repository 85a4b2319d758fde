"""The report of a benchmark as one HTML page: a table and learning curves for each task."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignzoo import report as run_report
from alignzoo import reward_report
from alignzoo.benchmark.cells import Plan
from alignzoo.benchmark.old_summary import Line, ranked, summarise
from alignzoo.report.curves import Axis, Chart, place, points_text, step_axis, value_axis
from alignzoo.report.curves import Line as Curve
from alignzoo.report.metric_names import format_number, format_seconds
from alignzoo.report.samples import visible

Row = dict[str, Any]
Pairs = list[tuple[str, str]]


class TableRow(NamedTuple):
    """One algorithm's line of a table, as text; the bar's ends in percent of the task's range."""

    name: str
    owner: str
    mean: str
    interval: str
    share: str
    kl: str
    seconds: str
    memory: str
    runs: str
    bar: tuple[float, float, float] | None


class Section(NamedTuple):
    """One task: what it measures, its table, its charts, and why runs failed."""

    name: str
    text: str
    rows: list[TableRow]
    charts: list[Chart]
    failures: list[str]


def write_page(rows: Sequence[Row], plan: Plan, path: Path) -> None:
    """Writes the page in one step; it needs no network and no other file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(render(rows, plan), encoding="utf-8", errors="replace", newline="\n")
    aside.replace(path)


def render(rows: Sequence[Row], plan: Plan) -> str:
    """Returns the page; everything it shows is escaped, and it loads nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = (__file__, run_report.__file__, reward_report.__file__)
    environment = Environment(
        loader=FileSystemLoader([Path(file).parent for file in files]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wanted = {cell.key for cell in plan.cells}
    mine = [row for row in rows if (row["task"], row["algorithm"], row["seed"]) in wanted]
    return environment.get_template("bench.html.j2").render(
        title=visible(f"{len(plan.algorithms)} algorithms on {', '.join(plan.tasks)}"),
        subtitle=_subtitle(mine, plan),
        sections=[_section(mine, plan, task) for task in plan.tasks],
        config=list(_configuration(mine, plan)),
    )


def _subtitle(rows: Sequence[Row], plan: Plan) -> Pairs:
    one = next((row for row in rows if row["status"] == "ok"), {})
    seeds = len({cell.seed for cell in plan.cells})
    versions = one.get("versions", {})
    parts = [
        ("seeds", str(seeds)),
        ("threads a run", str(plan.cells[0].threads)),
        ("cpu", one.get("cpu", "")),
        *((name, versions.get(name) or "") for name in ("alignzoo", "torch")),
        ("all runs took", format_seconds(sum(row.get("seconds", 0.0) for row in rows))),
    ]
    return [(word, visible(value)) for word, value in parts if value]


def _section(rows: Sequence[Row], plan: Plan, task: str) -> Section:
    mine = [row for row in rows if row["task"] == task]
    lines = ranked([summarise(mine, task, id) for id in plan.algorithms])
    one = mine[0]
    least, most = one["range"]
    best = "" if one["optimum"] is None else f", best possible {format_number(one['optimum'])}"
    text = (
        f"{one['metric']}, from {format_number(least)} to {format_number(most)}{best}; a budget of "
        f"{one['budget']['samples']:,} responses a run"
    )
    failures = [
        f"{row['algorithm']}, seed {row['seed']}: {row['error']}"
        for row in mine
        if row["status"] != "ok"
    ]
    return Section(
        visible(task),
        visible(text),
        [_table_row(line, one["range"]) for line in lines],
        list(_charts(lines, one)),
        [visible(text) for text in failures],
    )


def _table_row(line: Line, bounds: Sequence[float]) -> TableRow:
    low, high = bounds
    has_interval = math.isfinite(line.low)
    ends = (line.low, line.mean, line.high) if has_interval else (line.mean,) * 3
    bar = None
    if math.isfinite(line.mean):
        a, b, c = (round(100 * (end - low) / (high - low), 2) for end in ends)
        bar = (a, b, c)
    failed = f", {line.num_failed} failed" if line.num_failed else ""
    return TableRow(
        name=visible(line.algorithm),
        owner=visible(_owner(line)),
        mean=number(line.mean, ".4f"),
        interval=f"{line.low:.4f} to {line.high:.4f}" if has_interval else "",
        share=number(line.share, ".1%"),
        kl=number(line.kl, ".2f"),
        seconds=number(line.seconds, ".1f"),
        memory=number(line.memory / 2**20, ",.0f"),
        runs=f"{len(line.rows)}{failed}",
        bar=bar,
    )


def _owner(line: Line) -> str:
    if not line.rows:
        return ""
    row = line.rows[0]
    return f"{row['distribution'] or 'local'} {row['version'] or ''}, revision {row['revision']}"


def number(value: float, form: str) -> str:
    """Returns a number as text; "-" where there is none."""
    return format(value, form) if math.isfinite(value) else "-"


def _charts(lines: Sequence[Line], one: Row) -> Iterator[Chart]:
    """Yields each algorithm's score by samples: every seed faint, their mean, the optimum."""
    values = [p["score"] for line in lines for row in line.rows for p in row["curve"]]
    optimum = one["optimum"]
    x = step_axis(0, one["budget"]["samples"])
    y = value_axis([*values, *([] if optimum is None else [optimum])])
    for line in lines:
        if line.rows:
            yield _chart(line, optimum, x, y)


def _chart(line: Line, optimum: float | None, x: Axis, y: Axis) -> Chart:
    seeds = [[(p["samples"], p["score"]) for p in row["curve"]] for row in line.rows]
    shared = set.intersection(*({samples for samples, _ in points} for points in seeds))
    mean = [(at, sum(dict(points)[at] for points in seeds) / len(seeds)) for at in sorted(shared)]
    drawn = [Curve("raw", "", points_text(place(points, x, y))) for points in seeds]
    if optimum is not None:
        drawn.append(
            Curve("ideal", "", points_text(place([(x.low, optimum), (x.high, optimum)], x, y)))
        )
    drawn.append(Curve("mean", "mean", points_text(place(mean, x, y))))
    last = format_number(round(line.mean, 4))
    return Chart(
        name=visible(line.algorithm),
        unit="",
        text="",
        lines=drawn,
        x=x,
        y=y,
        last=[("training", "mean", last)],
        summary=f"mean {last} of {len(seeds)} seeds",
        x_label="responses",
    )


def _configuration(rows: Sequence[Row], plan: Plan) -> Iterator[tuple[str, Pairs]]:
    """Yields (title, rows of name and value): conditions of tasks, options of algorithms."""
    for task in plan.tasks:
        row = next(row for row in rows if row["task"] == task)
        names = ("task_revision", "task_distribution", "task_version", "task_options", "settings")
        yield visible(f"task {task}"), list(run_report.flatten({n: row[n] for n in names}))
    for task in plan.tasks:
        for id in plan.algorithms:
            row = next(r for r in rows if (r["task"], r["algorithm"]) == (task, id))
            yield visible(f"{id} on {task}"), _options(row)


def _options(row: Mapping[str, Any]) -> Pairs:
    """Returns an algorithm's options, and who chose each."""
    pairs = []
    for name, value in row["options"].items():
        given, by_task = (name in row["chosen"][who] for who in ("given", "task"))
        origin = "given" if given else "of the task" if by_task else "its default"
        pairs.append((visible(name), visible(f"{value} ({origin})")))
    return pairs
