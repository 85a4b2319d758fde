"""Feedback beyond pairs and numbers: class labels, rankings, written criticism, marks per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from alignzoo.data.columns import (
    Completion,
    answers,
    missing,
    other_columns,
    read_answer,
    read_label,
    read_number,
    read_prompt,
    read_text,
    read_text_or_messages,
    require,
)
from alignzoo.data.messages import wrong
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import read_rows
from alignzoo.data.trees import ranking_rows
from alignzoo.errors import DataError
from alignzoo.reward import Prompt

RowT = TypeVar("RowT")

CLASS_COLUMNS = "Classes need 'completion' (or 'text'), 'prompt' if there was one, and 'label'"
RANKING_COLUMNS = "Rankings need 'prompt', and 'completions' or 'ranked' (a list, best first)"
FEEDBACK_COLUMNS = (
    "Text feedback needs 'completion' (or 'text'), 'prompt' if there was one, and 'feedback'; "
    "a 'rating' is welcome"
)
STEP_COLUMNS = (
    "Steps need 'prompt', 'steps' or 'completions' (a list of texts), and 'ratings' or 'labels' "
    "(a list as long)"
)


@dataclass(frozen=True)
class ClassLabel:
    """A response and the class someone put it in, such as "good"."""

    prompt: Prompt
    completion: Completion
    label: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class Ranking:
    """Two or more responses to one prompt, best first; all text, or all chat messages."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class TextFeedback:
    """A response, what someone wrote about it, and their rating; NaN where they gave none."""

    prompt: Prompt
    completion: Completion
    feedback: str
    rating: float
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class StepRatings:
    """The steps of one response and a rating of each; NaN where a step has none."""

    prompt: Prompt
    steps: tuple[str, ...]
    ratings: tuple[float, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


def read_classes(source: DataSource, *, name: str = "data") -> list[ClassLabel]:
    """Returns the class labels of a file, of a hub data set, or of a list of dicts, in order.

    `label` is text; a whole number or a truth value becomes text, "1" or "true". A row without
    `prompt` is a completion to the prompt "", in `completion` or `text`.

    Raises:
        DataError: no rows, a missing column or a value of the wrong type; names file and line.
    """
    return _read(source, name, ClassLabel, _class_label)


def read_rankings(source: DataSource, *, name: str = "data") -> list[Ranking]:
    """Returns the rankings of a file, of a hub data set, or of a list of dicts, in order.

    `completions`, or `ranked`, is a list of two or more, best first, all different. A tree of
    messages gives one ranking for each prompt that has two ranked replies or more.

    Raises:
        DataError: no rows, a missing column, fewer than two completions, or two that are the
            same; names file and line.
    """
    given = [] if isinstance(source, (str, Path)) else list(source)
    if given and all(isinstance(item, Ranking) for item in given):
        return given
    rows = list(ranking_rows(read_rows(source, name=name)))
    if not rows:
        raise DataError(f"{source if isinstance(source, (str, Path)) else name} ranks no replies.")
    return [_ranking(row) for row in rows]


def read_text_feedback(source: DataSource, *, name: str = "data") -> list[TextFeedback]:
    """Returns written feedback of a file, of a hub data set, or of a list of dicts, in order.

    `rating` is a number as in `read_ratings`; a row without one has NaN.

    Raises:
        DataError: no rows, a missing column or a value of the wrong type; names file and line.
    """
    return _read(source, name, TextFeedback, _text_feedback)


def read_step_ratings(source: DataSource, *, name: str = "data") -> list[StepRatings]:
    """Returns ratings of steps of a file, of a hub data set, or of a list of dicts, in order.

    `steps` (or, as in TRL, `completions`) is a list of texts and `ratings` (or `labels`) a list
    as long, of numbers or truth values; null is no rating: NaN.

    Raises:
        DataError: no rows, a missing column, no step, or lists of different length; names file
            and line.
    """
    return _read(source, name, StepRatings, _step_ratings)


def _read(
    source: DataSource, name: str, kind: type[RowT], convert: Callable[[Row], RowT]
) -> list[RowT]:
    if isinstance(source, (str, Path)):
        return [convert(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, kind) for item in source):
        return list(source)
    return [convert(row) for row in read_rows(source, name=name)]


def _class_label(row: Row) -> ClassLabel:
    prompt, completion, used = read_answer(row, CLASS_COLUMNS)
    require(row, ["label"], CLASS_COLUMNS)
    label = read_label(row, "label")
    return ClassLabel(prompt, completion, label, other_columns(row, {*used, "label"}), row.where)


def _ranking(row: Row) -> Ranking:
    column = _first(row, ("completions", "ranked"), RANKING_COLUMNS)
    require(row, ["prompt"], RANKING_COLUMNS)
    prompt = read_prompt(row)
    given = {part: read_text_or_messages(item, part) for item, part in _items(row, column, least=2)}
    prompt, found = answers(row, prompt, given)
    _check_different(row, found)
    others = other_columns(row, {"prompt", column})
    return Ranking(prompt, tuple(found.values()), others, row.where)


def _text_feedback(row: Row) -> TextFeedback:
    prompt, completion, used = read_answer(row, FEEDBACK_COLUMNS)
    require(row, ["feedback"], FEEDBACK_COLUMNS)
    feedback = read_text(row, "feedback")
    rating = read_number(row, "rating", row.values.get("rating"))
    others = other_columns(row, {*used, "feedback", "rating"})
    return TextFeedback(prompt, completion, feedback, rating, others, row.where)


def _step_ratings(row: Row) -> StepRatings:
    require(row, ["prompt"], STEP_COLUMNS)
    column = _first(row, ("steps", "completions"), STEP_COLUMNS)
    rated = _first(row, ("ratings", "labels"), STEP_COLUMNS)
    steps = tuple(read_text(item, part) for item, part in _items(row, column, least=1))
    marks = _items(row, rated, least=1)
    if len(marks) != len(steps):
        raise DataError(
            f"{row.where}: '{column}' has {len(steps)} steps and '{rated}' {len(marks)} marks; "
            "expected one mark for each step, null where there is none."
        )
    ratings = tuple(read_number(item, part, item.values[part]) for item, part in marks)
    others = other_columns(row, {"prompt", column, rated})
    return StepRatings(read_prompt(row), steps, ratings, others, row.where)


def _first(row: Row, names: tuple[str, ...], expected: str) -> str:
    """Returns the first of `names` that is a column of the row."""
    for name in names:
        if name in row.values:
            return name
    raise missing(row, names[0], expected)


def _items(row: Row, column: str, *, least: int) -> list[tuple[Row, str]]:
    """Returns the items of a list as columns of their own, such as `ranked[2]`, to be read."""
    value = row.values[column]
    if not isinstance(value, list):
        raise wrong(row, column, value, "a list")
    if len(value) < least:
        raise DataError(
            f"{row.where}: column '{column}' is a list of {len(value)}; expected {least} or more."
        )
    named = {f"{column}[{index}]": item for index, item in enumerate(value)}
    return [(Row(named, row.source, row.line, row.unit), part) for part in named]


def _check_different(row: Row, found: Mapping[str, Completion]) -> None:
    seen: dict[str, str] = {}
    for part, completion in found.items():
        other = seen.setdefault(repr(completion), part)
        if other != part:
            raise DataError(
                f"{row.where}: '{other}' and '{part}' are the same, so neither is better; "
                "leave one of them out."
            )
