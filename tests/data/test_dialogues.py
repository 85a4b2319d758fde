"""Chat demonstrations from dialogues, whatever a file calls turns and speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    DialogueOptions,
    DialogueReport,
    dialogue_rows,
    read_demonstrations,
    read_rows,
)
from alignzoo.errors import DataError


def run(values: dict[str, Any], **options: Any) -> tuple[list[Any], DialogueReport]:
    report = DialogueReport()
    rows = dialogue_rows(read_rows([values]), DialogueOptions(**options), report)
    return list(rows), report


def turns(values: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    (row,), _ = run(values, **options)
    return [(message["role"], message["content"]) for message in row["messages"]]


def spoken(*pairs: tuple[str, str], text: str = "text", speaker: str = "speaker") -> list[Any]:
    return [{speaker: who, text: said} for who, said in pairs]


EXPECTED = [("user", "hi"), ("assistant", "hello")]
FORMS: list[dict[str, Any]] = [
    {"messages": spoken(("user", "hi"), ("assistant", "hello"), text="content", speaker="role")},
    {"conversations": spoken(("human", "hi"), ("gpt", "hello"), text="value", speaker="from")},
    {"dialogue": ["hi", "hello"]},
    {"turns": spoken(("Ann", "hi"), ("Bob", "hello"))},
    {"utterances": spoken(("A", " hi "), ("B", "hello\n"), text="utterance", speaker="name")},
    {"messages": [{"message": "hi"}, {"message": "hello"}]},
    {"text": "\n\nHuman: hi\n\nAssistant: hello"},
]


@pytest.mark.parametrize("values", FORMS)
def test_dialogues_come_in_many_forms_and_mean_the_same(values: dict[str, Any]) -> None:
    assert turns(values) == EXPECTED


def test_the_roles_of_speakers_may_be_said() -> None:
    said = spoken(("Bob", "hello"), ("Ann", "hi"), ("Bob", "fine"))
    assert turns({"turns": said}) == [("user", "hello"), ("assistant", "hi")]
    roles = {"Ann": "user", "Bob": "assistant"}
    assert turns({"turns": said}, speakers=roles) == [("user", "hi"), ("assistant", "fine")]


def test_the_column_may_be_said_and_others_are_kept() -> None:
    (row,), _ = run({"talk": ["hi", "hello"], "turns": ["x"], "id": 7}, turns="talk")
    assert row["id"] == 7
    assert row["turns"] == ["x"]
    assert row["messages"][0]["content"] == "hi"


def test_a_system_message_begins_the_dialogue_once() -> None:
    said = spoken(("system", "old"), ("user", "hi"), ("assistant", "hello"), speaker="role")
    assert turns({"messages": said})[0] == ("system", "old")
    assert turns({"messages": said}, system="new") == [("system", "new"), *EXPECTED]


def test_what_cannot_be_learned_is_left_out_and_counted() -> None:
    said = spoken(
        ("assistant", "welcome"),
        ("user", "hi"),
        ("user", "there"),
        ("assistant", ""),
        ("assistant", "hello"),
        ("user", "bye"),
    )
    (row,), report = run({"turns": said})
    assert [m["content"] for m in row["messages"]] == ["hi\nthere", "hello"]
    assert report.changed == {
        "answer before the user left out": 1,
        "turns of one speaker joined": 1,
        "empty turn left out": 1,
        "turn without an answer left out": 1,
    }
    assert (report.dialogues, report.kept) == (1, 1)


def test_long_dialogues_are_cut_after_an_answer_and_short_ones_dropped() -> None:
    said = ["q1", "a1", "q2", "a2", "q3", "a3"]
    assert len(turns({"turns": said}, max_turns=5)) == 4
    _, report = run({"turns": said[:3]}, min_turns=4)
    assert (report.kept, report.dropped) == (0, {"too few turns": 1})


def test_a_monologue_is_dropped() -> None:
    _, report = run({"turns": spoken(("user", "a"), ("user", "b"))})
    assert report.dropped == {"too few turns": 1}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"id": 1}, "no column 'messages'; the columns are 'id'. Expected a dialogue"),
    "text": ({"turns": "hi"}, "no column 'messages'"),
    "number": ({"turns": ["hi", 3]}, r"column 'turns\[1\]' holds the number 3; expected text, or"),
    "no text": ({"turns": [{"speaker": "A"}]}, r"column 'turns\[0\]' holds an object; expected te"),
    "some named": ({"turns": [*spoken(("A", "x")), "y"]}, "some turns of 'turns' name a speaker"),
    "three": (
        {"turns": spoken(("A", "x"), ("B", "y"), ("C", "z"))},
        r"'turns\[0\]' is by 'A', whose role is unknown; say it with speakers",
    ),
    "surrogate": ({"turns": ["a\ud800", "b"]}, r"column 'turns\[0\]' holds half a surrogate"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_dialogue_is_named(case: str) -> None:
    values, message = BAD[case]
    with pytest.raises(DataError, match=r"data\[0\]: .*" + message):
        run(values)


def test_a_role_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"'A', whose role is unknown.*Roles are system"):
        run({"turns": spoken(("A", "x"), ("B", "y"))}, speakers={"A": "usr", "B": "assistant"})


def test_chinese_dialogues_are_demonstrations(real_data: Path) -> None:
    report = DialogueReport()
    options = DialogueOptions(max_turns=8)
    rows = list(dialogue_rows(read_rows(real_data / "kdconv_zh_dialogues.jsonl"), options, report))
    assert (report.dialogues, report.kept) == (900, 900)
    for row in read_demonstrations(rows):
        roles = [m["role"] for m in [*row.prompt, *row.completion]]  # type: ignore[misc]
        assert len(roles) <= 8
        assert roles == ["user", "assistant"] * (len(roles) // 2)
