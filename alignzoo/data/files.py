"""Files as lines of text: gzipped or not, one line in memory at a time, each bound stated.

A line may be `MAX_LINE_BYTES` long, and a gzipped file may unpack to `MAX_EXPANSION` times its
size; what lies beyond is no text someone wrote, and would fill the memory before it is told.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from alignzoo.data.row import OnError, refuse
from alignzoo.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
MAX_EXPANSION = 200  # times; text packs to a quarter, and the same row again and again to 1/1000
MIN_EXPANSION_BYTES = 16 * 2**20  # unpacked bytes from which the factor counts
ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "zip"}
HAN_PAIR = re.compile(rb"[\xa1-\xf7][\xa1-\xfe]")  # two bytes of GB 2312, as GBK writes Chinese
HIGH = re.compile(rb"[\x80-\xff]")


def read_lines(
    path: Path, name: str, *, packed: bool, on_error: OnError = refuse
) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file with their numbers, from 1, each with its line break.

    Lines end with "\\n" alone. A byte order mark at the beginning is left out.

    Args:
        name: what errors call the file.
        packed: the file is gzipped.
        on_error: told of lines that are no text, and of no others; if it returns, they are left
            out.
    Raises:
        DataError: it cannot be read, is no UTF-8 text, holds a NUL byte, or goes beyond a bound;
            the message names file and line, and says what to do.
    """
    number = 0
    try:
        with open(path, "rb") as file:
            lines = _unpack(file, name) if packed else file
            while raw := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    raw = _begin(raw, name, packed)
                _check_length(raw, name, number)
                try:
                    text = _decode(raw, name, number)
                except DataError as error:
                    on_error(error)
                    continue
                yield number, text
    except (OSError, EOFError, zlib.error) as error:
        place = f"{name}, line {number + 1}" if number else name
        remedy = " Copy or download it again." if packed else ""
        raise DataError(f"{place} cannot be read: {error}.{remedy}") from error


class _Bounded(io.RawIOBase):
    """The unpacked bytes of a gzipped file, until they are too many for what was read of it."""

    def __init__(self, packed: IO[bytes], name: str) -> None:
        self.packed = packed
        self.unpacked = gzip.GzipFile(fileobj=packed, mode="rb")
        self.name = name
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = self.unpacked.readinto(buffer)
        self.count += count
        if self.count > max(MIN_EXPANSION_BYTES, MAX_EXPANSION * self.packed.tell()):
            raise DataError(
                f"{self.name} unpacks to more than {MAX_EXPANSION} times its size, which no "
                "natural text does; if you trust it, unpack it with gunzip first."
            )
        return count


def _unpack(file: IO[bytes], name: str) -> IO[bytes]:
    # Not gzip.open: it hides how much of the packed file was read.
    return cast("IO[bytes]", io.BufferedReader(_Bounded(file, name), 2**16))


def _begin(raw: bytes, name: str, packed: bool) -> bytes:
    """Returns the first line without its byte order mark, if it begins a file of UTF-8 text."""
    kind = next((kind for mark, kind in ENCODINGS.items() if raw.startswith(mark)), "")
    if kind in ("gzip", "zip"):
        remedy = "pack it once" if packed else "unpack it, or let its name end in .gz"
        remedy = remedy if kind == "gzip" else "unpack it"
        raise DataError(f"{name}, line 1: these are {kind} data and no text; {remedy}.")
    if kind:
        raise DataError(f"{name}, line 1: this is {kind} text. {_convert(kind)}.")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _check_length(raw: bytes, name: str, number: int) -> None:
    if len(raw) > MAX_LINE_BYTES:
        raise DataError(
            f"{name}, line {number}: over {MAX_LINE_BYTES // 2**20} MB without a line break; "
            "write one row a line, and shorten or leave out longer ones."
        )


def _decode(raw: bytes, name: str, number: int) -> str:
    if b"\0" in raw:
        column = raw.index(b"\0") + 1
        raise DataError(
            f"{name}, line {number}: a NUL byte at column {column}, which text has none of; the "
            "file is damaged, or no text. Write it again, or delete the byte."
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        looks, encoding = _guess_encoding(raw)
        raise DataError(
            f"{name}, line {number}: not UTF-8 text at byte {error.start + 1} ({error.reason})"
            f"{looks}. {_convert(encoding)}."
        ) from None


def _guess_encoding(raw: bytes) -> tuple[str, str]:
    """Returns what to say of text that is not UTF-8, and its encoding as far as can be told."""
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return "", "ITS-ENCODING"
    # Latin-1 decodes as GBK too, now and then: there, its high bytes stand alone among letters.
    if len(HIGH.findall(HAN_PAIR.sub(b"", raw))) * 4 <= len(HIGH.findall(raw)):
        return "; it looks like GBK", "GB18030"
    return "", "ITS-ENCODING"


def _convert(encoding: str) -> str:
    return f"Convert it with `iconv -f {encoding} -t UTF-8`"
