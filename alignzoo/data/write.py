"""Writing rows as JSON lines: one in memory at a time, the file replaced whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from alignzoo.errors import ConfigError

WRITTEN = (".jsonl", ".jsonl.gz")


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows as JSON lines, gzipped where the name says so; returns how many.

    Raises:
        ConfigError: the name ends in neither .jsonl nor .jsonl.gz, or nothing can be written
            there. What raises while rows are made leaves the file as it was.
    """
    with open_rows(path) as write:
        for row in rows:
            write(row)
        return write.count


class RowFile:
    """A file of JSON lines that is being written; a call appends a row."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.count = 0

    def __call__(self, row: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self.count += 1


@contextlib.contextmanager
def open_rows(path: str | Path) -> Iterator[RowFile]:
    """Gives a file of JSON lines to write, which takes its place when the block is left.

    Raises:
        ConfigError: as `write_rows`.
    """
    target = Path(path)
    if not str(target).endswith(WRITTEN):
        raise ConfigError(f"'{target}' is to be written; expected a name in {' or '.join(WRITTEN)}")
    aside = target.with_name(f".{target.name.removesuffix('.gz')}.{os.getpid()}")
    try:
        with contextlib.ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(open(aside, "wb"))
            if target.suffix == ".gz":  # no name and no time: the same rows give the same bytes
                packed = gzip.GzipFile("", "wb", fileobj=stream, mtime=0)
                stream = cast("IO[bytes]", stack.enter_context(packed))
            # Half a surrogate pair, which is no text, is written as JSON's own escape.
            text = io.TextIOWrapper(stream, "utf-8", errors="backslashreplace", newline="\n")
            yield RowFile(stack.enter_context(text))
        aside.replace(target)
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
