"""Finds plugins without importing them, and imports each so that a broken one harms no other.

pluggy's own entry-point loader stops at the first broken plugin, drops the second of two equal
names without a word, and follows the order of the file system. This one sorts, isolates, names
the culprit and keeps standard output for results.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal

import pluggy

from alignzoo import hookspecs
from alignzoo.errors import ConfigError, PluginError, did_you_mean
from alignzoo.plugin_checks import check_api, check_hooks, checked_records
from alignzoo.specs import Record

GROUP = "alignzoo"
OWN_DISTRIBUTION = "alignzoo"
ALLOW_VARIABLE = "ALIGNZOO_PLUGINS"

State = Literal["found", "blocked", "loaded", "failed"]


@dataclass(frozen=True)
class Plugin:
    """A record of one plugin: where it comes from and what became of it.

    Args:
        name: name of its entry point, or its module where `-p` named it.
        module: the module that holds its hooks.
        distribution: the installed distribution it belongs to, or an empty string.
        version: that distribution's version, or an empty string.
        state: "found" before loading; "blocked" by `-p no:NAME` or ALIGNZOO_PLUGINS.
        error: why it failed or is blocked, one line.
        import_seconds: how long its import and hooks took; None where it was not imported.
        requested: `-p` named it, so a failure is the user's to see.
        details: the traceback of a failure.
    """

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    state: State = "found"
    error: str = ""
    import_seconds: float | None = None
    requested: bool = False
    details: str = ""

    @property
    def first_party(self) -> bool:
        """It belongs to alignzoo's own distribution."""
        return normal_name(self.distribution) == OWN_DISTRIBUTION

    @property
    def label(self) -> str:
        """What errors call it: name, distribution and version."""
        owner = f" of {self.distribution} {self.version}".rstrip() if self.distribution else ""
        return f"plugin '{self.name}'{owner}"

    def answers_to(self, name: str) -> bool:
        """`name` is its name, its module or its distribution."""
        return name in (self.name, self.module) or (
            self.distribution != "" and normal_name(name) == normal_name(self.distribution)
        )


