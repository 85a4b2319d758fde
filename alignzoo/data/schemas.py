"""Prompts and demonstrations: what the columns of a row mean, whatever the file calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.rows import DataSource, Row, describe, read_rows
from alignzoo.errors import DataError, did_you_mean
from alignzoo.reward import Prompt

Messages = list[dict[str, str]]
ROLES = ("system", "developer", "user", "assistant", "tool")


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
    completion: str | Messages
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
        prompt = _text_or_messages(row, "prompt")
        if isinstance(prompt, list):
            _check_ends_with_user(row, "prompt", prompt)
    elif "messages" in values:
        used = {"messages"}
        prompt = _messages(row, "messages")
        _check_ends_with_user(row, "messages", prompt)
    elif "instruction" in values:
        used = {"instruction", "input"}
        prompt = _instruction(row)
    else:
        raise _missing(row, "prompt", PROMPT_COLUMNS)
    return PromptRow(prompt, _others(row, used), row.where)


def _demonstration(row: Row) -> Demonstration:
    values = row.values
    prompt: Prompt
    completion: str | Messages
    pair = "prompt" in values and "completion" in values
    if "messages" in values and not pair:
        used = {"messages"}
        prompt, completion = _split_turns(row, _messages(row, "messages"))
    elif "instruction" in values and not pair:
        used = {"instruction", "input", "output"}
        _require(row, "output", DEMONSTRATION_COLUMNS)
        prompt = _instruction(row)
        completion = [{"role": "assistant", "content": _text(row, "output")}]
    else:
        used = {"prompt", "completion"}
        for column in ("prompt", "completion"):
            _require(row, column, DEMONSTRATION_COLUMNS)
        prompt, completion = _prompt_and_completion(row)
    return Demonstration(prompt, completion, _others(row, used), row.where)


def _prompt_and_completion(row: Row) -> tuple[Prompt, str | Messages]:
    prompt = _text_or_messages(row, "prompt")
    completion = _text_or_messages(row, "completion")
    if isinstance(prompt, list):
        _check_ends_with_user(row, "prompt", prompt)
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
    if isinstance(completion, list):
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if completion[0]["role"] != "assistant":
            raise DataError(
                f"{row.where}: 'completion' begins with the role '{completion[0]['role']}'; "
                "expected an assistant message."
            )
        completion = completion[: _last_assistant(completion) + 1]
    return prompt, completion


def _split_turns(row: Row, messages: Messages) -> tuple[Messages, Messages]:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{row.where}: 'messages' has no assistant turn to learn from.")
    first = roles.index("assistant")
    if first == 0:
        raise DataError(
            f"{row.where}: 'messages' begins with an assistant turn; expected a user turn first."
        )
    return messages[:first], messages[first : _last_assistant(messages) + 1]


def _last_assistant(messages: Messages) -> int:
    return max(i for i, message in enumerate(messages) if message["role"] == "assistant")


def _others(row: Row, used: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.values.items() if name not in used}


def _missing(row: Row, column: str, expected: str) -> DataError:
    has = ", ".join(f"'{name}'" for name in row.values) or "none"
    hint = did_you_mean(column, map(str, row.values))
    return DataError(f"{row.where}: no column '{column}'; the columns are {has}.{hint} {expected}.")


def _require(row: Row, column: str, expected: str) -> None:
    if column not in row.values:
        raise _missing(row, column, expected)


def _wrong(row: Row, column: str, value: Any, expected: str) -> DataError:
    return DataError(
        f"{row.where}: column '{column}' holds {describe(value)}; expected {expected}."
    )


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise _wrong(row, column, value, "text")
    _check_unicode(row, column, value)
    return value


def _check_unicode(row: Row, column: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.where}: column '{column}' holds half a surrogate pair at character "
            f"{error.start}, which is no text; write the whole character."
        ) from None


def _instruction(row: Row) -> Messages:
    """Returns one user turn: the instruction, and after an empty line the input if there is one."""
    parts = [_text(row, "instruction")]
    if row.values.get("input") is not None:
        parts.append(_text(row, "input"))
    return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]


def _text_or_messages(row: Row, column: str) -> Prompt:
    value = row.values[column]
    if isinstance(value, str):
        return _text(row, column)
    if not isinstance(value, list):
        raise _wrong(row, column, value, "text or chat messages")
    return _messages(row, column)


def _messages(row: Row, column: str) -> Messages:
    value = row.values[column]
    example = '[{"role": "user", "content": "..."}]'
    if not isinstance(value, list):
        raise _wrong(row, column, value, f"chat messages such as {example}")
    if not value:
        raise DataError(f"{row.where}: column '{column}' is an empty list; expected {example}.")
    return [_message(row, f"{column}[{index}]", message) for index, message in enumerate(value)]


def _message(row: Row, column: str, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise _wrong(row, column, message, "an object with 'role' and 'content'")
    for key in ("role", "content"):
        if key not in message:
            keys = ", ".join(f"'{name}'" for name in message) or "nothing"
            raise DataError(
                f"{row.where}: '{column}' has no '{key}'; it has {keys}. "
                "A message is an object with 'role' and 'content'."
            )
        if not isinstance(message[key], str):
            raise _wrong(row, f"{column}.{key}", message[key], "text")
        _check_unicode(row, f"{column}.{key}", message[key])
    if message["role"] not in ROLES:
        raise DataError(
            f"{row.where}: '{column}' has the role '{message['role']}'; expected one of "
            f"{', '.join(ROLES)}.{did_you_mean(message['role'], ROLES)}"
        )
    return {key: value for key, value in message.items() if value is not None}


def _check_ends_with_user(row: Row, column: str, messages: Messages) -> None:
    if messages[-1]["role"] not in ("user", "tool"):
        raise DataError(
            f"{row.where}: '{column}' ends with the role '{messages[-1]['role']}'; "
            "a prompt ends with a user message, which the policy answers."
        )
