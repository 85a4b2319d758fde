"""The run report: one HTML file with a run's figures, curves, samples and configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignzoo.errors import DataError
from alignzoo.report.curves import Chart, curve, frontier, smoothing_window
from alignzoo.report.metric_names import (
    HELD_OUT_PREFIX,
    SCORE_PREFIX,
    format_number,
    format_seconds,
    meaning,
    order,
)
from alignzoo.report.run_config import (
    algorithm_name,
    baseline,
    data_name,
    option,
    own_metrics,
    rewards,
    short_name,
)
from alignzoo.report.run_files import MetricsFile, Series, read_config, read_metrics
from alignzoo.report.samples import read_samples, visible

__all__ = ["write_report"]

MAIN = ("score_mean", "kl", "loss")


class Figure(NamedTuple):
    """One headline figure: what it is, its value now, and where it started."""

    label: str
    value: str
    before: str = ""
    unit: str = ""
    kind: str = ""


def write_report(folder: Path) -> Path:
    """Writes `folder/report.html` from what the run has written so far; returns its path.

    The file needs no network and no other file, and replaces an older one in one step. Missing,
    empty or half-written input is shown as such, for a report is most wanted when a run went wrong.

    Args:
        folder: a run folder with config.yaml, metrics.jsonl and samples.jsonl, each optional.
    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; a report is written into the folder of a run")
    page = render(folder)
    path = folder / "report.html"
    aside = folder / f".report.html.{os.getpid()}"
    try:
        with aside.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def render(folder: Path) -> str:
    """Returns the report as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    config, config_fault = read_config(folder / "config.yaml")
    metrics = read_metrics(folder / "metrics.jsonl", baseline(config))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    main, small, constants = charts(metrics, own_metrics(config))
    return environment.get_template("report.html.j2").render(
        title=visible(algorithm_name(config) or folder.resolve().name),
        subtitle=[*run_subtitle(config), *run_size(metrics)],
        figures=headline(metrics),
        notes=list(notes(metrics, config, config_fault)),
        main=main,
        window=smoothing_window(metrics.num_updates),
        small=small,
        constants=constants,
        samples=read_samples(folder / "samples.jsonl"),
        config=config_sections(config),
    )


def charts(
    metrics: MetricsFile, own: Mapping[str, str]
) -> tuple[list[Chart], list[Chart], list[tuple[str, str, str]]]:
    """Returns the main charts, the small ones, and (name, value, unit) of what never changed.

    Args:
        own: what metrics mean that are the algorithm's own, by name.
    """
    series = shown_series(metrics)
    twins = {HELD_OUT_PREFIX + name for name in series}
    names = sorted((name for name in series if name not in twins), key=order)
    main_names = [name for name in MAIN if {name, HELD_OUT_PREFIX + name} & set(names)]

    def chart(name: str) -> Chart:
        known = meaning(name)
        return curve(
            name,
            series.get(name),
            series.get(HELD_OUT_PREFIX + name),
            steps=(metrics.first_step, metrics.last_step),
            unit=known.unit,
            text=known.text or own.get(name.removeprefix(HELD_OUT_PREFIX), ""),
            window=smoothing_window(metrics.num_updates),
            not_finite=metrics.not_finite.get(name, 0),
        )

    main = [chart(name) for name in main_names]
    path = frontier(
        *(series.get(name) for name in ("kl", "score_mean", "eval_kl", "eval_score_mean"))
    )
    main += [path] if path is not None else []
    others = [n for n in names if n.removeprefix(HELD_OUT_PREFIX) not in main_names]
    flat = [name for name in others if _is_constant(name, series)]
    constants = [(n, format_number(series[n].values[-1]), meaning(n).unit) for n in flat]
    return main, [chart(name) for name in others if name not in flat], constants


def shown_series(metrics: MetricsFile) -> dict[str, Series]:
    """Returns the run's series with its speed, and without a lone reward that repeats the score."""
    series = dict(metrics.series)
    speed = tokens_per_second(series)
    if len(speed):
        series["tokens_per_second"] = speed
    for prefix in ("", HELD_OUT_PREFIX):
        parts = [name for name in series if name.startswith(prefix + SCORE_PREFIX)]
        whole = series.get(f"{prefix}score_mean")
        if len(parts) == 1 and whole is not None and series[parts[0]].values == whole.values:
            del series[parts[0]]
    return series


def _is_constant(name: str, series: Mapping[str, Series]) -> bool:
    """Whether a metric has one value only, which a line of text tells better than a chart."""
    twin = series.get(HELD_OUT_PREFIX + name)
    values = {*series[name].values, *(twin.values if twin is not None else ())}
    return len(values) == 1


