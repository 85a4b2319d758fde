"""The tables of a benchmark's page, as text; columns that nobody has a number for are left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alignzoo.benchmark.bands import part
from alignzoo.benchmark.charts import number
from alignzoo.benchmark.summary import Aggregate, Estimate, Line, Pair, Summary
from alignzoo.report.samples import visible

MARKS = {"better": "▲", "worse": "▼"}
NUM_SHADES = 5  # of a cell of the matrix, on either side of one half


class Cell(NamedTuple):
    """A number, what is said below it, and the ends and middle of a bar in percent."""

    text: str
    below: str = ""
    bar: tuple[float, float, float] | None = None


class TableRow(NamedTuple):
    """One algorithm's line: its name, notes below it, and its cells."""

    name: str
    notes: list[str]
    cells: list[Cell]


class Table(NamedTuple):
    """Headings, each with its unit, and lines."""

    heads: list[tuple[str, str]]
    rows: list[TableRow]


class Square(NamedTuple):
    """One cell of the matrix: its text, mark, shade ("" for none) and what it says in full."""

    text: str
    mark: str
    shade: str
    title: str


class Matrix(NamedTuple):
    """Every algorithm against every other."""

    names: list[str]
    rows: list[tuple[str, list[Square | None]]]


def score_form(bounds: Sequence[float]) -> str:
    """Returns how a task's scores are written: to a ten-thousandth of its range or so."""
    return f".{max(0, min(8, 4 - math.floor(math.log10(bounds[1] - bounds[0]) + 1e-9)))}f"


def seconds_form(seconds: float) -> str:
    """Returns how a duration in seconds is written: to a hundredth where it is short."""
    return ",.1f" if seconds >= 10 else ".2f"


def task_table(
    lines: Sequence[Line], bounds: Sequence[float], matched: float, threshold: float
) -> Table:
    """Returns the table of one task."""
    form = score_form(bounds)

    def reached(line: Line) -> Cell:
        points = (point for row in line.rows for point in row.get("curve") or ())
        if not any("samples" in point for point in points):
            return Cell("-")
        at = line.samples_to_threshold
        return Cell(
            f"{at:,.0f}" if math.isfinite(at) else "never",
            f"{line.num_reached} of {_num_runs(line)}",
        )

    columns: list[tuple[tuple[str, str], Callable[[Line], Cell]]] = [
        (("mean", ""), lambda line: _estimate(line.mean, form)),
        (
            ("of range", ""),
            lambda line: Cell(number(line.share.value, ".1%"), "", _bar(line.share)),
        ),
        (("median", ""), lambda line: Cell(number(line.median, form))),
        (("IQM", ""), lambda line: _estimate(line.iqm, form)),
        (("optimality gap", ""), lambda line: _estimate(line.gap, ".4f")),
        (("KL", "nats"), lambda line: Cell(number(line.kl, ".2f"))),
        (
            ("score", f"at {matched:.3g} nats"),
            lambda line: _estimate(line.score_at_kl, form),
        ),
        (("score-KL area", ""), lambda line: _estimate(line.area, ".3f")),
        (("samples", f"to {threshold:.4g}"), reached),
        (("proxy", ""), lambda line: Cell(number(line.proxy, ".4g"))),
        (("time", "seconds"), lambda line: Cell(number(line.seconds, seconds_form(line.seconds)))),
        (("memory", "MiB"), lambda line: Cell(number(line.memory / 2**20, ",.0f"))),
        (("runs", ""), lambda line: _runs(_num_runs(line), line.num_failed)),
    ]
    cells = [[make(line) for _, make in columns] for line in lines]
    kept = [i for i in range(len(columns)) if any(row[i].text != "-" for row in cells)]
    rows = [
        TableRow(visible(line.algorithm), _notes(line), [row[i] for i in kept])
        for line, row in zip(lines, cells, strict=True)
    ]
    return Table([columns[i][0] for i in kept], rows)


