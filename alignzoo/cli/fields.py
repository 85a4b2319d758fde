"""What a configuration's fields say about themselves: type, default, range and doc."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

CONTAINERS = (list, tuple, set, frozenset, Sequence)


def as_typed(value: Any) -> str:
    """Returns an option's value as it would be typed."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@dataclass(frozen=True)
class Option:
    """One option of a configuration, ready to be shown.

    Args:
        name: the field, such as "clip_range"; the flag is "--clip-range".
        type: such as "float", "int or none", "list of str".
        default: as JSON; None also where the option is required.
        required: it has no default.
        range: such as "> 0" or ">= 0, < 1"; empty where there is none.
        choices: the values it may take, where they are few.
        doc: one line.
    """

    name: str
    type: str
    default: Any
    required: bool
    range: str
    choices: tuple[str, ...]
    doc: str

    @property
    def flag(self) -> str:
        """What people type."""
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """Its default as it would be typed."""
        if self.required:
            return "required"
        return as_typed(self.default)

    def to_json(self) -> dict[str, Any]:
        """Returns it as `alignzoo info --json` shows it."""
        return {
            "name": self.name,
            "flag": self.flag,
            "type": self.type,
            "default": self.default,
            "required": self.required,
            "range": self.range or None,
            "choices": list(self.choices) or None,
            "doc": self.doc,
        }


def options_of(model: type[BaseModel]) -> list[Option]:
    """Returns a model's options in their order of definition."""
    return [_option(name, field) for name, field in model.model_fields.items()]


def _option(name: str, field: FieldInfo) -> Option:
    limits = [*field.metadata, *_nested_metadata(field.annotation)]
    return Option(
        name=name,
        type=type_name(field.annotation),
        default=_default(field),
        required=field.is_required(),
        range=", ".join(text for text in map(_limit, limits) if text),
        choices=tuple(_choices(field.annotation)),
        doc=field.description or "",
    )


def members(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone; `Annotated` is looked through."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for part in get_args(annotation) for inner in members(part))
    return (annotation,)


def type_name(annotation: Any) -> str:
    """Returns a type as people read it, such as "int or none" or "list of str"."""
    return " or ".join(dict.fromkeys(_member_name(member) for member in members(annotation)))


def _member_name(member: Any) -> str:
    origin, arguments = get_origin(member), get_args(member)
    if member is type(None):
        return "none"
    if member is Any:
        return "any"
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in CONTAINERS:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {type_name(inner[0])}" if inner else "list"
    if origin is dict or member is dict:
        return "JSON object"
    if isinstance(member, type) and issubclass(member, BaseModel):
        return "JSON object"
    return str(getattr(member, "__name__", member)).lower()


def _choices(annotation: Any) -> Iterator[str]:
    for member in members(annotation):
        if get_origin(member) is Literal:
            yield from map(str, get_args(member))
        elif isinstance(member, type) and issubclass(member, Enum):
            yield from (str(choice.value) for choice in member)


def _nested_metadata(annotation: Any) -> Iterator[Any]:
    """Yields the bounds inside a union's `Annotated` members."""
    if get_origin(annotation) is Annotated:
        for item in get_args(annotation)[1:]:
            yield from getattr(item, "metadata", [item])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _nested_metadata(part)


def _limit(item: Any) -> str:
    """Returns one bound as text; annotated_types marks it by the name of its attribute."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    for attribute, sign in signs.items():
        bound = getattr(item, attribute, None)
        if bound is not None:
            return f"{sign} {bound}"
    shortest, longest = getattr(item, "min_length", None), getattr(item, "max_length", None)
    if shortest:
        return f"length >= {shortest}"
    return f"length <= {longest}" if longest else ""


def _default(field: FieldInfo) -> Any:
    """Returns a field's default as JSON."""
    if field.is_required():
        return None
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    return TypeAdapter(Any).dump_python(value, mode="json", fallback=str)
