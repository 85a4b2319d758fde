"""Judged rows made of a few texts, with scores given by name."""

from __future__ import annotations

from typing import Any

import numpy as np

import alignzoo as az
from alignzoo.data import read_judgements
from alignzoo.reward_report.judged import Judged, judge

VALUES = {"bad": 0.0, "good": 1.0}


class Fixed(az.RewardModel):
    """Scores each response by a table; what is not in it gets 0."""

    class_values = VALUES

    def __init__(self, scores: dict[str, float]) -> None:
        super().__init__(az.RewardConfig())
        self.scores = scores

    def score(self, prompts: Any, responses: Any) -> Any:
        return [self.scores.get(response, 0.0) for response in responses]

    def class_probabilities(self, prompts: Any, responses: Any) -> Any:
        scores = np.array(self.score(prompts, responses), dtype=float)
        table = np.stack([np.exp(-8 * (scores - value) ** 2) for value in VALUES.values()])
        return dict(zip(VALUES, table / table.sum(0), strict=True))


def fixed(**scores: float) -> Fixed:
    return Fixed(scores)


def rows_of(kind: str, given: list[Any], *, prompt: str = "") -> list[Any]:
    """Returns typed rows: of (better, worse), rankings, (text, truth), or lists of such."""
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(given):
        row: dict[str, Any] = {"prompt": prompt.format(number)}
        if kind == "preferences":
            row |= {"chosen": item[0], "rejected": item[1]}
        elif kind == "rankings":
            row |= {"completions": list(item)}
        elif kind == "steps":
            row |= {"steps": [text for text, _ in item], "ratings": [mark for _, mark in item]}
        else:
            name = "label" if kind == "classes" else "rating"
            row |= {"completion": item[0], name: item[1], "feedback": "words"}
        rows.append(row)
    return read_judgements(rows, [kind])[1]


def judged(kind: str, given: list[Any], *, prompt: str = "", **scores: float) -> Judged:
    """Returns the rows scored by a table."""
    return judge(fixed(**scores), kind, rows_of(kind, given, prompt=prompt))


def ones(found: Judged) -> np.ndarray[Any, Any]:
    """Returns the weights of every group once."""
    return np.ones(found.num_groups, dtype=np.int64)
