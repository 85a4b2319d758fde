"""Reading what a run's configuration says, whatever part of it is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Reward(NamedTuple):
    """One reward of a run; its options are empty where none were given."""

    name: str
    weight: float
    options: Mapping[str, Any]


def option(config: Mapping[str, Any], name: str) -> Any:
    """Returns `name` from the run's options, the data section or the top, whichever has it."""
    for place in (config.get("run"), config.get("data"), config):
        if isinstance(place, Mapping) and place.get(name) is not None:
            return place[name]
    return None


def algorithm_name(config: Mapping[str, Any]) -> str:
    """Returns the algorithm's id, or an empty string."""
    algorithm = config.get("algorithm")
    if isinstance(algorithm, Mapping):
        algorithm = algorithm.get("id")
    return str(algorithm) if algorithm else ""


def rewards(config: Mapping[str, Any]) -> list[Reward]:
    """Returns the run's rewards; each is written as text or as a mapping, alone or in a list."""
    written = config.get("rewards") or option(config, "reward") or []
    found = []
    for reward in written if isinstance(written, list | tuple) else [written]:
        weight, options = 1.0, None
        name = reward
        if isinstance(reward, Mapping):
            name = next((reward[k] for k in ("id", "name", "path", "spec") if reward.get(k)), "")
            weight, options = reward.get("weight", 1.0), reward.get("options")
        if name:
            found.append(
                Reward(
                    short_name(str(name).partition(":{")[0]),
                    float(weight) if isinstance(weight, int | float) else 1.0,
                    options if isinstance(options, Mapping) else {},
                )
            )
    return found


def is_hub_id(name: str) -> bool:
    """Whether `name` reads as "owner/model" and is no folder here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def short_name(value: object) -> str:
    """Returns a hub id or a plain name whole, of a path its last part, of None nothing."""
    text = "" if value is None else str(value)
    if is_hub_id(text):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or text


def data_name(config: Mapping[str, Any], name: str) -> str:
    """Returns the short name of a data file, which is written as text or as a mapping."""
    value = option(config, name)
    if isinstance(value, Mapping):
        value = next((value[k] for k in ("path", "file", "id", "train") if k in value), None)
    return short_name(value)
