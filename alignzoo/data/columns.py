"""What a row's columns hold: text, chat messages, and errors that name place and column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from alignzoo.data.messages import Messages, check_text, read_messages, wrong
from alignzoo.data.row import Row
from alignzoo.errors import DataError, did_you_mean
from alignzoo.reward import Prompt

Completion = str | Messages
TRUTHS = {"true": 1.0, "false": 0.0}  # as CSV has them


def plain_text(content: Prompt) -> str:
    """Returns a prompt or completion as one text: of messages, the contents joined by line breaks.

    Roles and chat templates are left out: it is what classical features and filters look at.
    """
    if isinstance(content, str):
        return content
    return "\n".join(message["content"] for message in content)


def other_columns(row: Row, used: set[str]) -> dict[str, Any]:
    """Returns the columns that are not among `used`."""
    return {name: value for name, value in row.values.items() if name not in used}


def missing(row: Row, column: str, expected: str) -> DataError:
    """Returns the error of a row without `column`; it names the columns the row has."""
    has = ", ".join(f"'{name}'" for name in row.values) or "none"
    hint = did_you_mean(column, map(str, row.values))
    alike = "" if row.line <= (row.unit != "index") else " All rows of a file are of one kind."
    return DataError(
        f"{row.where}: no column '{column}'; the columns are {has}.{hint} {expected}.{alike}"
    )


def require(row: Row, columns: Sequence[str], expected: str) -> None:
    """Checks that the row has all of `columns`; `expected` says which columns go together."""
    for column in columns:
        if column not in row.values:
            raise missing(row, column, expected)


def read_text(row: Row, column: str) -> str:
    """Returns a column that must hold text."""
    value = row.values[column]
    if not isinstance(value, str):
        raise wrong(row, column, value, "text")
    return check_text(row, column, value)


def read_text_or_messages(row: Row, column: str) -> Prompt:
    """Returns a column that must hold text or chat messages."""
    value = row.values[column]
    if isinstance(value, str):
        return read_text(row, column)
    if not isinstance(value, (list, Mapping)):
        raise wrong(row, column, value, "text or chat messages")
    return read_messages(row, column)


def read_label(row: Row, column: str) -> str:
    """Returns a column that must hold a class: text, or a whole number or truth value as text."""
    value = row.values[column]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return read_text(row, column).strip()
    raise wrong(row, column, value, "a class: text, a whole number, true or false")


def read_number(row: Row, column: str, value: Any) -> float:
    """Returns a number that `column` holds; None and an empty field of a CSV file are NaN.

    Text such as "4.5" or "True" is read as CSV needs it; true counts as 1 and false as 0.
    """
    if value is None or value == "":
        return math.nan
    try:
        if not isinstance(value, (str, Real)):
            raise ValueError
        text = str(value).strip().lower()
        number = TRUTHS[text] if text in TRUTHS else float(value)
    except (ValueError, OverflowError):  # a whole number may be larger than any float
        raise wrong(row, column, value, "a number, true or false") from None
    if math.isinf(number):
        raise wrong(row, column, value, "a finite number")
    return number


def read_answer(row: Row, expected: str) -> tuple[Prompt, Completion, set[str]]:
    """Returns prompt and completion of a row, and the columns they stood in.

    A row without `prompt` is a completion to the prompt ""; its completion is `completion`, or
    `text` where there is none.
    """
    if "prompt" not in row.values:
        column = next((name for name in ("completion", "text") if name in row.values), "")
        if not column:
            raise missing(row, "completion", expected)
        return "", read_text(row, column), {column}
    require(row, ["completion"], expected)
    given = {"completion": read_text_or_messages(row, "completion")}
    prompt, found = answers(row, read_prompt(row), given)
    return prompt, found["completion"], {"prompt", "completion"}


def read_prompt(row: Row, column: str = "prompt") -> Prompt:
    """Returns a column that must hold a prompt: text, or chat messages that end with the user."""
    prompt = read_text_or_messages(row, column)
    if isinstance(prompt, list):
        check_ends_with_user(row, column, prompt)
    return prompt


def read_instruction(row: Row) -> Messages:
    """Returns one user turn: the instruction, and after an empty line the input if there is one."""
    parts = [read_text(row, "instruction")]
    if row.values.get("input") is not None:
        parts.append(read_text(row, "input"))
    return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]


def check_ends_with_user(row: Row, column: str, messages: Messages) -> None:
    """Checks that messages are a prompt: that the policy is the one to answer."""
    if messages[-1]["role"] not in ("user", "tool"):
        raise DataError(
            f"{row.where}: '{column}' ends with the role '{messages[-1]['role']}'; "
            "a prompt ends with a user message, which the assistant answers."
        )


def answers(
    row: Row, prompt: Prompt, given: Mapping[str, Prompt]
) -> tuple[Prompt, dict[str, Completion]]:
    """Returns the prompt and what answers it, all as text or all as chat messages.

    Where one is chat, a text prompt is a user turn and a text answer an assistant turn. What
    follows an answer's last assistant turn is left out.

    Args:
        given: the answers by column.
    Raises:
        DataError: an answer of chat messages does not begin with the assistant.
    """
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in given.values()):
        return prompt, dict(given)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    found: dict[str, Completion] = {}
    for column, answer in given.items():
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        if answer[0]["role"] != "assistant":
            raise DataError(
                f"{row.where}: '{column}' begins with the role '{answer[0]['role']}'; "
                "expected an assistant message."
            )
        found[column] = answer[: last_assistant(answer) + 1]
    return prompt, found


def last_assistant(messages: Messages) -> int:
    """Returns the index of the last assistant turn; there must be one."""
    return max(i for i, message in enumerate(messages) if message["role"] == "assistant")
