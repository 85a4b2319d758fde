"""`alignzoo check ID`: holds a plugin to its contract, check by check."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.cli.arguments import Parser
from alignzoo.cli.info import KINDS, find_entry, source_file
from alignzoo.cli.options import OptionSet
from alignzoo.cli.output import owner_text, print_json
from alignzoo.errors import ConfigError, PluginError
from alignzoo.plugin_loader import Plugin, output_to_stderr
from alignzoo.plugin_registry import Entry, Registry, load_registry, registry, selected_plugins
from alignzoo.testing.checks import Check, Outcome, check_names, make_checks, run_checks
from alignzoo.testing.records import FIRST_CHECKS, the_plugin_loads

USAGE = "alignzoo check ID [--only NAME]... [--expect-failure NAME=REASON]... [OPTION OF ID]..."
KITS: Mapping[str, str] = {
    "algorithm": "alignzoo.testing.algorithms",
    "reward": "alignzoo.testing.rewards",
    "task": "alignzoo.testing.tasks",
}
WORDS = {
    "passed": "passed",
    "failed": "FAILED",
    "skipped": "skipped",
    "expected": "failed as announced",
    "unexpected": "PASSED UNEXPECTEDLY",
}


def run(arguments: list[str]) -> int:
    """Prints what became of each check; exit code 1 where one speaks against the plugin."""
    id, rest = _id(arguments)
    found, error = _registry()
    broken = _broken_plugin(found, id)
    if broken is not None:
        return _check_broken(broken, id, rest)
    if error is not None:
        raise error
    entry = find_entry(found, id, _kind(rest))
    kit = importlib.import_module(KITS[entry.kind])
    config = _config_class(found, entry)
    namespace, given = _read(entry, config, rest)
    announced = _announced(namespace.announced or [])
    checks = _chosen(kit.CHECKS, namespace.only or [])
    check_names(kit.CHECKS, list(announced), "--expect-failure")
    subject = kit.make_subject(entry, given)
    facts: dict[str, Any] = {**_facts(entry), "file": None, "options": None}
    if config is None:  # nothing else can be made: say why, and end
        checks = _chosen(kit.CHECKS, FIRST_CHECKS)
    else:
        facts |= {"file": source_file(subject.target), "options": _options(subject, given)}
    report = Report(facts, as_json=namespace.json)
    return report.run(checks, subject, announced)


def _parser(id: str) -> Parser:
    parser = Parser(f"check {id}", "Holds a plugin to its contract, check by check.")
    parser.add_argument("--kind", dest="of_kind", choices=KINDS, help="where an id is of two kinds")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this check alone; may be repeated"
    )
    parser.add_argument(
        "--expect-failure",
        dest="announced",
        action="append",
        metavar="NAME=REASON",
        help="a check that is known to fail, and why; may be repeated",
    )
    parser.switch("json", "print JSON")
    return parser


def _id(arguments: list[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if any(word in ("-h", "--help") for word in arguments):
        raise ConfigError(f"name what is to be checked to see its options: {USAGE} --help")
    raise ConfigError(f"give the id first: {USAGE}")


def _kind(arguments: list[str]) -> Any:
    """Returns the value of --kind, which is needed before the other options are known."""
    return (
        _parser("").parse([w for w in arguments if w not in ("-h", "--help")], lenient=True).of_kind
    )


def _registry() -> tuple[Registry, PluginError | None]:
    """Returns what is installed, and the error of a plugin that must not fail and did."""
    try:
        return registry(), None
    except PluginError as error:
        return load_registry(selected_plugins(), strict=False), error


def _broken_plugin(found: Registry, id: str) -> Plugin | None:
    """Returns the plugin that was not loaded and is, or would provide, what `id` names."""
    if any(found.matches(kind, id) for kind in KINDS):
        return None
    qualifier, _, name = id.rpartition(":")
    failed = [plugin for plugin in found.plugins if plugin.state == "failed"]
    named = [plugin for plugin in failed if plugin.answers_to(qualifier or name)]
    return next(iter(named + [plugin for plugin in failed if _mentions(plugin, name)]), None)


def _mentions(plugin: Plugin, id: str) -> bool:
    """Whether a plugin's source has an id in quotes; the plugin itself cannot be asked."""
    try:
        spec = importlib.util.find_spec(plugin.module)
        text = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    except Exception:
        return False
    return f'"{id}"' in text or f"'{id}'" in text


@dataclass(frozen=True)
class _Broken:
    """What is checked of a plugin that was not loaded: that it is."""

    plugin: Plugin


def _check_broken(plugin: Plugin, id: str, arguments: list[str]) -> int:
    namespace = _parser(id).parse(arguments, lenient=True)
    facts = {
        "id": id,
        "kind": None,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "revision": None,
        "owner": plugin.label,
        "file": None,
        "options": None,
    }
    checks: list[Check[Any]] = make_checks([the_plugin_loads])
    return Report(facts, as_json=namespace.json).run(checks, _Broken(plugin), {})


