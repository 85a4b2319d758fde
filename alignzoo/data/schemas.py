"""Prompts and demonstrations: what the columns of a row mean, whatever the file calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.columns import (
    Completion,
    Messages,
    answers,
    check_ends_with_user,
    last_assistant,
    missing,
    other_columns,
    read_messages,
    read_prompt,
    read_text,
    read_text_or_messages,
    require,
)
from alignzoo.data.rows import DataSource, Row, read_rows
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
    "Expected 'prompt' (text or chat messages), 'messages' ending with a user turn, "
    "or 'instruction' (and 'input')"
)
DEMONSTRATION_COLUMNS = (
    "Expected 'prompt' and 'completion', or 'messages', or 'instruction', 'input' and 'output'"
)


def read_prompts(source: DataSource, *, name: str = "prompts") -> list[PromptRow]:
    """Returns the prompts of a file, of a hub data set, or of a list, in order.

    A row's prompt is its `prompt` (text or chat messages), else its `messages` if they end with
    the user, else `instruction` and `input`, which make a chat of one turn. Every other column
    is kept by name, and reaches the reward.

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

    `prompt` and `completion` are taken as they stand, as text or as chat messages; in `messages`
    each assistant turn carries loss, and what follows the last one is left out; `instruction`,
    `input` and `output` make a chat of one turn.

    Raises:
        DataError: no rows, a missing column or a value of the wrong type; names file and line.
    """
    if isinstance(source, (str, Path)):
        return [_demonstration(row) for row in read_rows(source)]
    if len(source) and all(isinstance(item, Demonstration) for item in source):
        return list(source)
    return [_demonstration(row) for row in read_rows(source, name=name)]


def gather_columns(rows: Sequence[PromptRow]) -> dict[str, list[Any]]:
    """Returns the rows' further columns, each of length B; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return {name: [row.columns.get(name) for row in rows] for name in names}


def _prompt(row: Row) -> PromptRow:
    values = row.values
    if "prompt" in values:
        used = {"prompt"}
        prompt = read_prompt(row)
    elif "messages" in values:
        used = {"messages"}
        prompt = read_messages(row, "messages")
        check_ends_with_user(row, "messages", prompt)
    elif "instruction" in values:
        used = {"instruction", "input"}
        prompt = _instruction(row)
    else:
        raise missing(row, "prompt", PROMPT_COLUMNS)
    return PromptRow(prompt, other_columns(row, used), row.where)


def _demonstration(row: Row) -> Demonstration:
    values = row.values
    prompt: Prompt
    completion: Completion
    pair = "prompt" in values and "completion" in values
    if "messages" in values and not pair:
        used = {"messages"}
        prompt, completion = _split_turns(row, read_messages(row, "messages"))
    elif "instruction" in values and not pair:
        used = {"instruction", "input", "output"}
        require(row, ["output"], DEMONSTRATION_COLUMNS)
        prompt = _instruction(row)
        completion = [{"role": "assistant", "content": read_text(row, "output")}]
    else:
        used = {"prompt", "completion"}
        require(row, ["prompt", "completion"], DEMONSTRATION_COLUMNS)
        given = {"completion": read_text_or_messages(row, "completion")}
        prompt, found = answers(row, read_prompt(row), given)
        completion = found["completion"]
    return Demonstration(prompt, completion, other_columns(row, used), row.where)


def _split_turns(row: Row, messages: Messages) -> tuple[Messages, Messages]:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{row.where}: 'messages' has no assistant turn to learn from.")
    first = roles.index("assistant")
    if first == 0:
        raise DataError(
            f"{row.where}: 'messages' begins with an assistant turn; expected a user turn first."
        )
    return messages[:first], messages[first : last_assistant(messages) + 1]


def _instruction(row: Row) -> Messages:
    """Returns one user turn: the instruction, and after an empty line the input if there is one."""
    parts = [read_text(row, "instruction")]
    if row.values.get("input") is not None:
        parts.append(read_text(row, "input"))
    return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]
