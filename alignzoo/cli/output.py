"""What commands print: JSON, or tables that are drawn on a terminal and plain elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignzoo.errors import ConfigError
from alignzoo.plugin_loader import Plugin
from alignzoo.plugin_registry import Entry


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a title: a drawn table on a terminal, aligned text elsewhere."""
    if sys.stdout.isatty():
        _print_drawn(title, columns, rows)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    print(title)
    for row in (columns, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {'  '.join(cells)}".rstrip())


def _print_drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # plugins' text is text, never markup
    Console().print(table)


def owner_text(plugin: Plugin) -> str:
    """Returns who provides something: distribution and version, or the module `-p` named."""
    if not plugin.distribution:
        return plugin.module
    return f"{plugin.distribution} {plugin.version}".rstrip()


def entry_json(entry: Entry) -> dict[str, Any]:
    """Returns what `list --json` promises of an algorithm, reward or task."""
    return {
        "id": entry.id,
        "revision": entry.spec.revision,
        "summary": entry.spec.summary,
        "paper": entry.spec.paper,
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
    }


def replace_lines(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as JSON lines, atomically: the file is replaced whole or not at all.

    Raises:
        ConfigError: nothing can be written there.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Half a surrogate pair, which is no text, is written as JSON's own escape.
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        aside.replace(target)
    except OSError as error:
        raise ConfigError(f"--out '{path}' cannot be written: {error.strerror}.") from None
    finally:
        aside.unlink(missing_ok=True)
