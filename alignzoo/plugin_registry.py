"""The registry: from what people type to the class that a plugin provides.

The module is not called `registry`, because `alignzoo.registry` is the public function below and
a submodule of that name would take its place on the package.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from alignzoo import plugin_checks, plugin_loader
from alignzoo.errors import ConfigError, DataError, PluginError, did_you_mean
from alignzoo.plugin_loader import Plugin
from alignzoo.specs import (
    AlgorithmSpec,
    CommandFunction,
    CommandSpec,
    Record,
    RewardSpec,
    TaskSpec,
    record_name,
)

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm
    from alignzoo.reward import RewardModel

Kind = Literal["algorithm", "reward", "task", "command"]
KINDS: Mapping[Kind, type] = {
    "algorithm": AlgorithmSpec,
    "reward": RewardSpec,
    "task": TaskSpec,
    "command": CommandSpec,
}
log = logging.getLogger("alignzoo")


@dataclass(frozen=True)
class Entry:
    """One algorithm, reward, task or command, and the plugin that provides it."""

    kind: Kind
    spec: Any  # one of the records in `specs`
    plugin: Plugin

    @property
    def id(self) -> str:
        """What people type."""
        return record_name(self.spec)

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.kind} '{self.id}' ({self.plugin.label})"


class Registry:
    """What the loaded plugins provide.

    Args:
        plugins: every plugin that was found, blocked and failed ones included.
        entries: what the loaded ones provide.
        manager: holds their hooks.
    """

    def __init__(
        self, plugins: Sequence[Plugin], entries: Sequence[Entry], manager: pluggy.PluginManager
    ) -> None:
        self.plugins = tuple(plugins)
        self.entries = tuple(entries)
        self._manager = manager
        self._targets: dict[str, Plugin] = {}

    @property
    def algorithms(self) -> tuple[Entry, ...]:
        """The algorithms, by id."""
        return self.of_kind("algorithm")

    @property
    def rewards(self) -> tuple[Entry, ...]:
        """The rewards, by id."""
        return self.of_kind("reward")

    @property
    def tasks(self) -> tuple[Entry, ...]:
        """The benchmark tasks, by id."""
        return self.of_kind("task")

    @property
    def commands(self) -> tuple[Entry, ...]:
        """The command-line subcommands that plugins add, by name."""
        return self.of_kind("command")

    def of_kind(self, kind: Kind) -> tuple[Entry, ...]:
        """Returns the entries of one kind, by id; two owners of one id in loading order."""
        return tuple(sorted((e for e in self.entries if e.kind == kind), key=lambda e: e.id))

    def find(self, kind: Kind, id: str) -> Entry:
        """Returns the entry that `id`, or `distribution:id`, names.

        Raises:
            ConfigError: none or more than one has this id.
        """
        matches = self.matches(kind, id)
        if not matches:
            raise ConfigError(self._unknown(kind, id))
        if len(matches) > 1:
            owners = " and ".join(entry.plugin.label for entry in matches)
            choices = " or ".join(
                f"'{entry.plugin.distribution or entry.plugin.name}:{entry.id}'"
                for entry in matches
            )
            if len({entry.plugin.distribution for entry in matches}) == 1:
                choices = " or ".join(f"'{e.plugin.name}:{e.id}'" for e in matches)
            raise ConfigError(f"{kind} '{id}' is provided by {owners}; say {choices}.")
        return matches[0]

    def matches(self, kind: Kind, id: str) -> list[Entry]:
        """Returns every entry that `id`, or `distribution:id`, may mean."""
        qualifier, _, name = id.rpartition(":")
        return [
            entry
            for entry in self.of_kind(kind)
            if entry.id == name and (not qualifier or entry.plugin.answers_to(qualifier))
        ]

    def _unknown(self, kind: Kind, id: str) -> str:
        """Returns what to say about an id that no plugin provides."""
        known = sorted({entry.id for entry in self.of_kind(kind)})
        qualifier, _, name = id.rpartition(":")
        where = f" from '{qualifier}'" if qualifier else ""
        parts = [f"no {kind} is called '{name}'{where}.{did_you_mean(name, known)}"]
        parts += [f"'{id}' is a {e.kind}." for e in self.entries if e.id == id and e.kind != kind]
        if qualifier and name in known:
            owners = ", ".join(entry.plugin.label for entry in self.matches(kind, name))
            parts.append(f"'{name}' is provided by {owners}.")
        parts.append(f"Known {kind}s: {', '.join(known) or 'none'}.")
        return " ".join(parts) + self.lost_text()

    def lost_text(self) -> str:
        """Returns " Not loaded: ..." with the plugins that failed, or an empty string."""
        lost = [plugin.label for plugin in self.plugins if plugin.state == "failed"]
        return f" Not loaded: {', '.join(lost)}; see `alignzoo plugins --check`." if lost else ""

    def algorithm(self, id: str) -> type[Algorithm]:
        """Returns the class of an algorithm, imported now.

        Raises:
            ConfigError: no algorithm, or more than one, has this id.
            PluginError: its class cannot be imported, or breaks the contract.
        """
        return self.load(self.find("algorithm", id))  # type: ignore[no-any-return]

    def reward(self, id: str) -> type[RewardModel]:
        """Returns the class of a reward, imported now. Raises as `algorithm` does."""
        return self.load(self.find("reward", id))  # type: ignore[no-any-return]

    def task(self, id: str) -> Any:
        """Returns what a benchmark task's target names. Raises as `algorithm` does."""
        return self.load(self.find("task", id))

    def command(self, name: str) -> CommandFunction:
        """Returns the function of a plugin's subcommand. Raises as `algorithm` does."""
        return self.load(self.find("command", name))  # type: ignore[no-any-return]

    def owner(self, id: str) -> Plugin:
        """Returns the plugin that provides an algorithm, reward, task or command.

        An id of two kinds is looked up in that order.
        """
        for kind in KINDS:
            if self.matches(kind, id):
                return self.find(kind, id).plugin
        raise ConfigError(self._unknown("algorithm", id))

    def load(self, entry: Entry) -> Any:
        """Returns the object an entry's target names, checked against the contract of its kind."""
        try:
            found = plugin_loader.import_target(entry.spec)
            plugin_checks.check_target(entry.kind, entry.spec.target, found)
        except KeyboardInterrupt:
            raise
        except PluginError as error:
            raise PluginError(f"{entry.label}: {error}") from error
        except BaseException as error:  # SystemExit included
            reason = plugin_loader.one_line(error)
            message = f"{entry.label} could not be imported from '{entry.spec.target}': {reason}"
            raise PluginError(message) from error
        self._targets[entry.spec.target.partition(":")[0]] = entry.plugin
        return found

    def build(self, kind: Kind, id: str, options: Mapping[str, Any]) -> Any:
        """Returns an algorithm or reward made with `options`.

        Raises:
            ConfigError: unknown id or option, or a value out of its range.
            PluginError: its class cannot be imported, or its constructor fails.
        """
        from alignzoo.config import build_config  # pydantic, which listing plugins does without

        entry = self.find(kind, id)
        cls = self.load(entry)
        try:
            return cls(build_config(cls.Config, options, id))
        except (ConfigError, DataError):
            raise
        except (Exception, SystemExit) as error:
            reason = plugin_loader.one_line(error)
            raise PluginError(f"{entry.label} failed while it was made: {reason}") from error

    def on_update(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Tells every observer about an update; True where one asks to end the run after it.

        Raises:
            PluginError: an observer failed; the message names it.
        """
        stop = False
        arguments = {"step": step, "metrics": MappingProxyType(dict(metrics))}
        for observer in self._manager.hook.alignzoo_on_update.get_hookimpls():
            try:
                given = [arguments[name] for name in observer.argnames]
                stop |= observer.function(*given) is True
            except Exception as error:
                module = observer.function.__module__
                label = self._plugin_of(module, default=observer.plugin_name)
                raise PluginError(
                    f"{label} failed in alignzoo_on_update at step {step}: "
                    f"{plugin_loader.one_line(error)}"
                ) from error
        return stop

    def _plugin_of(self, module: str, default: str = "") -> str:
        """Returns the label of the plugin that owns a module, or `default`."""
        if module in self._targets:
            return self._targets[module].label
        labels = [p.label for p in self.plugins if p.state == "loaded" and p.module == module]
        return labels[0] if labels else default

    def blame(self, error: BaseException) -> PluginError | None:
        """Returns the error as that of the plugin it arose in, chained, or None.

        It arose in a plugin if, from where it was raised outwards, a frame of a plugin comes
        before any of the trainer and learner that called it.
        """
        frames = []
        traceback = error.__traceback__
        while traceback is not None:
            frames.append(traceback.tb_frame.f_globals.get("__name__", ""))
            traceback = traceback.tb_next
        for module in reversed(frames):
            label = self._plugin_of(module)
            if label:
                blamed = PluginError(f"{label} failed: {plugin_loader.one_line(error)}")
                blamed.__cause__ = error
                return blamed
            if module in ("alignzoo.learner", "alignzoo.trainer"):
                return None
        return None


def load_registry(selection: Sequence[str] = (), *, strict: bool = True) -> Registry:
    """Returns a registry of what is installed, loaded now.

    A plugin that fails is recorded and warned about in one line, and loading goes on.

    Args:
        selection: `-p` arguments: `no:NAME`, or `package.module`.
        strict: one of our own plugins, or one that was asked for, raises when it fails.
    Raises:
        PluginError: such a plugin failed.
    """
    # Every plugin needs it, and the first would be blamed for the time that pydantic takes.
    importlib.import_module("alignzoo.config")
    manager = plugin_loader.new_manager()
    plugins, entries = [], []
    for found in plugin_loader.discover(plugin_loader.parse_selection(selection)):
        if found.state == "blocked":
            plugins.append(found)
            continue
        plugin, records, error = plugin_loader.load(manager, found)
        plugins.append(plugin)
        entries += [Entry(_kind_of(record), record, plugin) for record in records]
        if error is not None:
            message = f"{plugin.label} was not loaded: {plugin.error}"
            if strict and (plugin.first_party or plugin.requested):
                raise PluginError(message) from error
            if strict:
                log.warning("warning: %s", message)
    return Registry(plugins, entries, manager)


def _kind_of(record: Record) -> Kind:
    return next(kind for kind, cls in KINDS.items() if isinstance(record, cls))


class _Current:
    """The registry in use, loaded when first asked for."""

    selection: tuple[str, ...] = ()
    registry: Registry | None = None
    loading: bool = False
    lock = threading.RLock()


def select_plugins(selection: Sequence[str]) -> None:
    """Sets which plugins `registry` loads, as `-p` does, and forgets what it loaded before."""
    plugin_loader.parse_selection(selection)
    _Current.selection = tuple(selection)
    _Current.registry = None


def selected_plugins() -> tuple[str, ...]:
    """Returns the `-p` arguments in force."""
    return _Current.selection


def registry() -> Registry:
    """Returns what is installed; plugins are imported on the first call.

    Raises:
        PluginError: one of alignzoo's own plugins is broken, or a plugin asks while it loads.
    """
    with _Current.lock:  # another thread waits; the one that loads may come back, through a plugin
        if _Current.loading:
            raise PluginError("a plugin used the registry while plugins were being imported")
        if _Current.registry is None:
            _Current.loading = True
            try:
                _Current.registry = load_registry(_Current.selection)
            finally:
                _Current.loading = False
        return _Current.registry


def make(id: str, /, **options: Any) -> Algorithm:
    """Returns the algorithm `id` with `options`, such as `make("ppo", clip_range=0.1)`.

    Raises:
        ConfigError: unknown id or option, or a value out of its range.
        PluginError: the plugin's class cannot be imported or made.
    """
    return registry().build("algorithm", id, options)  # type: ignore[no-any-return]


def make_reward(id: str, /, **options: Any) -> RewardModel:
    """Returns the reward `id` with `options`. Raises as `make` does."""
    return registry().build("reward", id, options)  # type: ignore[no-any-return]


def blame(error: BaseException) -> PluginError | None:
    """Returns `Registry.blame` of the registry in use; None where none has been loaded."""
    return _Current.registry.blame(error) if _Current.registry is not None else None
