"""The charts of a benchmark's page, as geometry for inline SVG.

An algorithm looks the same in every chart of a report: one of eight colours that differ in
lightness too, so that colour-blind readers tell them apart, and beyond eight a pattern of dashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from alignzoo.benchmark.bands import (
    UNITS,
    Array,
    Band,
    frontier_band,
    learning_band,
    profile_band,
    proxy_path,
)
from alignzoo.benchmark.summary import Line, Summary
from alignzoo.report.curves import (
    Axis,
    Point,
    dots_text,
    downsample,
    place,
    points_text,
    step_axis,
    value_axis,
)
from alignzoo.report.metric_names import format_number
from alignzoo.report.samples import visible

NUM_COLOURS = 8
NUM_DASHES = 4
SEED_POINTS = 24  # of one run's faint line

Look = Mapping[str, str]


class Stroke(NamedTuple):
    """A drawn line or area: its CSS classes and its points or path."""

    kind: str
    points: str


class Key(NamedTuple):
    """An entry of a legend: how the line looks, its name, and its number as text."""

    kind: str
    label: str
    value: str = ""


@dataclass(frozen=True)
class Plot:
    """All that the template needs to draw one chart.

    Args:
        under: id of the lines that are drawn grey below everything.
        rules: (percent from the left, text) of upright lines.
        num_grey: how many algorithms are drawn grey, without an entry in the legend.
    """

    name: str
    x: Axis
    y: Axis
    x_label: str
    text: str = ""
    summary: str = ""
    value: str = ""
    areas: list[Stroke] = field(default_factory=list)
    lines: list[Stroke] = field(default_factory=list)
    dots: list[Stroke] = field(default_factory=list)
    rules: list[tuple[float, str]] = field(default_factory=list)
    legend: list[Key] = field(default_factory=list)
    under: str = ""
    num_grey: int = 0


class Bar(NamedTuple):
    """One bar of a bar chart: whose, its length in percent and as text."""

    label: str
    percent: float
    text: str


class Bars(NamedTuple):
    """A chart of bars from 0 to the longest."""

    name: str
    text: str
    bars: list[Bar]


class Multiples(NamedTuple):
    """Every algorithm in a chart of its own, over the lines of all, which have the id `shared`."""

    shared: str
    lines: list[Stroke]
    plots: list[Plot]


def number(value: float, form: str) -> str:
    """Returns a number as text; "-" where there is none."""
    return format(value, form) if math.isfinite(value) else "-"


def looks(summary: Summary) -> dict[str, str]:
    """Returns the CSS classes of each algorithm, by its place over all tasks."""
    names = dict.fromkeys(found.algorithm for found in summary.aggregates)
    for lines in summary.tasks.values():
        names.update(dict.fromkeys(line.algorithm for line in lines))
    return {
        name: f"a{i % NUM_COLOURS} d{i // NUM_COLOURS % NUM_DASHES}" for i, name in enumerate(names)
    }


def learning_curves(
    lines: Sequence[Line], unit: str, look: Look, form: str, shared: str
) -> tuple[Plot | None, Multiples | None]:
    """Returns the score by what was spent: the best in one chart, and each in one of its own.

    Args:
        lines: of one task, the best first.
        form: how a score is written.
        shared: id of the lines that the small charts have below their own.
    """
    bands = _bands((line, learning_band(line, unit)) for line in lines)
    if not bands:
        return None, None
    known = (row.get("optimum") for line in lines for row in line.rows)
    optimum = next((float(best) for best in known if best is not None), None)
    seen = [value for band in bands.values() for value in _heights(band)]
    x = step_axis(
        min(0.0, *(band.x[0] for band in bands.values())),
        max(band.x[-1] for band in bands.values()),
    )
    y = value_axis([*seen, *([] if optimum is None else [optimum])])
    plot = Plot("learning curves", x, y, UNITS.get(unit, "update"))
    ideal = (
        [] if optimum is None else [_stroke("ideal", [(x.low, optimum), (x.high, optimum)], x, y)]
    )
    means = {line.algorithm: number(line.mean.value, form) for line in lines}
    overview = _overview(plot, bands, look, means)
    text = "score, mean and 95 % interval" + _without_failed(lines)
    overview = replace(overview, text=text, lines=ideal + overview.lines)
    if len(bands) == 1:
        return overview, None
    small = [
        replace(_alone(plot, band, look[name]), name=visible(name), value=means[name], under=shared)
        for name, band in bands.items()
    ]
    grey = [_stroke("other", _line(band), x, y) for band in bands.values()]
    return overview, Multiples(shared, grey, small)


def frontiers(lines: Sequence[Line], look: Look, form: str, matched: float) -> Plot | None:
    """Returns the best score by the KL it took, as steps; None where no KL was measured."""
    bands = _bands((line, frontier_band(line)) for line in lines)
    bands = {name: _as_steps(band) for name, band in bands.items() if band.x[-1] > 0}
    if not bands:
        return None
    x = value_axis((v for band in bands.values() for v in (0.0, band.x[-1])), downwards=False)
    y = value_axis(value for band in bands.values() for value in (*_ends(band), *band.mean))
    at = {line.algorithm: number(line.score_at_kl.value, form) for line in lines}
    plot = _overview(Plot("score by KL", x, y, "KL to the initial policy, nats"), bands, look, at)
    rules = []
    if x.low < matched < x.high:
        left = round(100 * (matched - x.low) / (x.high - x.low), 2)
        rules = [(left, f"{matched:.3g} nats")]
    text = "best score with no more than that KL; high on the left is best" + _without_failed(lines)
    return replace(plot, text=text, rules=rules)


def proxies(lines: Sequence[Line], unit: str, look: Look) -> Plot | None:
    """Returns the true score by the reward learned from, along the runs; None without one."""
    bands = _bands((line, proxy_path(line, unit)) for line in lines)
    if not bands:
        return None
    x = value_axis((v for band in bands.values() for v in band.x), downwards=False)
    y = value_axis(value for band in bands.values() for value in (*_ends(band), *band.mean))
    ends = {name: format_number(round(float(band.mean[-1]), 4)) for name, band in bands.items()}
    plot = _overview(Plot("true score by proxy", x, y, "reward learned from"), bands, look, ends)
    dots = [Stroke(look[name], dots_text(place([_line(b)[-1]], x, y))) for name, b in bands.items()]
    text = "along the runs, which end at the dot: what turns down is over-optimised"
    return replace(plot, text=text, dots=dots[:NUM_COLOURS])


def profile(summary: Summary, look: Look) -> Plot | None:
    """Returns the share of runs above each normalised score; None where there is none."""
    bands = {name: band for name in look if (band := profile_band(summary, name)) is not None}
    if not bands:
        return None
    steps = [(0.0, "0"), (25.0, "0.25"), (50.0, "0.5"), (75.0, "0.75"), (100.0, "1")]
    y = Axis(-0.02, 1.02, [(round(100 * (1.02 - p / 100) / 1.04, 2), text) for p, text in steps])
    plot = Plot("performance profile", Axis(0.0, 1.0, steps), y, "normalised score")
    return replace(
        _overview(plot, bands, look, {}),
        text="share of runs above that score; the higher the line, the better",
    )


def costs(lines: Sequence[Line]) -> list[Bars]:
    """Returns seconds and memory of a run, by algorithm; what nobody has is left out."""
    told = (
        ("time", "seconds of a run, mean", [line.seconds for line in lines], ",.2f"),
        ("memory", "MiB, the most of any run", [line.memory / 2**20 for line in lines], ",.0f"),
    )
    charts = []
    for name, text, values, form in told:
        known = {line.algorithm: v for line, v in zip(lines, values, strict=True) if v > 0}
        most = max(known.values(), default=math.nan)
        bars = [
            Bar(visible(id), round(100 * value / most, 1), number(value, form))
            for id, value in known.items()
        ]
        charts += [Bars(name, text, bars)] if bars else []
    return charts


def _without_failed(lines: Sequence[Line]) -> str:
    return "; failed runs have no curve" if any(line.num_failed for line in lines) else ""


def _bands(found: Iterable[tuple[Line, Band | None]]) -> dict[str, Band]:
    return {line.algorithm: band for line, band in found if band is not None and len(band.x)}


def _overview(plot: Plot, bands: Mapping[str, Band], look: Look, values: Mapping[str, str]) -> Plot:
    """Returns the plot with the first eight in colour, with bands, over the others in grey."""
    best, rest = list(bands)[:NUM_COLOURS], list(bands)[NUM_COLOURS:]
    x, y = plot.x, plot.y
    grey = [_stroke("other", _line(bands[name]), x, y) for name in rest]
    # the best is drawn last, on top
    strokes = [_stroke(look[name], _line(bands[name]), x, y) for name in reversed(best)]
    return replace(
        plot,
        areas=[area for name in reversed(best) for area in _area(bands[name], look[name], x, y)],
        lines=grey + strokes,
        dots=_lone_dots(bands, look, x, y),
        legend=[Key(look[name], visible(name), values.get(name, "")) for name in best],
        num_grey=len(rest),
        summary="; ".join(f"{visible(n)} {values[n]}" for n in best if n in values),
    )


def _alone(plot: Plot, band: Band, kind: str) -> Plot:
    """Returns the plot with one algorithm's runs faint, its band and its mean."""
    x, y = plot.x, plot.y
    runs = (
        [downsample(_pairs(*run), SEED_POINTS) for run in band.runs] if len(band.runs) > 1 else []
    )
    return replace(
        plot,
        areas=_area(band, kind, x, y),
        lines=[
            *(_stroke(f"run {kind}", run, x, y) for run in runs),
            _stroke(f"strong {kind}", _line(band), x, y),
        ],
        dots=_lone_dots({"": band}, {"": kind}, x, y),
        summary=f"{len(band.runs)} runs",
    )