@dataclass(frozen=True)
class Selection:
    """What `-p` asked for: names to leave out, modules to load."""

    blocked: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def normal_name(distribution: str) -> str:
    """Returns a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def parse_selection(arguments: Sequence[str]) -> Selection:
    """Returns what a list of `-p` arguments asks for.

    Raises:
        ConfigError: an argument is neither `no:NAME` nor a dotted module name.
    """
    blocked, modules = [], []
    for argument in arguments:
        if argument.startswith("no:") and len(argument) > len("no:"):
            blocked.append(argument.removeprefix("no:"))
        elif all(part.isidentifier() for part in argument.split(".")):
            modules.append(argument)
        else:
            raise ConfigError(
                f"-p '{argument}': expected no:NAME to leave a plugin or distribution out, "
                "or package.module to load one."
            )
    return Selection(tuple(blocked), tuple(modules))


def search_path() -> list[str]:
    """Returns sys.path without the working directory the interpreter put in front.

    `python -m` and `python -c` add it; a folder one happens to stand in must not add plugins.
    """
    path = list(sys.path)
    if path and path[0] in ("", os.getcwd()) and not getattr(sys.flags, "safe_path", False):
        path = path[1:]
    return [entry for entry in path if entry != ""]


def installed_plugins() -> list[Plugin]:
    """Returns every plugin that metadata names: ours first, then by distribution and name."""
    path = search_path()
    names = set()
    for distribution in importlib.metadata.distributions(path=path):
        # One unreadable entry_points.txt, of whatever package, must not hide the others.
        with contextlib.suppress(Exception):
            if any(point.group == GROUP for point in distribution.entry_points):
                names.add(normal_name(distribution.metadata["Name"]))
    plugins = []
    for name in names:  # of two copies on the path, the first hides the second, as for imports
        for owner in itertools.islice(importlib.metadata.distributions(name=name, path=path), 1):
            about = owner.metadata  # reads the file at each call
            title, version = about["Name"], about["Version"] or ""
            for point in owner.entry_points.select(group=GROUP):
                plugins.append(Plugin(point.name, point.value.strip(), title, version))
    return sorted(plugins, key=lambda p: (not p.first_party, normal_name(p.distribution), p.name))


def discover(selection: Selection) -> list[Plugin]:
    """Returns the plugins that would be loaded and those held back, without importing any.

    Raises:
        ConfigError: `-p no:NAME` names nothing that is installed.
    """
    plugins = installed_plugins()
    for module in selection.modules:
        if not any(module in (plugin.module, plugin.name) for plugin in plugins):
            plugins.append(Plugin(module, module, requested=True))
    for name in selection.blocked:
        if not any(plugin.answers_to(name) for plugin in plugins):
            known = {p.name for p in plugins} | {p.distribution for p in plugins}
            raise ConfigError(
                f"-p no:{name}: no plugin or distribution is called '{name}'."
                f"{did_you_mean(name, known)} See `alignzoo plugins`."
            )
    return [_selected(plugin, selection) for plugin in plugins]


def _selected(plugin: Plugin, selection: Selection) -> Plugin:
    """Returns `plugin`, blocked where the selection or ALIGNZOO_PLUGINS leaves it out."""
    for name in selection.blocked:
        if plugin.answers_to(name):
            return replace(plugin, state="blocked", error=f"left out by -p no:{name}")
    requested = plugin.module in selection.modules or plugin.name in selection.modules
    allowed = os.environ.get(ALLOW_VARIABLE)
    if allowed is not None and not requested and not plugin.first_party:
        names = {normal_name(name.strip()) for name in allowed.split(",") if name.strip()}
        if normal_name(plugin.distribution) not in names:
            return replace(plugin, state="blocked", error=f"not in {ALLOW_VARIABLE}")
    return replace(plugin, requested=requested)


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Sends what a plugin prints, subprocesses included, to standard error."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without standard streams
        saved = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def one_line(error: BaseException) -> str:
    """Returns an exception as one line: its type, then its message."""
    message = " ".join(str(error).split())
    if isinstance(error, PluginError):
        return message
    if isinstance(error, SystemExit):
        return f"SystemExit({message}): it tried to end the program"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def new_manager() -> pluggy.PluginManager:
    """Returns a plugin manager that knows our hooks and no plugin."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def load(
    manager: pluggy.PluginManager, plugin: Plugin
) -> tuple[Plugin, list[Record], BaseException | None]:
    """Imports and registers one plugin, and returns its record, what it provides, and its error."""
    started = time.perf_counter()
    records: list[Record] = []
    failure: BaseException | None = None
    try:
        with output_to_stderr():
            records = _register(manager, plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit included: no plugin ends the host
        failure = error
    seconds = time.perf_counter() - started
    if failure is None:
        return replace(plugin, state="loaded", import_seconds=seconds), records, None
    details = "".join(traceback.format_exception(failure))
    failed = replace(
        plugin, state="failed", error=one_line(failure), import_seconds=seconds, details=details
    )
    return failed, [], failure


def _register(manager: pluggy.PluginManager, plugin: Plugin) -> list[Record]:
    """Registers a plugin's hooks and returns its records; leaves no trace if that fails."""
    if ":" in plugin.module:
        raise PluginError(
            f"its entry point names '{plugin.module}'; expected a module, without ':'"
        )
    module = importlib.import_module(plugin.module)
    if manager.is_registered(module):
        raise PluginError(f"module {plugin.module} is loaded already, as another plugin")
    check_api(module)
    check_hooks(manager, module)
    try:
        manager.register(module, name=f"{plugin.distribution}:{plugin.name}:{plugin.module}")
        records = _collect(manager, module)
    except BaseException:
        manager.unregister(module)
        raise
    return records


def _collect(manager: pluggy.PluginManager, module: ModuleType) -> list[Record]:
    """Returns the records one plugin's hooks return, checked."""
    records: list[Record] = []
    for hook, expected in hookspecs.COLLECTED.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                records += checked_records(hook, expected, implementation.function())
    return records


def import_target(record: Record) -> Any:
    """Returns the object a record's target names, imported now; what it prints goes to stderr."""
    module_name, _, path = record.target.partition(":")
    with output_to_stderr():
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            if not hasattr(found, part):
                hint = did_you_mean(part, dir(found))
                raise PluginError(f"'{module_name}' has no '{part}'.{hint}")
            found = getattr(found, part)
    return found
