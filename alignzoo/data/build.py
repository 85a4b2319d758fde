"""Instruction data from the data of NLP tasks: instances, what their task asks, and templates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from alignzoo.config import Config
from alignzoo.data.duplicates import ExactDuplicates
from alignzoo.data.row import DataSource, Row
from alignzoo.data.rows import iterate_rows
from alignzoo.data.splits import content_key
from alignzoo.data.templates import Templates
from alignzoo.errors import DataError, did_you_mean

ABSENT = ("", "-", "None", ["-"], [None], None)  # how task files write that there is nothing
OUTPUTS = ("outputs", "output", "answers")


class BuildOptions(Config):
    """How instruction data is made of task data."""

    per_instance: int = Field(
        1, gt=0, description="templates used for one instance, drawn among those that fit"
    )
    max_per_task: int | None = Field(
        None, gt=0, description="most instances of one task, the first of them"
    )
    layout: Literal["chat", "text"] = Field(
        "chat", description="prompt and completion as chat messages, or as text"
    )
    keep: list[str] = Field(
        default_factory=lambda: ["task", "split"],
        description="columns of the instance that stay beside prompt and completion",
    )
    seed: int = Field(0, ge=0, description="of the choice of template and of output")


@dataclass
class BuildReport:
    """How many instances were read, rows made, and what was left out and why."""

    instances: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)


def build_rows(
    instances: DataSource,
    templates: Templates,
    options: BuildOptions,
    report: BuildReport,
    *,
    tasks: DataSource | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields demonstrations made of task instances, in order.

    A template sees the instance's columns, over those of its task, and `output`: one of `outputs`
    where there are several, drawn. What is drawn depends on the seed and the instance alone.

    Args:
        tasks: rows with a column `task`, which the instances name; None where instances say all.
        report: is filled in while rows are made.
    Raises:
        DataError: a row is wrong, an instance names no task of `tasks`, or a template does not fit
            its columns; the message names file, line and template.
    """
    known = None if tasks is None else _read_tasks(tasks)
    seen = ExactDuplicates()
    for row in iterate_rows(instances, name="instances"):
        report.instances += 1
        task = str(row.values.get("task", ""))
        if options.max_per_task is not None and report.tasks[task] >= options.max_per_task:
            report.dropped["over max_per_task"] += 1
            continue
        made = [
            values
            for values in _make(row, known, templates, options, report)
            if not _is_dropped(values, seen, row, report)
        ]
        report.tasks[task] += bool(made)
        for values in made:
            report.rows += 1
            report.templates[values["template"]] += 1
            yield _lay_out(values, options)


def _read_tasks(source: DataSource) -> dict[str, Mapping[str, Any]]:
    tasks: dict[str, Mapping[str, Any]] = {}
    for row in iterate_rows(source, name="tasks"):
        name = row.values.get("task")
        if not isinstance(name, str):
            columns = ", ".join(f"'{column}'" for column in row.values)
            raise DataError(
                f"{row.where}: no name in the column 'task'; the columns are {columns}. Each task "
                "needs the name by which instances call it."
            )
        if name in tasks:
            raise DataError(f"{row.where}: the task '{name}' stands twice; leave one of them out.")
        tasks[name] = {
            column: "" if value in ABSENT else value for column, value in row.values.items()
        }
    return tasks


def _make(
    row: Row,
    tasks: Mapping[str, Mapping[str, Any]] | None,
    templates: Templates,
    options: BuildOptions,
    report: BuildReport,
) -> Iterator[dict[str, Any]]:
    """Yields the rows that one instance makes: its prompt, completion and what identifies it."""
    values = {**_task_of(row, tasks), **row.values}
    key = content_key(sorted(map(repr, row.values.items())), f"{options.seed} ")
    outputs = _outputs(row)
    if outputs is not None and not outputs:
        report.dropped["no output"] += 1
        return
    if outputs:
        values["output"] = outputs[int.from_bytes(key[:8], "big") % len(outputs)]
    fitting = templates.fitting(values, row.where)
    if not fitting:
        report.dropped["no template fits"] += 1
    for number in _draw(fitting, options.per_instance, key):
        prompt, completion = templates.fill(number, values, row.where)
        made = {"prompt": prompt, "completion": completion}
        identity = row.values.get("id")
        name = templates.templates[number].name
        kept = {column: row.values[column] for column in options.keep if column in row.values}
        identified = {} if identity is None else {"id": f"{identity}-{name}"}
        yield {**made, **kept, **identified, "template": name}


def _task_of(row: Row, tasks: Mapping[str, Mapping[str, Any]] | None) -> Mapping[str, Any]:
    if tasks is None:
        return {}
    name = row.values.get("task")
    if not isinstance(name, str) or name not in tasks:
        given = f"the task '{name}'" if isinstance(name, str) else "no text in the column 'task'"
        raise DataError(
            f"{row.where}: {given}, which is none of the {len(tasks)} tasks."
            f"{did_you_mean(str(name), tasks)} Add it to the tasks, or leave the row out."
        )
    return tasks[name]


def _outputs(row: Row) -> Sequence[Any] | None:
    """Returns the answers of an instance that are no empty text; None where no column has them."""
    column = next((name for name in OUTPUTS if name in row.values), None)
    if column is None:
        return None
    value = row.values[column]
    outputs = value if isinstance(value, list) else [value]
    return [output for output in outputs if output is not None and str(output).strip()]


def _draw(numbers: Sequence[int], count: int, key: bytes) -> list[int]:
    """Returns `count` of the numbers, in an order that the key alone decides."""
    return sorted(numbers, key=lambda n: hashlib.sha256(key + n.to_bytes(4, "big")).digest())[
        :count
    ]


def _is_dropped(
    values: Mapping[str, Any], seen: ExactDuplicates, row: Row, report: BuildReport
) -> bool:
    """Whether a row that was made is of no use; it is then counted."""
    reason = ""
    if not values["prompt"].strip():
        reason = "empty prompt"
    elif not values["completion"].strip():
        reason = "empty completion"
    elif seen.find(
        f"{values['prompt']}\0{values['completion']}", f"{row.where} {values['template']}"
    ):
        reason = "duplicate"
    if reason:
        report.dropped[reason] += 1
    return bool(reason)


def _lay_out(values: dict[str, Any], options: BuildOptions) -> dict[str, Any]:
    if options.layout == "text":
        return values
    return {
        **values,
        "prompt": [{"role": "user", "content": values["prompt"]}],
        "completion": [{"role": "assistant", "content": values["completion"]}],
    }
