"""Parts of a file: by prompt, the same when rows are added, and what training would hold out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import Rating, prompt_key, read_demonstrations, split_file
from alignzoo.data.splits import choose_part, key_share
from alignzoo.errors import ConfigError, DataError
from alignzoo.training_data import split_by_prompt

PARTS = {"train": 0.7, "validation": 0.2, "test": 0.1}
ROWS = [
    {"prompt": f"p{i}", "completion": f"c{j}", "task": f"t{i % 20}"}
    for i in range(300)
    for j in range(2)
]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path) -> dict[str, list[Any]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in folder.iterdir()
    }


def test_every_row_is_in_one_part_and_no_prompt_in_two(tmp_path: Path) -> None:
    counts = split_file(write(tmp_path / "a.jsonl", ROWS), tmp_path / "parts", PARTS)
    parts = read(tmp_path / "parts")
    assert {name: len(rows) for name, rows in parts.items()} == counts
    key = json.dumps
    assert sorted(key(row) for rows in parts.values() for row in rows) == sorted(map(key, ROWS))
    prompts = [{row["prompt"] for row in rows} for rows in parts.values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
    for name, share in PARTS.items():
        assert counts[name] / len(ROWS) == pytest.approx(share, abs=0.06)


def test_a_row_stays_in_its_part_when_others_are_added_or_the_order_changes(
    tmp_path: Path,
) -> None:
    split_file(write(tmp_path / "a.jsonl", ROWS[:100]), tmp_path / "few", PARTS)
    split_file(write(tmp_path / "b.jsonl", ROWS[::-1]), tmp_path / "all", PARTS)
    few, all_rows = read(tmp_path / "few"), read(tmp_path / "all")
    for name in PARTS:
        assert all(row in all_rows[name] for row in few[name])


def test_the_last_part_is_what_training_holds_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    split_file(path, tmp_path / "parts", {"train": 0.9, "test": 0.1})
    train, held_out = split_by_prompt(read_demonstrations(path), 0.1)
    parts = read(tmp_path / "parts")
    assert [row["prompt"] for row in parts["test"]] == [row.prompt for row in held_out]
    assert [row["prompt"] for row in parts["train"]] == [row.prompt for row in train]


def test_a_salt_gives_another_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    split_file(path, tmp_path / "one", PARTS)
    split_file(path, tmp_path / "two", PARTS, salt="again")
    assert read(tmp_path / "one")["test"] != read(tmp_path / "two")["test"]


def test_rows_may_stay_together_by_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    split_file(path, tmp_path / "parts", PARTS, by="task")
    tasks = [{row["task"] for row in rows} for rows in read(tmp_path / "parts").values()]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == 20
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: no column 'tsk'.*Did you mean 'task'"):
        split_file(path, tmp_path / "parts", PARTS, by="tsk")


def test_nothing_is_written_where_a_row_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"prompt": 3, "completion": "c"}])
    with pytest.raises(DataError, match="line 601"):
        split_file(path, tmp_path / "parts", PARTS)
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.parametrize("parts", [{}, {"a": 1}, {"a": 0.5, "b": 0.6}, {"a": 1, "b": 0}])
def test_shares_that_do_not_sum_to_one_are_refused(tmp_path: Path, parts: dict[str, float]) -> None:
    with pytest.raises((ConfigError, ValueError)):
        split_file(write(tmp_path / "a.jsonl", ROWS), tmp_path / "parts", parts)


@pytest.mark.parametrize("name", ["../a", "a/b", ".a"])
def test_a_part_is_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no file name"):
        split_file(write(tmp_path / "a.jsonl", ROWS), tmp_path / "parts", {"b": 0.5, name: 0.5})


def test_texts_without_a_prompt_are_told_apart_by_their_completion() -> None:
    rows = [Rating("", str(i), 1.0) for i in range(200)]
    assert len({prompt_key(row) for row in rows}) == 200
    train, held_out = split_by_prompt(rows, 0.2)
    assert 20 < len(held_out) < 60
    assert {row.completion for row in train}.isdisjoint(row.completion for row in held_out)


def test_keys_are_spread_evenly() -> None:
    shares = [key_share(prompt_key(Rating(str(i), "", 1.0))) for i in range(2000)]
    assert all(0 <= share < 1 for share in shares)
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.03)


def test_the_smallest_keys_are_the_last_part() -> None:
    small, large = bytes(32), b"\xff" * 32
    assert choose_part(small, PARTS) == "test"
    assert choose_part(large, PARTS) == "train"
