"""Configuration: frozen pydantic models, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alignzoo import options
from alignzoo.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of every configuration: frozen, unknown options refused, every field documented."""

    # Built at first use: every plugin that is installed makes such classes at every start.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class AlgorithmConfig(Config):
    """Options every algorithm has. Subclasses add their own and may change defaults."""

    learning_rate: options.LearningRate = 1e-5
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, gt=0, description="gradients of each parameter group are scaled down to this L2 norm"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls after warm-up, over decay_steps"
    )
    warmup_steps: int = Field(0, ge=0, description="optimiser steps of linear warm-up from 0")
    decay_steps: int | None = Field(
        None, gt=0, description="optimiser steps over which linear or cosine falls to 0"
    )
    num_epochs: options.NumEpochs = 1
    minibatch_size: int | None = Field(
        None, gt=0, description="sequences per optimiser step; default the whole batch"
    )
    kl_coef: options.KLCoef = 0.0
    kl_in: options.KLIn = "reward"

    # By name, the options that a framework sets under this algorithm's name: a class that fills
    # this has a field `dialect`. An option given by itself goes before the dialect's.
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _speak_the_dialect(cls, given: Any) -> Any:
        if not cls.dialects or not isinstance(given, Mapping):
            return given
        name = given.get("dialect", cls.model_fields["dialect"].default)
        spoken = cls.dialects.get(name, {}) if isinstance(name, str) else {}
        return {**spoken, **given}

    @model_validator(mode="after")
    def _has_an_end_to_fall_to(self) -> AlgorithmConfig:
        if self.schedule != "constant" and self.decay_steps is None:
            raise ValueError(
                f"schedule '{self.schedule}' needs decay_steps, the steps it falls over"
            )
        return self


class RewardConfig(Config):
    """Base of a reward's options."""


ConfigT = TypeVar("ConfigT", bound=Config)


def build_config(
    cls: type[ConfigT],
    options: Mapping[str, Any],
    owner: str,
    *,
    spelling: Mapping[str, str] | None = None,
) -> ConfigT:
    """Returns `cls(**options)`.

    Args:
        owner: what has these options, such as "ppo"; errors start with it.
        spelling: how errors call an option, by name, such as "--clip-range".
    Raises:
        ConfigError: an unknown option (with a did-you-mean), a missing one, or a value out of its
            range; the message names the option, what came and what was expected.
    """
    for name in options:
        if name not in cls.model_fields:
            hint = did_you_mean(name, cls.model_fields)
            known = (
                "" if hint else f" Its options: {', '.join(sorted(cls.model_fields)) or 'none'}."
            )
            raise ConfigError(f"{owner} has no option '{name}'.{hint}{known}")
    try:
        return cls(**options)
    except ValidationError as error:
        raise ConfigError(f"{owner}: {_explain(cls, error, spelling or {})}") from None


def _explain(cls: type[Config], error: ValidationError, spelling: Mapping[str, str]) -> str:
    """Returns the first thing pydantic found wrong, in our words."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path = [str(part) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    if len(path) > 1 and _is_union(cls.model_fields[path[0]].annotation):
        tried = [e["msg"] for e in errors if e["loc"][0] == path[0]]  # one for each member
        message = " or ".join([message, *(m.removeprefix("Input should be ") for m in tried[1:])])
        path = path[:1]
    if not path:
        return message
    name = spelling.get(path[0], f"option '{path[0]}'")
    if first["type"] == "missing" and len(path) == 1:
        return f"{name} is needed: {cls.model_fields[path[0]].description}"
    wanted = message.replace("Input should be", "it should be").replace("Input", "it")
    inside = "." + ".".join(path[1:]) if len(path) > 1 else ""
    is_out_of_bounds = first["type"].startswith(("greater_than", "less_than"))
    meaning = cls.model_fields[path[0]].description
    about = f" ({meaning})" if is_out_of_bounds and meaning and not inside else ""
    return f"{name}{inside} is {first['input']!r}; {wanted[:1].lower()}{wanted[1:]}{about}"


def _is_union(annotation: Any) -> bool:
    """Returns whether an option may be of more than one type, None apart."""
    return (
        get_origin(annotation) in (Union, UnionType)
        and sum(member is not type(None) for member in get_args(annotation)) > 1
    )
