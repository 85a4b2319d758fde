"""`alignzoo score`: scores a file of completions with one or several rewards."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.cli.output import replace_lines
from alignzoo.config import Config
from alignzoo.errors import DataError
from alignzoo.plugin_registry import registry


class ScoreOptions(Config):
    """What `alignzoo score` can be told."""

    reward: list[str] = Field(
        ...,
        min_length=1,
        description="id, id:{json options}, file.py:function or folder; several are summed",
    )
    data: str = Field(..., description="file or hub id with 'prompt' and 'completion' columns")
    out: str = Field(..., description="JSON-lines file to write")


def run(arguments: list[str]) -> int:
    """Writes the input rows in order, each with its score."""
    parser = Parser("score", "Scores a file of completions with one or several rewards.")
    options = OptionSet({"score": ScoreOptions})
    options.add_to(parser)
    given = options.read(parser.parse(arguments)).build(ScoreOptions, "score")
    replace_lines(given.out, _score(given))
    print(given.out)
    return 0


def _score(options: ScoreOptions) -> list[dict[str, Any]]:
    from alignzoo.data import gather_columns, read_prompts, read_rows
    from alignzoo.scoring import resolve_rewards

    reward = resolve_rewards(options.reward, registry())
    rows = read_rows(options.data)
    prompts = read_prompts(rows)
    completions = []
    for row in rows:
        completion = row.values.get("completion")
        if not isinstance(completion, str):
            raise DataError(
                f"{row.where}: column 'completion' is {completion!r}; expected the text to score"
            )
        completions.append(completion)
    scores = reward.score([row.prompt for row in prompts], completions, gather_columns(prompts))
    lines = []
    for i, row in enumerate(rows):
        line = {**row.values, "score": _number(scores.total[i])}
        if len(reward.names) > 1:
            line["scores"] = {name: _number(part[i]) for name, part in scores.parts.items()}
        lines.append(line)
    return lines


def _number(score: float) -> float | None:
    """Returns what JSON can hold: null where a reward could not score, or was infinite."""
    return float(score) if math.isfinite(score) else None
