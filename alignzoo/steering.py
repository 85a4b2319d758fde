"""Steering: the critic that shapes a model's logits, kept in `alignzoo/` beside the model.

    MODEL/alignzoo/steering.json          whose it is: id, distribution, revision, options, state
    MODEL/alignzoo/steering.safetensors   its modules

The file names an id, never a module: only an installed plugin's class is ever made from it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.errors import ConfigError
from alignzoo.random_streams import preserved_globals

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignzoo.algorithm import Algorithm
    from alignzoo.plugin_registry import Entry
    from alignzoo.policy import Policy

FOLDER = "alignzoo"
ABOUT = "steering.json"
TENSORS = "steering.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Steering:
    """The algorithm that shapes a policy's logits, and the part that its `build` returned."""

    algorithm: Algorithm
    extra: nn.Module | None

    @property
    def label(self) -> str:
        """What errors call it: its id, or its class where no plugin provides it."""
        return str(self.describe()["algorithm"] or self.describe()["class"])

    def describe(self) -> dict[str, Any]:
        """Returns whose it is and how it is set, JSON-able."""
        kind = type(self.algorithm)
        entry = _entry_of(kind)
        return {
            "format": FORMAT,
            "algorithm": None if entry is None else entry.id,
            "distribution": None if entry is None else entry.plugin.distribution or None,
            "version": None if entry is None else entry.plugin.version or None,
            "revision": None if entry is None else entry.spec.revision,
            "class": f"{kind.__module__}:{kind.__qualname__}",
            "options": self.algorithm.config.model_dump(mode="json"),
            "state": self.algorithm.state_dict(),
        }


def _entry_of(kind: type[Algorithm]) -> Entry | None:
    """Returns the registry's entry of an algorithm's class; imports nothing."""
    from alignzoo.plugin_registry import registry

    for entry in registry().algorithms:
        module, _, name = entry.spec.target.partition(":")
        if getattr(sys.modules.get(module), name, None) is kind:
            return entry
    return None


def write_steering(folder: str | Path, policy: Policy, steering: Steering) -> None:
    """Writes `FOLDER/alignzoo/`, so that `load_steering` steers the same model alike.

    The modules are the algorithm's own and the policy's value head, where there is one.
    """
    from safetensors.torch import save_file

    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(policy, steering.extra).items()
    save_file(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors}, target / TENSORS
    )
    about = {**steering.describe(), "sha256": _digest(target / TENSORS)}
    (target / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _tensors(policy: Policy, extra: nn.Module | None) -> dict[str, Tensor]:
    """Returns what steers, by name: all that training may change but the model itself."""
    return {
        f"{name}.{key}": tensor
        for name, module in policy.trained_modules(extra).items()
        if name != "model"
        for key, tensor in module.state_dict().items()
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_steering(source: str, policy: Policy) -> Steering | None:
    """Steers `policy` by what lies beside the model at `source`; None where nothing does.

    Args:
        source: the folder or hub id that the model was loaded from.
    Raises:
        ConfigError: naming the file, where it is damaged, of another format or revision, or by an
            algorithm that is not installed.
    """
    path = _find(source, ABOUT)
    if path is None:
        return None
    try:
        about = _read(path)
        steering = _make(about, policy)
        _fill(_tensors(policy, steering.extra), _find(source, TENSORS), about["sha256"])
    except ConfigError as error:
        raise ConfigError(
            f"{path}: {error}; to use the model without its critic, say steering=False "
            "(--no-steering)"
        ) from error
    policy.shape_logits = steering.algorithm.shape_logits
    return steering


def _find(source: str, name: str) -> Path | None:
    """Returns where a file of the folder `alignzoo` lies, downloaded if need be."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        path = folder / FOLDER / name
        return path if (folder / FOLDER).is_dir() else None
    if source == "tiny":
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(source, f"{FOLDER}/{name}")
    except OSError:  # the hub has the model, and no such file
        return None
    return None if found is None else Path(found)


def _read(path: Path) -> dict[str, Any]:
    """Returns what the file says, all of it there and of this format."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"it cannot be read ({error})") from error
    wanted = {"algorithm": str, "distribution": str, "options": dict, "state": dict, "sha256": str}
    if not isinstance(about, dict):
        raise ConfigError("it holds no JSON object")
    if about.get("format") != FORMAT:
        raise ConfigError(f"its format is {about.get('format')!r}; this alignzoo reads {FORMAT}")
    if about.get("algorithm") is None:
        raise ConfigError(
            f"the model is steered by {about.get('class')}, which no installed plugin provided; "
            "register that as an algorithm"
        )
    for name, kind in wanted.items():
        optional = name == "distribution" and about.get(name) is None
        if not optional and not isinstance(about.get(name), kind):
            raise ConfigError(f"its '{name}' is {about.get(name)!r}; expected a {kind.__name__}")
    return about


def _make(about: Mapping[str, Any], policy: Policy) -> Steering:
    """Returns the algorithm that the file names, its parts built and not yet filled."""
    from alignzoo.plugin_registry import registry

    owner = about["distribution"]
    id = f"{owner}:{about['algorithm']}" if owner else about["algorithm"]
    found = registry().find("algorithm", id)
    if found.spec.revision != about.get("revision"):
        raise ConfigError(
            f"it was written by revision {about.get('revision')} of '{id}', version "
            f"{about.get('version')}; installed is revision {found.spec.revision}"
        )
    algorithm = registry().build("algorithm", id, about["options"])
    with preserved_globals():  # what is drawn here is overwritten
        if algorithm.needs.values:
            policy.add_value_head()
        extra = algorithm.build(policy)
    known = algorithm.state_dict().keys()
    if about["state"].keys() != known:
        raise ConfigError(f"its 'state' has {sorted(about['state'])}; {id} keeps {sorted(known)}")
    algorithm.load_state_dict(about["state"])
    return Steering(algorithm, extra)


def _fill(tensors: Mapping[str, Tensor], file: Path | None, digest: str) -> None:
    """Copies the saved tensors into those just made, which have the same names and shapes."""
    import torch
    from safetensors.torch import load_file

    if file is None or not file.is_file():
        raise ConfigError(f"{TENSORS} is not beside it")
    if _digest(file) != digest:
        raise ConfigError(f"{TENSORS} was altered: its SHA-256 is another")
    saved = load_file(file)
    for name in sorted({*saved, *tensors}):
        shapes = [tuple(t[name].shape) if name in t else None for t in (saved, tensors)]
        if shapes[0] != shapes[1]:
            raise ConfigError(f"{TENSORS} has '{name}' of shape {shapes[0]}, not {shapes[1]}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def check_unsteered(policy: Policy) -> None:
    """Checks that training takes no critic away that the policy was loaded with.

    Raises:
        ConfigError: it was loaded with one; the message names the algorithm and the remedy.
    """
    if policy.steering is not None:
        raise ConfigError(
            f"the policy is steered by the critic of '{policy.steering.label}', which training "
            "would take away; to train the model below it, load that with steering=False "
            "(--no-steering)"
        )
