"""Reading files into rows that remember where they stood.

JSON lines, JSON and CSV, gzipped or not, are read line by line with the standard library; Parquet
and hub ids with `datasets` (`pip install 'alignzoo[data]'`). In Python, data may also be a list.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignzoo.data.files import read_lines
from alignzoo.data.formats import TEXT_FORMATS
from alignzoo.data.row import DataSource, OnError, Row, describe, refuse
from alignzoo.errors import DataError, did_you_mean

FORMATS = ".jsonl, .json, .csv (also with .gz), .parquet"
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz")


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
    return list(iterate_rows(source, name=name))


def iterate_rows(
    source: DataSource, *, name: str = "data", on_error: OnError = refuse
) -> Iterator[Row]:
    """Yields the rows that `read_rows` returns, one in memory at a time.

    Args:
        on_error: told of what is wrong with one row alone; if it returns, the row is left out.
    Raises:
        DataError: as `read_rows`, when the iteration comes there; and at the end, where there
            were no rows. Two rows of a file with one `id` and different content are an error.
    """
    empty = True
    for row in _rows(source, name, on_error):
        empty = False
        yield row
    if empty:
        raise DataError(f"{source if isinstance(source, (str, Path)) else name} holds no rows.")


def _rows(source: DataSource, name: str, on_error: OnError) -> Iterator[Row]:
    if not isinstance(source, (str, Path)):
        return _list_rows(source, name)
    if "\0" in str(source):
        raise DataError("the name of the file holds a NUL character; no file has such a name.")
    if (path := Path(source).expanduser()).is_file():
        return _check_ids(_file_rows(path, str(source), on_error), on_error)
    return _check_ids(_hub_rows(_hub_id(source), str(source)), on_error)


def _check_ids(rows: Iterator[Row], on_error: OnError) -> Iterator[Row]:
    """Yields the rows, if no two of different content have one `id`; equal ones may."""
    seen: dict[Any, tuple[int, int]] = {}
    for row in rows:
        identity = row.values.get("id")
        if isinstance(identity, (str, int)):
            content = hash(repr(row.values))
            line, other = seen.setdefault(identity, (row.line, content))
            if other != content:
                on_error(
                    DataError(
                        f"{row.where}: the id '{identity}' is that of {row.unit} {line}, whose "
                        "content differs; give each row an id of its own, or the column another "
                        "name."
                    )
                )
                continue
        yield row


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


def _file_rows(path: Path, name: str, on_error: OnError) -> Iterator[Row]:
    suffixes = path.suffixes[-2:]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[:1] if packed else suffixes[-1:]).lower()
    if kind == ".parquet" and not packed:
        return _parquet_rows(path, name)
    if kind not in TEXT_FORMATS:
        raise DataError(f"{name}: expected a file whose name ends in one of {FORMATS}.")
    return TEXT_FORMATS[kind](
        read_lines(path, name, packed=packed, on_error=on_error), name, on_error
    )


def _datasets(name: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{name}: Parquet files and hub ids need the package datasets; "
            "run: pip install 'alignzoo[data]'"
        ) from error


def _failures(datasets: Any) -> tuple[type[Exception], ...]:
    """Returns what `datasets` raises over a file or a hub id that cannot be read."""
    own = getattr(getattr(datasets, "exceptions", None), "DatasetsError", OSError)
    return OSError, ValueError, RuntimeError, KeyError, own


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
    datasets = _datasets(name)
    try:
        files = _glob_escape(str(path.resolve()))
        table = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        for number, values in enumerate(table, start=1):
            yield Row(values, name, number, "row")
    except _failures(datasets) as error:
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
    except _failures(datasets) as error:
        raise DataError(f"{name} is no file, and as a hub id it cannot be read: {error}") from error
    for number, values in enumerate(table, start=1):
        yield Row(values, name, number, "row")
