"""The figures of a benchmark for papers: PNG of 200 dots per inch, and SVG, by matplotlib.

The same summary and rows give the same bytes, with the same matplotlib and fonts. Colours and
dashes are those of the page, in light.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignzoo.benchmark.bands import (
    UNITS,
    Band,
    budget_unit,
    frontier_band,
    learning_band,
    profile_band,
)
from alignzoo.benchmark.charts import NUM_COLOURS, looks
from alignzoo.benchmark.page_tables import MARKS
from alignzoo.benchmark.summary import Line, Summary
from alignzoo.report.samples import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
Names = Sequence[str]

# The page's, in light; algorithms after the eighth are grey.
COLOURS = ("#2545c4", "#e85d1c", "#17805c", "#b08cc0", "#632500", "#1d9df2", "#6e357e", "#1c1f23")
GREY = "#c3c8ce"
SOFT = "#5c646e"
# What the first has not, such as Chinese, is drawn by the first that has it.
FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "PingFang SC", "SimHei", "Arial Unicode MS",
)  # fmt: skip
NAME_COLUMNS = 28  # of a name that are drawn
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.7, "savefig.dpi": 200,
    "svg.hashsalt": "alignzoo", "text.parse_math": False,
}  # fmt: skip


def write_figures(summary: Summary, rows: Sequence[Row], folder: str | Path) -> list[Path]:
    """Writes each figure as PNG and as SVG and returns their paths; what nobody measured is not.

    Names are drawn as they are, formulas included. Characters that no installed font has are boxes
    in the PNG, and in the SVG are left to the fonts of whoever shows it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        matplotlib.rcdefaults()  # whatever the caller set, within this context
        parameters: Any = matplotlib.rcParams
        parameters.update(STYLE, **{"font.family": _installed_fonts()})
        for name, figure in _figures(summary, rows):
            caught.clear()
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})
            figure.set_layout_engine("none")  # the SVG keeps the PNG's
            is_lacking = any("missing from" in str(warning.message) for warning in caught)
            parameters["svg.fonttype"] = "none" if is_lacking else "path"
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            paths += [folder / f"{name}.png", folder / f"{name}.svg"]
    return paths


def _installed_fonts() -> list[str]:
    """Returns those of our fonts that are there; the others would be logged at every text."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in known]


def _figures(summary: Summary, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    colours = _colours(summary)
    units = {task: budget_unit(r for r in rows if r["task"] == task) for task in summary.tasks}
    learning = [
        Panel(_short(task), UNITS.get(units[task], "update"), "score", bands, _optimum(lines))
        for task, lines in summary.tasks.items()
        if (bands := _bands(lines, partial(learning_band, unit=units[task])))
    ]
    frontiers = [
        Panel(_short(task), "KL to the initial policy (nats)", "best score", bands, steps=True)
        for task, lines in summary.tasks.items()
        if (bands := _bands(lines, frontier_band))
    ]
    shares = {name: band for name in colours if (band := profile_band(summary, name)) is not None}
    profile = [Panel("", "normalised score", "share of runs above it", shares, shade=0.08)]
    for name, panels in (
        ("learning_curves", learning),
        ("frontier", frontiers),
        ("profile", profile if shares else []),
    ):
        if panels:
            yield name, _draw_panels(panels, colours)
    if summary.pairs:
        yield "improvement", _draw_matrix(summary, list(colours))
    if costs := _costs(summary):
        yield "cost", _draw_costs(costs, list(colours))


def _colours(summary: Summary) -> dict[str, str]:
    """Returns each algorithm's colour, in the order of the ranking over all tasks."""
    names = list(looks(summary))
    return {name: COLOURS[i] if i < NUM_COLOURS else GREY for i, name in enumerate(names)}


def _short(name: str) -> str:
    """Returns as much of a name as there is room for; wide characters take two columns."""
    text, columns = visible(name), 0
    for i, character in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns > NAME_COLUMNS:
            return f"{text[:i]}…"
    return text


@dataclass(frozen=True)
class Panel:
    """One plot of curves by algorithm."""

    title: str
    x: str
    y: str
    bands: Mapping[str, Band]
    optimum: float | None = None
    steps: bool = False
    shade: float = 0.15  # of the bands


def _bands(lines: Sequence[Line], find: Callable[[Line], Band | None]) -> dict[str, Band]:
    found = {line.algorithm: find(line) for line in lines}
    return {name: band for name, band in found.items() if band is not None and len(band.x)}


def _optimum(lines: Sequence[Line]) -> float | None:
    known = (row.get("optimum") for line in lines for row in line.rows)
    return next((float(best) for best in known if best is not None), None)


