"""What each run of a benchmark may use up: responses, tokens or seconds, the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignzoo.errors import ConfigError

UNITS = ("samples", "tokens", "seconds")
FORMS = "samples=N, tokens=N or seconds=X, such as samples=6400"


@dataclass(frozen=True)
class Budget:
    """An amount of one unit.

    `samples` are responses sampled, or read by algorithms that do not sample (a pair is two), and
    `tokens` are theirs; those of dropped responses count. `seconds` are of collecting and learning
    on this machine, measuring left out, so results differ from run to run.
    """

    unit: str
    amount: float

    @property
    def record(self) -> dict[str, float]:
        """What results say of it: {unit: amount}."""
        return {self.unit: self.amount}

    def __str__(self) -> str:
        return f"{self.unit}={self.amount}"

    def used(self, line: Mapping[str, Any], before: float) -> float:
        """Returns what a run has used by a line of its metrics, of what it used by the last."""
        here: float = line[self.unit]
        return before + here if self.unit == "seconds" else here


def parse_budget(text: str | None) -> Budget | None:
    """Returns the budget that `samples=N`, `tokens=N` or `seconds=X` says."""
    if text is None:
        return None
    unit, _, amount = text.partition("=")
    try:
        number: float = float(amount) if unit == "seconds" else int(amount)
    except ValueError:
        number = 0
    if unit not in UNITS or not 0 < number < float("inf"):
        raise ConfigError(f"--budget is '{text}'; expected {FORMS}")
    return Budget(unit, number)