def tokens_per_second(series: Mapping[str, Series]) -> Series:
    """Returns the response tokens each update sampled, over its seconds."""
    speed = Series()
    if "tokens" not in series or "seconds" not in series:
        return speed
    seconds = dict(series["seconds"])
    before = 0.0
    for step, total in series["tokens"]:
        if seconds.get(step, 0.0) > 0 and total >= before:
            speed.append(step, (total - before) / seconds[step])
        before = total
    return speed


def headline(metrics: MetricsFile) -> list[Figure]:
    """Returns the figures at the top of the report; what was not measured is left out."""
    series = metrics.series
    wanted = (
        ("score_mean", "score, training", "", "training"),
        ("eval_score_mean", "score, held-out", "", "held-out"),
        ("loss", "loss, training", "", "training"),
        ("eval_loss", "loss, held-out", "", "held-out"),
        ("kl", "KL to reference", "nats", "training"),
        ("eval_kl", "KL, held-out", "nats", "held-out"),
        ("response_length_mean", "response length", "tokens", ""),
    )
    figures = []
    for name, label, unit, kind in wanted:
        if name not in series:
            continue
        values = series[name].values
        first, last = (format_number(round(value, 4)) for value in (values[0], values[-1]))
        figures.append(Figure(label, last, first if len(values) > 1 else "", unit, kind))
    return figures


def run_size(metrics: MetricsFile) -> list[tuple[str, str]]:
    """Returns (word, value) pairs that say how long the run was."""
    series = metrics.series
    parts = [("updates", f"{metrics.num_updates:,}")]
    if "tokens" in series:
        parts.append(("response tokens", f"{int(series['tokens'].values[-1]):,}"))
    if "seconds" in series:
        parts.append(("time", format_seconds(sum(series["seconds"].values))))
    return parts


def notes(metrics: MetricsFile, config: Mapping[str, Any], config_fault: str) -> Iterator[str]:
    """Yields what a reader should know before trusting the curves."""
    series = metrics.series
    if config_fault:
        yield config_fault
    if metrics.num_updates == 0:
        yield "metrics.jsonl has no updates yet."
        return
    planned = option(config, "steps")
    if isinstance(planned, int) and metrics.last_step < planned:
        yield f"The run has done {metrics.last_step:g} of its {planned:,} updates."
    if metrics.malformed:
        yield f"Malformed lines of metrics.jsonl, left out: {metrics.malformed:,}."
    for name, told in (
        ("skipped_updates", "Optimiser steps skipped because loss or gradient was not finite"),
        ("unscorable", "Responses that the reward could not score, left out of every mean"),
    ):
        if name in series and series[name].values[-1] > 0:
            yield f"{told}: {format_number(series[name].values[-1])}."
    if metrics.not_finite:
        names = ", ".join(sorted(metrics.not_finite))
        yield f"Values that were NaN or infinite, left out: {names}."
    cut_off = series.get("truncated_fraction")
    if cut_off is not None and cut_off.values[-1] > 0.5:
        yield (
            f"{cut_off.values[-1]:.0%} of the last update's responses were cut off by "
            "max_new_tokens."
        )
    if not any(name.startswith(HELD_OUT_PREFIX) for name in series):
        yield "Nothing was measured on held-out prompts: every curve is of training data."


def run_subtitle(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (word, value) pairs that say what was trained: policy, rewards, data, seed."""
    seed = option(config, "seed")
    parts = [
        ("policy", short_name(option(config, "policy"))),
        ("reward", ", ".join(reward.name for reward in rewards(config))),
        *(
            (name.replace("eval_", "held-out "), data_name(config, name))
            for name in ("data", "prompts", "eval_data", "eval_prompts")
        ),
        ("seed", "" if seed is None else str(seed)),
    ]
    return [(word, visible(value)) for word, value in parts if value]


def config_sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns the configuration as (section, rows of dotted name and value)."""
    loose = [(k, _plain(v)) for k, v in config.items() if not isinstance(v, Mapping | list)]
    sections = [("general", [(visible(k), v) for k, v in loose])] if loose else []
    for key, value in config.items():
        if isinstance(value, Mapping | list):
            sections.append((visible(key), list(flatten(value))))
    return sections


def flatten(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, text) for every leaf of nested mappings and lists."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
        for i, inner in enumerate(value):
            yield from flatten(inner, f"{name}[{i}]")
    else:
        yield visible(name), _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return visible(", ".join(map(str, value))) if value else "(none)"
    if value is None or value == {}:
        return "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return visible(str(value))
