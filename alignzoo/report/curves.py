"""Curves as geometry: downsampling, running means, axis ticks and points for inline SVG.

A plot is drawn in a 1000 by 1000 square that the page stretches to its place (strokes keep their
width), and its labels are text placed by percent, so that they stay legible at any width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from alignzoo.report.metric_names import format_number
from alignzoo.report.run_files import Series

MAX_POINTS = 400
SMOOTH_FROM = 80  # points; above this many a running mean is drawn over the raw curve
SIDE = 1000.0

Point = tuple[float, float]
Tick = tuple[float, str]  # percent from left or top, label


@dataclass(frozen=True)
class Line:
    """One drawn line: `kind` is training, held-out or mean; `points` is an SVG points list."""

    kind: str
    label: str
    points: str
    dots: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis: the numbers at its ends and its ticks."""

    low: float
    high: float
    ticks: list[Tick]


@dataclass(frozen=True)
class Chart:
    """All that the template needs to draw one plot."""

    name: str
    unit: str
    text: str
    lines: list[Line]
    x: Axis
    y: Axis
    last: list[tuple[str, str, str]]  # kind, label, value
    summary: str
    note: str = ""
    x_label: str = "update"
    y_label: str = ""
    dots: list[tuple[float, str]] = field(default_factory=list)  # opacity, SVG path of dots
    marks: list[tuple[float, float, str]] = field(default_factory=list)  # left %, top %, text


def downsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Returns at most `limit` of the points, in order: the ends, and each stretch's extremes.

    The points between the first and the last are cut into equal stretches, and each keeps its
    lowest and highest value, so that no peak of the curve is lost.

    Raises:
        ValueError: `limit` is below 4, too few for both ends and one stretch.
    """
    if limit < 4:
        raise ValueError(f"limit is {limit}; at least 4 points are needed")
    if len(points) <= limit:
        return list(points)
    buckets = (limit - 2) // 2
    inner = len(points) - 2
    kept = [points[0]]
    for i in range(buckets):
        stretch = range(1 + i * inner // buckets, 1 + (i + 1) * inner // buckets)
        low = min(stretch, key=lambda j: points[j][1])
        high = max(stretch, key=lambda j: points[j][1])
        kept += [points[j] for j in sorted({low, high})]
    return [*kept, points[-1]]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Returns the mean over a centred window of odd width, cut off at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for i in range(len(values)):
        start, stop = max(0, i - half), min(len(values), i + half + 1)
        means.append((sums[stop] - sums[start]) / (stop - start))
    return means


def smoothing_window(num_points: int) -> int:
    """Returns the odd width of the running mean for a run of this many updates; 0 for none."""
    return max(5, num_points // 20) | 1 if num_points > SMOOTH_FROM else 0


def is_noisy(values: Sequence[float]) -> bool:
    """Whether a curve goes up and down so much that its running mean shows more than it hides."""
    span = max(values) - min(values)
    path = sum(abs(b - a) for a, b in pairwise(values))
    return len(values) > SMOOTH_FROM and path > 3 * span


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Returns about `count` round numbers (1, 2, 5 times a power of ten) within [low, high]."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    # the factor nearest to raw / power on a logarithmic scale
    step = power * next(
        f for f, limit in ((1, 2), (2, 10), (5, 50), (10, 101)) if raw / power < math.sqrt(limit)
    )
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Returns the ticks as text, all with the same number of decimals."""
    if not values:
        return []
    top = max(abs(value) for value in values)
    step = min((b - a for a, b in pairwise(values)), default=top)
    if 0 < top < 1e-3:
        return [format_number(float(f"{value:.3g}")) if value else "0" for value in values]
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if top >= 10 * size and step >= size / 2:
            return [f"{value / size:g}{letter}" if value else "0" for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return [f"{value + 0.0:.{min(decimals, 8)}f}" for value in values]


def step_axis(low: float, high: float) -> Axis:
    """Returns the axis of updates; one single update gets a little room on both sides."""
    if low == high:
        return Axis(low - 1, high + 1, [(50.0, f"{low:g}")])
    places = ticks(low, high, 5, whole=True)
    if low not in places and places and (places[0] - low) / (high - low) > 0.08:
        places = [low, *places]
    named = zip(places, tick_labels(places), strict=True)
    return Axis(low, high, [(_percent(place, low, high), text) for place, text in named])


def value_axis(values: Iterable[float], *, downwards: bool = True) -> Axis:
    """Returns the axis of values: a little room beyond both ends, with 0 where it is near.

    Args:
        downwards: ticks count percent from the top, as CSS does; else from the left.
    """
    known = list(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    at_zero = -1e-3 * high <= low <= 0.4 * high  # rounding may leave a KL just below 0
    if at_zero:
        low = 0.0
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high)):
        span = abs(high) * 0.2 or 1.0
        low, high = low - span / 2, high + span / 2
    else:
        low, high = low if at_zero else low - 0.06 * span, high + 0.06 * span
    places = ticks(low, high, 4)
    named = zip(places, tick_labels(places), strict=True)
    spots = [(_percent(place, low, high), text) for place, text in named]
    return Axis(low, high, [(100.0 - p, t) for p, t in spots] if downwards else spots)


def _percent(value: float, low: float, high: float) -> float:
    return round(100.0 * (value - low) / (high - low), 3)


def place(points: Iterable[Point], x: Axis, y: Axis) -> list[Point]:
    """Returns the points in the square of a plot, its origin at the top left."""
    return [
        (
            round(SIDE * (px - x.low) / (x.high - x.low), 1),
            round(SIDE * (y.high - py) / (y.high - y.low), 1),
        )
        for px, py in points
    ]


