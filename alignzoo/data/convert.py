"""Rows of one schema as rows of ours: whatever a file calls its columns, and kind from kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from alignzoo.data.columns import Completion
from alignzoo.data.feedback import ClassLabel, Ranking, StepRatings, TextFeedback
from alignzoo.data.judgements import Preference, Rating
from alignzoo.data.kinds import JUDGEMENTS, NO_COLUMNS, has_marks, rename
from alignzoo.data.messages import is_transcript
from alignzoo.data.row import OnError, Row, refuse
from alignzoo.data.schemas import Demonstration, PromptRow, read_demonstrations, read_prompts
from alignzoo.data.trees import (
    demonstration_rows,
    gather_trees,
    is_message,
    is_tree,
    ranking_rows,
)
from alignzoo.errors import ConfigError, DataError, did_you_mean

READERS: Mapping[str, Callable[..., list[Any]]] = {
    "prompts": read_prompts,
    "demonstrations": read_demonstrations,
    **{kind: judgement.read for kind, judgement in JUDGEMENTS.items()},
}
# Kinds that a kind can be made of, besides itself: what is left of a pair is its better answer.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "prompts": tuple(kind for kind in READERS if kind != "prompts"),
    "demonstrations": ("preferences", "rankings"),
    "preferences": ("rankings",),
}
PROMPT_MARKS = ("prompt", "messages", "conversations", "instruction")
DEMONSTRATION_MARKS = (
    frozenset({"prompt", "completion"}),
    frozenset({"messages"}),
    frozenset({"conversations"}),
    frozenset({"instruction", "output"}),
)


def check_kind(kind: str) -> str:
    """Returns the kind, if it is one.

    Raises:
        ConfigError: it is none of ours; the message names them.
    """
    if kind not in READERS:
        raise ConfigError(
            f"'{kind}' is no kind of data; expected one of {', '.join(READERS)}."
            f"{did_you_mean(kind, READERS)}"
        )
    return kind


def find_data_kind(row: Row) -> str:
    """Returns the kind of a row, told from its columns; what says more goes first.

    A `label` that is text is a class, and a number or truth value a rating.

    Raises:
        DataError: it is of no kind; the message names its columns.
    """
    if is_message(row):
        raise DataError(
            f"{row.where}: this is one message of a tree; make the file of trees another kind "
            "first, as `alignzoo data convert --to rankings` and `--to demonstrations` do."
        )
    if is_tree(row):
        return "rankings"
    for kind in JUDGEMENTS:
        if has_marks(row, kind) and not (kind == "ratings" and _is_class(row)):
            return kind
    if fits(row, "demonstrations") and not _awaits_answer(row):
        return "demonstrations"
    if fits(row, "prompts"):
        return "prompts"
    given = ", ".join(f"'{column}'" for column in row.values) or "none"
    raise DataError(
        f"{row.where}: the columns are {given}, which are of no kind of data. Say what they are "
        "with columns, such as {'completion': 'text'}, or see the page on data."
    )


def fits(row: Row, kind: str) -> bool:
    """Whether a row has the columns of a kind."""
    if kind == "prompts":
        return any(column in row.values for column in PROMPT_MARKS)
    if kind == "demonstrations":
        texts = [row.values.get(column) for column in ("text", "chosen")]
        marked = any(marks <= set(row.values) for marks in DEMONSTRATION_MARKS)
        return marked or is_tree(row) or any(map(is_transcript, texts))
    return has_marks(row, kind) or (kind == "rankings" and is_tree(row))


def read_one(row: Row, kind: str) -> list[Any]:
    """Returns what a row holds of a kind: one row of it, or of a tree any number."""
    rows: Iterable[Row] = [row]
    if kind == "rankings":
        rows = ranking_rows([row])
    elif kind == "demonstrations":
        rows = demonstration_rows([row])
    return [item for each in rows for item in READERS[kind]([each])]


def convert_rows(
    rows: Iterable[Row],
    to: str,
    *,
    source: str | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    on_error: OnError = refuse,
) -> Iterator[dict[str, Any]]:
    """Yields the rows under our columns, as a kind; further columns are kept.

    Of preferences and rankings, demonstrations are the best answers; of rankings, preferences are
    all pairs; prompts are those of any kind.

    Args:
        to: the kind to make.
        source: the kind that the rows are; told from the first row where None.
        columns: the file's name of a column by ours.
        on_error: told of each row that is wrong; if it returns, the row is left out.
    Raises:
        ConfigError: a kind is none of ours, or `to` cannot be made of `source`.
        DataError: a row is wrong.
    """
    kind = source and check_kind(source)
    if kind and kind != check_kind(to) and kind not in SOURCES.get(to, ()):
        raise ConfigError(f"{to} cannot be made of {kind}; expected one of {_makers(to)}")
    for row in gather_trees(rows):
        try:
            row = rename(row, columns)
            kind = kind or source_kind(row, to)
            made = [values for item in read_one(row, kind) for values in make(item, to)]
        except DataError as error:
            on_error(error)
            continue
        yield from made


def source_kind(row: Row, to: str) -> str:
    """Returns the kind that a row is read as to make `to`: that itself, where it fits."""
    if check_kind(to) == "prompts":
        return find_data_kind(row)
    return next((kind for kind in (to, *SOURCES.get(to, ())) if fits(row, kind)), to)


def make(item: Any, to: str) -> Iterator[dict[str, Any]]:
    """Yields what one row that was read becomes as a kind, as columns."""
    if to == "prompts" and not isinstance(item, PromptRow):
        yield {"prompt": item.prompt, **item.columns}
    elif to == "demonstrations" and isinstance(item, (Preference, Ranking)):
        best = item.chosen if isinstance(item, Preference) else item.completions[0]
        yield {"prompt": item.prompt, "completion": best, **item.columns}
    elif to == "preferences" and isinstance(item, Ranking):
        for number, (better, worse) in enumerate(itertools.combinations(item.completions, 2)):
            pair = {"prompt": item.prompt, "chosen": better, "rejected": worse, **item.columns}
            yield pair if "id" not in pair else {**pair, "id": f"{pair['id']}-{number}"}
    else:
        yield to_values(item)


def to_values(item: Any) -> dict[str, Any]:
    """Returns a row that was read under our columns, as JSON can hold it: null for NaN."""
    values: dict[str, Any] = {"prompt": item.prompt}
    if isinstance(item, Preference):
        values |= {"chosen": item.chosen, "rejected": item.rejected}
    elif isinstance(item, Ranking):
        values["completions"] = list(item.completions)
    elif isinstance(item, StepRatings):
        values |= {"steps": list(item.steps), "ratings": [_finite(n) for n in item.ratings]}
    elif isinstance(item, ClassLabel):
        values |= {"completion": item.completion, "label": item.label}
    elif isinstance(item, Rating):
        values |= {"completion": item.completion, "rating": _finite(item.rating)}
    elif isinstance(item, TextFeedback):
        values |= {"completion": item.completion, "feedback": item.feedback}
        values["rating"] = _finite(item.rating)
    elif isinstance(item, Demonstration):
        values["completion"] = item.completion
    return values | dict(item.columns)


def completions_of(item: Any) -> Sequence[Completion]:
    """Returns the answers that a row holds: none of a prompt, two of a preference."""
    if isinstance(item, Preference):
        return [item.chosen, item.rejected]
    if isinstance(item, Ranking):
        return item.completions
    if isinstance(item, StepRatings):
        return ["\n".join(item.steps)]
    return [] if isinstance(item, PromptRow) else [item.completion]


def _is_class(row: Row) -> bool:
    label = row.values.get("label")
    if "rating" in row.values or not isinstance(label, str):
        return False
    try:
        float(label)
    except ValueError:
        return label.strip().lower() not in ("true", "false", "")
    return False


def _awaits_answer(row: Row) -> bool:
    """Whether a row's only messages end with the user, and so are a prompt."""
    if "prompt" in row.values or "instruction" in row.values:
        return False
    messages = row.values.get("messages", row.values.get("conversations"))
    last = messages[-1] if isinstance(messages, list) and messages else None
    asks = last.get("role", last.get("from")) if isinstance(last, Mapping) else None
    return asks in ("user", "human", "tool")


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number


def _makers(to: str) -> str:
    return ", ".join([to, *SOURCES.get(to, ())])
