"""The report on a trained reward: whether its scores are worth trusting, as JSON and HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.reward_report.evaluation import Evaluation, evaluate, quick_metrics
from alignzoo.reward_report.intervals import Measure, finite_or_none, measure

if TYPE_CHECKING:
    from alignzoo.overoptimisation import Overoptimisation

__all__ = [
    "Evaluation",
    "Measure",
    "RewardReport",
    "evaluate",
    "measure",
    "quick_metrics",
    "write_reward_report",
]

UNITS = {
    "preferences": "pairs",
    "rankings": "rankings",
    "ratings": "ratings",
    "classes": "labels",
    "text_feedback": "ratings",
    "steps": "responses",
}


@dataclass(frozen=True)
class RewardReport:
    """What training a reward came to.

    Args:
        about: the record of the training, as reward.json has it: id, options, data, seed.
        fit: what the reward's `fit` measured.
        held_out: what rows it did not learn from say of it; None where none were held out.
        training: the same figures on at most 1,000 of the rows it learned from.
        overoptimisation: the curve under best-of-n; None where none was asked for.
        notes: what a reader should know before trusting the figures.
    """

    about: Mapping[str, Any]
    fit: Mapping[str, float]
    held_out: Evaluation | None
    training: Mapping[str, float]
    overoptimisation: Overoptimisation | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, Measure]:
        """The held-out figures by name, the one to look at first; empty where there are none."""
        return dict(self.held_out.metrics) if self.held_out is not None else {}

    def summary(self) -> str:
        """Returns one line: the held-out figures beside the null baselines."""
        if self.held_out is None:
            return "nothing was held out, so nothing is known of how good the reward is"
        parts = [f"{name} {value}" for name, value in self.held_out.metrics.items()]
        beside = [
            f"{name} {value.value:.3f}"
            for name, value in self.held_out.baselines.items()
            if math.isfinite(value.value)
        ]
        units = UNITS[self.held_out.kind]
        text = f"held out, {self.held_out.num_rows:,} {units}: {', '.join(parts)}"
        return f"{text}; {', '.join(beside)}" if beside else text

    def to_json(self) -> dict[str, Any]:
        """Returns the whole report as JSON; what is not finite is null."""
        curve = self.overoptimisation
        return {
            **self.about,
            "fit": {name: finite_or_none(value) for name, value in self.fit.items()},
            "training": {name: finite_or_none(value) for name, value in self.training.items()},
            "held_out": None if self.held_out is None else self.held_out.to_json(),
            "overoptimisation": None if curve is None else curve.to_json(),
            "notes": self.notes,
        }


def write_reward_report(report: RewardReport, folder: Path) -> None:
    """Writes `report.json` and `report.html`, each of which needs no other file."""
    from alignzoo.reward_report.page import render

    text = json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
    # Half a surrogate pair, which is no text, is written as JSON's own escape.
    (folder / "report.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    page = render(report)
    (folder / "report.html").write_text(page, encoding="utf-8", errors="replace", newline="\n")
