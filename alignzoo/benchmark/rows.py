"""Rows of results: what statistics ask of them, and reading them from a file or folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignzoo.errors import DataError

Row = dict[str, Any]
Key = tuple[str, str, Any]

NEEDED = ("task", "algorithm", "seed")
DEFAULTS: dict[str, Any] = {
    "status": "ok",
    "error": None,
    "range": [0.0, 1.0],
    "optimum": None,
    "metric": "score",
    "budget": {},
    "curve": [],
    "kl": None,
    "proxy": None,
    "samples": None,
    "tokens": None,
    "seconds": None,
    "peak_memory": None,
}


def load_rows(path: str | Path) -> list[Row]:
    """Returns the rows of a benchmark's folder, or of a file of JSON lines, as `check_rows` does.

    A row needs `task`, `algorithm`, `seed` and `score`; the others have defaults.

    Raises:
        DataError: there is no such file, or a line is no row; the message names file and line.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "results.jsonl"
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"'{file}' cannot be read ({error.strerror}); expected the folder of a benchmark or "
            "its results.jsonl"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"'{file}' is no text in UTF-8; expected JSON lines") from None
    numbered = [(f"'{file}', line {i}", line) for i, line in enumerate(lines, start=1)]
    rows = check_rows((where, _parsed(line, where)) for where, line in numbered if line.strip())
    if not rows:
        raise DataError(f"'{file}' has no rows; expected one for each run")
    return rows


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "it is nested too deeply")
        raise DataError(f"{where} is no JSON: {reason}; expected one object a line") from None


def check_rows(named: Iterable[tuple[str, Any]]) -> list[Row]:
    """Returns rows with their defaults, by task, algorithm and seed; new objects.

    Args:
        named: (where it is from, row).
    Raises:
        DataError: a row lacks something or has what cannot be; two rows of one run; rows of one
            task that disagree about its range or optimum.
    """
    rows: dict[Key, Row] = {}
    places: dict[Key, str] = {}
    scales: dict[str, tuple[Any, str]] = {}
    for where, given in named:
        row = _checked(given, where)
        key = (row["task"], row["algorithm"], row["seed"])
        if key in rows:
            raise DataError(
                f"{where}: task '{key[0]}', algorithm '{key[1]}', seed {key[2]} is in "
                f"{places[key]} already; expected each run once"
            )
        scale = (row["range"], row["optimum"])
        known, place = scales.setdefault(row["task"], (scale, where))
        if known != scale:
            raise DataError(
                f"{where}: task '{key[0]}' has range {scale[0]} and optimum {scale[1]}, but "
                f"{known[0]} and {known[1]} in {place}; expected the same in all of its rows"
            )
        rows[key], places[key] = row, where
    return sorted(rows.values(), key=_place)


def is_failed(row: Mapping[str, Any]) -> bool:
    """Whether a run came to nothing: it failed, or its score is no finite number."""
    score = row.get("score")
    return row.get("status", "ok") != "ok" or score is None or not math.isfinite(score)


def _checked(given: Any, where: str) -> Row:
    if not isinstance(given, Mapping):
        raise DataError(f"{where} is {_shown(given)}; expected an object with {_listed(NEEDED)}")
    for name in NEEDED:
        if name not in given:
            raise DataError(f"{where} has no '{name}'; a row needs {_listed((*NEEDED, 'score'))}")
    row = {**DEFAULTS, **given}
    for name in ("task", "algorithm"):
        if not isinstance(row[name], str) or not row[name]:
            raise DataError(f"{where}: '{name}' is {_shown(row[name])}; expected a text")
    if isinstance(row["seed"], bool) or not isinstance(row["seed"], (int, np.integer, str)):
        raise DataError(f"{where}: 'seed' is {_shown(row['seed'])}; expected a whole number")
    if row["status"] == "ok" and "score" not in row:
        raise DataError(f"{where} has no 'score'; a row needs {_listed((*NEEDED, 'score'))}")
    for name in ("score", "optimum", "kl", "proxy", "samples", "seconds", "peak_memory"):
        _check_number(row.get(name), name, where)
    _check_details(row, where)
    row["range"] = _checked_range(row["range"], where)
    row["curve"] = _checked_curve(row["curve"], where)
    return row


def _check_details(row: Row, where: str) -> None:
    """Checks what statistics do not need, and tables show."""
    for name in ("status", "metric", "budget"):
        row[name] = DEFAULTS[name] if row[name] is None else row[name]
    for name in ("budget", "chosen", "tuning"):
        _check_mapping(row.get(name), name, where)
    for who, names in (row.get("chosen") or {}).items():
        _check_mapping(names, f"chosen' by '{who}", where)
    for amount in row["budget"].values():
        _check_number(amount, "budget", where)


def _check_number(value: Any, name: str, where: str) -> None:
    if value is not None and not _is_number(value):
        raise DataError(f"{where}: '{name}' is {_shown(value)}; expected a number")


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**1000  # JSON's may be larger than any float
    return isinstance(value, (float, np.floating, np.integer))


def _check_mapping(value: Any, name: str, where: str) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise DataError(f"{where}: '{name}' is {_shown(value)}; expected an object")


def _checked_range(value: Any, where: str) -> list[float]:
    ends = value if isinstance(value, (list, tuple)) else []
    known = len(ends) == 2 and all(_is_number(end) and math.isfinite(end) for end in ends)
    if not known or not ends[0] < ends[1]:
        raise DataError(
            f"{where}: 'range' is {_shown(value)}; expected the least and the largest score, such "
            "as [0, 1]"
        )
    return [float(end) for end in ends]


def _checked_curve(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(point, Mapping) for point in value):
        raise DataError(f"{where}: 'curve' is {_shown(value)}; expected a list of points")
    for point in value:
        for name in ("samples", "score", "kl", "proxy"):
            _check_number(point.get(name), f"{name}' of a point of 'curve", where)
    return [dict(point) for point in value]


def _place(row: Row) -> tuple[str, str, bool, Any]:
    """Returns what rows are sorted by; seeds that are numbers come before those that are texts."""
    return row["task"], row["algorithm"], isinstance(row["seed"], str), row["seed"]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
