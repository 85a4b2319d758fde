"""What a plugin must satisfy: its module, its hooks, its records, and the classes they name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from alignzoo import hookspecs
from alignzoo.errors import PluginError, did_you_mean
from alignzoo.specs import CommandSpec, Record, record_name

if TYPE_CHECKING:
    from alignzoo.config import Config

OWN_COMMANDS = (
    "list",
    "info",
    "plugins",
    "env",
    "train",
    "train-reward",
    "score",
    "generate",
    "data",
    "demo",
    "bench",
    "new",
    "check",
)
# Flags of `alignzoo` itself and of `train-reward`, and the key every --reward accepts.
GLOBAL_FLAGS = frozenset({"config", "debug", "help", "p", "version"})


def check_api(module: ModuleType) -> None:
    """Refuses a plugin written for another plugin API."""
    api = getattr(module, "ALIGNZOO_PLUGIN_API", 1)
    if api != hookspecs.PLUGIN_API:
        raise PluginError(
            f"it is written for plugin API {api!r}, and this alignzoo has plugin API "
            f"{hookspecs.PLUGIN_API}; install versions that fit"
        )


def check_hooks(manager: pluggy.PluginManager, module: ModuleType) -> None:
    """Refuses hooks that pluggy would take without a word, or with an obscure one."""
    known = {name: getattr(manager.hook, name).spec for name in vars(manager.hook)}
    implemented = 0
    for name, function in list(vars(module).items()):
        options = manager.parse_hookimpl_opts(module, name)
        if options is None:
            if name in known and inspect.isfunction(function):
                raise PluginError(f"function {name} lacks the decorator @alignzoo.hookimpl")
            continue
        hook = options.get("specname") or name
        if hook not in known and not options.get("optionalhook"):
            raise PluginError(
                f"there is no hook '{hook}'.{did_you_mean(hook, known)} "
                f"Hooks: {', '.join(sorted(known))}"
            )
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"hook {hook} is a wrapper; alignzoo's hooks take none")
        if hook in known:
            _check_signature(hook, function, known[hook].argnames)
        implemented += 1
    if not implemented:
        raise PluginError(f"it implements no hook. Hooks: {', '.join(sorted(known))}")


def _check_signature(hook: str, function: Any, accepted: Sequence[str]) -> None:
    """Refuses a hook that asks for arguments it will not be given."""
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if required and (name not in accepted or parameter.kind is parameter.KEYWORD_ONLY):
            raise PluginError(
                f"hook {hook} asks for an argument '{name}'; it is called as "
                f"{hook}({', '.join(accepted)})"
            )


def checked_records(hook: str, expected: type[Record], result: object) -> list[Record]:
    """Returns what a hook returned as a list, or says what is wrong with it."""
    if not isinstance(result, list | tuple):
        raise PluginError(
            f"hook {hook} returned {type(result).__name__}; expected a list of {expected.__name__}"
        )
    names = []
    for record in result:
        if not isinstance(record, expected):
            raise PluginError(
                f"hook {hook} returned a list with {record!r}; expected {expected.__name__}"
            )
        problem = _problem(record)
        if problem:
            raise PluginError(f"hook {hook}: {problem}")
        names.append(record_name(record))
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"hook {hook} returned '{name}' twice")
    return list(result)


def _problem(record: Any) -> str:
    """Returns what is wrong with a record's fields, or an empty string."""
    word = "name" if isinstance(record, CommandSpec) else "id"
    name = getattr(record, word)
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)):
        return f"{word} {name!r} may hold letters, digits, '_' and '-' only"
    if not (isinstance(record.target, str) and re.fullmatch(r"[\w.]+:[\w.]+", record.target)):
        return f"'{name}' has target {record.target!r}; expected 'package.module:Name'"
    if not (isinstance(record.summary, str) and record.summary.strip()):
        return f"'{name}' needs a summary, one line of text"
    if isinstance(record, CommandSpec):
        return f"command '{name}' is alignzoo's own" if name in OWN_COMMANDS else ""
    if not isinstance(record.paper, str):
        return f"'{name}' has paper {record.paper!r}; expected text"
    if type(record.revision) is not int or record.revision < 1:
        return f"'{name}' has revision {record.revision!r}; expected an integer from 1"
    return ""


def check_target(kind: str, target: str, found: Any) -> None:
    """Raises PluginError where a loaded class or function breaks the contract of its kind."""
    if kind == "command":
        if not callable(found):
            raise PluginError(f"'{target}' is no function")
    else:
        base, config, reserved = _contract(kind)
        if not (inspect.isclass(found) and issubclass(found, base)):
            raise PluginError(f"'{target}' is no subclass of alignzoo.{base.__name__}")
        given = getattr(found, "Config", None)
        if not (inspect.isclass(given) and issubclass(given, config)):
            raise PluginError(f"its Config is no subclass of alignzoo.{config.__name__}")
        _check_fields(given, reserved)
        given.model_rebuild()  # its types are looked at now, not when the class was made


def _check_fields(config: type[Config], reserved: Iterable[str]) -> None:
    """Refuses an option that is undocumented or has the name of one of the run's own flags."""
    for name, field in config.model_fields.items():
        if name in reserved:
            flag = "key 'weight'" if name == "weight" else f"flag --{name.replace('_', '-')}"
            raise PluginError(
                f"its option '{name}' has the name of the command line's own {flag}; rename it"
            )
        if not field.description:
            raise PluginError(
                f"its option '{name}' has no documentation; write Field(..., description=...)"
            )


def _contract(kind: str) -> tuple[type, type[Config], frozenset[str]]:
    """Returns the base class, the config class and the reserved option names of a kind."""
    if kind == "algorithm":
        module, reserved = importlib.import_module("alignzoo.algorithm"), run_flags()
        return module.Algorithm, module.AlgorithmConfig, reserved
    if kind == "task":
        module = importlib.import_module("alignzoo.task")
        return module.Task, module.TaskConfig, frozenset()
    module = importlib.import_module("alignzoo.reward")
    return module.RewardModel, module.RewardConfig, reward_flags()


def run_flags() -> frozenset[str]:
    """Returns the names of the run's own options, which no algorithm's option may have."""
    options = importlib.import_module("alignzoo.run_options").RunOptions
    return GLOBAL_FLAGS | {"allow_changed", "resume"} | frozenset(options.model_fields)


def reward_flags() -> frozenset[str]:
    """Returns the names of `train-reward`'s own options, which no reward's option may have."""
    options = importlib.import_module("alignzoo.run_options").TrainRewardOptions
    return GLOBAL_FLAGS | {"weight"} | frozenset(options.model_fields)
