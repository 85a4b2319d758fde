"""`alignzoo plugins`: what is installed, without running it; `--check` imports it."""

from __future__ import annotations

import sys
from typing import Any

from alignzoo.cli.arguments import Parser
from alignzoo.cli.output import print_json, print_table
from alignzoo.plugin_loader import Plugin, discover, parse_selection
from alignzoo.plugin_registry import load_registry, selected_plugins


def run(arguments: list[str]) -> int:
    """Prints the plugins; exit code 1 where `--check` finds one that does not load."""
    parser = Parser("plugins", "Lists installed plugins. Imports none of them without --check.")
    parser.switch("check", "import each, and show what became of it and how long it took")
    parser.switch("json", "print JSON")
    given = parser.parse(arguments)
    selection = selected_plugins()
    if given.check:
        plugins = list(load_registry(selection, strict=False).plugins)
    else:
        plugins = discover(parse_selection(selection))
    if given.json:
        print_json({"plugins": [_to_json(plugin) for plugin in plugins]})
    else:
        _print_text(plugins)
    return int(any(plugin.state == "failed" for plugin in plugins))


def _to_json(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": plugin.state,
        "error": plugin.error or None,
        "import_seconds": plugin.import_seconds,
        "traceback": plugin.details or None,
    }


def _print_text(plugins: list[Plugin]) -> None:
    checked = any(plugin.import_seconds is not None for plugin in plugins)
    columns = ["name", "module", "distribution", "version", "state"]
    columns += ["import seconds"] if checked else []
    rows = []
    for plugin in plugins:
        row = [plugin.name, plugin.module, plugin.distribution or "-", plugin.version or "-"]
        row.append(plugin.state)
        if checked:
            seconds = plugin.import_seconds
            row.append("-" if seconds is None else f"{seconds:.3f}")
        rows.append(row)
    print_table("plugins", columns, rows)
    sys.stdout.flush()
    for plugin in plugins:
        if plugin.error:
            print(f"{plugin.label}: {plugin.state}: {plugin.error}")