def _config_class(found: Registry, entry: Entry) -> Any:
    """Returns the class of an entry's options; None where the class is broken."""
    try:
        return getattr(found.load(entry), "Config", None)
    except PluginError:
        return None


def _read(entry: Entry, config: Any, arguments: list[str]) -> tuple[Namespace, dict[str, Any]]:
    """Returns what is asked of the command, and the options of what is checked."""
    parser = _parser(entry.id)
    if config is None:
        return parser.parse(arguments, lenient=True), {}
    options = OptionSet({entry.id: config})
    options.add_to(parser)
    parser.usage = f"%(prog)s{USAGE.partition('ID')[2]}"
    namespace = parser.parse(arguments)
    return namespace, dict(options.read(namespace).values)


def _options(subject: Any, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the options it is checked with; None where its own examples are at fault.

    Raises:
        ConfigError: the options given are wrong, or it has required ones and no example.
    """
    try:
        config = subject.config()
        found: dict[str, Any] = config.model_dump(mode="json", include=set(subject.options))
        return found
    except ConfigError:
        if given or not getattr(subject.target, "examples", ()):
            raise
    except Exception:
        pass
    return None


def _chosen(checks: Sequence[Check[Any]], names: Sequence[str]) -> list[Check[Any]]:
    check_names(checks, names, "--only")
    return [check for check in checks if not names or check.name in names]


def _announced(texts: Sequence[str]) -> dict[str, str]:
    """Returns the reasons by check that --expect-failure gives."""
    announced = {}
    for text in texts:
        name, _, reason = text.partition("=")
        if not reason.strip():
            raise ConfigError(
                f"--expect-failure is '{text}'; expected NAME=REASON, such as "
                "--expect-failure 'the_loss_is_repeatable=it samples'"
            )
        announced[name.strip()] = reason.strip()
    return announced


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "kind": entry.kind,
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
        "revision": entry.spec.revision,
        "owner": owner_text(entry.plugin),
    }


class Report:
    """Runs checks and prints them as they end, as text or as JSON at the end.

    Args:
        facts: of what is checked.
        as_json: print JSON.
    """

    def __init__(self, facts: Mapping[str, Any], *, as_json: bool) -> None:
        self.facts = dict(facts)
        self.as_json = as_json
        self._width = 0

    def run(self, checks: Sequence[Check[Any]], subject: Any, announced: Mapping[str, str]) -> int:
        """Prints what became of each check; 0 where every outcome is good, else 1."""
        self._width = max(len(check.name) for check in checks)
        if not self.as_json:
            self._print_head()
        outcomes = run_checks(
            [_quiet(check) for check in checks],
            subject,
            expected_failures={k: v for k, v in announced.items() if k in {c.name for c in checks}},
            report=None if self.as_json else self._print_line,
        )
        if self.as_json:
            self._print_json(outcomes)
        else:
            self._print_end(outcomes)
        return int(not all(outcome.is_good for outcome in outcomes))

    def _print_head(self) -> None:
        facts = self.facts
        parts = [f"{facts['id']}: {facts['kind'] or 'not loaded,'} of {facts['owner']}"]
        parts += [f"revision {facts['revision']}"] if facts["revision"] is not None else []
        parts += [facts["file"]] if facts["file"] else []
        print(", ".join(parts))
        if facts["options"]:
            print(f"options: {json.dumps(facts['options'], ensure_ascii=False)}")

    def _print_line(self, outcome: Outcome) -> None:
        line = f"  {outcome.name:{self._width}}  {WORDS[outcome.state]:7}  {outcome.seconds:6.2f} s"
        if outcome.state in ("skipped", "expected"):
            line += f"  {' '.join(outcome.message.split())}"
        print(line, flush=True)

    def _print_end(self, outcomes: Sequence[Outcome]) -> None:
        said: dict[str, str] = {}
        for outcome in (outcome for outcome in outcomes if not outcome.is_good):
            print(f"\n{WORDS[outcome.state]} {outcome.name}")
            promise, _, found = outcome.message.partition("\n")
            if said.get(found):  # one cause, as where it cannot be made
                print(f"  {promise}\n  Found what {said[found]} found, above.")
                continue
            said[found] = outcome.name if found else ""
            print("\n".join(f"  {line}" for line in outcome.message.splitlines()))
        counts = [
            f"{sum(o.state == state for o in outcomes)} {word.lower()}"
            for state, word in WORDS.items()
            if any(o.state == state for o in outcomes)
        ]
        print(f"\n{', '.join(counts)} in {sum(o.seconds for o in outcomes):.1f} s")

    def _print_json(self, outcomes: Sequence[Outcome]) -> None:
        checks = [
            {
                "name": outcome.name,
                "state": outcome.state,
                "message": outcome.message or None,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ]
        good = all(outcome.is_good for outcome in outcomes)
        print_json({**self.facts, "good": good, "checks": checks})


def _quiet(check: Check[Any]) -> Check[Any]:
    """Returns a check whose plugin prints to standard error."""

    @functools.wraps(check.function)
    def function(subject: Any) -> None:
        with output_to_stderr():
            check.function(subject)

    return Check(check.name, function)
