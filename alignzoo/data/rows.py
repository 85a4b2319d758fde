"""Reading files into rows that remember where they stood.

JSON lines, JSON and CSV, gzipped or not, are read with the standard library; Parquet and hub ids
with `datasets` (`pip install 'alignzoo[data]'`). In Python, data may also be a list.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import importlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignzoo.errors import DataError, did_you_mean

FORMATS = ".jsonl, .json, .csv (also with .gz), .parquet"
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz")
DataSource = str | Path | Sequence[Any]


@dataclass(frozen=True)
class Row:
    """One row: its columns by name, and where it came from.

    Args:
        values: the columns.
        source: path of the file, hub id, or what a list was called.
        line: line in a text file, from 1; number of the row from 1 in Parquet and on the hub;
            index from 0 in a list.
        unit: which of the three `line` is.
    """

    values: Mapping[str, Any]
    source: str
    line: int
    unit: Literal["line", "row", "index"] = "line"

    @property
    def where(self) -> str:
        """The row's place, as error messages give it: "prompts.jsonl, line 3" or "prompts[2]"."""
        if self.unit == "index":
            return f"{self.source}[{self.line}]"
        return f"{self.source}, {self.unit} {self.line}"


def read_rows(source: DataSource, *, name: str = "data") -> list[Row]:
    """Returns the rows of a file, of a hub data set, or of a list of dicts, in order.

    Blank lines in JSON lines are passed over. A hub id is `owner/name[:split]` or
    `owner/name:config:split`; the split is `train` unless given.

    Args:
        source: path, hub id, or a sequence of dicts or of `Row`, which keep their place.
        name: what error messages call a sequence.
    Raises:
        DataError: the file is absent, empty or malformed; the message names file and line.
    """
    if not isinstance(source, (str, Path)):
        rows = list(_list_rows(source, name))
    elif (path := Path(source).expanduser()).is_file():
        rows = list(_file_rows(path, str(source)))
    else:
        rows = list(_hub_rows(_hub_id(source), str(source)))
    if not rows:
        raise DataError(f"{source if isinstance(source, (str, Path)) else name} holds no rows.")
    return rows


def dataset_fingerprint(rows: Iterable[Any]) -> str:
    """Returns the SHA-256, in hex, of the rows' content and order; where they stood is left out.

    Args:
        rows: `Row`, `PromptRow`, `Demonstration`, or plain mappings.
    """
    digest = hashlib.sha256()
    for row in rows:
        content = row if isinstance(row, Mapping) else _content(row)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _content(row: Any) -> dict[str, Any]:
    place = ("source", "line", "unit", "where")
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name not in place}


def _plain(value: Any) -> Any:
    """Returns something JSON can hold for what Parquet and Python lists may: the same each run."""
    if isinstance(value, Mapping):
        return dict(value)
    for method in ("tolist", "isoformat", "hex"):
        if hasattr(value, method):
            return getattr(value, method)()
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _list_rows(items: Sequence[Any], name: str) -> Iterator[Row]:
    for index, item in enumerate(items):
        if isinstance(item, Row):
            yield item
        elif isinstance(item, Mapping):
            yield Row(dict(item), name, index, "index")
        else:
            raise DataError(f"{name}[{index}] is {describe(item)}; expected a dict of columns.")


def _file_rows(path: Path, name: str) -> Iterator[Row]:
    suffixes = path.suffixes[-2:]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[:1] if packed else suffixes[-1:]).lower()
    if kind == ".parquet" and not packed:
        return _parquet_rows(path, name)
    readers: dict[str, Callable[[str, str], Iterator[Row]]] = {
        ".json": _json_rows,
        ".jsonl": _jsonl_rows,
        ".csv": _csv_rows,
    }
    if kind not in readers:
        raise DataError(f"{name}: expected a file whose name ends in one of {FORMATS}.")
    return readers[kind](_read_text(path, name, packed), name)


def _read_text(path: Path, name: str, packed: bool) -> str:
    try:
        content = path.read_bytes()
        if packed:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be read: {error}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line}: not UTF-8 text ({error.reason}).") from None


def _parse_json(text: str, name: str, line: int | None = None) -> Any:
    """Returns the value `text` holds; `line` is its line in the file, None for the whole file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}, line {line or error.lineno}"
        raise DataError(f"{place}: malformed JSON at column {error.colno}: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}, line {line or 1}: malformed JSON: {error}.") from None


def _object_row(value: Any, name: str, line: int) -> Row:
    if not isinstance(value, dict):
        expected = 'expected an object such as {"prompt": "..."}'
        raise DataError(f"{name}, line {line} holds {describe(value)}; {expected}.")
    return Row(value, name, line)


def _jsonl_rows(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object_row(_parse_json(line, name, number), name, number)


def _json_rows(text: str, name: str) -> Iterator[Row]:
    """Yields the objects of one JSON array, each with the line it begins on; else JSON lines."""
    if not text.lstrip().startswith("["):
        yield from _jsonl_rows(text, name)
        return
    decoder, end, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    for item in _parse_json(text, name):
        while text[end] in " \t\r\n,":
            end += 1
        line, counted = line + text.count("\n", counted, end), end
        end = decoder.raw_decode(text, end)[1]
        yield _object_row(item, name, line)


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise DataError(f"{name}, line 1: two columns have the same name: {header}.")
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise DataError(
                    f"{name}, line {line}: {len(fields)} fields, but the header has {len(header)}. "
                    "Put fields that hold commas or line breaks in double quotes."
                )
            if fields:
                yield Row(dict(zip(header, fields, strict=True)), name, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: malformed CSV: {error}.") from None


def _datasets(name: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{name}: Parquet files and hub ids need the package datasets; "
            "run: pip install 'alignzoo[data]'"
        ) from error


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    datasets = _datasets(name)
    try:
        files = _glob_escape(str(path.resolve()))
        table = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        for number, values in enumerate(table, start=1):
            yield Row(values, name, number, "row")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {error}") from error


def _glob_escape(path: str) -> str:
    """Returns `path` such that patterns in its name stand for themselves."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _hub_id(source: str | Path) -> str:
    """Returns `source` if it can be a hub id.

    Raises:
        DataError: it reads as a path, and no such file exists.
    """
    text = str(source)
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{text} is a folder; expected a file ending in {FORMATS}, or a hub id.")
    hub = isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+){0,2}", text)
    if hub and not path.parent.is_dir() and not text.endswith(FILE_SUFFIXES):
        return text
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    hint = did_you_mean(path.name, names)
    raise DataError(
        f"no file {text}.{hint} Expected a file ending in {FORMATS}, "
        "or a hub id such as owner/name."
    )


def _hub_rows(hub_id: str, name: str) -> Iterator[Row]:
    datasets = _datasets(name)
    path, *rest = hub_id.split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        table = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{name} is no file, and as a hub id it cannot be read: {error}") from error
    for number, values in enumerate(table, start=1):
        yield Row(values, name, number, "row")


def describe(value: Any) -> str:
    """Returns what `value` is, in words, without its content: "a list", "the number 3"."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
    names = {"str": "text", "list": "a list", "dict": "an object"}
    name = type(value).__name__
    return names.get(name, f"a {name}")
