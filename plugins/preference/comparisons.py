"""Comparisons, and what the columns `tie` and `margin` of a pair say."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import alignzoo as az

TRUTHS = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}


@dataclass(frozen=True)
class Comparison:
    """Two or more responses to one prompt, best first; `reversed` is the share turned round."""

    prompt: Any
    responses: tuple[str, ...]
    margin: float
    reversed: float
    where: str


def read_tie(row: Any) -> bool:
    """Returns whether the column `tie` says that neither response is better."""
    value = row.columns.get("tie")
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise az.DataError(f"{row.where}: 'tie' is {value!r}; expected true or false.")
    return found


def read_margin(row: Any) -> float:
    """Returns the column `margin`, 0 where there is none."""
    value = row.columns.get("margin")
    if value is None or value == "":
        return 0.0
    try:
        margin = float(value) if isinstance(value, (Real, str)) else -1.0
    except ValueError:
        margin = -1.0
    if not 0 <= margin < float("inf"):
        raise az.DataError(
            f"{row.where}: 'margin' is {value!r}; expected a number from 0 up, how much better "
            "the chosen response is."
        )
    return margin
