"""Chats in the forms files have: OpenAI's messages, ShareGPT, transcripts, trees of messages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from alignzoo.data import (
    check_data,
    read_demonstrations,
    read_judgements,
    read_preferences,
    read_prompts,
    read_rankings,
    read_rows,
)
from alignzoo.data.convert import find_data_kind
from alignzoo.errors import DataError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}


# -- ShareGPT ------------------------------------------------------------------------------------

SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]


def test_conversations_of_sharegpt_are_chats() -> None:
    system = {"from": "system", "value": "be kind"}
    (row,) = read_demonstrations([{"conversations": [system, *SHARED], "id": "x"}])
    assert (row.prompt, row.completion, row.columns) == ([SYSTEM, USER], [ANSWER], {"id": "x"})


def test_conversations_that_end_with_the_user_are_a_prompt() -> None:
    (row,) = read_prompts([{"conversations": [*SHARED, SHARED[0]]}])
    assert row.prompt == [USER, ANSWER, USER]


def test_a_pair_may_answer_a_conversation_with_one_message_each() -> None:
    said = [{"from": "gpt", "value": text} for text in ("hello", "what?")]
    (row,) = read_preferences(
        [{"conversations": SHARED[:1], "chosen": said[0], "rejected": said[1]}]
    )
    assert (row.prompt, row.chosen) == ([USER], [ANSWER])
    assert row.rejected == [{"role": "assistant", "content": "what?"}]


def test_a_pair_may_answer_an_instruction() -> None:
    (row,) = read_preferences(
        [{"instruction": "hi", "input": "", "chosen": "hello", "rejected": "what?", "id": 1}]
    )
    assert (row.prompt, row.chosen, row.columns) == ([USER], [ANSWER], {"id": 1})


# -- OpenAI ------------------------------------------------------------------------------------


def test_content_in_parts_of_text_is_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    (row,) = read_prompts([{"messages": [{"role": "user", "content": parts}]}])
    assert row.prompt == [{"role": "user", "content": "one\ntwo"}]


def test_a_message_that_calls_a_tool_has_empty_content_and_keeps_its_calls() -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": "be kind"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        ANSWER,
    ]
    (row,) = read_demonstrations([{"messages": messages}])
    assert row.completion[0] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert row.completion[1] == {"role": "tool", "content": "3", "tool_call_id": "1"}


# -- transcripts as one text -------------------------------------------------------------------

TRANSCRIPT = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: Human: is a word."


@pytest.mark.parametrize("column", ["text", "chosen"])
def test_a_transcript_is_a_demonstration_of_each_assistant_turn(column: str) -> None:
    (row,) = read_demonstrations([{column: TRANSCRIPT}])
    assert row.prompt == [USER]
    assert row.completion == [
        ANSWER,
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "Human: is a word."},
    ]


def test_other_text_is_no_demonstration() -> None:
    with pytest.raises(DataError, match="no column 'prompt'; the columns are 'text'"):
        read_demonstrations([{"text": "Human: hi"}])


@pytest.mark.parametrize("asked", ["hi", "\n\nHuman: hi\n\nAssistant:"])
def test_transcripts_beside_the_prompt_they_answer_are_split(asked: str) -> None:
    start = "\n\nHuman: hi\n\nAssistant:"
    (row,) = read_preferences([{"prompt": asked, "chosen": start + " a", "rejected": start + " b"}])
    assert (row.prompt, row.chosen, row.rejected) == (start, " a", " b")


# -- trees -------------------------------------------------------------------------------------


def node(text: str, role: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text": text, "role": role, "replies": list(replies), **more}


def tree(*replies: dict[str, Any]) -> dict[str, Any]:
    return {"message_tree_id": "t", "prompt": node("hi", "prompter", *replies)}


def reply(text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return node(text, "assistant", *replies, **more)


GROWN = tree(
    reply("third", rank=2),
    reply("best", node("and?", "prompter", reply("x", rank=1), reply("y", rank=0)), rank=0),
    reply("second", node("why?", "prompter", reply("z")), rank=1),
    reply("unranked"),
    reply("deleted", rank=3, deleted=True),
    reply("rejected", rank=4, review_result=False),
)


def said(*texts: str) -> list[str]:
    return list(texts)


def contents(messages: Any) -> list[str]:
    return [message["content"] for message in messages]


def test_each_prompt_of_a_tree_ranks_its_replies() -> None:
    rows = read_rankings([GROWN])
    assert [contents(row.prompt) for row in rows] == [said("hi"), said("hi", "best", "and?")]
    ranked = [[contents(answer)[0] for answer in row.completions] for row in rows]
    assert ranked == [said("best", "second", "third"), said("y", "x")]
    assert {row.where for row in rows} == {"data[0]"}
    assert rows[0].columns == {"message_tree_id": "t"}


def test_each_prompt_of_a_tree_is_answered_once_by_its_best_reply() -> None:
    rows = read_demonstrations([GROWN, {"prompt": "a", "completion": "b"}])
    answered = [(contents(row.prompt), contents(row.completion)) for row in rows[:-1]]
    assert answered == [
        (said("hi"), said("best")),
        (said("hi", "best", "and?"), said("y")),
        (said("hi", "second", "why?"), said("z")),
    ]
    assert rows[-1].completion == "b"


def test_a_tree_may_be_its_first_message_alone() -> None:
    (row,) = read_rankings([GROWN["prompt"]][:1])[:1]
    assert contents(row.prompt) == ["hi"]


def test_trees_without_ranked_replies_are_an_error() -> None:
    with pytest.raises(DataError, match="data ranks no replies"):
        read_rankings([tree(reply("only", rank=0))])


# -- one message of a tree a row -----------------------------------------------------------------


def flat(values: dict[str, Any], parent: str | None = None, name: str = "m") -> list[Any]:
    """Returns a node and those below it as rows of their own."""
    replies = values["replies"]
    row = {**values, "message_id": name, "parent_id": parent}
    del row["replies"]
    below = [flat(reply, name, f"{name}.{i}") for i, reply in enumerate(replies)]
    return [row, *(message for part in below for message in part)]


def test_messages_that_name_what_they_answer_are_gathered_into_trees() -> None:
    rows = [*flat(GROWN["prompt"], name="a"), *flat(tree(reply("only"))["prompt"], name="b")][::-1]
    for read in (read_rankings, read_demonstrations):
        expected = [(row.prompt, contents_of(row)) for row in read([GROWN, tree(reply("only"))])]
        found = [(row.prompt, contents_of(row)) for row in read(rows)]
        assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert read_judgements(rows, ["preferences", "rankings"])[0] == "rankings"
    assert check_data(rows).kind == "rankings"


def contents_of(row: Any) -> Any:
    return getattr(row, "completions", None) or row.completion


MESSAGES = flat(tree(reply("x"))["prompt"])
BAD_MESSAGES: dict[str, tuple[list[Any], str]] = {
    "twice": ([*MESSAGES, MESSAGES[0]], r"data\[2\]: the message_id stands twice"),
    "no text": ([{**MESSAGES[0], "message_id": 3}], r"data\[0\]: the message_id is no text"),
    "orphan": (MESSAGES[1:], r"data\[0\]: the parent_id is that of no message; add the message"),
    "circle": ([{**MESSAGES[0], "parent_id": "m.0"}, MESSAGES[1]], "data: messages answer each"),
    "endless": (
        [{**MESSAGES[1], "message_id": str(i), "parent_id": str(i - 1) if i else None}
         for i in range(300)],
        "data: messages answer each other in a circle, or over 200 in a row",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_messages_that_make_no_tree_are_named(case: str) -> None:
    rows, message = BAD_MESSAGES[case]
    with pytest.raises(DataError, match=message):
        read_rankings(rows)


def test_one_message_of_a_tree_is_of_no_kind_by_itself() -> None:
    with pytest.raises(DataError, match=r"data\[0\]: this is one message of a tree; make the file"):
        find_data_kind(read_rows(MESSAGES)[0])


BAD_TREES: dict[str, tuple[dict[str, Any], str]] = {
    "role": (tree(node("x", "prompter")), "'prompt.replies[0]' has the role 'prompter'; expected"),
    "unknown": (tree(node("x", "bot")), "'prompt.replies[0]' has the role 'bot'; expected 'assi"),
    "text": (tree(reply("x"), node(3, "assistant")), "'prompt.replies[1].text' holds the number 3"),  # type: ignore[arg-type]
    "rank": (tree(reply("x", rank="first")), "column 'prompt.replies[0].rank' holds text; expecte"),
    "replies": ({"prompt": {**node("x", "prompter"), "replies": "y"}}, "'prompt.replies' holds"),
    "reply": ({"prompt": {**node("x", "prompter"), "replies": [1]}}, "'prompt.replies[0]' holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TREES)
def test_a_bad_tree_is_named_with_the_message(case: str) -> None:
    row, message = BAD_TREES[case]
    with pytest.raises(DataError, match=re.escape("data[0]: ") + ".*" + re.escape(message)):
        read_demonstrations([row])
