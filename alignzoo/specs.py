"""The records plugins return. Each names its class as a string, so nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """What an algorithm, reward or task is called and where its class is.

    Args:
        id: what people type; letters, digits, `_` and `-`.
        target: "package.module:Class", imported when someone asks for the id.
        summary: one line for `alignzoo list`.
        paper: citation such as "arXiv:1707.06347", or an empty string.
        revision: integer, raised whenever results for equal options may change.
    """

    id: str
    target: str
    summary: str
    paper: str = ""
    revision: int = 1


class AlgorithmSpec(Spec):
    """A record of one algorithm: its class derives from `alignzoo.Algorithm`."""


class RewardSpec(Spec):
    """A record of one reward: its class derives from `alignzoo.RewardModel`."""


class TaskSpec(Spec):
    """A record of one benchmark task."""


@dataclass(frozen=True)
class CommandSpec:
    """A record of one command-line subcommand.

    Args:
        name: what follows `alignzoo` on the command line.
        target: "package.module:function"; called with the remaining arguments (a list of
            strings), returns the exit code.
        summary: one line for `alignzoo --help`.
    """

    name: str
    target: str
    summary: str


CommandFunction = Callable[[list[str]], int]
Record = Spec | CommandSpec


def record_name(record: Record) -> str:
    """Returns what people type for a record."""
    return record.name if isinstance(record, CommandSpec) else record.id
