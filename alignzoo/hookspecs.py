"""The hooks a plugin may implement. Each is a promise to plugin authors, so there are few.

A plugin is a module named by an entry point in group `alignzoo`. It decorates the hooks it
implements with `alignzoo.hookimpl`; a hook may leave out arguments it does not use.
"""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from alignzoo.specs import AlgorithmSpec, CommandSpec, Record, RewardSpec, TaskSpec

PLUGIN_API = 1  # raised when a hook or contract changes so that older plugins would break

hookspec = pluggy.HookspecMarker("alignzoo")
hookimpl = pluggy.HookimplMarker("alignzoo")


@hookspec
def alignzoo_algorithms() -> list[AlgorithmSpec]:  # type: ignore[empty-body]
    """Returns the algorithms this plugin provides."""


@hookspec
def alignzoo_rewards() -> list[RewardSpec]:  # type: ignore[empty-body]
    """Returns the rewards this plugin provides."""


@hookspec
def alignzoo_tasks() -> list[TaskSpec]:  # type: ignore[empty-body]
    """Returns the benchmark tasks this plugin provides."""


@hookspec
def alignzoo_commands() -> list[CommandSpec]:  # type: ignore[empty-body]
    """Returns the command-line subcommands this plugin provides."""


@hookspec
def alignzoo_on_update(step: int, metrics: Mapping[str, float]) -> bool | None:
    """Observes one update; returns True to end the run after it, anything else to go on.

    Args:
        step: the update just finished, from 1.
        metrics: its line of metrics.jsonl, read-only.
    """


COLLECTED: Mapping[str, type[Record]] = {
    "alignzoo_algorithms": AlgorithmSpec,
    "alignzoo_rewards": RewardSpec,
    "alignzoo_tasks": TaskSpec,
    "alignzoo_commands": CommandSpec,
}
