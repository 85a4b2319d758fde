"""What `check_data` says of a file: kind, counts, lengths, and the problems of wrong rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import Spread, check_data
from alignzoo.errors import ConfigError, DataError


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_kind_counts_and_lengths_are_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "ab", "chosen": "c", "rejected": "cc", "id": 1},
        {"prompt": "ab", "chosen": "ccc", "rejected": "c"},
        {"prompt": "abcdef", "chosen": "cccc", "rejected": "c"},
    ]
    found = check_data(write(tmp_path / "a.jsonl", rows))
    assert (found.kind, found.rows, found.items, found.prompts, found.wrong) == (
        "preferences",
        3,
        3,
        2,
        0,
    )
    assert found.columns == {"prompt": 3, "chosen": 3, "rejected": 3, "id": 1}
    assert found.lengths == {"prompt": Spread(2, 2, 6), "completion": Spread(1, 2, 4)}


def test_ratings_and_classes_are_counted() -> None:
    ratings = [{"text": "a", "rating": rating} for rating in (1, 3, None, 2)]
    found = check_data(ratings)
    assert (found.ratings, found.unrated) == (Spread(1, 2, 3), 1)
    labels = ["good", "bad", "good"]
    found = check_data([{"text": str(i), "label": label} for i, label in enumerate(labels)])
    assert (found.kind, found.labels) == ("classes", {"good": 2, "bad": 1})


def test_wrong_rows_of_every_sort_are_counted_and_the_first_described(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "a", "completion": "b"},
        "{not json",
        {"prompt": "a", "completion": 3},
        "[1]",
        '{"prompt": "x", "prompt": "y"}',
        {"prompt": "a"},
        {"prompt": "a", "completion": "c"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    path.write_bytes(path.read_bytes() + b'{"prompt": "\xff"}\n')
    found = check_data(path, max_problems=3)
    assert (found.kind, found.items, found.wrong) == ("demonstrations", 2, 6)
    assert len(found.problems) == 3
    for line, problem in zip((2, 3, 4), found.problems, strict=True):
        assert f"line {line}" in problem


def test_one_id_for_two_rows_is_a_problem_of_the_second(tmp_path: Path) -> None:
    rows = [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": 2, "prompt": "c"}]
    found = check_data(write(tmp_path / "a.jsonl", rows))
    assert (found.items, found.wrong) == (2, 1)
    assert "line 2: the id '1' is that of line 1" in found.problems[0]


def test_the_kind_may_be_said(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": "1"}]
    assert check_data(rows).kind == "ratings"
    assert check_data(rows, kind="classes").labels == {"1": 1}
    with pytest.raises(ConfigError, match="'class' is no kind of data"):
        check_data(rows, kind="class")


def test_a_file_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"prompt": "a"},')
    with pytest.raises(DataError, match=r"a\.json, line 1: malformed JSON"):
        check_data(path)


@pytest.mark.parametrize(
    ("file", "kind", "rows", "items"),
    [
        ("kdconv_zh_dialogues.jsonl", "demonstrations", 900, 900),
        ("hh_harmless_raw_300.jsonl.gz", "preferences", 300, 300),
        ("oasst_rankings.jsonl", "rankings", 212, 212),
        ("ilf_text_feedback.jsonl", None, 195, 195),
    ],
)
def test_real_files_are_told(
    real_data: Path, file: str, kind: str | None, rows: int, items: int
) -> None:
    columns = {"completion": "original"} if kind is None else {}
    found = check_data(real_data / file, columns=columns)
    assert (found.kind, found.rows, found.items, found.wrong) == (
        kind or "text_feedback",
        rows,
        items,
        0,
    )
