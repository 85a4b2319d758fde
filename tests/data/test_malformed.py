"""Malformed files of every class: one clear line with file, line and remedy; bounded memory."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignzoo.cli import main
from alignzoo.data import (
    files,
    formats,
    iterate_rows,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_ratings,
    read_rows,
)
from alignzoo.errors import DataError

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
HI = [{"role": "user", "content": "hi"}]
CHINESE = '{"prompt": "今天天气怎么样？"}\n'


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PROMPT_TEXT = lines({"prompt": "x"})
Case = tuple[Callable[..., Any], str, bytes, str]

CASES: dict[str, Case] = {
    "truncated gz": (
        read_rows,
        "a.jsonl.gz",
        gzip.compress(lines(*({"prompt": str(i)} for i in range(9999))))[:-9],
        r"a\.jsonl\.gz, line \d+ cannot be read: .* Copy or download it again",
    ),
    "gz of gz": (read_rows, "a.jsonl.gz", gzip.compress(gzip.compress(b"x")), "these are gz"),
    "gz by another name": (read_rows, "a.jsonl", gzip.compress(b"x"), r"let its name end in \.gz"),
    "zip": (read_rows, "a.jsonl", b"PK\x03\x04", "line 1: these are zip data"),
    "NUL byte": (
        read_rows,
        "a.jsonl",
        PROMPT_TEXT + b'{"prompt": "\0"}\n',
        r"a\.jsonl, line 2: a NUL byte at column 13, .* delete the byte",
    ),
    "NUL byte in CSV": (read_rows, "a.csv", b"prompt\na\0b\n", r"a\.csv, line 2: a NUL byte"),
    "NUL character": (
        read_prompts,
        "a.jsonl",
        PROMPT_TEXT + b'{"prompt": "a\\u0000b"}\n',
        r"a\.jsonl, line 2: column 'prompt' holds a NUL character at character 1",
    ),
    "half a surrogate": (
        read_prompts,
        "a.jsonl",
        PROMPT_TEXT + b'{"prompt": "a\\ud800b"}\n',
        r"a\.jsonl, line 2: column 'prompt' holds half a surrogate pair at character 1",
    ),
    "surrogate bytes": (read_rows, "a.jsonl", b'{"a": "\xed\xa0\x80"}', "line 1: not UTF-8 text"),
    "deep nesting": (
        read_rows,
        "a.jsonl",
        PROMPT_TEXT + b'{"prompt": ' + b"[" * 201 + b"]" * 201 + b"}",
        r"a\.jsonl, line 2: malformed JSON: more than 200 lists and objects within each other",
    ),
    "bottomless nesting": (
        read_rows,
        "a.json",
        b'[{"prompt":\n' + b'{"a":' * 100_000,
        r"a\.json, line 1: malformed JSON: more than 200 lists and objects",
    ),
    "duplicate key": (
        read_rows,
        "a.jsonl",
        PROMPT_TEXT + b'{"m": {"prompt": 1, "prompt": 2}}\n',
        r"a\.jsonl, line 2: the key 'prompt' stands twice in one object; leave one out",
    ),
    "duplicate key in an array": (
        read_rows,
        "a.json",
        b'[{"a": 1},\n\n{"a": 1, "a": 1}]',
        r"a\.json, line 3: the key 'a' stands twice",
    ),
    "duplicate id": (
        read_rows,
        "a.jsonl",
        lines({"id": 1, "prompt": "x"}, {"id": 2, "prompt": "y"}, {"id": 1, "prompt": "z"}),
        r"a\.jsonl, line 3: the id '1' is that of line 1, whose content differs; give each row",
    ),
    "huge integer": (read_rows, "a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: malformed"),
    "two objects": (
        read_rows,
        "a.jsonl",
        b'{"a": 1} {"a": 2}\n',
        r"line 1: malformed JSON at column 9: more after the end .* one object a line",
    ),
    "more after the array": (
        read_rows,
        "a.json",
        b'[{"a": 1}]\n]',
        r"a\.json, line 2: malformed JSON at column 1",
    ),
    "no comma": (
        read_rows,
        "a.json",
        b'[{"a": 1}\n {"a": 2}]',
        r"a\.json, line 2: malformed JSON at column 2: expected a comma",
    ),
    "endless array": (read_rows, "a.json", b'[{"a": 1},\n', r"a\.json, line \d: malformed JSON"),
    "wrong type": (
        read_demonstrations,
        "a.jsonl",
        lines({"prompt": "x", "completion": "y"}, {"prompt": "x", "completion": 3}),
        r"a\.jsonl, line 2: column 'completion' holds the number 3; expected text or chat",
    ),
    "empty chosen": (
        read_preferences,
        "a.jsonl",
        lines(PAIR, {**PAIR, "chosen": " \n"}),
        r"a\.jsonl, line 2: 'chosen' is empty, which nobody prefers; write the answer, or leave",
    ),
    "empty chosen message": (
        read_preferences,
        "a.jsonl",
        lines({"prompt": HI, "chosen": said(""), "rejected": said("c")}),
        r"a\.jsonl, line 1: 'chosen' is empty",
    ),
    "equal": (
        read_preferences,
        "a.jsonl",
        lines(PAIR, {**PAIR, "chosen": "c"}),
        r"a\.jsonl, line 2: 'chosen' and 'rejected' are the same, .* leave the row out",
    ),
    "other prompt in chats": (
        read_preferences,
        "a.jsonl",
        lines({"prompt": [{**HI[0], "content": "x"}], "chosen": [*HI, *said("b")],
               "rejected": [*HI, *said("c")]}),
        r"a\.jsonl, line 1: 'prompt' is not among the messages that 'chosen' and 'rejected' begin",
    ),
    "other prompt in texts": (
        read_preferences,
        "a.jsonl",
        lines({"prompt": "x", "chosen": "\n\nHuman: a\n\nAssistant: b",
               "rejected": "\n\nHuman: a\n\nAssistant: c"}),
        r"a\.jsonl, line 1: 'prompt' is not among the messages",
    ),
    "prompts that differ": (
        read_preferences,
        "a.jsonl",
        lines({"chosen": "\n\nHuman: a\n\nAssistant: b",
               "rejected": "\n\nHuman: x\n\nAssistant: b"}),
        r"a\.jsonl, line 1: 'chosen' and 'rejected' do not begin alike",
    ),
    "no assistant turn": (
        read_demonstrations,
        "a.jsonl",
        lines({"messages": [*HI, *said("b")]}, {"messages": HI}),
        r"a\.jsonl, line 2: 'messages' has no assistant turn to learn from",
    ),
    "no assistant in a transcript": (
        read_demonstrations,
        "a.jsonl",
        lines({"text": "\n\nHuman: hi"}),
        r"a\.jsonl, line 1: 'text' has no assistant turn to learn from",
    ),
    "no answer": (
        read_preferences,
        "a.jsonl",
        lines({"chosen": HI, "rejected": [*HI, *said("c")]}),
        r"a\.jsonl, line 1: 'chosen' ends before the assistant answers",
    ),
    "unknown role": (
        read_demonstrations,
        "a.jsonl",
        lines({"messages": [{"role": "asistant", "content": "x"}]}),
        r"line 1: 'messages\[0\]' has the role 'asistant'; expected .* Did you mean 'assistant'",
    ),
    "unknown speaker": (
        read_demonstrations,
        "a.jsonl",
        lines({"conversations": [{"from": "humn", "value": "x"}]}),
        r"line 1: 'conversations\[0\]' is from 'humn'; expected .* Did you mean 'human'",
    ),
    "speaker that is no text": (
        read_demonstrations,
        "a.jsonl",
        lines({"conversations": [{"from": ["human"], "value": "x"}]}),
        r"line 1: column 'conversations\[0\]\.from' holds a list; expected text",
    ),
    "picture": (
        read_prompts,
        "a.jsonl",
        lines({"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        r"line 1: column 'prompt\[0\]\.content\[0\]' holds a part of the type 'image_url'",
    ),
    "infinite rating": (
        read_ratings,
        "a.jsonl",
        b'{"text": "x", "rating": NaN}\n{"text": "x", "rating": -Infinity}\n',
        r"a\.jsonl, line 2: column 'rating' holds the number -inf; expected a finite number",
    ),
    "mixed schemas": (
        read_preferences,
        "a.jsonl",
        lines(*[PAIR] * 6, {"prompt": "a", "completion": "b", "rating": 1}),
        r"a\.jsonl, line 7: no column 'chosen'; the columns are 'prompt', 'completion', 'rating'"
        r".*Preferences need 'prompt'.* All rows of a file are of one kind",
    ),
    "GBK": (
        read_rows,
        "a.jsonl",
        PROMPT_TEXT + CHINESE.encode("gbk"),
        r"a\.jsonl, line 2: not UTF-8 text at byte 13 .*looks like GBK\. Convert it with "
        r"`iconv -f GB18030 -t UTF-8`",
    ),
    "Latin-1": (
        read_rows,
        "a.jsonl",
        '{"prompt": "Où est né cet été ?"}'.encode("latin-1"),
        r"line 1: not UTF-8 text at byte 14 \([^)]*\)\. Convert it with `iconv -f ITS-ENCODING",
    ),
    "UTF-16": (read_rows, "a.jsonl", CHINESE.encode("utf-16"), "line 1: this is UTF-16 text"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_file_is_named_with_line_and_remedy(case: str, tmp_path: Path) -> None:
    read, name, content, message = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path)


@pytest.mark.parametrize("case", CASES)
def test_the_command_line_says_it_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, name, content, _ = CASES[case]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    kind = read.__name__.removeprefix("read_").replace("rows", "prompts")
    assert main(["data", "convert", name, "--to", kind, "--out", "b.jsonl"]) == 2
    printed = capsys.readouterr()
    assert re.match(rf"error: {name}[ ,]", printed.err)
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "b.jsonl").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_error(tmp_path: Path, name: str) -> None:
    content = "prompt\nx\n" if name == "a.csv" else '{"prompt": "x"}\n'
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read_rows(tmp_path / name)[0].values == {"prompt": "x"}


def test_rows_that_are_the_same_may_have_one_id(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*[{"id": 1, "prompt": "x"}] * 2))
    assert len(read_rows(tmp_path / "a.jsonl")) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./absent/owner/name", r"no file \./absent/owner/name\. Expected a file ending in"),
        ("/etc/hostname", r"/etc/hostname: expected a file whose name ends in one of"),
        ("owner/name.jsonl", r"no file owner/name\.jsonl"),
        ("..", r"\.\. is a folder; expected a file"),
        ("a\0b", "the name of the file holds a NUL character"),
        ("", "expected a file"),
    ],
)
def test_a_path_that_is_no_file_is_never_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read_rows(source)


# -- bounds --------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    """Returns how much memory Python held at most while it did `work`."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_of_100_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "x"}\n{"prompt": "')
        file.truncate(100 * 2**20)  # of NUL bytes, which are no text either: the length goes first

    def read() -> None:
        with pytest.raises(DataError, match=r"a\.jsonl, line 2: over 64 MB without a line break"):
            read_rows(path)

    assert peak_bytes(read) < 2.5 * files.MAX_LINE_BYTES


