"""Files become rows that know where they stood; what is wrong is named with file and line."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alignzoo.data import Row, dataset_fingerprint, read_prompts, read_rows
from alignzoo.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


CONTENTS = {
    "a.jsonl": '{"prompt": "one", "n": 1}\n\n{"prompt": "two, 二", "n": 2}\n',
    "a.json": '[\n  {"prompt": "one", "n": 1},\n\n  {"prompt": "two, 二", "n": 2}\n]\n',
    "a.csv": 'prompt,n\none,1\n"two, 二",2\n',
}
LINES = {"a.jsonl": [1, 3], "a.json": [2, 4], "a.csv": [2, 3]}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", CONTENTS)
def test_each_format_gives_the_same_rows_and_their_lines(
    tmp_path: Path, name: str, packed: str
) -> None:
    rows = read_rows(write(tmp_path, name + packed, CONTENTS[name]))
    assert [row.values["prompt"] for row in rows] == ["one", "two, 二"]
    assert [int(row.values["n"]) for row in rows] == [1, 2]
    assert [row.line for row in rows] == LINES[name]
    assert rows[1].where == f"{tmp_path / (name + packed)}, line {LINES[name][1]}"


def test_a_json_file_may_hold_json_lines(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path, "a.json", CONTENTS["a.jsonl"]))) == 2


def test_a_csv_row_over_several_lines_is_placed_at_its_first(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.csv", 'prompt\r\n"one\r\nmore"\r\ntwo\r\n'))
    assert [(row.values["prompt"], row.line) for row in rows] == [("one\r\nmore", 2), ("two", 4)]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"\xef\xbb\xbfprompt\nhello\n")
    assert read_rows(path)[0].values == {"prompt": "hello"}


def test_line_separators_inside_a_string_do_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False))
    assert read_rows(path)[0].values == {"prompt": "a\u2028b"}


def test_parquet_rows_are_read_and_numbered(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    messages = [{"role": "user", "content": "hi"}]
    table = datasets.Dataset.from_list([{"prompt": messages}, {"prompt": messages}])
    table.to_parquet(tmp_path / "a [1].parquet")
    rows = read_rows(tmp_path / "a [1].parquet")
    assert [row.line for row in rows] == [1, 2]
    assert rows[1].where.endswith("a [1].parquet, row 2")
    assert read_prompts(tmp_path / "a [1].parquet")[0].prompt == messages


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    path = write(tmp_path, "a.parquet", b"PAR1 but not really")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        read_rows(path)


@pytest.mark.parametrize("source", ["a.parquet", "owner/name"])
def test_without_the_data_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    write(tmp_path, "a.parquet", b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'alignzoo\[data\]'"):
        read_rows(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", ("owner/name", None, "train")),
        ("owner/name:test", ("owner/name", None, "test")),
        ("owner/name:config:test", ("owner/name", "config", "test")),
    ],
)
def test_a_hub_id_may_name_config_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: tuple[str, ...]
) -> None:
    def load_dataset(path: str, config: str | None, *, split: str) -> list[dict[str, object]]:
        return [{"prompt": "x", "asked": (path, config, split)}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    row = read_rows(source)[0]
    assert (row.values["asked"], row.where) == (expected, f"{source}, row 1")


def test_what_the_hub_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: object, **options: object) -> None:
        raise ConnectionError("cannot reach the hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match="owner/name is no file, and as a hub id it cannot be read"):
        read_rows("owner/name")


BAD_FILES = {
    "json": ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', r"a\.jsonl, line 2: malformed JSON at"),
    "not an object": ("a.jsonl", '{"a": 1}\n[1]\n', r"line 2 holds a list; expected an object"),
    "a number": ("a.jsonl", "3\n", r"line 1 holds the number 3; expected an object"),
    "array": ("a.json", '[\n{"a": 1},\n{"a" 2}]', r"a\.json, line 3: malformed JSON at column 6"),
    "array item": ("a.json", '[\n{"a": 1},\n"x"]', r"a\.json, line 3 holds text"),
    "deep": ("a.jsonl", "[" * 100_000, r"line 1: malformed JSON"),
    "csv fields": ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: 3 fields, but the header has 2"),
    "csv quotes": ("a.csv", 'a,b\n1,"2\n', r"a\.csv, line \d: malformed CSV"),
    "csv header": ("a.csv", "a,a\n1,2\n", r"a\.csv, line 1: two columns have the same name"),
    "utf-8": ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl, line 2: not UTF-8"),
    "empty": ("a.jsonl", "", r"a\.jsonl holds no rows"),
    "blank": ("a.jsonl", "\n \n", r"a\.jsonl holds no rows"),
    "empty array": ("a.json", "[]", r"a\.json holds no rows"),
    "empty csv": ("a.csv", "prompt\n", r"a\.csv holds no rows"),
    "suffix": ("a.txt", "hello", r"a\.txt: expected a file whose name ends in one of \.jsonl"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, name, content))


def test_a_file_that_is_no_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"prompt": "x"}')
    with pytest.raises(DataError, match=r"a\.jsonl\.gz cannot be read"):
        read_rows(path)
    path.write_bytes(gzip.compress(b'{"prompt": "x"}' * 100)[:-9])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz cannot be read"):
        read_rows(path)


def test_an_absent_file_is_named_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "prompts.jsonl", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no file prompt\.jsonl\. Did you mean 'prompts\.jsonl'\?"):
        read_rows("prompt.jsonl")
    with pytest.raises(DataError, match="is a folder; expected a file"):
        read_rows(tmp_path)


def test_rows_of_a_list_are_placed_by_index() -> None:
    rows = read_rows([{"prompt": "x"}, {"prompt": "y"}], name="prompts")
    assert rows[1].where == "prompts[1]"
    with pytest.raises(DataError, match=r"prompts\[1\] is the number 3; expected a dict"):
        read_rows([{"prompt": "x"}, 3], name="prompts")
    with pytest.raises(DataError, match="prompts holds no rows"):
        read_rows([], name="prompts")


def test_the_fingerprint_depends_on_content_and_order_alone(tmp_path: Path) -> None:
    one, two = {"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}
    base = dataset_fingerprint([one, two])
    assert base == dataset_fingerprint([{"n": 1, "prompt": "a"}, two])
    assert base != dataset_fingerprint([two, one])
    assert base != dataset_fingerprint([one])
    assert base != dataset_fingerprint([one, {"prompt": "b", "n": 3}])
    rows = [Row(one, "x.jsonl", 1), Row(two, "x.jsonl", 2)]
    moved = [Row(one, "y.jsonl", 7), Row(two, "y.jsonl", 9)]
    assert dataset_fingerprint(rows) == dataset_fingerprint(moved)


def test_the_fingerprint_of_prompts_covers_their_columns() -> None:
    def fingerprint(**columns: object) -> str:
        return dataset_fingerprint(read_prompts([{"prompt": "a", **columns}]))

    assert fingerprint(answer=np.arange(3)) == fingerprint(answer=[0, 1, 2])
    assert fingerprint(answer=1) != fingerprint(answer=2)
    assert fingerprint(check=object()) == fingerprint(check=object())


def test_rows_read_before_keep_their_place(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "a.jsonl", CONTENTS["a.jsonl"]))
    assert read_rows(rows) == rows
    assert [prompt.where for prompt in read_prompts(rows)] == [row.where for row in rows]
