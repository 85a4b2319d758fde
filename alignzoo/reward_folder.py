"""A folder that `alignzoo train-reward` wrote: from its record to a reward that scores.

Which class an id means is asked of a registry that is handed in; this module knows none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from alignzoo.errors import ConfigError, DataError
from alignzoo.reward import RewardModel

TRAINED_REWARD_FILE = "reward.json"

logger = logging.getLogger("alignzoo")


class RewardEntry(Protocol):
    """What a registry knows of one reward."""

    @property
    def label(self) -> str:
        """What errors call it: its id, plugin and version."""


class RewardRegistry(Protocol):
    """What is asked of the registry that is handed in."""

    def matches(self, kind: Literal["reward"], id: str, /) -> Sequence[Any]:
        """Returns every reward that `id`, or `distribution:id`, may mean."""

    def find(self, kind: Literal["reward"], id: str, /) -> RewardEntry:
        """Returns the one reward that `id` means, or raises ConfigError."""

    def build(self, kind: Literal["reward"], id: str, options: Mapping[str, Any], /) -> Any:
        """Returns that reward, made with `options`."""


def load_trained_reward(folder: Path, registry: RewardRegistry) -> RewardModel:
    """Returns the reward that `alignzoo train-reward` wrote into `folder`.

    `reward.json` there holds its `id` and `options`; the reward itself reads the rest. One that
    was trained by another revision of its plugin is loaded with a warning.

    Raises:
        ConfigError: the folder is no trained reward, or its plugin is not installed.
        DataError: a file in it is damaged.
    """
    record = _read_record(folder / TRAINED_REWARD_FILE)
    id = _installed_id(record, folder, registry)
    reward: RewardModel = registry.build("reward", id, record.get("options", {}))
    now = getattr(getattr(registry.find("reward", id), "spec", None), "revision", None)
    then = record.get("revision")
    if None not in (now, then) and now != then:
        logger.warning(
            "%s was trained by revision %s of reward '%s', and revision %s is installed; it may "
            "score otherwise than it was measured",
            folder,
            then,
            id,
            now,
        )
    reward.load(folder)
    return reward


def _read_record(path: Path) -> dict[str, Any]:
    """Returns what reward.json says."""
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} is no trained reward: it has no {path.name}, which "
            "`alignzoo train-reward` writes."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or "id" not in record:
            raise ValueError("it is none")
        if not isinstance(record.get("options", {}), dict):
            raise ValueError("its 'options' are none")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: expected an object with 'id' ({error}).") from error
    if record["id"] is None:
        raise ConfigError(
            f"{path} does not say which reward it is, since it was trained from Python without an "
            "id: give train_reward record={'id': ...}, or load it there."
        )
    return record


def _installed_id(record: Mapping[str, Any], folder: Path, registry: RewardRegistry) -> str:
    """Returns the id under which the registry has the reward, qualified where two own it."""
    id, owner = str(record["id"]), record.get("distribution")
    found = registry.matches("reward", id)
    if not found:
        source = f" of {owner} {record.get('version') or ''}".rstrip() if owner else ""
        raise ConfigError(
            f"{folder} was trained by reward '{id}'{source}, which is not installed; install it, "
            "or name its module with -p."
        )
    return f"{owner}:{id}" if owner and len(found) > 1 else id
