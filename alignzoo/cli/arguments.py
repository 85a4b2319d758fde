"""Argument parsing with errors that are one line, on top of argparse.

Arguments are put into one form before argparse sees them: `--name=value` throughout, `_` in a
flag's name read as `-`, `--flag` and `--no-flag` as `--flag=true` and `--flag=false`. Then a value
that starts with a minus sign is a value, and a flag never swallows the word after it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from alignzoo.errors import ConfigError, did_you_mean

TRUE_FALSE = ("true", "false")


class HelpFormatter(argparse.HelpFormatter):
    """Leaves a flag in one piece where a line of help ends."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An argparse parser for one command.

    Args:
        command: what follows `alignzoo`, such as "train ppo".
        description: what `--help` says first.
    """

    def __init__(self, command: str, description: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100)
        super().__init__(
            prog=f"alignzoo {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: HelpFormatter(prog, max_help_position=30, width=width),
        )
        self.command = command

    def switch(self, name: str, help: str) -> None:
        """Adds `--name`, which is off unless given."""
        self.add_argument(
            f"--{name}", type=parse_switch, default=False, metavar="", help=help
        ).switch = True  # type: ignore[attr-defined]

    @property
    def flags(self) -> frozenset[str]:
        """The flags it has so far."""
        return frozenset(self._option_string_actions)

    def parse(self, arguments: Sequence[str], *, lenient: bool = False) -> argparse.Namespace:
        """Returns the parsed arguments.

        Args:
            lenient: unknown flags and words are passed over.
        Raises:
            ConfigError: an unknown flag, a missing value, a word too many or too few.
        """
        namespace, unknown = self.parse_known_args(self._canonical(arguments))
        for word in [] if lenient else unknown:
            flag = word.partition("=")[0]
            if flag.startswith("-"):
                hint = did_you_mean(flag, self._option_string_actions)
                see = "" if hint else f" See `alignzoo {self.command} --help`."
                raise ConfigError(f"{self.command} has no option '{flag}'.{hint}{see}")
            raise ConfigError(
                f"{self.command} was given '{word}', which belongs to no option. "
                f"See `alignzoo {self.command} --help`."
            )
        return namespace

    def _canonical(self, arguments: Sequence[str]) -> list[str]:
        """Returns the arguments in the one form that argparse cannot mistake."""
        words = list(arguments)
        result: list[str] = []
        while words:
            word = words.pop(0)
            if word == "--":
                return [*result, word, *words]
            flag, equals, value = self._flag_of(word)
            action = self._option_string_actions.get(flag)
            if action is None:
                result.append(word)
            elif equals:
                result.append(f"{flag}={value}")
            elif getattr(action, "switch", False):
                follows = bool(words) and words[0].lower() in TRUE_FALSE
                given = value or (words.pop(0) if follows else "true")
                result.append(f"{flag}={given}")
            elif action.nargs == 0:
                result.append(flag)
            elif words and _is_value(words[0]):
                result.append(f"{flag}={words.pop(0)}")
            else:
                raise ConfigError(f"{flag} needs a value: {action.help or ''}".rstrip(": "))
        return result

    def _flag_of(self, word: str) -> tuple[str, str, str]:
        """Returns a word's flag as it is registered, "=" where a value follows, and that value."""
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        if flag not in self._option_string_actions and flag.startswith("--no-") and not equals:
            positive = "--" + flag.removeprefix("--no-")
            if getattr(self._option_string_actions.get(positive), "switch", False):
                return positive, "", "false"
        return flag, equals, value

    def error(self, message: str) -> NoReturn:
        """Raises what argparse found wrong."""
        raise ConfigError(f"{self.command}: {message}. See `alignzoo {self.command} --help`.")


def parse_switch(text: str) -> bool:
    """Returns the truth a switch's text stands for."""
    if text.lower() not in TRUE_FALSE:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def _is_value(word: str) -> bool:
    """Whether the word after a flag is its value: no flag itself, or a negative number."""
    number = r"-(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?|-inf|-"
    return not word.startswith("-") or re.fullmatch(number, word) is not None
