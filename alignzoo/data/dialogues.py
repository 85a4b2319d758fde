"""Chat demonstrations from files of dialogues, whatever they call turns and speakers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from alignzoo.config import Config
from alignzoo.data.columns import missing
from alignzoo.data.messages import (
    ROLES,
    SPEAKERS,
    Messages,
    check_text,
    is_transcript,
    transcript_messages,
    wrong,
)
from alignzoo.data.row import OnError, Row, refuse
from alignzoo.errors import DataError

TURN_COLUMNS = (
    "messages",
    "conversations",
    "dialogue",
    "dialog",
    "turns",
    "utterances",
    "conversation",
    "text",
)
TEXT_KEYS = ("content", "value", "text", "utterance", "message")
SPEAKER_KEYS = ("role", "from", "speaker", "name")
EXPECTED = f"Expected a dialogue, a list of turns, in one of {', '.join(TURN_COLUMNS)}"


class DialogueOptions(Config):
    """How chat demonstrations are made of dialogues."""

    turns: str | None = Field(None, description="column that holds the turns; default told")
    speakers: dict[str, str] = Field(
        default_factory=dict,
        description='role of each speaker, as JSON: {"A": "user", "B": "assistant"}; without, '
        "known names tell, else the first to speak is the user",
    )
    system: str | None = Field(None, min_length=1, description="system message to begin with")
    min_turns: int = Field(2, ge=2, description="fewest turns of a dialogue")
    max_turns: int | None = Field(
        None, ge=2, description="most turns; what is said after them is left out"
    )


@dataclass
class DialogueReport:
    """How many dialogues were read and kept, and what was changed or left out and why."""

    dialogues: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def dialogue_rows(
    rows: Iterable[Row],
    options: DialogueOptions,
    report: DialogueReport,
    *,
    on_error: OnError = refuse,
) -> Iterator[dict[str, Any]]:
    """Yields one row with `messages` per dialogue; each assistant turn of it can be learned.

    A turn is text, or an object with text and a speaker. Turns of one speaker in a row are joined
    by a line break; what the assistant says before the user is left out, and so is what follows
    the last answer.

    Args:
        report: is filled in while rows are read.
        on_error: told of each row that is wrong; if it returns, the row is left out.
    Raises:
        DataError: a row has no turns, or one that is no text or by an unknown speaker.
    """
    for row in rows:
        report.dialogues += 1
        try:
            column = options.turns or _turns_column(row)
            messages = _read_turns(row, column, options)
        except DataError as error:
            on_error(error)
            continue
        messages = _trim(_join(messages, report), options, report)
        if len(messages) < options.min_turns:
            report.dropped["too few turns"] += 1
            continue
        report.kept += 1
        begin = [{"role": "system", "content": options.system}] if options.system else []
        others = {name: value for name, value in row.values.items() if name != column}
        yield {"messages": [*begin, *messages], **others}


def _turns_column(row: Row) -> str:
    for column in TURN_COLUMNS:
        value = row.values.get(column)
        if isinstance(value, list) or is_transcript(value):
            return column
    raise missing(row, "messages", EXPECTED)


def _read_turns(row: Row, column: str, options: DialogueOptions) -> Messages:
    if column not in row.values:
        raise missing(row, column, EXPECTED)
    value = row.values[column]
    if is_transcript(value):
        return transcript_messages(row, column)
    if not isinstance(value, list) or not value:
        raise wrong(row, column, value, "a list of turns, at least one")
    turns = [_turn(row, f"{column}[{index}]", turn) for index, turn in enumerate(value)]
    roles = _roles(row, [speaker for speaker, _ in turns], column, options)
    texts = [text.strip() for _, text in turns]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def _turn(row: Row, column: str, turn: Any) -> tuple[str | None, str]:
    """Returns who speaks, as the file names them, and what is said."""
    if isinstance(turn, str):
        return None, check_text(row, column, turn)
    if not isinstance(turn, Mapping):
        raise wrong(row, column, turn, "text, or an object with text and a speaker")
    key = next((key for key in TEXT_KEYS if isinstance(turn.get(key), str)), None)
    if key is None:
        raise wrong(row, column, turn, f"text in one of {', '.join(TEXT_KEYS)}")
    speaker = next((turn[key] for key in SPEAKER_KEYS if turn.get(key) is not None), None)
    return None if speaker is None else str(speaker), check_text(row, f"{column}.{key}", turn[key])


def _roles(
    row: Row, speakers: list[str | None], column: str, options: DialogueOptions
) -> list[str]:
    """Returns the role of each turn."""
    known = {**{role: role for role in ROLES}, **SPEAKERS, **options.speakers}
    named = [speaker for speaker in speakers if speaker is not None]
    if not named:
        return ["user" if index % 2 == 0 else "assistant" for index in range(len(speakers))]
    if len(named) < len(speakers):
        raise DataError(
            f"{row.where}: some turns of '{column}' name a speaker and some do not; name all or "
            "none."
        )
    if not set(named) & set(known) and len(set(named)) == 2:
        first = named[0]
        return ["user" if speaker == first else "assistant" for speaker in named]
    for index, speaker in enumerate(named):
        if known.get(speaker) not in ROLES:
            raise DataError(
                f"{row.where}: '{column}[{index}]' is by '{speaker}', whose role is unknown; say "
                f'it with speakers, such as {{"{speaker}": "user"}}. Roles are {", ".join(ROLES)}.'
            )
    return [known[speaker] for speaker in named]


def _join(messages: Messages, report: DialogueReport) -> Messages:
    """Returns the turns that say something, those of one speaker in a row as one."""
    joined: Messages = []
    for message in messages:
        if not message["content"]:
            report.changed["empty turn left out"] += 1
        elif joined and joined[-1]["role"] == message["role"]:
            report.changed["turns of one speaker joined"] += 1
            joined[-1] = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _trim(messages: Messages, options: DialogueOptions, report: DialogueReport) -> Messages:
    """Returns the dialogue from the first user turn to the last answer, not over `max_turns`."""
    systems = [message for message in messages[:1] if message["role"] in ("system", "developer")]
    turns = messages[len(systems) :]
    while turns and turns[0]["role"] == "assistant":
        report.changed["answer before the user left out"] += 1
        turns = turns[1:]
    if options.max_turns is not None and len(turns) > options.max_turns:
        report.changed["cut at max_turns"] += 1
        turns = turns[: options.max_turns]
    while turns and turns[-1]["role"] != "assistant":
        report.changed["turn without an answer left out"] += 1
        turns = turns[:-1]
    return [*([] if options.system else systems), *turns] if turns else []
