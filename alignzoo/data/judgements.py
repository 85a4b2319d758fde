"""Judgements of responses: which of two is better, or how good one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.columns import (
    Completion,
    answers,
    other_columns,
    plain_text,
    read_answer,
    read_instruction,
    read_number,
    read_prompt,
    read_text_or_messages,
    require,
)
from alignzoo.data.messages import ASSISTANT, Messages, is_transcript
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import read_rows
from alignzoo.errors import DataError
from alignzoo.reward import Prompt

PREFERENCE_COLUMNS = (
    "Preferences need 'prompt', 'chosen' and 'rejected', or 'chosen' and 'rejected' that begin "
    "with the same prompt"
)
RATING_COLUMNS = (
    "Ratings need 'completion' (or 'text'), 'prompt' if there was one, and 'rating' (a number) or "
    "'label'"
)
PROMPTS = ("prompt", "conversations", "instruction")  # columns that hold the prompt of a pair
INPUTS = {"instruction": {"input"}}  # what belongs to such a column


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
    where there is none). Whole transcripts beside a `prompt` must hold that prompt. The prompt may
    also be ShareGPT's `conversations`, or `instruction` and `input`.

    Raises:
        DataError: no rows, a missing column, a value of the wrong type, transcripts of different
            prompts, `chosen` empty or equal to `rejected`; names file and line.
    """
    if isinstance(source, (str, Path)):
        return [_preference(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, Preference) for item in source):
        return list(source)
    return [_preference(row) for row in read_rows(source, name=name)]


def read_ratings(source: DataSource, *, name: str = "data") -> list[Rating]:
    """Returns the ratings of a file, of a hub data set, or of a list of dicts, in order.

    `rating` is a number; without one, `label` is, and true counts as 1 and false as 0. None, NaN
    and an empty field of a CSV file are no rating: NaN. A row without `prompt` is
    a completion to the prompt "", in `completion` or `text`.

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
    column = next((name for name in PROMPTS if name in row.values), "")
    prompt = _asked(row, column) if column else None
    if prompt is None:
        prompt, given = _split(row, given)
    elif all(map(_is_whole, given.values())):
        prompt, given = _split_after(row, prompt, given)
    prompt, found = answers(row, prompt, given)
    if not plain_text(found["chosen"]).strip() and not _calls(found["chosen"]):
        raise DataError(
            f"{row.where}: 'chosen' is empty, which nobody prefers; write the answer, or leave the "
            "row out."
        )
    others = other_columns(row, {column, "chosen", "rejected"} | INPUTS.get(column, set()))
    return Preference(prompt, found["chosen"], found["rejected"], others, row.where)


def _asked(row: Row, column: str) -> Prompt:
    """Returns the prompt that a row has in a column of its own."""
    return read_instruction(row) if column == "instruction" else read_prompt(row, column)


def _is_whole(answer: Prompt) -> bool:
    """Whether an answer is a transcript, which begins with its prompt."""
    return is_transcript(answer) if isinstance(answer, str) else answer[0]["role"] != "assistant"


def _calls(answer: Completion) -> bool:
    """Whether an answer says nothing because it calls tools."""
    return isinstance(answer, list) and any("tool_calls" in message for message in answer)


def _split_after(
    row: Row, asked: Prompt, given: Mapping[str, Prompt]
) -> tuple[Any, dict[str, Prompt]]:
    """Returns the prompt of two transcripts beside a prompt, and what is left of each."""
    if isinstance(asked, list) and all(isinstance(answer, list) for answer in given.values()):
        length = len(asked)
        if all(answer[:length] == asked and len(answer) > length for answer in given.values()):
            return asked, {column: answer[length:] for column, answer in given.items()}
        raise _mismatch(row)
    prompt, left = _split(row, given)
    said = prompt if isinstance(prompt, str) else [message["content"].strip() for message in prompt]
    if plain_text(asked).strip() not in said:
        raise _mismatch(row)
    return prompt, left


def _mismatch(row: Row) -> DataError:
    return DataError(
        f"{row.where}: 'prompt' is not among the messages that 'chosen' and 'rejected' begin with; "
        "leave 'prompt' out, or the messages before the answers."
    )


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
    if isinstance(chosen, str) and is_transcript(chosen) and ASSISTANT not in chosen[:length]:
        length = 0
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
