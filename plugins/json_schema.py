"""A reward for JSON of the right shape.

score = valid_score    where the response is JSON that its schema allows
        parsed_score   where it is JSON that the schema does not allow
        0              where it is no JSON

Schemas are JSON Schema (draft 2020-12 unless `$schema` names another), checked by the package
`jsonschema`; references outside the schema are never fetched. JSON is what RFC 8259 says: NaN,
Infinity and a key given twice are none. With `extract="fenced"` a response that is no JSON as a
whole may hold it in its only code block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import options

FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


class JSONSchemaConfig(az.RewardConfig):
    """Options of `json_schema`."""

    json_schema: dict[str, Any] | None = Field(None, description="the schema itself")
    schema_file: str | None = Field(None, description="JSON file that holds the schema")
    extract: Literal["whole", "fenced"] = Field(
        "fenced", description="what is read: the whole response, or else its only code block"
    )
    valid_score: options.Score = Field(1.0, description="score of JSON that the schema allows")
    parsed_score: options.Score = Field(
        0.0, description="score of JSON that the schema does not allow"
    )

    @model_validator(mode="after")
    def _check_one_schema(self) -> JSONSchemaConfig:
        if (self.json_schema is None) == (self.schema_file is None):
            raise ValueError("give one of json_schema and schema_file")
        return self


class JSONSchema(az.RewardModel):
    """Scores whether a response is JSON that a schema allows."""

    Config = JSONSchemaConfig
    examples = (
        {
            "options": {"json_schema": {"type": "array"}, "parsed_score": 0.25},
            "completion": "[1, 2]",
            "score": 1.0,
        },
        {
            "options": {"json_schema": {"type": "array"}, "parsed_score": 0.25},
            "completion": '{"not": "an array"}',
            "score": 0.25,
        },
        {
            "options": {"json_schema": {"type": "array"}, "parsed_score": 0.25},
            "completion": "[1, 2",
            "score": 0.0,
        },
    )

    def __init__(self, config: JSONSchemaConfig) -> None:
        super().__init__(config)
        schema = config.json_schema
        if config.schema_file is not None:
            schema = _read_schema(Path(config.schema_file).expanduser())
        self._validator = _validator(schema)

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns one score per response: `valid_score`, `parsed_score` or 0."""
        return [self._score_one(response) for response in responses]

    def _score_one(self, response: str) -> float:
        found = _parse(response)
        if found is None and self.config.extract == "fenced":
            blocks = FENCED.findall(response)
            found = _parse(blocks[0]) if len(blocks) == 1 else None
        if found is None:
            return 0.0
        try:
            valid = self._validator.is_valid(found[0])
        except RecursionError:  # JSON deeper than a schema that refers to itself can follow
            valid = False
        return float(self.config.valid_score if valid else self.config.parsed_score)


def _parse(text: str) -> tuple[Any] | None:
    """Returns the value a text holds, in a tuple since it may be null; None where it is no JSON."""
    try:
        return (json.loads(text, parse_constant=_refuse, object_pairs_hook=_object),)
    except (ValueError, RecursionError):
        return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _validator(schema: Any) -> Any:
    """Returns what checks values by a schema, after the schema itself was checked."""
    from jsonschema import SchemaError, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.absolute_path) or "its top"
        raise az.ConfigError(
            f"json_schema: the schema breaks the rules of schemas, at {place}: {error.message}"
        ) from None
    _check_references(schema)
    return kind(schema, registry=Registry())


def _check_references(schema: Any) -> None:
    """Refuses references to what the schema does not hold: nothing is fetched."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not isinstance(schema, dict):
        return
    resource = DRAFT202012.create_resource(schema)
    base = resource.id() or ""
    resolver = Registry().with_resource(base, resource).resolver(base)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise az.ConfigError(
                f"json_schema: the schema refers to {reference!r}, which it does not hold, and "
                "nothing is fetched; put it under $defs and refer to '#/$defs/NAME'."
            ) from None


def _references(schema: Any) -> Iterator[str]:
    """Yields every $ref of a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise az.ConfigError(f"json_schema: schema_file {path} cannot be read: {error}") from None


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `json_schema`."""
    return [
        az.RewardSpec(
            id="json_schema",
            target="alignzoo.plugins.json_schema:JSONSchema",
            summary="JSON of the right shape",
        )
    ]
