"""A benchmark, or the comparison of two, as Markdown: tables that are aligned as plain text too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from alignzoo.benchmark.comparing import Change, Comparison
from alignzoo.benchmark.comparing import compare as compare
from alignzoo.benchmark.pairs import SIGNIFICANT, Pair
from alignzoo.benchmark.rows import load_rows as load_rows
from alignzoo.benchmark.statistics import Estimate
from alignzoo.benchmark.summary import Aggregate, Line, Summary

NONE = "-"
CHOICES = ("tuned", "given", "task")
OF_TASK = "the task's and "
UNITS = {"samples": "responses", "tokens": "tokens", "seconds": "seconds"}
Column = tuple[str, Callable[[Line], str]]

INTERVALS = (
    "In brackets: 95 % intervals, by percentiles of 50,000 stratified bootstrap resamples of the "
    "runs. A failed run counts as the least of the range."
)
TELLING_APART = (
    "Two algorithms are told apart where a permutation test of whole seeds gives p < 0.05 after "
    "adjusting for all pairs (Benjamini and Hochberg). P is the probability that a run of the one "
    "beats a run of the other, ties one half. Not told apart does not mean equal."
)


def markdown(summary: Summary) -> str:
    """Returns the tables of a benchmark, ready for a README or paper; the same text every time."""
    parts = [text for task, lines in summary.tasks.items() for text in _task(summary, task, lines)]
    if len(summary.tasks) > 1:
        parts += ["## All tasks", _aggregates(summary.aggregates)]
        if any(math.isnan(found.iqm.value) for found in summary.aggregates):
            parts.append(f'"{NONE}": no run on one of the tasks.')
    if summary.pairs:
        parts += ["## Who is told apart", "\n".join(_told_apart(summary)), *_too_few(summary)]
        parts.append(TELLING_APART)
    return "\n\n".join([*parts, INTERVALS]) + "\n"


# -- one task ----------------------------------------------------------------------------------


def _task(summary: Summary, task: str, lines: Sequence[Line]) -> Iterator[str]:
    yield f"## {_cell(task)}"
    if not lines:
        yield "No runs."
        return
    yield _about(lines)
    columns = _columns(lines, summary.matched_kl[task], summary.threshold[task])
    rows = [[text(line) for _, text in columns] for line in lines]
    shown = [i for i in range(len(columns)) if i < 2 or any(row[i] != NONE for row in rows)]
    yield table([columns[i][0] for i in shown], [[row[i] for i in shown] for row in rows])


def _about(lines: Sequence[Line]) -> str:
    """Returns what the task measures and what each run could use."""
    row = next((row for line in lines for row in line.rows), None)
    if row is None:
        return "All runs failed."
    low, high = row["range"]
    parts = [f"{row['metric']}, from {low:g} to {high:g}"]
    if row["optimum"] is not None:
        parts.append(f"best possible {row['optimum']:g}")
    parts += [f"{amount:,} {UNITS.get(unit, unit)} a run" for unit, amount in row["budget"].items()]
    return f"{_cell(', '.join(parts))}."


def _columns(lines: Sequence[Line], kl: float, threshold: float) -> list[Column]:
    digits = _digits(lines)
    return [
        ("algorithm", lambda line: _cell(line.algorithm)),
        ("mean", lambda line: _estimate(line.mean, digits)),
        ("IQM", lambda line: _estimate(line.iqm, digits)),
        ("of range", lambda line: _number(100 * line.share.value, 1, " %")),
        ("optimality gap", lambda line: _estimate(line.gap, 4)),
        ("learned-from score", lambda line: _number(line.proxy, digits)),
        ("KL, nats", lambda line: _number(line.kl, 2)),
        (f"score at {_trimmed(kl, 2)} nats", lambda line: _estimate(line.score_at_kl, digits)),
        ("area, score-KL", lambda line: _estimate(line.area, 4)),
        (f"samples to {_trimmed(threshold, digits)}", _wait),
        ("seconds", lambda line: _number(line.seconds, 1)),
        ("MB", lambda line: _number(line.memory / 1e6, 0)),
        ("options", _options),
        ("runs", lambda line: _runs(len(line.rows) + line.num_failed, line.num_failed)),
    ]


def _digits(lines: Sequence[Line]) -> int:
    """Returns the decimals that show a ten-thousandth of the range."""
    widths = [high - low for line in lines for low, high in [row["range"] for row in line.rows]]
    return max(0, min(8, 4 - math.floor(math.log10(max(widths, default=1.0)))))


def _wait(line: Line) -> str:
    if math.isnan(line.samples_to_threshold):
        return NONE
    reached = f" ({line.num_reached} of {len(line.rows) + line.num_failed})"
    if math.isinf(line.samples_to_threshold):
        return f"never{reached}"
    return f"{line.samples_to_threshold:,.0f}{reached}"


def _options(line: Line) -> str:
    """Returns which options were chosen by a sweep, and which were given; NONE where not said."""
    chosen = [row["chosen"] for row in line.rows if row.get("chosen") is not None]
    if not chosen:
        return NONE
    names = {who: sorted({n for one in chosen for n in one.get(who) or {}}) for who in CHOICES}
    parts = [f"{who} {', '.join(names[who])}" for who in ("tuned", "given") if names[who]]
    parts += [f"{'else ' * bool(parts)}{OF_TASK * bool(names['task'])}defaults"]
    return _cell("; ".join(parts))


def _runs(num_runs: int, num_failed: int) -> str:
    return f"{num_runs}, {num_failed} failed" if num_failed else str(num_runs)


# -- all tasks ---------------------------------------------------------------------------------


def _aggregates(found: Sequence[Aggregate]) -> str:
    return table(
        ("algorithm", "IQM", "median", "mean", "optimality gap", "runs"),
        [
            (
                _cell(one.algorithm),
                *(_estimate(number, 4) for number in (one.iqm, one.median, one.mean, one.gap)),
                _runs(one.num_runs, one.num_failed),
            )
            for one in found
        ],
    )


def _told_apart(summary: Summary) -> Iterator[str]:
    """Yields a sentence for each algorithm about those it beats, and those ranked below it."""
    ranked = [found.algorithm for found in summary.aggregates]
    if any(math.isnan(found.iqm.value) for found in summary.aggregates):
        # Not all have an aggregate: those that beat most come first.
        ranked.sort(key=lambda id: (-_num_beaten(summary, id), id))
    for place, x in enumerate(ranked):
        parts = []
        beaten = [summary.pairs[x, y] for y in ranked if _is(summary, x, y, "better")]
        if beaten:
            parts.append(f"is better than {', '.join(map(_beaten, beaten))}")
        below = [y for y in ranked[place + 1 :] if (x, y) in summary.pairs]
        level = [y for y in below if _is(summary, x, y, "not told apart")]
        apart = [y for y in level if math.isnan(summary.pairs[x, y].p_value)]
        level = [y for y in level if y not in apart]
        if level:
            parts.append(f"is not told apart from {', '.join(map(_cell, level))}")
        if apart:
            parts.append(f"shares no task with {', '.join(map(_cell, apart))}")
        if parts:
            yield f"- **{_cell(x)}** {'; '.join(parts)}."


def _too_few(summary: Summary) -> Iterator[str]:
    """Yields a sentence where there are too few runs for any p-value to be below 0.05."""
    most = {one.algorithm: 0 for one in summary.aggregates}
    for line in (line for lines in summary.tasks.values() for line in lines):
        most[line.algorithm] = max(most[line.algorithm], len(line.rows) + line.num_failed)
    *_, second, first = sorted(most.values())
    least = 2 / math.comb(first + second, first)
    if least >= SIGNIFICANT:
        yield (
            f"With {first} against {second} runs a task the least p-value there can be is "
            f"{min(1.0, least):.2g}, so nobody can be told apart."
        )


def _num_beaten(summary: Summary, id: str) -> int:
    return sum(pair.verdict == "better" for (x, _), pair in summary.pairs.items() if x == id)


def _is(summary: Summary, x: str, y: str, verdict: str) -> bool:
    return (x, y) in summary.pairs and summary.pairs[x, y].verdict == verdict


def _beaten(pair: Pair) -> str:
    return f"{_cell(pair.y)} (P = {_estimate(pair.probability, 2)}, {_p(pair.p_value)})"


# -- two benchmarks ----------------------------------------------------------------------------


def comparison_text(found: Comparison) -> str:
    """Returns the comparison of A and B: a table, a sentence for each change, and conditions."""
    heads = ("task", *(("algorithm",) if found.same_algorithms else ("A's", "B's")))
    heads += ("A", "B", "B less A", "P(B > A)", "p", "B is", "runs of A", "of B")
    digits = {task: _digits_of(found.changes, task) for task in {c.task for c in found.changes}}
    rows = [_change(one, found.same_algorithms, digits[one.task]) for one in found.changes]
    parts = [table(heads, rows)]
    if any(not one.task for one in found.changes):
        parts.append('"all" is of all tasks that both have, of scores as shares of the range.')
    parts.append(_pairing(found.changes))
    if found.left_out:
        parts.append("Left out:\n" + "\n".join(f"- {text}" for text in found.left_out))
    if found.conditions:
        parts.append("What else differs:\n" + "\n".join(f"- {one}" for one in found.conditions))
    else:
        parts.append("No other difference is known of.")
    return "\n\n".join([*parts, TELLING_APART, INTERVALS]) + "\n"


def _change(one: Change, same_algorithms: bool, digits: int) -> list[str]:
    names = [one.first] if same_algorithms else [one.first, one.second]
    return [
        _cell(one.task or "all"),
        *map(_cell, names),
        _estimate(one.mean_a, digits),
        _estimate(one.mean_b, digits),
        _estimate(one.difference, digits, sign="+") + ("" if one.is_paired else " *"),
        _estimate(one.pair.probability, 2),
        _p(one.pair.p_value).removeprefix("p = ").removeprefix("p "),
        one.pair.verdict,
        *(_runs(*counts) for counts in zip(one.num_runs, one.num_failed, strict=True)),
    ]


def _digits_of(changes: Sequence[Change], task: str) -> int:
    """Returns the decimals of a task's scores: four, or less where the means are above 1."""
    means = [abs(m.value) for one in changes if one.task == task for m in (one.mean_a, one.mean_b)]
    return max(0, 4 - math.ceil(math.log10(max(1.0, *means))))


