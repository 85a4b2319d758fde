"""Splitting a data file into parts, row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from alignzoo.data.columns import missing
from alignzoo.data.convert import check_kind, find_data_kind, read_one
from alignzoo.data.kinds import NO_COLUMNS, rename
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import iterate_rows
from alignzoo.data.splits import check_parts, choose_part, content_key, prompt_key
from alignzoo.data.write import open_rows
from alignzoo.errors import ConfigError


def split_file(
    source: DataSource,
    folder: Path,
    parts: Mapping[str, float],
    *,
    by: str | None = None,
    salt: str = "",
    kind: str | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
) -> dict[str, int]:
    """Writes `folder/PART.jsonl` for each part, and returns how many rows each has.

    Rows are written as the file has them. All rows of one prompt are in one part, which depends on
    that prompt alone.

    Args:
        parts: the share of each, by name.
        by: column whose rows of equal value stay together; None for the prompt.
        salt: each gives another split.
        kind: what to read the rows as; told from the first where None.
        columns: the file's name of a column by ours.
    Raises:
        ConfigError: shares that do not sum to 1, or the folder cannot be written.
        DataError: a row is wrong; nothing is written then.
    """
    check_parts(parts)
    if any(Path(name).name != name or name.startswith(".") for name in parts):
        raise ConfigError(f"a part of {', '.join(parts)} is no file name; use letters and digits")
    kind = kind and check_kind(kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"'{folder}' cannot be made: {error.strerror}.") from None
    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context(open_rows(folder / f"{part}.jsonl")) for part in parts}
        for row in iterate_rows(source):
            if by is None:
                kind = kind or find_data_kind(rename(row, columns))
            files[choose_part(_key(row, by, salt, kind, columns), parts)](row.values)
    return {part: file.count for part, file in files.items()}


def _key(
    row: Row, by: str | None, salt: str, kind: str | None, columns: Mapping[str, str]
) -> bytes:
    """Returns the key of what a row must stay together with; of a tree, of its first prompt."""
    if by is not None:
        if by not in row.values:
            raise missing(row, by, "Rows are split by it")
        return content_key(row.values[by], salt)
    assert kind is not None
    items = read_one(rename(row, columns), kind)
    return prompt_key(items[0], salt) if items else content_key(row.values, salt)
