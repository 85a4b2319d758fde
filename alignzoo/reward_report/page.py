"""The report as one HTML page: tables, charts as inline SVG, and the worst disagreements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignzoo import report as run_report
from alignzoo.report.curves import Axis, Chart, Line, dots_text, place, points_text, value_axis
from alignzoo.report.metric_names import format_number
from alignzoo.report.run_config import short_name
from alignzoo.report.samples import Text, Turn, to_text, to_turns, visible
from alignzoo.reward_report.evaluation import MAX_TEXT, Disagreement, Evaluation, Histogram
from alignzoo.reward_report.intervals import Measure
from alignzoo.reward_report.judged import ONE_PROMPT
from alignzoo.reward_report.measures import Calibration

if TYPE_CHECKING:
    from alignzoo.overoptimisation import Overoptimisation
    from alignzoo.reward_report import RewardReport

COLOURS = ("training", "held-out", "third", "fourth")
MEANINGS: Mapping[str, str] = {
    "accuracy": "share that the reward gets right; ties count one half",
    "pair_accuracy": "share of comparisons that the score orders as people did; ties one half",
    "top_1": "share of rankings whose best response has the highest score",
    "macro_f1": "mean over classes of the F1 of the likeliest class",
    "rmse": "root of the mean squared error, in the unit of the rating",
    "spearman": "rank correlation of score and rating",
    "r2": "share of the ratings' variance that the score explains; below 0 is worse than the mean",
    "longer wins": "accuracy of preferring the response with more characters",
    "first wins": "accuracy of preferring the first of two",
    "most frequent class: macro_f1": "of saying the same class of every response",
    "mean rating: rmse": "of saying the mean of the ratings learned from",
    "reward prefers longer": "share of comparisons in which the longer response has the higher "
    "score",
    "people prefer longer": "the same of what people said",
}
LENGTH_TEXT = {"spearman": "rank correlation of score and length in characters"}
SHARES = ("accuracy", "pair_accuracy", "top_1", "macro_f1", "longer", "first", "most frequent")


class Row(NamedTuple):
    """One line of a table of figures."""

    name: str
    text: str
    value: str
    interval: str
    bar: tuple[float, float, float] | None  # low, value and high in percent, of a share


class Mistake(NamedTuple):
    """One disagreement, ready to be shown."""

    where: str
    said: str
    prompt: list[Turn]
    responses: list[tuple[str, str, Text]]


def render(report: RewardReport) -> str:
    """Returns the report as HTML text; everything it shows is escaped, and it loads nothing."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

    folders = (Path(__file__).parent, Path(run_report.__file__).parent)
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = report.held_out
    name = str(report.about.get("id") or report.about.get("class") or "reward")
    return environment.get_template("reward.html.j2").render(
        title=visible(name),
        subtitle=list(_subtitle(report)),
        figures=_headline(report),
        notes=[visible(note) for note in report.notes],
        main=_charts(report),
        tables=_tables(found) if found is not None else [],
        ece=_ece(found),
        first_is=found.first_is if found is not None else "",
        pairs=f"{found.num_pairs:,}" if found is not None else "",
        within_prompts=found is not None and found.pairs_of == ONE_PROMPT,
        curve=report.overoptimisation,
        mistakes=[_mistake(worst) for worst in (found.disagreements if found else [])],
        config=run_report.config_sections(_configuration(report)),
    )


def _subtitle(report: RewardReport) -> Iterator[tuple[str, str]]:
    """Yields (word, value) pairs that say what was trained on what."""
    data = report.about.get("data", {})
    yield "learned from", str(report.about.get("learned_from", ""))
    if data.get("path"):
        yield "data", visible(short_name(data["path"]))
    yield "rows", f"{data.get('train_rows', 0):,}"
    yield "held out", f"{data.get('held_out_rows', 0):,}"
    yield "seed", str(report.about.get("seed", ""))


def _headline(report: RewardReport) -> list[run_report.Figure]:
    """Returns the figures at the top: the reward's, held out, and the null baselines."""
    if report.held_out is None:
        return []
    figures = []
    for name, value in report.held_out.metrics.items():
        unit = f"{value.low:.3f} to {value.high:.3f}" if math.isfinite(value.low) else ""
        label = name.replace("_", " ")
        figures.append(run_report.Figure(label, _number(value.value), "", unit, "held-out"))
    for name, value in report.held_out.baselines.items():
        figures.append(run_report.Figure(name.replace("_", " "), _number(value.value)))
    for name, number in list(report.training.items())[:1]:
        label = f"{name.replace('_', ' ')}, training"
        figures.append(run_report.Figure(label, _number(number), "", "", "training"))
    return figures


def _tables(found: Evaluation) -> list[tuple[str, list[Row]]]:
    """Returns the tables of figures by title."""
    return [
        ("The reward", _lines(found.metrics)),
        ("Null baselines, on the same rows", _lines(found.baselines)),
        ("Length", _lines(found.lengths, LENGTH_TEXT)),
    ]


def _lines(measures: Mapping[str, Measure], texts: Mapping[str, str] | None = None) -> list[Row]:
    lines = []
    for name, value in measures.items():
        known = math.isfinite(value.low)
        interval = f"{_number(value.low)} to {_number(value.high)}" if known else ""
        is_share = name.startswith(SHARES) or "prefer" in name
        ends = (value.low, value.value, value.high) if known else (value.value,) * 3
        bar = None
        if is_share and math.isfinite(value.value) and not name.endswith("rmse"):
            low, middle, high = (round(100 * end, 2) for end in ends)
            bar = (low, middle, high)
        text = {**MEANINGS, **(texts or {})}.get(name, "")
        lines.append(Row(name.replace("_", " "), text, _number(value.value), interval, bar))
    return lines


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not defined"