def _draw_panels(panels: Sequence[Panel], colours: Mapping[str, str]) -> Figure:
    """Returns the panels, three to a row, with one legend below all."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = (4.6, 6.8, 9.2)[columns - 1]
    labels, inks = _legend(panels, colours)
    in_a_row = max(1, min(len(labels), int(width * 12 / (max(map(len, labels)) + 6))))
    height = 2.5 * rows + 0.2 * math.ceil(len(labels) / in_a_row) + 0.3
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, colours)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _draw_legend(figure, labels, inks, in_a_row)
    return figure


def _legend(panels: Sequence[Panel], colours: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Returns the legend's texts and their colours; the grey ones are told together."""
    shown = [name for name in colours if any(name in panel.bands for panel in panels)]
    labels = [_short(name) for name in shown if colours[name] != GREY]
    inks = [colours[name] for name in shown if colours[name] != GREY]
    if len(shown) > len(labels):
        labels, inks = [*labels, f"{len(shown) - len(labels)} others"], [*inks, GREY]
    return labels, inks


def _draw_legend(figure: Figure, labels: Names, inks: Names, in_a_row: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=ink, linewidth=0.8 if ink == GREY else 1.5) for ink in inks]
    legend = figure.legend(
        handles, [str(i) for i in range(len(labels))], loc="outside lower center",
        ncols=in_a_row, frameon=False, handlelength=1.8,
    )  # fmt: skip
    # A label that begins with "_" would be left out, were it given before.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _draw_panel(ax: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    for name in reversed([name for name in colours if name in panel.bands]):  # the best on top
        band, colour = panel.bands[name], colours[name]
        is_grey, dot = colour == GREY, "o" if len(band.x) == 1 else ""
        ax.plot(
            band.x, band.mean, color=colour, linewidth=0.8 if is_grey else 1.5, marker=dot,
            markersize=3, drawstyle="steps-post" if panel.steps else "default",
            zorder=2 if is_grey else 3,
        )  # fmt: skip
        if not is_grey:
            ax.fill_between(
                band.x, band.low, band.high, color=colour, alpha=panel.shade, linewidth=0,
                step="post" if panel.steps else None, zorder=1,
            )  # fmt: skip
    if panel.optimum is not None:
        ax.axhline(panel.optimum, color=SOFT, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.margins(x=0.01)


def _draw_matrix(summary: Summary, names: Names) -> Figure:
    """Returns P(run of the row better than one of the column), marked where told apart."""
    from matplotlib.figure import Figure

    count = len(names)
    values = np.full((count, count), math.nan)
    longest = max(len(_short(name)) for name in names) * 0.07
    side = 0.36 * count
    figure = Figure(figsize=(side + longest + 0.5, side + longest + 0.5), layout="constrained")
    ax = figure.subplots()
    shown = {
        key: pair for key, pair in summary.pairs.items() if key[0] in names and key[1] in names
    }
    for (x, y), pair in shown.items():
        values[names.index(x), names.index(y)] = pair.probability.value
    edges = np.arange(count + 1) - 0.5
    mesh = ax.pcolormesh(
        edges, edges, values, cmap="RdBu", vmin=-0.15, vmax=1.15, edgecolors="white", linewidth=0.5
    )
    shades = np.asarray(mesh.to_rgba(values))
    for (x, y), pair in shown.items():
        i, j, value = names.index(x), names.index(y), pair.probability.value
        if math.isfinite(value):
            ink = "white" if shades[i, j, :3] @ (0.3, 0.6, 0.1) < 0.52 else "black"
            text = f"{value:.2f}\n{MARKS.get(pair.verdict, '')}".rstrip()
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink, linespacing=0.9)
    ax.set_facecolor("#eceef0")
    ax.set_xticks(range(count), [_short(name) for name in names], rotation=90)
    ax.set_yticks(range(count), [_short(name) for name in names])
    ax.set_title("P(row better than column); ▲▼ told apart", fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    return figure


Costs = dict[str, dict[str, list[float]]]  # by what is measured and algorithm, one for each task


def _costs(summary: Summary) -> Costs:
    """Returns what runs cost; what nobody measured is left out."""
    found: Costs = {"seconds of a run": {}, "memory (MiB)": {}}
    for lines in summary.tasks.values():
        for line in lines:
            values = (line.seconds, line.memory / 2**20)
            for told, value in zip(found.values(), values, strict=True):
                if math.isfinite(value):
                    told.setdefault(line.algorithm, []).append(value)
    return {name: told for name, told in found.items() if told}


def _draw_costs(costs: Costs, names: Names) -> Figure:
    """Returns a bar for each algorithm's mean over tasks, and a dot for each task."""
    from matplotlib.figure import Figure

    shown = [name for name in names if any(name in told for told in costs.values())]
    figure = Figure(figsize=(3.4 * len(costs) + 1, 0.19 * len(shown) + 0.9), layout="constrained")
    axes = figure.subplots(1, len(costs), sharey=True, squeeze=False).flat
    places = range(len(shown))
    for ax, (what, told) in zip(axes, costs.items(), strict=True):
        ax.barh(places, [np.mean(told.get(name, [0.0])) for name in shown], 0.7, color="#9db8dc")
        for place, name in enumerate(shown):
            values = told.get(name, [])
            if len(values) > 1:
                ax.plot(values, [place] * len(values), "o", color=COLOURS[7], markersize=2)
        ax.set_xlabel(what)
        ax.set_yticks(places, [_short(name) for name in shown])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(shown) - 0.4, -0.6)
    return figure
