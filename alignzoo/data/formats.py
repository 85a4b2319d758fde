"""Lines of JSON and CSV files as rows; malformed ones are named with file, line and column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from alignzoo.data.row import OnError, Row, describe, refuse
from alignzoo.errors import DataError

MAX_DEPTH = 200  # lists and objects within each other
MAX_ARRAY_BYTES = 256 * 2**20  # text of a JSON array, which is held as a whole
Lines = Iterable[tuple[int, str]]


class _DuplicateKeyError(ValueError):
    """An object has two values under one key."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in values if names.count(key) > 1)
        raise _DuplicateKeyError(f"the key '{twice}' stands twice in one object; leave one out")
    return values


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def jsonl_rows(lines: Lines, name: str, on_error: OnError = refuse) -> Iterator[Row]:
    """Yields the object of each line that is not blank.

    Here and below, `on_error` is told of what is wrong with one row alone; if it returns, the row
    is left out.
    """
    for number, line in lines:
        if text := line.strip():
            try:
                row = _line_row(text, name, number)
            except DataError as error:
                on_error(error)
                continue
            yield row


def json_rows(lines: Lines, name: str, on_error: OnError = refuse) -> Iterator[Row]:
    """Yields the objects of one JSON array, or the one object there is; else JSON lines."""
    lines = iter(lines)
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        return
    begin = first[1].lstrip()
    if begin.startswith("[") or not _is_whole(begin):
        yield from _document_rows([first], lines, name)
    else:
        yield from jsonl_rows(_chain(first, lines), name, on_error)


def csv_rows(lines: Lines, name: str, on_error: OnError = refuse) -> Iterator[Row]:
    """Yields the records of a CSV file with a header, each placed at its first line."""
    reader = csv.reader(_csv_lines(lines), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise DataError(f"{name}, line 1: two columns have the same name: {header}.")
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                on_error(
                    DataError(
                        f"{name}, line {line}: {len(fields)} fields, but the header has "
                        f"{len(header)}. Put fields that hold commas or line breaks in double "
                        "quotes."
                    )
                )
            elif fields:
                yield Row(dict(zip(header, fields, strict=True)), name, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {reader.line_num}: malformed CSV: {error}. Close every quote; write "
            "fields over 128 kB as JSON lines."
        ) from None


TEXT_FORMATS: Mapping[str, Callable[[Lines, str, OnError], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
}


def _line_row(text: str, name: str, number: int) -> Row:
    value, end = _parse(text, 0, name, lambda _: (number, 1))
    if end != len(text):
        raise DataError(
            f"{name}, line {number}: malformed JSON at column {end + 1}: more after the end of the "
            "object; expected one object a line."
        )
    return _object_row(value, name, number)


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _csv_lines(lines: Lines) -> Iterator[str]:
    """Yields lines as the csv module wants them: a lone "\\r" ends one too."""
    for _, line in lines:
        if "\r" in line:
            yield from io.StringIO(line, newline="")
        else:
            yield line


def _is_whole(line: str) -> bool:
    """Whether a line holds a whole value, so that the file may be JSON lines."""
    try:
        DECODER.raw_decode(line)
    except json.JSONDecodeError as error:
        return error.pos < len(line.rstrip())
    except (ValueError, RecursionError):
        pass
    return True


def _document_rows(begin: list[tuple[int, str]], rest: Lines, name: str) -> Iterator[Row]:
    """Yields the objects of an array, or one object, over any number of lines."""
    number = begin[0][0]
    text = "".join(_hold(begin, rest, name))
    line, counted = number, 0

    def place(position: int) -> tuple[int, int]:
        """Returns line and column of a position."""
        last = text.rfind("\n", 0, position)
        return number + text.count("\n", 0, position), position - last

    end = _skip(text, 0, " \t\r\n")
    if text[end] != "[":
        value, end = _parse(text, end, name, place)
        _check_ended(text, end, name, place)
        yield _object_row(value, name, number)
        return
    end = _skip(text, end + 1, " \t\r\n")
    while text[end : end + 1] != "]":
        line, counted = line + text.count("\n", counted, end), end
        value, end = _parse(text, end, name, place)
        yield _object_row(value, name, line)
        end = _skip(text, end, " \t\r\n")
        if text[end : end + 1] == ",":
            end = _skip(text, end + 1, " \t\r\n")
        elif text[end : end + 1] != "]":
            row, column = place(end)
            raise DataError(
                f"{name}, line {row}: malformed JSON at column {column}: expected a comma or the "
                "end of the list."
            )
    _check_ended(text, end + 1, name, place)


def _hold(begin: list[tuple[int, str]], rest: Lines, name: str) -> Iterator[str]:
    size = 0
    for lines in (begin, rest):
        for _, line in lines:
            size += len(line)
            if size > MAX_ARRAY_BYTES:
                raise DataError(
                    f"{name}: a JSON array over {MAX_ARRAY_BYTES // 2**20} MB, which would have "
                    "to be held as a whole; make it JSON lines: jq -c '.[]' FILE > FILE.jsonl."
                )
            yield line


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _check_ended(text: str, end: int, name: str, place: Callable[[int], tuple[int, int]]) -> None:
    end = _skip(text, end, " \t\r\n")
    if end < len(text):
        line, column = place(end)
        raise DataError(
            f"{name}, line {line}: malformed JSON at column {column}: more after its end."
        )


def _parse(
    text: str, start: int, name: str, place: Callable[[int], tuple[int, int]]
) -> tuple[Any, int]:
    """Returns the JSON value that begins at `start`, and where it ends.

    Args:
        place: line and column of a position; columns of one line count from its own begin.
    """
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        line, column = place(error.pos)[0], error.colno
        raise DataError(
            f"{name}, line {line}: malformed JSON at column {column}: {error.msg}."
        ) from None
    except _DuplicateKeyError as error:
        raise DataError(f"{name}, line {place(start)[0]}: {error}.") from None
    except RecursionError:
        raise _too_deep(name, place(start)[0]) from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{name}, line {place(start)[0]}: malformed JSON: {error}.") from None
    if _brackets(text, start, end) > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep(name, place(start)[0])
    return value, end


def _too_deep(name: str, line: int) -> DataError:
    return DataError(
        f"{name}, line {line}: malformed JSON: more than {MAX_DEPTH} lists and objects within each "
        "other; expected an object of columns."
    )


def _brackets(text: str, start: int, end: int) -> int:
    return text.count("[", start, end) + text.count("{", start, end)


def _depth(value: Any) -> int:
    """Returns how many lists and objects are within each other, without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _object_row(value: Any, name: str, line: int) -> Row:
    if not isinstance(value, dict):
        expected = 'expected an object such as {"prompt": "..."}'
        raise DataError(f"{name}, line {line} holds {describe(value)}; {expected}.")
    return Row(value, name, line)