def aggregate_table(aggregates: Sequence[Aggregate]) -> Table:
    """Returns the table over all tasks, of normalised scores."""
    heads = [(name, "") for name in ("IQM", "place", "median", "mean", "optimality gap", "runs")]
    rows = [
        TableRow(
            visible(found.algorithm),
            [],
            [
                _estimate(found.iqm, ".3f"),
                Cell("", "", _bar(found.iqm)),
                *(_estimate(one, ".3f") for one in (found.median, found.mean, found.gap)),
                _runs(found.num_runs, found.num_failed),
            ],
        )
        for found in aggregates
    ]
    return Table(heads, rows)


def matrix(summary: Summary, names: Sequence[str]) -> Matrix:
    """Returns P(row > column) for every two algorithms; None on the diagonal."""
    rows = [
        (visible(x), [None if x == y else _square(summary.pairs.get((x, y))) for y in names])
        for x in names
    ]
    return Matrix([visible(name) for name in names], rows)


def pair_rows(summary: Summary) -> list[list[str]]:
    """Returns each pair once, the better one first: names, probability, paired, p and verdict."""
    found = []
    for pair in summary.pairs.values():
        back = summary.pairs.get((pair.y, pair.x))
        forth_is_shown = back is None or (pair.probability.value, pair.x) > (
            back.probability.value,
            back.x,
        )
        if forth_is_shown:
            found.append(pair)
    found.sort(key=lambda pair: (pair.p_value if math.isfinite(pair.p_value) else 2, pair.x))
    return [
        [
            visible(pair.x),
            visible(pair.y),
            _with_interval(pair.probability, ".3f"),
            "-" if pair.paired is None else _with_interval(pair.paired, ".3f"),
            number(pair.p_value, ".4f"),
            pair.verdict,
        ]
        for pair in found
    ]


def _square(pair: Pair | None) -> Square:
    if pair is None or not math.isfinite(pair.probability.value):
        return Square("-", "", "", "no run in common")
    value = pair.probability.value
    shade = math.ceil(abs(value - 0.5) * 2 * NUM_SHADES - 1e-9)
    side = "more" if value > 0.5 else "less"
    title = (
        f"{visible(pair.x)} against {visible(pair.y)}: {_with_interval(pair.probability, '.3f')}, "
        f"p = {number(pair.p_value, '.4f')}, {pair.verdict}"
    )
    mark = MARKS.get(pair.verdict, "")
    return Square(f"{value:.2f}", mark, f"{side}{shade}" if shade else "", title)


def _num_runs(line: Line) -> int:
    return len(line.rows) + line.num_failed


def _runs(num_runs: int, num_failed: int) -> Cell:
    return Cell(str(num_runs), f"{num_failed} failed" if num_failed else "")


def _estimate(found: Estimate, form: str) -> Cell:
    return Cell(number(found.value, form), _interval(found, form))


def _interval(found: Estimate, form: str) -> str:
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return ""
    return f"{found.low:{form}} to {found.high:{form}}"


def _with_interval(found: Estimate, form: str) -> str:
    interval = _interval(found, form)
    return number(found.value, form) + (f" ({interval})" if interval else "")


def _bar(found: Estimate) -> tuple[float, float, float] | None:
    """Returns the left end, middle and right end in percent of the range, within it."""
    if not math.isfinite(found.value):
        return None
    has_interval = math.isfinite(found.low) and math.isfinite(found.high)
    ends = (found.low, found.value, found.high) if has_interval else (found.value,) * 3
    left, middle, right = (round(100 * min(1.0, max(0.0, end)), 2) for end in ends)
    return left, middle, right


def _notes(line: Line) -> list[str]:
    """Returns which options were chosen for the algorithm, and how."""
    chosen = part(line.rows[0], "chosen") if line.rows else {}
    return [
        visible(f"{who}: " + ", ".join(f"{name}={value}" for name, value in options.items()))
        for who in ("tuned", "given")
        if (options := part(chosen, who))
    ]