def points_text(points: Iterable[Point]) -> str:
    """Returns the points list of an SVG polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def dots_text(points: Iterable[Point]) -> str:
    """Returns a path whose round line caps are the dots; they stay round when stretched."""
    return "".join(f"M{x:g} {y:g}h.01" for x, y in points)


def curve(
    name: str,
    training: Series | None,
    held_out: Series | None = None,
    *,
    steps: tuple[float, float],
    unit: str = "",
    text: str = "",
    window: int = 0,
    not_finite: int = 0,
) -> Chart:
    """Returns the chart of one metric, with its held-out twin laid over where there is one.

    Args:
        steps: first and last step of the whole run, so that all charts share their x axis.
        window: width of the running mean laid over a noisy curve; 0 for none.
        not_finite: values left out of the series, told in a note.
    """
    parts = [
        (kind, label, series)
        for kind, label, series in (
            ("training", "training", training),
            ("held-out", "held-out", held_out),
        )
        if series is not None and len(series) > 0
    ]
    kept = [(kind, label, downsample(list(series))) for kind, label, series in parts]
    x = step_axis(*steps)
    y = value_axis(value for _, _, points in kept for _, value in points)
    lines = []
    for (kind, label, series), (_, _, points) in zip(parts, kept, strict=True):
        placed = place(points, x, y)
        dots = dots_text(placed) if kind == "held-out" or len(placed) == 1 else ""
        smoothed = window > 0 and kind == "training" and is_noisy(series.values)
        if len(placed) > 60 and kind == "held-out":
            dots = ""
        lines.append(Line("raw" if smoothed else kind, label, points_text(placed), dots))
        if smoothed:
            means = running_mean(series.values, window)
            smooth = downsample(list(zip(series.steps, means, strict=True)))
            lines.append(Line("mean", "", points_text(place(smooth, x, y))))
    last = [(kind, label, format_number(series.values[-1])) for kind, label, series in parts]
    return Chart(
        name=name,
        unit=unit,
        text=text,
        lines=lines,
        x=x,
        y=y,
        last=last,
        summary="; ".join(_summary(label, series) for _, label, series in parts) or "no values",
        note=f"{not_finite:,} not finite, left out" if not_finite else "",
        y_label=unit,
    )


def _summary(label: str, series: Series) -> str:
    first, last = series.values[0], series.values[-1]
    return (
        f"{label} {format_number(first)} at update {series.steps[0]:g}, "
        f"{format_number(last)} at update {series.steps[-1]:g}, "
        f"between {format_number(min(series.values))} and {format_number(max(series.values))}"
    )


def frontier(
    kl: Series | None,
    score: Series | None,
    eval_kl: Series | None = None,
    eval_score: Series | None = None,
) -> Chart | None:
    """Returns score against KL, one dot per update, later ones darker; None below two updates.

    What a policy gained, against how far it went for it: the higher and further left, the better.
    """
    training = _pair(kl, score)
    held_out = _pair(eval_kl, eval_score)
    if len(training) < 2:
        return None
    training, held_out = _thin(training), _thin(held_out)
    both = [*training, *held_out]
    x = value_axis((px for _, px, _ in both), downwards=False)
    y = value_axis(py for _, _, py in both)
    placed = place(((px, py) for _, px, py in training), x, y)
    fifths = [placed[i * len(placed) // 5 : (i + 1) * len(placed) // 5] for i in range(5)]
    dots = [(0.4 + 0.15 * i, dots_text(part)) for i, part in enumerate(fifths) if part]
    lines = []
    if len(held_out) > 1:
        places = place(((px, py) for _, px, py in held_out), x, y)
        lines.append(Line("held-out", "held-out", points_text(places), dots_text(places)))
    marks = [_mark(point, x, y) for point in (training[0], training[-1])]
    step, last_kl, last_score = training[-1]
    return Chart(
        name="score against KL",
        unit="",
        text="one dot per update, later ones stronger; high on the left is best",
        lines=lines,
        x=x,
        y=y,
        last=[("training", "training", f"{format_number(last_score)} at {format_number(last_kl)}")],
        summary=f"update {step:g}: score {format_number(last_score)} at {format_number(last_kl)} "
        f"nats, from score {format_number(training[0][2])} at {format_number(training[0][1])} nats",
        x_label="KL to the reference, nats per response",
        y_label="score",
        dots=dots,
        marks=marks,
    )


def _pair(first: Series | None, second: Series | None) -> list[tuple[float, float, float]]:
    """Returns (step, first, second) for the steps that both have."""
    if first is None or second is None:
        return []
    by_step = dict(first)
    return [(step, by_step[step], value) for step, value in second if step in by_step]


def _thin(
    points: list[tuple[float, float, float]], limit: int = MAX_POINTS
) -> list[tuple[float, float, float]]:
    """Returns at most `limit` points in order: evenly spaced, with the extremes of both axes."""
    if len(points) <= limit:
        return points
    even = {round(i * (len(points) - 1) / (limit - 5)) for i in range(limit - 4)}
    for axis in (1, 2):
        even.add(min(range(len(points)), key=lambda i: points[i][axis]))
        even.add(max(range(len(points)), key=lambda i: points[i][axis]))
    return [points[i] for i in sorted(even)]


def _mark(point: tuple[float, float, float], x: Axis, y: Axis) -> tuple[float, float, str]:
    step, px, py = point
    return _percent(px, x.low, x.high), 100.0 - _percent(py, y.low, y.high), f"{step:g}"
