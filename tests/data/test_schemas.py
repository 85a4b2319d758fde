"""What the columns of a row mean; a row that means nothing is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    Demonstration,
    PromptRow,
    gather_columns,
    read_demonstrations,
    read_prompts,
)
from alignzoo.errors import DataError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def test_prompts_are_text_or_messages_and_keep_further_columns() -> None:
    rows = read_prompts([{"prompt": "a", "answer": 3}, {"prompt": [USER], "id": "x"}])
    assert rows[0] == PromptRow("a", {"answer": 3}, "prompts[0]")
    assert rows[1].prompt == [USER]
    assert gather_columns(rows) == {"answer": [3, None], "id": [None, "x"]}


def test_a_list_of_texts_or_of_message_lists_is_a_list_of_prompts() -> None:
    assert [row.prompt for row in read_prompts(["a", "b"])] == ["a", "b"]
    assert [row.prompt for row in read_prompts([[USER], [USER, ANSWER, USER]])] == [
        [USER],
        [USER, ANSWER, USER],
    ]


def test_prompt_rows_pass_through() -> None:
    rows = [PromptRow("a")]
    assert read_prompts(rows) == rows


def test_messages_that_end_with_the_user_are_a_prompt() -> None:
    assert read_prompts([{"messages": [USER, ANSWER, USER]}])[0].prompt == [USER, ANSWER, USER]


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2"),
        ({"instruction": "Add.", "input": ""}, "Add."),
        ({"instruction": "Add.", "input": None}, "Add."),
        ({"instruction": "Add."}, "Add."),
    ],
)
def test_an_instruction_is_a_chat_of_one_turn(row: dict[str, Any], content: str) -> None:
    assert read_prompts([row])[0].prompt == [{"role": "user", "content": content}]


def test_text_demonstrations_stand_as_they_are() -> None:
    rows = read_demonstrations([{"prompt": "a", "completion": " b", "id": 1}])
    assert rows == [Demonstration("a", " b", {"id": 1}, "data[0]")]
    assert read_demonstrations(rows) == rows


def test_alpaca_rows_are_one_turn_of_chat() -> None:
    row = read_demonstrations([{"instruction": "Add.", "input": "1 2", "output": "3"}])[0]
    assert row.prompt == [{"role": "user", "content": "Add.\n\n1 2"}]
    assert row.completion == [{"role": "assistant", "content": "3"}]


def test_messages_are_split_before_the_first_and_after_the_last_assistant_turn() -> None:
    system = {"role": "system", "content": "be kind"}
    row = read_demonstrations([{"messages": [system, USER, ANSWER, USER, ANSWER, USER]}])[0]
    assert row.prompt == [system, USER]
    assert row.completion == [ANSWER, USER, ANSWER]


def test_a_chat_prompt_with_a_completion_learns_the_completion_alone() -> None:
    prompt = [USER, ANSWER, USER]
    for completion in ("hello", [ANSWER]):
        row = read_demonstrations([{"prompt": prompt, "completion": completion}])[0]
        assert (row.prompt, row.completion) == (prompt, [ANSWER])


BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"promt": "x"}, "no column 'prompt'; the columns are 'promt'. Did you mean"),
    "number": ({"prompt": 3}, "column 'prompt' holds the number 3; expected text or chat messages"),
    "null": ({"prompt": None}, "column 'prompt' holds null"),
    "no messages": ({"prompt": []}, "column 'prompt' is an empty list"),
    "text messages": ({"prompt": ["hi"]}, "column 'prompt[0]' holds text; expected an object"),
    "no role": ({"prompt": [{"from": "human"}]}, "has no 'role'; it has 'from'"),
    "no content": ({"prompt": [{"role": "user"}]}, "has no 'content'"),
    "parts": (
        {"prompt": [{"role": "user", "content": [1]}]},
        "'prompt[0].content[0]' holds",
    ),
    "role": ({"prompt": [{"role": "usr", "content": "x"}]}, "has the role 'usr'; expected one of"),
    "assistant": ({"prompt": [USER, ANSWER]}, "'prompt' ends with the role 'assistant'"),
    "messages": ({"messages": [USER, ANSWER]}, "'messages' ends with the role 'assistant'"),
    "messages text": ({"messages": "hi"}, "column 'messages' holds text; expected chat messages"),
    "instruction": ({"instruction": 1}, "column 'instruction' holds the number 1; expected text"),
    "input": ({"instruction": "a", "input": 1}, "column 'input' holds the number 1"),
    "surrogate": ({"prompt": "a\ud800"}, "column 'prompt' holds half a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_bad_prompt_is_named(case: str) -> None:
    row, message = BAD_PROMPTS[case]
    with pytest.raises(DataError, match=re.escape("prompts[1]: ") + ".*" + re.escape(message)):
        read_prompts([{"prompt": "x"}, row])


BAD_DEMONSTRATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"id": 1}, "no column 'prompt'; the columns are 'id'. Expected 'prompt' and"),
    "completion": ({"prompt": "x", "response": "y"}, "no column 'completion'; the columns are"),
    "output": ({"instruction": "x"}, "no column 'output'"),
    "null": ({"prompt": "x", "completion": None}, "column 'completion' holds null"),
    "users": ({"messages": [USER]}, "'messages' has no assistant turn to learn from"),
    "first": ({"messages": [ANSWER]}, "'messages' begins with an assistant turn"),
    "start": ({"prompt": [USER], "completion": [USER]}, "'completion' begins with the role 'user'"),
    "end": ({"prompt": [USER, ANSWER], "completion": "x"}, "'prompt' ends with the role"),
}


@pytest.mark.parametrize("case", BAD_DEMONSTRATIONS)
def test_a_bad_demonstration_is_named(case: str) -> None:
    row, message = BAD_DEMONSTRATIONS[case]
    with pytest.raises(DataError, match=re.escape("data[0]: ") + ".*" + re.escape(message)):
        read_demonstrations([row])


def test_a_missing_column_in_a_file_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x"}\n\n{"text": "y"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl, line 3: no column 'prompt'"):
        read_prompts(path)
