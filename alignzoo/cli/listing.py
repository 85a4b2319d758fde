"""`alignzoo list`: the algorithms, rewards and tasks that are installed. Loads none of them."""

from __future__ import annotations

from alignzoo.cli.arguments import Parser
from alignzoo.cli.output import entry_json, owner_text, print_json, print_table
from alignzoo.plugin_registry import registry


def run(arguments: list[str]) -> int:
    """Prints them, as tables or JSON."""
    parser = Parser("list", "Lists the algorithms, rewards and tasks that are installed.")
    parser.switch("json", "print JSON")
    given = parser.parse(arguments)
    found = registry()
    kinds = {"algorithms": found.algorithms, "rewards": found.rewards, "tasks": found.tasks}
    if given.json:
        print_json({kind: [entry_json(e) for e in entries] for kind, entries in kinds.items()})
        return 0
    for kind, entries in kinds.items():
        rows = [
            (e.id, str(e.spec.revision), e.spec.summary, e.spec.paper, owner_text(e.plugin))
            for e in entries
        ]
        if rows:
            print_table(kind, ("id", "revision", "summary", "paper", "owner"), rows)
    if not any(kinds.values()):
        print("nothing is installed; see `alignzoo plugins --check`")
    return 0
