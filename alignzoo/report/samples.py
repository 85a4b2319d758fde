"""Choosing samples to show: the same prompts at the first, a middle and the last step."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.report.metric_names import format_number
from alignzoo.report.run_files import is_number, read_json_lines

ROWS_PER_SPLIT = 4
EXTREMES = 2
KEPT_PER_STEP = 400  # rows of one step and split that are looked at
CLIP = 480  # columns of text shown before "show all"; a Chinese character takes two
CLIP_LINES = 12
CUT = 20_000  # characters of one text that the report keeps

SPLIT_TITLES = {"held-out": "Held-out prompts", "train": "Training prompts"}

_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE[0x7F] = 0x2421


@dataclass(frozen=True)
class Text:
    """A text to show: `head` is its beginning where it is long, else empty."""

    whole: str
    head: str = ""
    num_characters: int = 0
    is_cut: bool = False


@dataclass(frozen=True)
class Turn:
    """One message of a prompt; a prompt that is plain text has one turn without a role."""

    role: str
    text: Text


@dataclass(frozen=True)
class Cell:
    """One response with its score; `prompt` is given where the row's cells differ in it."""

    step: str
    response: Text
    score: str
    prompt: list[Turn] = field(default_factory=list)


@dataclass(frozen=True)
class SampleRow:
    """One row of the table: its responses, and its prompt.

    The prompt is empty where the row above has the same or each cell has its own.
    """

    prompt: list[Turn]
    cells: list[Cell]


@dataclass(frozen=True)
class SampleTable:
    """The samples of one split at a few steps, or the extremes of one step."""

    title: str
    text: str
    heads: list[str]
    rows: list[SampleRow]


@dataclass(frozen=True)
class _Sample:
    step: float
    prompt: Any
    response: Any
    score: float | None

    @property
    def key(self) -> str:
        return repr(self.prompt)


def visible(text: str) -> str:
    """Returns `text` with control characters as symbols and lone surrogates replaced."""
    return text.translate(_VISIBLE).encode("utf-8", "replace").decode("utf-8")


def to_text(value: object) -> Text:
    """Returns what is shown of a prompt or response."""
    whole = visible(value if isinstance(value, str) else "" if value is None else str(value))
    head = beginning(whole)
    is_long = len(whole) - len(head) > len(head) // 4
    return Text(whole[:CUT], head.rstrip() if is_long else "", len(whole), len(whole) > CUT)


def beginning(text: str) -> str:
    """Returns the part of `text` that fits into CLIP columns and CLIP_LINES lines."""
    columns, lines = 0, 1
    for i, character in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        lines += character == "\n"
        if columns > CLIP or lines > CLIP_LINES:
            return text[:i]
    return text


def to_turns(prompt: object) -> list[Turn]:
    """Returns a prompt, plain text or chat messages, as turns."""
    if isinstance(prompt, list):
        return [
            Turn(visible(str(message.get("role", ""))), to_text(message.get("content")))
            if isinstance(message, dict)
            else Turn("", to_text(message))
            for message in prompt
        ]
    return [Turn("", to_text(prompt))]


def read_samples(path: Path) -> list[SampleTable]:
    """Returns the tables of samples: held-out first, then training, then the last step's extremes.

    The file is read twice and only rows of the steps shown are kept, so it may be vast.
    """
    steps: dict[str, set[float]] = {}
    for row in read_json_lines(path):
        if row is not None:
            steps.setdefault(_split(row), set()).add(_step(row))
    chosen = {split: first_middle_last(found) for split, found in steps.items()}
    kept: dict[str, dict[float, list[_Sample]]] = {
        split: {step: [] for step in found} for split, found in chosen.items()
    }
    for row in read_json_lines(path):
        if row is None:
            continue
        rows = kept.get(_split(row), {}).get(_step(row))
        if rows is not None and len(rows) < KEPT_PER_STEP:
            rows.append(_sample(row))
    splits = sorted(kept, key=lambda split: (split != "held-out", split))
    tables = [_side_by_side(split, kept[split]) for split in splits]
    extremes = (_extremes(split, kept[split]) for split in splits)
    return [*tables, *[table for table in extremes if table is not None][:1]]


