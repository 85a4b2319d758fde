"""`json_schema`: valid, parsed, or neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alignzoo.plugins.json_schema import JSONSchema, JSONSchemaConfig

from alignzoo.config import build_config
from alignzoo.errors import ConfigError

SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"$ref": "#/$defs/name"}, "age": {"type": "integer"}},
    "$defs": {"name": {"type": "string", "minLength": 1}},
}
GOOD = '{"name": "Lily", "age": 7}'


def make(**options: Any) -> JSONSchema:
    options = {"json_schema": SCHEMA, **options} if "schema_file" not in options else options
    return JSONSchema(build_config(JSONSchemaConfig, options, "json_schema"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1.0),
        (f"Here it is:\n```json\n{GOOD}\n```\nGood?", 1.0),
        ('{"name": "", "age": 7}', 0.25),
        ("null", 0.25),
        ("", 0.0),
        (GOOD + " there", 0.0),
        ('{"name": "Lily", "age": NaN}', 0.0),
        ('{"name": "Lily", "name": "Tim", "age": 7}', 0.0),
        ("[" * 100_000, 0.0),
        (f"```\n{GOOD}\n```\n```\n{GOOD}\n```", 0.0),
    ],
)
def test_json_is_scored_by_whether_its_schema_allows_it(text: str, expected: float) -> None:
    assert make(parsed_score=0.25).score([""], [text]) == [expected]


def test_a_code_block_may_be_left_alone() -> None:
    assert make(extract="whole").score([""], [f"```\n{GOOD}\n```"]) == [0.0]


def test_the_schema_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    assert make(schema_file=str(file)).score([""], [GOOD]) == [1.0]


def test_json_deeper_than_the_schema_can_follow_is_not_valid() -> None:
    reward = make(json_schema={"type": "array", "items": {"$ref": "#"}})
    assert reward.score([""] * 2, ["[" * 900 + "]" * 900, "[[]]"]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_schema": None}, "give one of json_schema and schema_file"),
        ({"json_schema": {"type": "objec"}}, "breaks the rules of schemas, at type: 'objec'"),
        ({"json_schema": {"$ref": "https://example.com/s"}}, "nothing is fetched"),
        ({"json_schema": {"$ref": "#/$defs/none"}}, "'#/.defs/none', which it does not hold"),
        ({"schema_file": "absent.json"}, "schema_file absent.json cannot be read"),
    ],
)
def test_what_is_no_schema_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
