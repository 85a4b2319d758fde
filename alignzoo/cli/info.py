"""`alignzoo info ID`: what one algorithm, reward or task is, needs and can be told."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from alignzoo.cli.arguments import Parser
from alignzoo.cli.fields import Option, as_typed, options_of
from alignzoo.cli.output import entry_json, owner_text, print_json, print_table
from alignzoo.errors import ConfigError, did_you_mean
from alignzoo.plugin_registry import Entry, Kind, Registry, registry

KINDS: tuple[Kind, ...] = ("algorithm", "reward", "task")


def run(arguments: list[str]) -> int:
    """Prints everything about one id, as text or JSON."""
    parser = Parser("info", "Shows the options, needs, paper and owner of what an id names.")
    parser.add_argument("id", metavar="ID", help="as `alignzoo list` shows it, or distribution:id")
    parser.add_argument("--kind", choices=KINDS, help="where an id is of two kinds")
    parser.switch("json", "print JSON")
    given = parser.parse(arguments)
    found = registry()
    entry = find_entry(found, given.id, given.kind)
    target = found.load(entry)
    options = options_of(target.Config) if hasattr(target, "Config") else []
    facts = _facts(entry, target)
    dialects = _dialects(target)
    if given.json:
        facts |= {"needs": facts.pop("needs"), "options": [o.to_json() for o in options]}
        print_json({**facts, "dialects": dialects} if dialects else facts)
    else:
        _print_text(entry, facts, options)
        _print_dialects(dialects)
    return 0


def find_entry(found: Registry, id: str, kind: Kind | None) -> Entry:
    """Returns the one entry an id names, of whichever kind.

    A task may be called as the reward or algorithm that it is about, which is then meant.

    Raises:
        ConfigError: nothing is called so, or more than one thing is.
    """
    if kind is not None:
        return found.find(kind, id)
    kinds = [name for name in KINDS if found.matches(name, id)]
    if len(kinds) == 2 and kinds[1] == "task":
        print(f"'{id}' is a task too; --kind task asks for that", file=sys.stderr)
        return found.find(kinds[0], id)
    if len(kinds) > 1:
        choices = " or ".join(f"--kind {name}" for name in kinds)
        raise ConfigError(f"'{id}' names more than one kind of thing; add {choices}.")
    if not kinds:
        _check_no_plugin(found, id)
        known = sorted({e.id for e in (*found.algorithms, *found.rewards, *found.tasks)})
        hint = did_you_mean(id.rpartition(":")[2], known)
        raise ConfigError(
            f"nothing is called '{id}'.{hint} Known: {', '.join(known) or 'none'}."
            f"{found.lost_text()}"
        )
    return found.find(kinds[0], id)


def _check_no_plugin(found: Registry, name: str) -> None:
    """Raises ConfigError where a plugin is called so, with the ids it provides."""
    if any(plugin.state == "loaded" and plugin.answers_to(name) for plugin in found.plugins):
        ids = [entry.id for entry in found.entries if entry.plugin.answers_to(name)]
        has = f"it provides {', '.join(ids)}: name one" if ids else "it provides nothing"
        raise ConfigError(f"'{name}' is a plugin and no id; {has}.")


def _facts(entry: Entry, target: Any) -> dict[str, Any]:
    """Returns what is known of an entry apart from its options, as JSON."""
    return {
        **entry_json(entry),
        "kind": entry.kind,
        "plugin": entry.plugin.name,
        "class": entry.spec.target,
        "file": source_file(target),
        "needs": _needs(target) if entry.kind == "algorithm" else None,
        "learns_from": list(target.learns_from) if entry.kind == "reward" else None,
    }


def source_file(target: Any) -> str | None:
    """Returns the file a class is written in; None where that is not known."""
    try:
        return inspect.getsourcefile(target)
    except (TypeError, OSError):
        return None


def _needs(target: Any) -> dict[str, Any] | None:
    """Returns what an algorithm needs at its defaults; None where it has required options."""
    if any(option.required for option in options_of(target.Config)):
        return None
    return dataclasses.asdict(target(target.Config()).needs)


def _dialects(target: Any) -> dict[str, dict[str, Any]]:
    """Returns what each dialect makes of the options that differ between them."""
    config = getattr(target, "Config", None)
    spoken = getattr(config, "dialects", {})
    differing = [
        name
        for name in getattr(config, "model_fields", {})
        if any(name in d for d in spoken.values())
    ]
    made = {name: config(dialect=name).model_dump(mode="json") for name in spoken}  # type: ignore[misc]
    return {name: {option: made[name][option] for option in differing} for name in made}


def _print_dialects(dialects: dict[str, dict[str, Any]]) -> None:
    if not dialects:
        return
    differing = next(iter(dialects.values()))
    rows = [
        (f"--{option.replace('_', '-')}", *(as_typed(made[option]) for made in dialects.values()))
        for option in differing
    ]
    print_table("dialects: what --dialect sets", ("option", *dialects), rows)


def _print_text(entry: Entry, facts: dict[str, Any], options: list[Option]) -> None:
    print(f"{facts['id']}: {facts['summary']}")
    print(f"  kind      {facts['kind']}, revision {facts['revision']}")
    if facts["paper"]:
        print(f"  paper     {facts['paper']}")
    print(f"  owner     {owner_text(entry.plugin)}, plugin '{facts['plugin']}'")
    print(f"  class     {facts['class']}")
    print(f"  file      {facts['file'] or 'unknown'}")
    if facts["needs"] is not None:
        print(f"  needs     {_needs_text(facts['needs'])} (at the default options)")
    if facts["learns_from"] is not None:
        print(f"  learns    from {' or '.join(facts['learns_from']) or 'nothing: it is a rule'}")
    if options:
        rows = [(o.flag, o.type, o.default_text, o.range or "-", o.doc) for o in options]
        print_table("options", ("option", "type", "default", "range", "what it does"), rows)


def _needs_text(needs: dict[str, Any]) -> str:
    """Returns the source, and what else differs from nothing, in one line."""
    said = [str(needs["source"])]
    for name, value in needs.items():
        if value is True or (name == "columns" and value):
            said.append(name if value is True else f"columns {', '.join(value)}")
        elif isinstance(value, int) and value > 1:
            said.append(f"{name} {value}")
    return ", ".join(said)
