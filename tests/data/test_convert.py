"""Any schema as ours, and one kind of data of another; what a file is, told from its columns."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    convert_rows,
    read_classes,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_rankings,
    read_ratings,
    read_rows,
    read_step_ratings,
    read_text_feedback,
    write_rows,
)
from alignzoo.data.convert import READERS, find_data_kind
from alignzoo.errors import ConfigError, DataError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
TREE = {"prompt": {"text": "hi", "role": "prompter", "replies": [
    {"text": "hello", "role": "assistant", "rank": 0},
    {"text": "what?", "role": "assistant", "rank": 1},
]}}  # fmt: skip
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("preferences", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    ("preferences", {"chosen": "\n\nHuman: a\n\nAssistant: b",
                     "rejected": "\n\nHuman: a\n\nAssistant: c"}),
    ("rankings", {"prompt": "a", "ranked": ["b", "c"]}),
    ("rankings", TREE),
    ("text_feedback", {"prompt": "a", "completion": "b", "feedback": "c", "rating": 1}),
    ("steps", {"prompt": "a", "completions": ["b"], "labels": [True]}),
    ("ratings", {"prompt": "a", "completion": "b", "rating": 3}),
    ("ratings", {"prompt": "a", "completion": "b", "label": True}),
    ("ratings", {"text": "b", "label": "0.5"}),
    ("classes", {"text": "b", "label": "good"}),
    ("demonstrations", {"prompt": "a", "completion": "b"}),
    ("demonstrations", {"messages": [USER, ANSWER]}),
    ("demonstrations", {"conversations": [{"from": "human", "value": "hi"},
                                          {"from": "gpt", "value": "hello"}]}),
    ("demonstrations", {"instruction": "a", "input": "", "output": "b"}),
    ("demonstrations", {"text": "\n\nHuman: a\n\nAssistant: b"}),
    ("prompts", {"prompt": "a", "answer": 3}),
    ("prompts", {"messages": [USER]}),
    ("prompts", {"instruction": "a"}),
]  # fmt: skip


def row_of(values: dict[str, Any]) -> Any:
    return read_rows([values])[0]


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_the_kind_of_a_row_is_told_from_its_columns(kind: str, values: dict[str, Any]) -> None:
    assert find_data_kind(row_of(values)) == kind


@pytest.mark.parametrize(("kind", "values"), KINDS)
def test_what_is_converted_to_its_own_kind_reads_the_same(
    kind: str, values: dict[str, Any]
) -> None:
    (made,) = convert_rows([row_of({**values, "id": 7})], kind)
    assert READERS[kind]([made]) == READERS[kind]([{**values, "id": 7}])
    assert json.loads(json.dumps(made)) == made


def test_a_row_of_no_kind_names_its_columns() -> None:
    with pytest.raises(DataError, match=r"data\[0\]: the columns are 'question', 'answer', which"):
        find_data_kind(row_of({"question": "a", "answer": "b"}))


def test_the_best_answers_of_pairs_and_rankings_are_demonstrations() -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "id": 1}
    assert list(convert_rows([row_of(pair)], "demonstrations")) == [
        {"prompt": "a", "completion": "b", "id": 1}
    ]
    ranked = {"prompt": "a", "ranked": ["b", "c"]}
    assert list(convert_rows([row_of(ranked)], "demonstrations")) == [
        {"prompt": "a", "completion": "b"}
    ]


def test_a_ranking_is_a_pair_of_each_two_answers() -> None:
    rows = convert_rows(
        [row_of({"prompt": "a", "ranked": ["b", "c", "d"], "id": 7})], "preferences"
    )
    pairs = [(row["chosen"], row["rejected"], row["id"]) for row in rows]
    assert pairs == [("b", "c", "7-0"), ("b", "d", "7-1"), ("c", "d", "7-2")]


@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "id": 1}, "a"),
        ({"prompt": "a", "completion": "b", "rating": 3, "id": 1}, "a"),
        ({"messages": [USER, ANSWER], "id": 1}, [USER]),
        ({"instruction": "hi", "output": "b", "id": 1}, [USER]),
    ],
)
def test_prompts_of_any_kind_leave_the_answers(values: dict[str, Any], prompt: Any) -> None:
    assert list(convert_rows([row_of(values)], "prompts")) == [{"prompt": prompt, "id": 1}]


def test_an_absent_rating_is_null(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "rating": float("nan")}]
    assert next(iter(convert_rows(read_rows(rows), "ratings")))["rating"] is None


def test_columns_are_renamed_first() -> None:
    rows = read_rows([{"question": "a", "solution": "b"}])
    columns = {"prompt": "question", "completion": "solution"}
    (made,) = convert_rows(rows, "demonstrations", columns=columns)
    assert made == {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("to", "source", "message"),
    [
        (
            "demonstration",
            None,
            "'demonstration' is no kind of data.*Did you mean 'demonstrations'",
        ),
        (
            "ratings",
            "preferences",
            "ratings cannot be made of preferences; expected one of ratings",
        ),
    ],
)
def test_a_kind_that_cannot_be_made_is_a_wrong_option(
    to: str, source: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(convert_rows([row_of({"prompt": "a"})], to, source=source))


def test_wrong_rows_are_left_out_where_asked() -> None:
    told: list[str] = []
    rows = read_rows([{"prompt": "a"}, {"prompt": 3}, {"prompt": "b"}])
    made = convert_rows(rows, "prompts", on_error=lambda error: told.append(str(error)))
    assert [row["prompt"] for row in made] == ["a", "b"]
    assert told == ["data[1]: column 'prompt' holds the number 3; expected text or chat messages."]


def test_the_readers_of_all_kinds_can_be_converted_from() -> None:
    readers = [read_prompts, read_demonstrations, read_preferences, read_ratings, read_classes]
    readers += [read_rankings, read_text_feedback, read_step_ratings]
    assert set(READERS.values()) == set(readers)


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_are_written_and_read_again(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": "今天\n", "n": 1}, {"prompt": "half \ud800", "n": None}]
    assert write_rows(tmp_path / name, rows) == 2
    assert [row.values for row in read_rows(tmp_path / name)] == rows


def test_the_same_rows_give_the_same_packed_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl.gz", [{"prompt": "a"}])
    write_rows(tmp_path / "b.jsonl.gz", [{"prompt": "a"}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b'{"prompt": "a"}\n'


def test_a_file_is_left_as_it_was_where_its_rows_fail(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(path, [{"prompt": "a"}])
    with pytest.raises(DataError):
        write_rows(path, convert_rows(read_rows([{"prompt": "b"}, {"prompt": 3}]), "prompts"))
    assert [row.values for row in read_rows(path)] == [{"prompt": "a"}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.csv", "absent/a.jsonl"])
def test_where_nothing_can_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        write_rows(tmp_path / name, [])
