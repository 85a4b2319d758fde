"""In what the conditions of two benchmarks differ, in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignzoo.benchmark.rows import Row

# What a row says, and how a sentence calls it; of mappings only the entries that differ are named.
OF_TASK = {
    "metric": "metric",
    "range": "range",
    "optimum": "optimum",
    "task_revision": "revision",
    "task_distribution": "distribution",
    "task_version": "version",
    "task_options": "option",
    "policy": "initial policy",
    "settings": "setting",
    "budget": "budget of",
    "threads": "threads",
}
OF_ALGORITHM = {
    "revision": "revision",
    "distribution": "distribution",
    "version": "version",
    "options": "option",
}
OF_MACHINE = {"versions": "version of", "python": "Python", "cpu": "processor"}
OF_TEXT = {"task_code": "the task's file", "code": "the algorithm's file"}


def differing_conditions(
    first: Sequence[Row], second: Sequence[Row], *, same_algorithms: bool = True
) -> list[str]:
    """Returns a sentence for each condition that differs between rows A and rows B.

    Args:
        first: of A.
        second: of B; rows of tasks or algorithms that only one has are not looked at.
        same_algorithms: whether what belongs to an algorithm is compared too.
    """
    found = [*_compared("", first, second, OF_MACHINE)]
    for name in _both(first, second, lambda row: row["task"]):
        a, b = (_of(rows, task=name) for rows in (first, second))
        found += _compared(f"task {name}: ", a, b, OF_TASK)
        found += _edited(f"task {name}: ", a, b, "task_code")
    if same_algorithms:
        found += _of_algorithms(first, second)
    return [*found, *_unsaid(first, second)]


def _of_algorithms(first: Sequence[Row], second: Sequence[Row]) -> list[str]:
    """Returns sentences about algorithms; one that holds on several tasks is said once."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, id in _both(first, second, lambda row: (row["task"], row["algorithm"])):
        a, b = (_of(rows, task=task, algorithm=id) for rows in (first, second))
        for text in (
            *_compared("", a, b, OF_ALGORITHM),
            *_edited("", a, b, "code"),
            *_tuned(a, b),
        ):
            tasks.setdefault((id, text), []).append(task)
    return [f"{id} on {', '.join(names)}: {text}" for (id, text), names in tasks.items()]


def _both(first: Sequence[Row], second: Sequence[Row], key: Callable[[Row], Any]) -> list[Any]:
    return sorted({key(row) for row in first} & {key(row) for row in second})


def _of(rows: Sequence[Row], **names: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in names.items())]


def _compared(
    subject: str, first: Sequence[Row], second: Sequence[Row], words: Mapping[str, str]
) -> Iterator[str]:
    for name, word in words.items():
        a, b = (_values(rows, name) for rows in (first, second))
        if not a or not b or a == b:
            continue
        if all(isinstance(value, Mapping) for value in (*a, *b)):
            yield from _compared_entries(subject, a, b, word)
        else:
            yield f"{subject}{word} is {_or(a)} in A and {_or(b)} in B"


def _compared_entries(
    subject: str, first: Sequence[Any], second: Sequence[Any], word: str
) -> Iterator[str]:
    for entry in sorted({name for value in (*first, *second) for name in value}):
        a, b = (
            _distinct([value.get(entry, "not set") for value in values])
            for values in (first, second)
        )
        if a != b:
            yield f"{subject}{word} {entry} is {_or(a)} in A and {_or(b)} in B"


def _edited(subject: str, first: Sequence[Row], second: Sequence[Row], name: str) -> Iterator[str]:
    a, b = (_values(rows, name) for rows in (first, second))
    if a and b and a != b:
        yield f"{subject}{OF_TEXT[name]} is another version in A than in B"


def _tuned(first: Sequence[Row], second: Sequence[Row]) -> Iterator[str]:
    a, b = (any(row.get("tuning") for row in rows) for rows in (first, second))
    if a != b:
        yield f"options were tuned in {'A' if a else 'B'} and not in {'B' if a else 'A'}"
    elif _values(first, "tuning") != _values(second, "tuning"):
        yield "options were tuned over another grid, or on other seeds, in A than in B"


def _unsaid(first: Sequence[Row], second: Sequence[Row]) -> Iterator[str]:
    """Yields what rows of one side say and those of the other do not."""
    names = [*OF_TASK, *OF_ALGORITHM, *OF_MACHINE]
    for own, rows, others in (("A", first, second), ("B", second, first)):
        missing = [name for name in names if not _values(rows, name) and _values(others, name)]
        if missing:
            yield f"the rows of {own} do not say: {', '.join(missing)}"


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    """Returns the different values of rows that have one."""
    return _distinct([row[name] for row in rows if row.get(name) not in (None, {}, [])])


def _distinct(values: Sequence[Any]) -> list[Any]:
    texts = {json.dumps(value, sort_keys=True, default=str): value for value in values}
    return [texts[text] for text in sorted(texts)]


def _or(values: Sequence[Any]) -> str:
    return " or ".join(_shown(value) for value in values)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