def _lone_dots(bands: Mapping[str, Band], look: Look, x: Axis, y: Axis) -> list[Stroke]:
    """Returns a dot for each curve of one single point, which no line shows."""
    return [
        Stroke(look[name], dots_text(place(_line(band), x, y)))
        for name, band in bands.items()
        if len(band.x) == 1
    ]


def _area(band: Band, kind: str, x: Axis, y: Axis) -> list[Stroke]:
    if not np.isfinite(band.low).all() or len(band.x) < 2:
        return []
    outline = [*_pairs(band.x, band.low), *reversed(_pairs(band.x, band.high))]
    return [_stroke(f"band {kind}", outline, x, y)]


def _stroke(kind: str, points: Sequence[Point], x: Axis, y: Axis) -> Stroke:
    return Stroke(kind, points_text((round(a), round(b)) for a, b in place(points, x, y)))


def _line(band: Band) -> list[Point]:
    return _pairs(band.x, band.mean)


def _pairs(x: Array, y: Array) -> list[Point]:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _heights(band: Band) -> list[float]:
    """Returns what the axis of scores must hold: every run's lowest and highest value."""
    return [end for _, y in band.runs for end in (float(y.min()), float(y.max()))]


def _ends(band: Band) -> list[float]:
    return [float(v) for v in (*band.low, *band.high) if math.isfinite(v)]


def _as_steps(band: Band) -> Band:
    """Returns the band with each value held until the next place."""
    x, (mean, low, high) = (
        np.repeat(band.x, 2)[1:],
        (np.repeat(values, 2)[:-1] for values in (band.mean, band.low, band.high)),
    )
    return Band(x, mean, low, high, band.runs)
