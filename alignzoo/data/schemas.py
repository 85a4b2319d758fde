"""Prompts and demonstrations: what the columns of a row mean, whatever the file calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.columns import (
    Completion,
    answers,
    check_ends_with_user,
    last_assistant,
    missing,
    other_columns,
    read_instruction,
    read_prompt,
    read_text,
    read_text_or_messages,
    require,
)
from alignzoo.data.messages import Messages, is_transcript, read_messages, transcript_messages
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import read_rows
from alignzoo.data.trees import demonstration_rows
from alignzoo.errors import DataError
from alignzoo.reward import Prompt


@dataclass(frozen=True)
class PromptRow:
    """One prompt: text or chat messages, the row's further columns by name, and its place."""

    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "prompts"


@dataclass(frozen=True)
class Demonstration:
    """One response to learn from.

    Text: `prompt` and `completion` are strings, and the completion follows the prompt directly.
    Chat: `prompt` is all messages before the first assistant turn to learn, `completion` the
    messages from there to the last assistant turn; each assistant turn in it carries loss.
    """

    prompt: Prompt
    completion: Completion
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


PROMPT_COLUMNS = (
    "Expected 'prompt' (text or chat messages), 'messages' or 'conversations' ending with a user "
    "turn, or 'instruction' (and 'input')"
)
DEMONSTRATION_COLUMNS = (
    "Expected 'prompt' and 'completion', or 'messages' or 'conversations', or 'instruction', "
    "'input' and 'output'"
)
CHATS = ("messages", "conversations")
TRANSCRIPTS = ("text", "chosen")  # that may hold a conversation as one text


def read_prompts(source: DataSource, *, name: str = "prompts") -> list[PromptRow]:
    """Returns the prompts of a file, of a hub data set, or of a list, in order.

    A row's prompt is its `prompt` (text or chat messages), else its `messages` or `conversations`
    if they end with the user, else `instruction` and `input`, which make a chat of one turn. Every
    other column is kept by name, and reaches the reward.

    Args:
        source: path, hub id, or a sequence of texts, dicts, lists of messages or `PromptRow`.
        name: what error messages call a sequence.
    Raises:
        DataError: no rows, a missing column or a value of the wrong type; names file and line.
    """
    if isinstance(source, (str, Path)):
        return [_prompt(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, PromptRow) for item in source):
        return list(source)
    dicts = [{"prompt": item} if isinstance(item, (str, list)) else item for item in source]
    return [_prompt(row) for row in read_rows(dicts, name=name)]


def read_demonstrations(source: DataSource, *, name: str = "data") -> list[Demonstration]:
    """Returns the demonstrations of a file, of a hub data set, or of a list of dicts, in order.

    `prompt` and `completion` are taken as they stand, as text or as chat messages; in `messages`,
    and in ShareGPT's `conversations`, each assistant turn carries loss, and what follows the last
    one is left out; `instruction`, `input` and `output` make a chat of one turn. A transcript
    "\\n\\nHuman: ..." in `text` or `chosen` is read as messages; a tree of messages gives the best
    reply to each of its prompts.

    Raises:
        DataError: no rows, a missing column or a value of the wrong type; names file and line.
    """
    given = [] if isinstance(source, (str, Path)) else list(source)
    if given and all(isinstance(item, Demonstration) for item in given):
        return given
    rows = read_rows(source, name=name)
    return [_demonstration(row) for row in demonstration_rows(rows)]


def gather_columns(rows: Sequence[PromptRow]) -> dict[str, list[Any]]:
    """Returns the rows' further columns, each of length B; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return {name: [row.columns.get(name) for row in rows] for name in names}


def _prompt(row: Row) -> PromptRow:
    values = row.values
    if "prompt" in values:
        used = {"prompt"}
        prompt = read_prompt(row)
    elif column := _first(row, CHATS):
        used = {column}
        prompt = read_messages(row, column)
        check_ends_with_user(row, column, prompt)
    elif "instruction" in values:
        used = {"instruction", "input"}
        prompt = read_instruction(row)
    else:
        raise missing(row, "prompt", PROMPT_COLUMNS)
    return PromptRow(prompt, other_columns(row, used), row.where)


def _demonstration(row: Row) -> Demonstration:
    values = row.values
    prompt: Prompt
    completion: Completion
    pair = "prompt" in values and "completion" in values
    if not pair and (column := _first(row, CHATS)):
        used = {column}
        prompt, completion = _split_turns(row, column, read_messages(row, column))
    elif "instruction" in values and not pair:
        used = {"instruction", "input", "output"}
        require(row, ["output"], DEMONSTRATION_COLUMNS)
        prompt = read_instruction(row)
        completion = [{"role": "assistant", "content": read_text(row, "output")}]
    elif "prompt" not in values and (column := _transcript(row)):
        used = {*TRANSCRIPTS, "rejected"}
        prompt, completion = _split_turns(row, column, transcript_messages(row, column))
    else:
        used = {"prompt", "completion"}
        require(row, ["prompt", "completion"], DEMONSTRATION_COLUMNS)
        given = {"completion": read_text_or_messages(row, "completion")}
        prompt, found = answers(row, read_prompt(row), given)
        completion = found["completion"]
    return Demonstration(prompt, completion, other_columns(row, used), row.where)


def _first(row: Row, names: Sequence[str]) -> str:
    """Returns the first of `names` that is a column of the row; "" where none is."""
    return next((name for name in names if name in row.values), "")


def _transcript(row: Row) -> str:
    """Returns the column that holds a conversation as one text; "" where none does."""
    return next((name for name in TRANSCRIPTS if is_transcript(row.values.get(name))), "")


def _split_turns(row: Row, column: str, messages: Messages) -> tuple[Messages, Messages]:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{row.where}: '{column}' has no assistant turn to learn from.")
    first = roles.index("assistant")
    if first == 0:
        raise DataError(
            f"{row.where}: '{column}' begins with an assistant turn; expected a user turn first."
        )
    return messages[:first], messages[first : last_assistant(messages) + 1]
