"""The report of a benchmark as one HTML page: findings in words, tables, charts, conditions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignzoo import report as run_report
from alignzoo import reward_report
from alignzoo.benchmark.bands import UNITS, budget_unit, part
from alignzoo.benchmark.charts import (
    Bars,
    Look,
    Multiples,
    Plot,
    costs,
    frontiers,
    learning_curves,
    looks,
    profile,
    proxies,
)
from alignzoo.benchmark.charts import number as number
from alignzoo.benchmark.page_tables import (
    Table,
    aggregate_table,
    matrix,
    pair_rows,
    score_form,
    task_table,
)
from alignzoo.benchmark.plain_words import failures, in_short
from alignzoo.benchmark.summary import Line, Summary
from alignzoo.report.metric_names import format_number, format_seconds
from alignzoo.report.samples import visible

Row = dict[str, Any]
Pairs = list[tuple[str, str]]

OF_A_TASK = ("task_revision", "task_distribution", "task_version", "task_options", "settings")
MAX_VALUES = 3  # of one condition that are named one by one


class Section(NamedTuple):
    """One task: what it measures, its table, its charts, and why runs failed."""

    id: str
    name: str
    text: str
    table: Table
    plots: list[Plot]
    bars: list[Bars]
    small: Multiples | None
    failures: list[str]


def write_page(summary: Summary, rows: Sequence[Row], path: str | Path) -> Path:
    """Writes the page in one step and returns its path; it needs no network and no other file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = render(summary, rows)
        aside.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def render(summary: Summary, rows: Sequence[Row]) -> str:
    """Returns the page; everything it shows is escaped, and it loads nothing.

    Args:
        rows: of runs; those of other tasks or algorithms than the summary's are left out.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = (__file__, run_report.__file__, reward_report.__file__)
    environment = Environment(
        loader=FileSystemLoader([Path(file).parent for file in files]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    look = looks(summary)
    mine = [row for row in rows if row["task"] in summary.tasks and row["algorithm"] in look]
    curve = profile(summary, look) if any(_num_runs(line) > 1 for line in _lines(summary)) else None
    return environment.get_template("bench.html.j2").render(
        title=_title(list(look), list(summary.tasks)),
        subtitle=list(_subtitle(mine)),
        words=list(in_short(summary, mine)),
        sections=[
            _section(summary, task, mine, look, f"task-{i}") for i, task in enumerate(summary.tasks)
        ],
        aggregates=aggregate_table(summary.aggregates) if len(summary.tasks) > 1 else None,
        profile=curve,
        matrix=matrix(summary, list(look)) if summary.pairs else None,
        pairs=pair_rows(summary),
        config=[*_task_conditions(summary, mine), *_algorithm_options(list(look), mine)],
    )


def _lines(summary: Summary) -> Iterator[Line]:
    for lines in summary.tasks.values():
        yield from lines


def _num_runs(line: Line) -> int:
    return len(line.rows) + line.num_failed


def _title(algorithms: list[str], tasks: list[str]) -> str:
    who = algorithms[0] if len(algorithms) == 1 else f"{len(algorithms)} algorithms"
    where = ", ".join(tasks) if len(tasks) <= MAX_VALUES else f"{len(tasks)} tasks"
    return visible(f"{who} on {where}")


def _subtitle(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yields (word, value) of what was run and where; what the rows do not say is left out."""
    yield "runs", f"{len(rows):,}"
    yield "seeds", f"{len({row['seed'] for row in rows}):,}"
    told: list[tuple[str, Callable[[Row], Any]]] = [
        ("threads a run", lambda row: row.get("threads")),
        ("processor", lambda row: row.get("cpu")),
        ("device", lambda row: row.get("device")),
        ("python", lambda row: row.get("python")),
        ("alignzoo", lambda row: part(row, "versions").get("alignzoo")),
        ("torch", lambda row: part(row, "versions").get("torch")),
    ]
    for word, find in told:
        values = dict.fromkeys(str(found) for row in rows if (found := find(row)))
        if values:
            yield word, visible(_some(list(values)))
    seconds = sum(row.get("seconds") or 0.0 for row in rows)
    if seconds > 0:
        yield "all runs took", format_seconds(seconds)