def _pairing(changes: Sequence[Change]) -> str:
    if all(one.is_paired for one in changes):
        return "B less A is of the seeds that both have."
    if not any(one.is_paired for one in changes):
        return "* B less A is of all runs, as A and B share fewer than two seeds of a task."
    return (
        "B less A is of the seeds that both have, where they share two of a task; else (*) of all."
    )


# -- text --------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, padded so that it reads as plain text too."""
    widths = [max(3, *map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _estimate(found: Estimate, digits: int, *, sign: str = "") -> str:
    """Returns "0.93 [0.85, 0.99]"; without brackets where there is no interval."""
    if not math.isfinite(found.value):
        return NONE
    text = f"{found.value:{sign}.{digits}f}"
    if not math.isfinite(found.low):
        return text
    return f"{text} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def _number(value: float, digits: int, unit: str = "") -> str:
    return f"{value:,.{digits}f}{unit}" if math.isfinite(value) else NONE


def _trimmed(value: float, digits: int) -> str:
    """Returns a number without the zeros at its end."""
    text = _number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _p(value: float) -> str:
    if math.isnan(value):
        return NONE
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def _cell(text: str) -> str:
    """Returns a text as one line that ends no cell and starts no markup."""
    plain = " ".join(text.split())
    for mark in "\\|*`<>[]":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