@pytest.mark.parametrize("row", [b'{"prompt": "%s"}\n' % (b"x" * 99), b" "])
def test_a_bomb_of_gzip_is_refused_early(
    tmp_path: Path, row: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MIN_EXPANSION_BYTES", 2**19)  # for the time the rest takes
    path = tmp_path / "a.jsonl.gz"
    block = row * (2**20 // len(row))
    with gzip.open(path, "wb") as file:
        for _ in range(8):
            file.write(block)

    def read() -> None:
        with pytest.raises(DataError, match=r"a\.jsonl\.gz unpacks to more than 200 times.*gunzip"):
            for _ in iterate_rows(path):
                pass

    assert path.stat().st_size < 2**18
    assert peak_bytes(read) < 4 * 2**20


def test_rows_that_repeat_are_no_bomb_while_they_are_few(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "x"}\n' * 100_000))
    assert sum(1 for _ in iterate_rows(path)) == 100_000


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"prompt": "x" * 1000}) * 20_000)
    assert peak_bytes(lambda: sum(1 for _ in iterate_rows(path))) < 2**20


def test_an_array_too_large_to_be_held_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_ARRAY_BYTES", 2**20)
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b'{"prompt": "x"},\n' * 100_000 + b"]")
    with pytest.raises(DataError, match=r"a\.json: a JSON array over 1 MB.*jq -c '\.\[\]'"):
        read_rows(path)
