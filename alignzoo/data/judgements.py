"""Judgements of responses: which of two is better, or how good one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.columns import (
    Completion,
    Messages,
    answers,
    other_columns,
    read_answer,
    read_number,
    read_prompt,
    read_text_or_messages,
    require,
)
from alignzoo.data.rows import DataSource, Row, read_rows
from alignzoo.errors import DataError
from alignzoo.reward import Prompt

PREFERENCE_COLUMNS = (
    "Preferences need 'prompt', 'chosen' and 'rejected', or 'chosen' and 'rejected' that begin "
    "with the same prompt"
)
RATING_COLUMNS = (
    "Ratings need 'prompt' and 'completion' (or 'text' alone), and 'rating' (a number) or 'label'"
)
ASSISTANT = "\n\nAssistant:"  # begins the answers of transcripts written as one text


@dataclass(frozen=True)
class Preference:
    """Two responses to one prompt, the first of them better; all text, or all chat messages."""

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class Rating:
    """A response and how good it is; NaN where nobody could say."""

    prompt: Prompt
    completion: Completion
    rating: float
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


def read_preferences(source: DataSource, *, name: str = "data") -> list[Preference]:
    """Returns the preferences of a file, of a hub data set, or of a list of dicts, in order.

    `prompt` is text or chat messages, `chosen` and `rejected` what answers it. Without a `prompt`,
    `chosen` and `rejected` are whole transcripts, and what they begin with is the prompt: of
    messages, those up to the last user turn they share; of text, up to the last "\\n\\nAssistant:"
    they share, else up to the last white space, which then begins both answers (all they share,
    where there is none). Chat messages
    beside a text `prompt` may also be whole transcripts; they must hold that prompt.

    Raises:
        DataError: no rows, a missing column, a value of the wrong type, or `chosen` equal to
            `rejected`; names file and line.
    """
    if isinstance(source, (str, Path)):
        return [_preference(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, Preference) for item in source):
        return list(source)
    return [_preference(row) for row in read_rows(source, name=name)]


def read_ratings(source: DataSource, *, name: str = "data") -> list[Rating]:
    """Returns the ratings of a file, of a hub data set, or of a list of dicts, in order.

    `rating` is a number; without one, `label` is, and true counts as 1 and false as 0. None, NaN
    and an empty field of a CSV file are no rating: NaN. A row with `text` and neither `prompt` nor
    `completion` is a completion to the prompt "".

    Raises:
        DataError: no rows, a missing column, a value of the wrong type, or an infinite rating;
            names file and line.
    """
    if isinstance(source, (str, Path)):
        return [_rating(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, Rating) for item in source):
        return list(source)
    return [_rating(row) for row in read_rows(source, name=name)]


def _preference(row: Row) -> Preference:
    require(row, ["chosen", "rejected"], PREFERENCE_COLUMNS)
    given = {column: read_text_or_messages(row, column) for column in ("chosen", "rejected")}
    if given["chosen"] == given["rejected"]:
        raise DataError(
            f"{row.where}: 'chosen' and 'rejected' are the same, so neither is preferred; "
            "leave the row out."
        )
    if "prompt" not in row.values:
        prompt, given = _split(row, given)
    else:
        prompt = read_prompt(row)
        if isinstance(prompt, str) and all(map(_is_transcript, given.values())):
            asked, (prompt, given) = prompt, _split(row, given)
            if asked.strip() not in (message["content"].strip() for message in prompt):
                raise DataError(
                    f"{row.where}: 'prompt' is not among the messages that 'chosen' and "
                    "'rejected' begin with; leave 'prompt' out, or the messages before the answers."
                )
    prompt, found = answers(row, prompt, given)
    others = other_columns(row, {"prompt", "chosen", "rejected"})
    return Preference(prompt, found["chosen"], found["rejected"], others, row.where)


def _is_transcript(answer: Prompt) -> bool:
    return isinstance(answer, list) and answer[0]["role"] != "assistant"


def _split(row: Row, given: Mapping[str, Prompt]) -> tuple[Any, dict[str, Prompt]]:
    """Returns the prompt that two transcripts begin with, and what is left of each."""
    chosen, rejected = given["chosen"], given["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        length = _shared_text(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        length = _shared_messages(chosen, rejected)
    else:
        raise DataError(
            f"{row.where}: one of 'chosen' and 'rejected' is text and the other chat messages; "
            "expected both alike."
        )
    if length == 0:
        raise DataError(
            f"{row.where}: 'chosen' and 'rejected' do not begin alike, and there is no column "
            f"'prompt'. {PREFERENCE_COLUMNS}."
        )
    for column, transcript in given.items():
        if isinstance(transcript, list) and len(transcript) == length:
            raise DataError(f"{row.where}: '{column}' ends before the assistant answers.")
    return chosen[:length], {column: item[length:] for column, item in given.items()}


def _shared_text(chosen: str, rejected: str) -> int:
    """Returns how many characters of two transcripts are their prompt."""
    shared = chosen[: _common_length(chosen, rejected)]
    if ASSISTANT in shared:
        return shared.rindex(ASSISTANT) + len(ASSISTANT)
    spaces = [i for i, character in enumerate(shared) if i and character.isspace()]
    return spaces[-1] if spaces else len(shared)


def _shared_messages(chosen: Messages, rejected: Messages) -> int:
    """Returns how many messages of two transcripts are their prompt: up to a user turn."""
    length = _common_length(chosen, rejected)
    while length and chosen[length - 1]["role"] == "assistant":
        length -= 1
    return length


def _common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Returns how many items two sequences have in common before they first differ."""
    alike = (a == b for a, b in zip(left, right, strict=False))
    return next((i for i, same in enumerate(alike) if not same), min(len(left), len(right)))


def _rating(row: Row) -> Rating:
    column = "label" if "label" in row.values and "rating" not in row.values else "rating"
    prompt, completion, used = read_answer(row, RATING_COLUMNS)
    require(row, [column], RATING_COLUMNS)
    rating = read_number(row, column, row.values[column])
    return Rating(prompt, completion, rating, other_columns(row, {*used, column}), row.where)