def _ece(found: Evaluation | None) -> str:
    return "" if found is None else _number(found.calibration.ece)


def _charts(report: RewardReport) -> list[Chart]:
    charts = []
    if report.overoptimisation is not None:
        charts.append(curve_chart(report.overoptimisation))
    if report.held_out is not None:
        if report.held_out.calibration.bins:
            charts.append(calibration_chart(report.held_out.calibration))
        charts.append(histogram_chart(report.held_out.histogram))
    return charts


def calibration_chart(found: Calibration) -> Chart:
    """Returns prediction against what was observed, beside the line where they are equal."""
    ends = [number for predicted, observed, _ in found.bins for number in (predicted, observed)]
    x = value_axis(ends, downwards=False)
    y = value_axis(ends)
    low, high = max(x.low, y.low), min(x.high, y.high)
    points = place([(predicted, observed) for predicted, observed, _ in found.bins], x, y)
    lines = [
        Line("ideal", "", points_text(place([(low, low), (high, high)], x, y))),
        Line("held-out", "held out", points_text(points), dots_text(points)),
    ]
    ece = _number(found.ece)
    summary = f"calibration error {ece} over {len(found.bins)} bins"
    return Chart(
        name="calibration",
        unit="",
        text=found.text,
        lines=lines,
        x=x,
        y=y,
        last=[("held-out", "ECE", f"ECE {ece}")],
        summary=summary,
        note="on the grey line they are equal",
        x_label="predicted",
        y_label="observed",
    )


def histogram_chart(found: Histogram) -> Chart:
    """Returns how the scores are spread, as shares of each part."""
    shares = {
        name: [count / max(1, sum(counts)) for count in counts]
        for name, counts in found.counts.items()
    }
    x = value_axis(found.edges, downwards=False)
    y = value_axis([0.0, *(share for values in shares.values() for share in values)])
    lines = [
        Line(colour, visible(name), points_text(place(_steps(found.edges, values), x, y)))
        for colour, (name, values) in zip(COLOURS, shares.items(), strict=False)
    ]
    last = [
        (colour, visible(name), f"{visible(name)} {format_number(round(found.means[name], 4))}")
        for colour, name in zip(COLOURS, found.means, strict=False)
    ]
    summary = "; ".join(f"mean of {name} {format_number(m)}" for name, m in found.means.items())
    return Chart(
        name="scores",
        unit="",
        text="share of responses by score; the numbers are the means",
        lines=lines,
        x=x,
        y=y,
        last=[(kind, "", value) for kind, _, value in last],
        summary=visible(summary),
        x_label="score",
        y_label="share",
    )


def _steps(edges: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Returns the outline of bars of these heights."""
    points = [(edges[0], 0.0)]
    for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
        points += [(left, value), (right, value)]
    return [*points, (edges[-1], 0.0)]


def curve_chart(found: Overoptimisation) -> Chart:
    """Returns the gains of proxy and true score under best-of-n against KL."""
    series = {
        name: [(point.kl, getattr(point, f"{name}_gain").value) for point in found.points]
        for name in ("proxy", "true", "best")
    }
    x = value_axis((kl for kl, _ in series["proxy"]), downwards=False)
    y = value_axis([value for points in series.values() for _, value in points])
    lines, last = [], []
    for colour, (name, points) in zip((*COLOURS[:2], "ideal"), series.items(), strict=True):
        placed = place(points, x, y)
        dots = dots_text(placed) if name != "best" else ""
        lines.append(Line(colour, name, points_text(placed), dots))
        last.append((colour, name, format_number(round(points[-1][1], 3))))
    marked = {found.parts_at, found.stops_at, found.falls_from, found.points[-1].n}
    marks = [
        (_percent(kl, x), 100.0 - _percent(gain, y), f"n = {point.n}")
        for point, (kl, gain) in zip(found.points, series["true"], strict=True)
        if point.n in marked
    ]
    return Chart(
        name="best of n",
        unit="",
        text="gain of proxy and true score over a single response, in standard deviations of each; "
        "dashed: of choosing by the true score",
        lines=lines,
        x=x,
        y=y,
        last=last,
        summary=found.summary(),
        note=found.verdict(),
        x_label="KL to the sampler, nats: log n - (n - 1) / n",
        y_label="gain",
        marks=marks,
    )


def _percent(value: float, axis: Axis) -> float:
    return 100.0 * (value - axis.low) / (axis.high - axis.low)


def _mistake(worst: Disagreement) -> Mistake:
    prompt = worst.prompt
    if isinstance(prompt, list):
        prompt = [{**message, "content": _cut(message["content"])} for message in prompt]
    else:
        prompt = _cut(prompt)
    responses = [
        (name, format_number(round(score, 4)), to_text(_cut(text)))
        for name, text, score in worst.texts
    ]
    return Mistake(visible(worst.where), visible(worst.said), to_turns(prompt), responses)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _configuration(report: RewardReport) -> dict[str, Any]:
    """Returns what the page lists of the training: options, data, versions, the fit's measures."""
    shown = {key: value for key, value in report.about.items() if key != "metrics"}
    return {**shown, "fit": dict(report.fit)} if report.fit else shown
