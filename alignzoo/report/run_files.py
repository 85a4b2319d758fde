"""Reading a run folder as it is: also one that was killed, is empty, or is still being written."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Series:
    """One metric over the run: `steps[i]` and `values[i]`, every value finite."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def append(self, step: float, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.steps, self.values, strict=True)


@dataclass
class MetricsFile:
    """What metrics.jsonl held.

    Args:
        series: by metric name, in order of appearance.
        num_updates: lines read.
        first_step: of the first line; 0 where something was measured before, or there is none.
        last_step: of the last line; 0 where there is none.
        malformed: lines that are no JSON object, the last line aside.
        not_finite: how many values of a metric were NaN or infinite, and are not in its series.
    """

    series: dict[str, Series] = field(default_factory=dict)
    num_updates: int = 0
    first_step: float = 0
    last_step: float = 0
    malformed: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)


def read_json_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yields one object per line, None for a malformed line; a malformed last line is left out.

    A killed run leaves half a line at the end; that is no fault worth a word.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        pending = False
        for line in file:
            if pending:
                yield None
            pending = False
            if not line.strip():
                continue
            row = _parse(line)
            if row is None:
                pending = True
            else:
                yield row


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def is_number(value: object) -> bool:
    """Whether `value` is a number that a metric may have; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_metrics(path: Path, before: Mapping[str, float] | None = None) -> MetricsFile:
    """Returns every numeric key of metrics.jsonl as a series; a line without `step` is numbered.

    Args:
        before: what was measured before the first update; it stands at step 0.
    """
    found = MetricsFile()
    for name, value in (before or {}).items():
        found.series.setdefault(name, Series()).append(0, value)
    for row in read_json_lines(path):
        if row is None:
            found.malformed += 1
            continue
        found.num_updates += 1
        step = row.pop("step", None)
        step = float(step) if is_number(step) and math.isfinite(step) else found.last_step + 1
        found.last_step = step
        if found.num_updates == 1 and not before:
            found.first_step = step
        for name, value in row.items():
            if not is_number(value):
                continue
            if math.isfinite(value):
                found.series.setdefault(name, Series()).append(step, float(value))
            else:
                found.not_finite[name] = found.not_finite.get(name, 0) + 1
    return found


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Returns config.yaml as a mapping and, where that failed, why."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "config.yaml is missing."
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, f"config.yaml could not be read: {' '.join(str(error).split())}"
    if not isinstance(config, dict):
        return {}, "config.yaml holds no mapping."
    return {str(key): value for key, value in config.items()}, ""
