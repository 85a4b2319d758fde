"""What is checked of every plugin, whatever it provides: its record, its import, its options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from alignzoo.errors import ConfigError
from alignzoo.plugin_loader import Plugin
from alignzoo.plugin_registry import Entry, Kind, registry
from alignzoo.testing.checks import Check, fail, pytest_cases, require

MAX_SUMMARY = 100  # characters; `alignzoo list` shows it in one line
MAX_IMPORT_SECONDS = 1.0  # every command of everybody who installs the plugin waits for this
TRIALS = 3  # a slow import is measured again: the machine may be busy

SubjectT = TypeVar("SubjectT")


class PluginSubject:
    """What is checked: one id of a plugin, with the options it is checked with.

    The class is imported when a check first asks for it, so that a class which cannot be imported
    fails a check and not the collection of tests.

    Args:
        entry: what the registry knows of it.
        options: of the algorithm, reward or task; what is required and not given comes from its
            first example.
    """

    def __init__(self, entry: Entry, options: Mapping[str, Any] | None = None) -> None:
        self.entry = entry
        self.given = dict(options or {})

    @property
    def plugin(self) -> Plugin:
        """The plugin that provides it."""
        return self.entry.plugin

    @cached_property
    def target(self) -> Any:
        """Its class, imported now."""
        return registry().load(self.entry)

    @cached_property
    def options(self) -> dict[str, Any]:
        """Those given; where they do not suffice, with those of its first example beneath.

        Raises:
            ConfigError: there is no example, or the options are wrong even so.
        """
        config = self.target.Config
        try:
            _build(config, self.given, self.entry.id)
        except ConfigError as error:
            example = _first_example(self.target)
            if not example and not self.given:
                raise ConfigError(_needs_options(error, self.entry)) from None
            options = {**example, **self.given}
            _build(config, options, self.entry.id)
            return options
        return self.given

    def config(self, **more: Any) -> Any:
        """Returns its configuration, with `more` over the options it is checked with."""
        return _build(self.target.Config, {**self.options, **more}, self.entry.id)

    def make_alone(self, options: Mapping[str, Any]) -> Any:
        """Returns a new one with these options and no others, as an example asks for.

        Where they do not suffice, those it is checked with are beneath.
        """
        config, id = self.target.Config, self.entry.id
        try:
            return self.target(_build(config, options, id))
        except ConfigError:
            return self.target(_build(config, {**self.options, **options}, id))

    def make(self, **more: Any) -> Any:
        """Returns a new one, with `more` over the options it is checked with."""
        return self.target(self.config(**more))


def _build(config: Any, options: Mapping[str, Any], owner: str) -> Any:
    from alignzoo.config import build_config

    return build_config(config, options, owner)


def _first_example(target: Any) -> dict[str, Any]:
    """Returns the options of a class's first example; empty where it has none."""
    for example in getattr(target, "examples", ()):
        options = example.get("options", {}) if isinstance(example, Mapping) else {}
        return dict(options) if isinstance(options, Mapping) else {}
    return {}


def _needs_options(error: ConfigError, entry: Entry) -> str:
    return (
        f"{str(error).rstrip('.')}. To be checked it needs options: give its class examples = "
        f"({{'options': {{...}}, ...}},), or say them: `alignzoo check {entry.id} --OPTION VALUE`, "
        f"{entry.kind}_checks('{entry.id}', options={{...}})."
    )


def the_plugin_loads(subject: PluginSubject) -> None:
    """Its plugin loads: the module imports, and its hooks return records."""
    plugin = subject.plugin
    require(plugin.state == "loaded", f"{plugin.label} was not loaded: {plugin.error}")


def the_class_loads(subject: PluginSubject) -> None:
    """The record's target is a class that imports and keeps the contract of its kind."""
    target = subject.target
    config = getattr(target, "Config", None)
    require(
        config is not None,
        f"{target!r} has no Config; set Config = to a class derived from that of its base.",
    )


def the_record_is_valid(subject: PluginSubject) -> None:
    """The record says in one line what it is, and no other plugin has its id."""
    entry = subject.entry
    summary = entry.spec.summary
    require(
        len(summary.splitlines()) == 1 and len(summary) <= MAX_SUMMARY,
        f"its summary is {summary!r}; `alignzoo list` has room for one line of at most "
        f"{MAX_SUMMARY} characters: shorten it.",
    )
    require(
        summary == summary.strip(),
        f"its summary is {summary!r}; leave out the spaces around it.",
    )
    owners = [other.plugin.label for other in registry().matches(entry.kind, entry.id)]
    require(
        len(owners) <= 1,
        f"'{entry.id}' is provided by {' and by '.join(owners)}, so everybody who has both must "
        "write distribution:id; choose another id, or do not return the record twice.",
    )


