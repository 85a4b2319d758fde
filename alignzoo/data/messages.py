"""Chat messages in the forms that files hold: OpenAI's, ShareGPT's, and transcripts as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from alignzoo.data.row import Row, describe
from alignzoo.errors import DataError, did_you_mean

Messages = list[dict[str, str]]
ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}  # who `from` names in ShareGPT's `conversations`, as roles
EXAMPLE = '[{"role": "user", "content": "..."}]'
HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"  # begins the answers of transcripts written as one text
TURN = re.compile(r"\n\n(Human|Assistant):")


def read_messages(row: Row, column: str) -> Messages:
    """Returns a column that must hold chat messages, at least one.

    A message has `role` and `content`, or ShareGPT's `from` and `value`. Content in parts of the
    type text is joined; further keys, such as `tool_calls`, are kept.
    """
    value = row.values[column]
    if isinstance(value, Mapping):
        return [_message(row, column, value)]
    if not isinstance(value, list):
        raise wrong(row, column, value, f"chat messages such as {EXAMPLE}")
    if not value:
        raise DataError(f"{row.where}: column '{column}' is an empty list; expected {EXAMPLE}.")
    return [_message(row, f"{column}[{index}]", message) for index, message in enumerate(value)]


def wrong(row: Row, column: str, value: Any, expected: str) -> DataError:
    """Returns the error of a column that holds something else than expected."""
    return DataError(
        f"{row.where}: column '{column}' holds {describe(value)}; expected {expected}."
    )


def check_text(row: Row, column: str, text: str) -> str:
    """Returns the text, if it is text: no half surrogate pairs and no NUL characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.where}: column '{column}' holds half a surrogate pair at character "
            f"{error.start}, which is no text; write the whole character."
        ) from None
    if "\0" in text:
        raise DataError(
            f"{row.where}: column '{column}' holds a NUL character at character "
            f"{text.index(chr(0))}, which text has none of; leave it out."
        )
    return text


def is_transcript(value: Any) -> bool:
    """Whether a value is a conversation written as one text, "\\n\\nHuman: ...", from its begin."""
    return isinstance(value, str) and value.startswith(HUMAN)


def transcript_messages(row: Row, column: str) -> Messages:
    """Returns the turns of a transcript such as "\\n\\nHuman: Hi\\n\\nAssistant: Hello!".

    White space around each turn is left out.
    """
    text = check_text(row, column, row.values[column])
    _, *parts = TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[speaker], "content": said.strip()} for speaker, said in pairs]


def _message(row: Row, column: str, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise wrong(row, column, message, "an object with 'role' and 'content'")
    if "from" in message and "value" in message and "role" not in message:
        message = _of_speaker(row, column, message)
    for key in ("role", "content"):
        if key not in message and not (key == "content" and message.get("tool_calls")):
            keys = ", ".join(f"'{name}'" for name in message) or "nothing"
            raise DataError(
                f"{row.where}: '{column}' has no '{key}'; it has {keys}. "
                "A message is an object with 'role' and 'content'."
            )
    role = message["role"]
    if not isinstance(role, str):
        raise wrong(row, f"{column}.role", role, "text")
    if role not in ROLES:
        raise DataError(
            f"{row.where}: '{column}' has the role '{role}'; expected one of "
            f"{', '.join(ROLES)}.{did_you_mean(role, ROLES)}"
        )
    content = _content(row, f"{column}.content", message)
    kept = {key: value for key, value in message.items() if value is not None}
    return {**kept, "content": content}


def _of_speaker(row: Row, column: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ShareGPT's `from` and `value` as `role` and `content`."""
    speaker = message["from"]
    if not isinstance(speaker, str):
        raise wrong(row, f"{column}.from", speaker, "text")
    if speaker not in SPEAKERS:
        raise DataError(
            f"{row.where}: '{column}' is from '{speaker}'; expected one of "
            f"{', '.join(SPEAKERS)}.{did_you_mean(speaker, SPEAKERS)}"
        )
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": SPEAKERS[speaker], "content": message["value"], **others}


def _content(row: Row, column: str, message: Mapping[str, Any]) -> str:
    """Returns a message's content as text: its parts joined; "" where it only calls tools."""
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, list) and content:
        parts = enumerate(content)
        return "\n".join(_part(row, f"{column}[{index}]", part) for index, part in parts)
    if not isinstance(content, str):
        raise wrong(row, column, content, "text")
    return check_text(row, column, content)


def _part(row: Row, column: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        what = f"a part of the type '{kind}'" if isinstance(kind, str) else describe(part)
        raise DataError(
            f"{row.where}: column '{column}' holds {what}; expected text, or parts such as "
            '{"type": "text", "text": "..."}: pictures and sound cannot be learned from.'
        )
    return check_text(row, column, text)
