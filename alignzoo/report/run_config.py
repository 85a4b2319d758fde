"""Reading what a run's configuration says, whatever part of it is there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alignzoo.report.run_files import is_number


class Reward(NamedTuple):
    """One reward of a run; its options are empty where none were given."""

    name: str
    weight: float
    options: Mapping[str, Any]


def option(config: Mapping[str, Any], name: str) -> Any:
    """Returns `name` from the first section that has it: run, options, data, or the top."""
    for place in (*(config.get(key) for key in ("run", "options", "data")), config):
        if isinstance(place, Mapping) and place.get(name) is not None:
            return place[name]
    return None


def algorithm_name(config: Mapping[str, Any]) -> str:
    """Returns the algorithm's id, else its class's name, else an empty string."""
    algorithm = config.get("algorithm")
    if isinstance(algorithm, Mapping):
        algorithm = algorithm.get("id") or str(algorithm.get("class") or "").rpartition(":")[2]
    return str(algorithm) if algorithm else ""


def own_metrics(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the algorithm says of metrics of its own, by name."""
    found = config.get("metrics")
    return {str(n): str(v) for n, v in found.items()} if isinstance(found, Mapping) else {}


def library_versions(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns versions by library, Python's among them, from `versions` or `environment`."""
    environment = config.get("environment")
    found: dict[str, str] = {}
    places = [config]
    if isinstance(environment, Mapping):
        places.append(environment)
        found |= {"python": str(environment["python"])} if environment.get("python") else {}
    for place in places:
        versions = place.get("versions")
        if isinstance(versions, Mapping):
            found |= {str(name): str(v) for name, v in versions.items() if v is not None}
    return found


def baseline(config: Mapping[str, Any]) -> dict[str, float]:
    """Returns the held-out metrics measured before the first update, where `baseline` has them."""
    found = config.get("baseline")
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in found.items()
        if is_number(value) and math.isfinite(value)
    }


def rewards(config: Mapping[str, Any]) -> list[Reward]:
    """Returns the run's rewards; each is written as text or as a mapping, alone or in a list."""
    written = config.get("rewards") or option(config, "reward") or []
    found = []
    for reward in written if isinstance(written, list | tuple) else [written]:
        mapping = reward if isinstance(reward, Mapping) else {"reward": reward}
        keys = ("reward", "id", "name", "path", "spec")
        text = next((str(mapping[key]) for key in keys if mapping.get(key)), "")
        name, options = _split_options(text)
        if isinstance(mapping.get("options"), Mapping):
            options = {**options, **mapping["options"]}
        weight = options.pop("weight", mapping.get("weight", 1.0))
        if name:
            weight = float(weight) if is_number(weight) else 1.0
            found.append(Reward(short_name(name), weight, options))
    return found


def _split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options of `NAME:{json options}`."""
    name, colon, options = text.partition(":{")
    try:
        found = json.loads("{" + options) if colon else {}
    except ValueError:
        found = {}
    return name, found


def is_hub_id(name: str) -> bool:
    """Whether `name` reads as "owner/model" and is no folder here."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not Path(name).exists()


def short_name(value: object) -> str:
    """Returns a hub id or a plain name whole, of a path its last part, of anything else nothing."""
    text = value if isinstance(value, str) else ""
    if is_hub_id(text):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or text


def data_name(config: Mapping[str, Any], name: str) -> str:
    """Returns the short name of a data file, which is written as text or as a mapping."""
    value = option(config, name)
    if isinstance(value, Mapping):
        value = next((value[k] for k in ("path", "file", "id", "train") if k in value), None)
    return short_name(value)