def the_import_is_light(subject: PluginSubject) -> None:
    """Importing the plugin's module loads nothing heavy, prints nothing, and is quick."""
    plugin = subject.plugin
    seen = _import_afresh(plugin)
    require(not seen["error"], f"in a fresh interpreter {plugin.label} fails: {seen['error']}")
    heavy = "; ".join(f"{name} ({place})" for name, place in seen["heavy"].items())
    require(
        not heavy,
        f"importing {plugin.module} imports {heavy}. Every command imports every plugin, "
        "`alignzoo --help` too: import it inside the function that uses it, and annotations under "
        "`if TYPE_CHECKING:`.",
    )
    require(
        not seen["printed"],
        f"importing {plugin.module} prints {seen['printed']!r}; print nothing at import, and in "
        "no hook.",
    )
    seconds = seen["seconds"]
    for _ in range(TRIALS - 1):
        if seconds > MAX_IMPORT_SECONDS:
            seconds = min(seconds, _import_afresh(plugin)["seconds"])
    require(
        seconds <= MAX_IMPORT_SECONDS,
        f"importing {plugin.module} took {seconds:.1f} s, and every command waits for it; at most "
        f"{MAX_IMPORT_SECONDS:g} s: do the work when the class is made or used.",
    )


def _import_afresh(plugin: Plugin) -> dict[str, Any]:
    """Returns what `fresh_import` says of a plugin, seen by an interpreter of its own."""
    script = Path(__file__).with_name("fresh_import.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), plugin.name, plugin.module],
        input=json.dumps(sys.path),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    try:
        seen: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {
            "error": f"it ended the interpreter with exit code {done.returncode}: {last}",
            "heavy": {},
            "printed": "",
            "seconds": 0.0,
        }
    return {**seen, "printed": done.stderr.strip()[:200]}


def options_are_documented_and_bounded(subject: PluginSubject) -> None:
    """Every option of its own is documented, numbers have bounds, and the defaults keep them."""
    config_class = subject.target.Config
    config = subject.config()
    for name, field in config_class.model_fields.items():
        require(
            (field.description or "").strip(),
            f"option '{name}' has no documentation; write Field(..., description='...').",
        )
        require(
            not _is_unbounded(subject, name, field),
            f"option '{name}' is a number without bounds: -1e300 and 1e300 were both taken. Say "
            f"what makes sense, such as Field({field.default!r}, gt=0, le=1, description=...), or "
            "use a type of alignzoo.options.",
        )
    _check_frozen(config)
    try:
        type(config).model_validate({n: getattr(config, n) for n in type(config).model_fields})
    except ValueError as error:
        first = " ".join(str(error).splitlines()[1:3])
        fail(f"a default breaks its own bounds or type, in option {first}; correct the default.")


def _check_frozen(config: Any) -> None:
    """Fails where an option can be changed after the configuration was made."""
    for name in type(config).model_fields:
        try:
            setattr(config, name, getattr(config, name))
        except Exception:
            continue
        fail(
            f"option '{name}' can be assigned; a configuration is frozen: derive it from "
            "AlgorithmConfig, RewardConfig or TaskConfig and leave model_config alone."
        )


def _is_unbounded(subject: PluginSubject, name: str, field: Any) -> bool:
    """Whether a numeric option takes the largest numbers of either sign."""
    number = _number_type(field.annotation)
    if number is None:
        return False
    huge = 10**15 if number is int else 1e300
    return _takes(subject, name, -huge) and _takes(subject, name, huge)


def _number_type(annotation: Any) -> type | None:
    """Returns int or float where an option is one, perhaps or none; None for all others."""
    types = set(_members(annotation)) - {type(None)}
    if not types or not types <= {int, float}:
        return None
    return float if float in types else int


def _members(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone; `Annotated` is looked through."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for part in get_args(annotation) for inner in _members(part))
    return (annotation,)


def _takes(subject: PluginSubject, name: str, value: Any) -> bool:
    try:
        subject.config(**{name: value})
    except ConfigError:
        return False
    return True


def unknown_options_are_refused(subject: PluginSubject) -> None:
    """An option it does not have is an error, never ignored."""
    unknown = "no_such_option_at_all"
    options = {**subject.options, unknown: 1}
    try:
        subject.target.Config(**options)
    except (ValueError, TypeError):
        return
    fail(
        f"its Config took the option '{unknown}'; a slip of the keyboard would go unseen. Derive "
        "it from AlgorithmConfig, RewardConfig or TaskConfig and leave extra='forbid' as it is."
    )


RECORD_CHECKS: tuple[Callable[[PluginSubject], None], ...] = (
    the_plugin_loads,
    the_class_loads,
    the_record_is_valid,
    the_import_is_light,
    options_are_documented_and_bounded,
    unknown_options_are_refused,
)
# Without these there is nothing to make the others with.
FIRST_CHECKS = ("the_plugin_loads", "the_class_loads")


def plugin_cases(
    kind: Kind,
    id: str,
    checks: Sequence[Check[SubjectT]],
    make_subject: Callable[[Entry, Mapping[str, Any]], SubjectT],
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Any]:
    """Returns a `pytest.param` per check of what `id`, or `distribution:id`, names.

    Nothing is imported before a case runs.

    Raises:
        ConfigError: `expected_failures` names no check.
    """

    def subject() -> SubjectT:
        return make_subject(registry().find(kind, id), options or {})

    return pytest_cases(checks, subject, expected_failures=expected_failures)
