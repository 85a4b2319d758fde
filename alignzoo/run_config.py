"""What config.yaml says of a run, and what may not differ when it is resumed."""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from alignzoo.errors import ConfigError
from alignzoo.reward import FunctionReward
from alignzoo.scoring import WeightedReward

if TYPE_CHECKING:
    import torch

    from alignzoo.trainer import Trainer

logger = logging.getLogger("alignzoo")

LIBRARIES = ("alignzoo", "torch", "transformers", "numpy", "tokenizers", "safetensors")
# A run resumed under other values of these would not be the same run.
IDENTITY = ("algorithm", "options", "rewards", "data", "policy")


def describe_run(trainer: Trainer, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns everything needed to run it again; `record` adds to it and overrides."""
    import torch

    algorithm = trainer.algorithm
    kind = type(algorithm)
    described: dict[str, Any] = {
        "algorithm": {
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "options": algorithm.config.model_dump(mode="json"),
        },
        "options": trainer.options.model_dump(mode="json"),
        "data": {
            "fingerprint": trainer.dataset.fingerprint,
            "train_rows": len(trainer.dataset.train),
            "held_out_rows": len(trainer.dataset.held_out),
        },
        "rewards": [_describe_reward(term) for term in trainer.reward.terms]
        if trainer.reward is not None
        else [],
        "policy": {
            "fingerprint": trainer.policy.fingerprint(),
            **({"autocast": True} if trainer.policy.autocast else {}),
        },
        "environment": {
            "versions": {name: _version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "cpu": _cpu(),
            "device": _device(trainer.policy.device),
        },
        **({"metrics": dict(kind.metrics)} if kind.metrics else {}),  # what its own ones mean
    }
    for name, value in record.items():
        both_maps = isinstance(value, Mapping) and isinstance(described.get(name), dict)
        described[name] = {**described[name], **value} if both_maps else value
    return described


def _describe_reward(term: WeightedReward) -> dict[str, Any]:
    """Returns a reward's name, weight, class and options; a function is known by its source."""
    kind = type(term.reward)
    described = {
        "name": term.name,
        "weight": term.weight,
        "class": f"{kind.__module__}:{kind.__qualname__}",
    }
    if isinstance(term.reward, FunctionReward):
        try:
            source = inspect.getsource(term.reward.function)
        except (OSError, TypeError):  # typed into an interpreter, or compiled
            source = repr(term.reward.name)
        return {**described, "sha256": hashlib.sha256(source.encode()).hexdigest()}
    return {**described, "options": term.reward.config.model_dump(mode="json")}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    from alignzoo import _core

    return f"{platform.machine()}, {_core.build_info()['isa']}"


def _device(device: torch.device) -> str:
    """Returns what the policy computes on; of a GPU its name, not its number."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_unchanged(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Checks that a resumed run is the run that was stopped.

    Another torch build, CPU type or thread count is a warning, since results then differ by
    rounding, and so is another version of a plugin of the same revision. Another dataset, option,
    policy or plugin revision is an error.

    Raises:
        ConfigError: naming what differs, with both values.
    """
    for section in IDENTITY:
        for name, (before, now) in _differences(saved.get(section), current.get(section)).items():
            if name.endswith(".version"):
                whose = section + name.removesuffix(".version")
                logger.warning("resumed under version %s of %s, was %s", now, whose, before)
                continue
            raise ConfigError(
                f"the run was started with {section}{name} = {before!r} and is now {now!r}; "
                "resume it unchanged, or say allow_changed"
            )
    pairs = _differences(saved.get("environment"), current.get("environment"))
    for name, (before, now) in pairs.items():
        logger.warning(
            "resumed under another environment%s: %s, was %s; results may differ by rounding",
            name,
            now,
            before,
        )


def _differences(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for name in [*before, *(key for key in now if key not in before)]:
            found |= _differences(before.get(name), now.get(name), f"{path}.{name}")
        return found
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        found = {}
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            found |= _differences(one, other, f"{path}[{number}]")
        return found
    return {} if before == now else {path: (before, now)}