def _some(values: list[str]) -> str:
    more = len(values) - MAX_VALUES
    return ", ".join(values[:MAX_VALUES]) + (f" and {more} others" if more > 0 else "")


def _section(summary: Summary, task: str, rows: Sequence[Row], look: Look, place: str) -> Section:
    lines = summary.tasks[task]
    mine = [row for row in rows if row["task"] == task]
    bounds = next((row["range"] for row in mine if row.get("range")), (0.0, 1.0))
    form, unit = score_form(bounds), budget_unit(mine)
    matched, threshold = summary.matched_kl[task], summary.threshold[task]
    overview, small = learning_curves(lines, unit, look, form, f"{place}-all")
    plots = [overview, frontiers(lines, look, form, matched), proxies(lines, unit, look)]
    return Section(
        id=place,
        name=visible(task),
        text=visible(_about(mine, bounds)),
        table=task_table(lines, bounds, matched, threshold),
        plots=[plot for plot in plots if plot is not None],
        bars=costs(lines),
        small=small,
        failures=list(failures(mine)),
    )


def _about(rows: Sequence[Row], bounds: Sequence[float]) -> str:
    """Returns what a task measures, its range, its optimum and the budget."""
    one: Mapping[str, Any] = rows[0] if rows else {}
    parts = [f"{one.get('metric') or 'score'}, from {_short(bounds[0])} to {_short(bounds[1])}"]
    if one.get("optimum") is not None:
        parts.append(f"best possible {_short(one['optimum'])}")
    for unit, amount in part(one, "budget").items():
        parts.append(f"a budget of {_short(amount)} {UNITS.get(unit, unit)} a run")
    return "; ".join(parts)


def _short(value: Any) -> str:
    return format_number(value) if isinstance(value, int | float) else str(value)


def _task_conditions(summary: Summary, rows: Sequence[Row]) -> Iterator[tuple[str, Pairs]]:
    for task in summary.tasks:
        row = next((row for row in rows if row["task"] == task), {})
        known = {name: row[name] for name in (*OF_A_TASK, "policy", "budget") if row.get(name)}
        if known:
            yield visible(f"task {task}"), list(run_report.flatten(known))


def _algorithm_options(names: Sequence[str], rows: Sequence[Row]) -> Iterator[tuple[str, Pairs]]:
    """Yields each algorithm's options and who chose them; tasks that agree are told together."""
    for name in names:
        tasks: dict[tuple[tuple[str, str], ...], list[str]] = {}
        first = {row["task"]: row for row in reversed(rows) if row["algorithm"] == name}
        for task in dict.fromkeys(row["task"] for row in rows):
            if task in first and (options := tuple(_options(first[task]))):
                tasks.setdefault(options, []).append(task)
        for options, where in tasks.items():
            yield visible(f"{name} on {', '.join(where)}"), list(options)


def _options(row: Row) -> Iterator[tuple[str, str]]:
    """Yields an algorithm's options and who chose each, then what its sweep tried."""
    for name in ("distribution", "version", "revision"):
        if row.get(name) is not None:
            yield name, visible(str(row[name]))
    chosen = part(row, "chosen")
    origins = {"tuned": "tuned", "given": "given", "task": "of the task"}
    for name, value in part(row, "options").items():
        who = next((who for who in origins if name in part(chosen, who)), None)
        origin = origins[who] if who else "its default" if chosen else "not told by whom"
        yield visible(name), visible(f"{value} ({origin})")
    for tried in part(row, "tuning").get("tried") or ():
        options = ", ".join(f"{name}={value}" for name, value in part(tried, "options").items())
        score = tried.get("score")
        yield visible(f"tried {options}"), "failed" if score is None else _short(score)
