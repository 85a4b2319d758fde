"""The kinds of human judgement: what a row of each holds, and which of them a file is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from alignzoo.data.feedback import (
    CLASS_COLUMNS,
    FEEDBACK_COLUMNS,
    RANKING_COLUMNS,
    STEP_COLUMNS,
    ClassLabel,
    Ranking,
    StepRatings,
    TextFeedback,
    read_classes,
    read_rankings,
    read_step_ratings,
    read_text_feedback,
)
from alignzoo.data.judgements import (
    PREFERENCE_COLUMNS,
    RATING_COLUMNS,
    Preference,
    Rating,
    read_preferences,
    read_ratings,
)
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import read_rows
from alignzoo.data.trees import gather_trees, is_tree
from alignzoo.errors import ConfigError, DataError, did_you_mean

NO_COLUMNS: Mapping[str, str] = {}


class JudgementKind(NamedTuple):
    """One kind of judgement: the columns it needs in words, its reader, and how to know it.

    `row_type` is what the reader returns a list of. `marks` are sets of columns, each of which
    tells the kind from others.
    """

    columns: str
    read: Callable[..., list[Any]]
    row_type: type
    marks: tuple[frozenset[str], ...]


def _marks(*columns: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in columns)


STEP_MARKS = _marks("steps ratings", "steps labels", "completions ratings", "completions labels")
RATING_MARKS = _marks("completion rating", "completion label", "text rating", "text label")

# In the order in which a file that could be several is taken: what says more goes first.
JUDGEMENTS: Mapping[str, JudgementKind] = {
    "preferences": JudgementKind(
        PREFERENCE_COLUMNS, read_preferences, Preference, _marks("chosen rejected")
    ),
    "steps": JudgementKind(STEP_COLUMNS, read_step_ratings, StepRatings, STEP_MARKS),
    "rankings": JudgementKind(
        RANKING_COLUMNS, read_rankings, Ranking, _marks("prompt completions", "prompt ranked")
    ),
    "text_feedback": JudgementKind(
        FEEDBACK_COLUMNS,
        read_text_feedback,
        TextFeedback,
        _marks("completion feedback", "text feedback"),
    ),
    "ratings": JudgementKind(RATING_COLUMNS, read_ratings, Rating, RATING_MARKS),
    "classes": JudgementKind(
        CLASS_COLUMNS, read_classes, ClassLabel, _marks("completion label", "text label")
    ),
}


def read_judgements(
    source: DataSource,
    kinds: Sequence[str],
    *,
    columns: Mapping[str, str] = NO_COLUMNS,
    name: str = "data",
) -> tuple[str, list[Any]]:
    """Returns which of `kinds` the data is, told from its first row, and its rows, in order.

    Args:
        source: path, hub id, or a sequence of dicts or of rows that a reader returned.
        kinds: keys of `JUDGEMENTS`.
        columns: what the file calls our columns: {"completion": "text"} reads its `text` as
            `completion`. A column of ours that the file also has is then left out.
        name: what error messages call a sequence.
    Raises:
        ConfigError: a kind or a renamed column is none of ours.
        DataError: a row is wrong, or the first fits none of the kinds; the message names its
            columns and those that each kind needs.
    """
    for kind in kinds:
        if kind not in JUDGEMENTS:
            raise ConfigError(
                f"'{kind}' is no kind of judgement; expected one of {', '.join(JUDGEMENTS)}."
                f"{did_you_mean(kind, JUDGEMENTS)}"
            )
    if not isinstance(source, (str, Path)):
        for kind in kinds:
            typed = JUDGEMENTS[kind].row_type
            if len(source) and all(isinstance(item, typed) for item in source):
                return kind, list(source)
    rows = list(gather_trees(rename(row, columns) for row in read_rows(source, name=name)))
    kind = find_kind(rows[0], kinds)
    return kind, JUDGEMENTS[kind].read(rows)


def find_kind(row: Row, kinds: Sequence[str]) -> str:
    """Returns which of `kinds` a row is, told from its columns; the only one where there is one.

    Raises:
        DataError: it is none of them; the message names what each needs.
    """
    if len(kinds) == 1:
        return kinds[0]
    if "rankings" in kinds and is_tree(row):
        return "rankings"
    for kind in sorted(kinds, key=list(JUDGEMENTS).index):
        if has_marks(row, kind):
            return kind
    given = ", ".join(f"'{column}'" for column in row.values) or "none"
    needs = ". ".join(JUDGEMENTS[kind].columns for kind in kinds)
    raise DataError(f"{row.where}: the columns are {given}. {needs}.")


def has_marks(row: Row, kind: str) -> bool:
    """Whether a row has columns that tell a kind of judgement from others."""
    return any(marks <= set(row.values) for marks in JUDGEMENTS[kind].marks)


def rename(row: Row, columns: Mapping[str, str]) -> Row:
    """Returns the row with columns under our names.

    Args:
        columns: the file's name of a column by ours.
    Raises:
        DataError: the row has no such column.
    """
    if not columns:
        return row
    for ours, theirs in columns.items():
        if theirs not in row.values:
            has = ", ".join(f"'{column}'" for column in row.values) or "none"
            raise DataError(
                f"{row.where}: no column '{theirs}', which is to be read as '{ours}'; the columns "
                f"are {has}.{did_you_mean(theirs, map(str, row.values))}"
            )
    renamed = {ours: row.values[theirs] for ours, theirs in columns.items()}
    kept = {k: v for k, v in row.values.items() if k not in columns.values()}
    return replace(row, values={**kept, **renamed})
