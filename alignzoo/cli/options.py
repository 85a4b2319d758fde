"""Configurations as command-line options: flags, a YAML file under them, errors that name both."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel

from alignzoo.cli.arguments import Parser
from alignzoo.cli.fields import CONTAINERS, Option, members, options_of
from alignzoo.config import Config, build_config
from alignzoo.errors import ConfigError, did_you_mean

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Given:
    """What was given for a set of options.

    Args:
        values: by field name, flags over file; not yet validated.
        spelling: how errors call each option.
        explicit: the options given as flags.
        from_file: the options given in the `--config` file and not as flags.
    """

    values: Mapping[str, Any]
    spelling: Mapping[str, str]
    explicit: frozenset[str]
    from_file: frozenset[str]

    def build(self, model: type[ConfigT], owner: str) -> ConfigT:
        """Returns `model` made from the values that are its own.

        Raises:
            ConfigError: a value is missing or out of range; the message names the flag.
        """
        values = {name: self.values[name] for name in model.model_fields if name in self.values}
        return build_config(model, values, owner, spelling=self.spelling)


class OptionSet:
    """The options of one or several configurations, for one command.

    Args:
        models: by the title of their group in `--help`, such as {"run": RunOptions}. No two may
            share a field name.
    """

    def __init__(self, models: Mapping[str, type[Config]]) -> None:
        self.groups = {title: options_of(model) for title, model in models.items()}
        self._annotations: dict[str, Any] = {}
        for model in models.values():
            for name, field in model.model_fields.items():
                if name in self._annotations:
                    raise ValueError(f"two configurations have a field '{name}'")
                self._annotations[name] = field.annotation

    def add_to(self, parser: Parser, *, config: bool = True) -> None:
        """Adds the flags, and `--config` where asked, to a parser.

        A flag the parser has already stays its own; the option can be given in the file.
        """
        taken = parser.flags
        parser.usage = "%(prog)s [OPTION]..."  # naming all of them here would fill a screen
        if config:
            parser.add_argument(
                "--config", metavar="FILE", help="YAML file of options; flags go over it"
            )
        for title, options in self.groups.items():
            group = parser.add_argument_group(f"{title} options")
            for option in options:
                if option.flag in taken:
                    continue
                annotation = self._annotations[option.name]
                action: Any = group.add_argument(
                    option.flag,
                    dest=option.name,
                    action="append" if _is_list(annotation) else "store",
                    metavar=_metavar(option),
                    help=_help(option),
                )
                action.switch = bool in members(annotation)

    def read(self, namespace: Namespace) -> Given:
        """Returns what the flags and the `--config` file give.

        Raises:
            ConfigError: the file cannot be read or holds an unknown option, or a value that
                should be JSON is not.
        """
        flags = {
            name: self._value(name, raw)
            for name in self._annotations
            if (raw := getattr(namespace, name, None)) is not None
        }
        path = getattr(namespace, "config", None)
        file = self._read_file(Path(path)) if path is not None else {}
        spelling = {name: f"'{name}' in {path}" for name in file}
        spelling |= {name: _flag(name) for name in self._annotations if name not in file}
        spelling |= {name: _flag(name) for name in flags}
        explicit = frozenset(flags)
        return Given(file | flags, spelling, explicit, frozenset(file) - explicit)

    def _value(self, name: str, raw: Any) -> Any:
        """Returns a flag's text as what pydantic is to validate."""
        annotation = self._annotations[name]
        texts = raw if isinstance(raw, list) else [raw]
        if texts[-1] == "none" and type(None) in members(annotation):
            return None
        if isinstance(raw, list):
            items: list[Any] = []
            for text in texts:
                items += _json(name, text) if text.lstrip().startswith("[") else [text]
            return items
        if _is_object(annotation) and (
            raw.lstrip().startswith("{") or len(members(annotation)) == 1
        ):
            return _json(name, raw)
        return raw

    def _read_file(self, path: Path) -> dict[str, Any]:
        """Returns a YAML file's options by field name."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"--config {path} cannot be read: {reason}.") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {path} is no YAML: {_yaml_reason(error)}.") from None
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise ConfigError(
                f"--config {path} holds {type(content).__name__}; expected lines 'option: value'."
            )
        options: dict[str, Any] = {}
        for key, value in content.items():
            name = str(key).replace("-", "_")
            if name not in self._annotations:
                hint = did_you_mean(name, self._annotations)
                raise ConfigError(f"--config {path}: there is no option '{key}'.{hint}")
            if name in options:
                raise ConfigError(f"--config {path}: option '{name}' is given twice.")
            options[name] = value
        return options


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_list(annotation: Any) -> bool:
    return any(
        member in CONTAINERS or get_origin(member) in CONTAINERS for member in members(annotation)
    )


def _is_object(annotation: Any) -> bool:
    return any(
        member is dict
        or get_origin(member) in (dict, Mapping)
        or (isinstance(member, type) and issubclass(member, BaseModel))
        for member in members(annotation)
    )


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{_flag(name)} is {text!r}; it should be JSON, and it breaks at character "
            f"{error.pos + 1}: {error.msg}."
        ) from None


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


def _metavar(option: Option) -> str:
    if option.type == "bool":
        return "{true,false}"
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    return option.type.partition(" ")[0].upper()


def _help(option: Option) -> str:
    """Returns an option's doc, type, range and default, escaped for argparse."""
    about = option.type if not option.choices else ""
    limits = " ".join(part for part in (about, option.range) if part)
    facts = [limits, "required" if option.required else f"default {option.default_text}"]
    if option.type.startswith("list"):
        facts.append("may be repeated")
    if option.type == "bool":
        facts = [*facts[1:], f"also {option.flag} and --no-{option.flag.removeprefix('--')}"]
    text = f"{option.doc} ({'; '.join(fact for fact in facts if fact)})"
    return text.replace("%", "%%")