def first_middle_last(steps: Iterable[float]) -> list[float]:
    """Returns the first step, the one nearest the middle, and the last; fewer where there are."""
    ordered = sorted(steps)
    if len(ordered) <= 3:
        return ordered
    middle = (ordered[0] + ordered[-1]) / 2
    inner = min(ordered[1:-1], key=lambda step: abs(step - middle))
    return [ordered[0], inner, ordered[-1]]


def _split(row: dict[str, Any]) -> str:
    return str(row.get("split") or "train")


def _step(row: dict[str, Any]) -> float:
    step = row.get("step")
    return float(step) if step is not None and is_number(step) and math.isfinite(step) else 0.0


def _sample(row: dict[str, Any]) -> _Sample:
    score = row.get("score")
    return _Sample(
        step=_step(row),
        prompt=row.get("prompt"),
        response=row.get("response"),
        score=float(score) if score is not None and is_number(score) else None,
    )


def _side_by_side(split: str, by_step: dict[float, list[_Sample]]) -> SampleTable:
    steps = list(by_step)
    columns = [_by_prompt(by_step[step]) for step in steps]
    shared = [key for key in columns[0] if all(key in column for column in columns)]
    rows = []
    if shared:
        before = ""
        for key, i in _round_robin(shared, columns):
            cells = [_cell(column[key][i]) for column in columns]
            is_repeated = key == before
            rows.append(
                SampleRow([] if is_repeated else to_turns(columns[0][key][i].prompt), cells)
            )
            before = key
        text = "The first responses recorded for the same prompts; none was picked by hand."
    else:
        count = min(ROWS_PER_SPLIT, *(len(by_step[step]) for step in steps))
        for i in range(count):
            cells = [_cell(by_step[step][i], with_prompt=True) for step in steps]
            rows.append(SampleRow([], cells))
        text = "The first responses recorded; the prompts differ from step to step."
    title = SPLIT_TITLES.get(split, visible(split))
    return SampleTable(title, text, [step_name(step) for step in steps], rows)


def step_name(step: float) -> str:
    """Returns what a step is called; samples of step 0 were drawn before the first update."""
    return f"update {step:g}" if step else "before training"


def _by_prompt(samples: Sequence[_Sample]) -> dict[str, list[_Sample]]:
    found: dict[str, list[_Sample]] = {}
    for sample in samples:
        found.setdefault(sample.key, []).append(sample)
    return found


def _round_robin(
    keys: Sequence[str], columns: Sequence[dict[str, list[_Sample]]]
) -> list[tuple[str, int]]:
    """Returns up to ROWS_PER_SPLIT (prompt, draw): all first draws before any second one."""
    depth = {key: min(len(column[key]) for column in columns) for key in keys}
    pairs = [(key, i) for i in range(ROWS_PER_SPLIT) for key in keys if i < depth[key]]
    return pairs[:ROWS_PER_SPLIT]


def _cell(sample: _Sample, *, with_prompt: bool = False) -> Cell:
    return Cell(
        step=step_name(sample.step),
        response=to_text(sample.response),
        score="unscorable"
        if sample.score is None or math.isnan(sample.score)
        else format_number(sample.score),
        prompt=to_turns(sample.prompt) if with_prompt else [],
    )


def _extremes(split: str, by_step: dict[float, list[_Sample]]) -> SampleTable | None:
    """Returns the last step's highest and lowest scores, where a reward's weakness shows first."""
    last = by_step[max(by_step)]
    scored = [s for s in last if s.score is not None and math.isfinite(s.score)]
    scored.sort(key=lambda s: s.score or 0.0, reverse=True)
    if len(scored) < 3 * EXTREMES or scored[0].score == scored[-1].score:
        return None
    highest, lowest = scored[:EXTREMES], scored[: -EXTREMES - 1 : -1]
    rows = [
        SampleRow([], [_cell(high, with_prompt=True), _cell(low, with_prompt=True)])
        for high, low in zip(highest, lowest, strict=True)
    ]
    where = SPLIT_TITLES.get(split, visible(split)).lower()
    return SampleTable(
        title=f"Highest and lowest scores, update {max(by_step):g}",
        text=f"Of {len(scored)} scored responses recorded on {where}.",
        heads=["highest", "lowest"],
        rows=rows,
    )
