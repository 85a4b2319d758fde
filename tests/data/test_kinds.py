"""Which kind of judgement a file is, told from its first row; columns under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import JUDGEMENTS, read_judgements
from alignzoo.errors import ConfigError, DataError

ROWS: dict[str, list[dict[str, Any]]] = {
    "preferences": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
    "rankings": [
        {"prompt": "a", "completions": ["b", "c"]},
        {"prompt": "a", "ranked": ["b", "c"]},
        {"prompt": {"text": "a", "role": "prompter", "replies": [
            {"text": "b", "role": "assistant", "rank": 1},
            {"text": "c", "role": "assistant", "rank": 0},
        ]}},
    ],
    "text_feedback": [
        {"prompt": "a", "completion": "b", "feedback": "c", "rating": 1},
        {"text": "b", "feedback": "c"},
    ],
    "steps": [
        {"prompt": "a", "steps": ["b"], "ratings": [1]},
        {"prompt": "a", "completions": ["b"], "labels": [True]},
    ],
    "ratings": [{"prompt": "a", "completion": "b", "rating": 1}, {"text": "b", "rating": 1}],
    "classes": [{"prompt": "a", "completion": "b", "label": "x"}, {"text": "b", "label": "x"}],
}  # fmt: skip
CASES = [(kind, row) for kind, rows in ROWS.items() for row in rows]


@pytest.mark.parametrize(("kind", "row"), CASES)
def test_a_row_is_told_from_those_of_other_kinds(kind: str, row: dict[str, Any]) -> None:
    # A 'label' may be a class or a rating, so these two are told apart by what is asked for.
    kinds = [k for k in JUDGEMENTS if {k, kind} != {"ratings", "classes"}]
    found, rows = read_judgements([row], kinds)
    assert found == kind
    assert all(isinstance(item, JUDGEMENTS[kind].row_type) for item in rows)
    assert read_judgements(rows, kinds) == (kind, rows)


def test_a_row_of_no_kind_names_its_columns_and_what_each_kind_needs() -> None:
    with pytest.raises(DataError) as error:
        read_judgements([{"prompt": "a", "answer": "b"}], ["preferences", "rankings"])
    assert "data[0]: the columns are 'prompt', 'answer'." in str(error.value)
    assert "Preferences need" in str(error.value)
    assert "Rankings need" in str(error.value)


def test_an_unknown_kind_is_a_wrong_option() -> None:
    with pytest.raises(ConfigError, match=r"'rating' is no kind.*Did you mean 'ratings'"):
        read_judgements([{"text": "a", "rating": 1}], ["rating"])


def test_columns_are_read_under_the_files_names(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps({"tweet": "b", "hate": 3, "rating": "kept out", "id": 1}))
    columns = {"text": "tweet", "rating": "hate"}
    _, (row,) = read_judgements(path, ["ratings"], columns=columns)
    assert (row.prompt, row.completion, row.rating, row.columns) == ("", "b", 3.0, {"id": 1})


def test_a_renamed_column_that_is_absent_is_named_with_the_row(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"text": "b", "hate": 3}\n{"text": "b", "hat": 3}\n')
    message = r"votes\.jsonl, line 2: no column 'hate', which is to be read as 'rating'.*'hat'"
    with pytest.raises(DataError, match=message):
        read_judgements(path, ["ratings"], columns={"rating": "hate"})
