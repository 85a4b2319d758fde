"""`alignzoo data COMMAND FILE`: looks into data files, and makes one of another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import Given, OptionSet
from alignzoo.cli.output import print_json, print_table
from alignzoo.config import Config
from alignzoo.data.build import BuildOptions
from alignzoo.data.dialogues import DialogueOptions
from alignzoo.data.filters import FilterOptions
from alignzoo.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

USAGE = "alignzoo data COMMAND FILE [OPTION]..."
COLUMNS = 'what the file calls our columns, as JSON: {"completion": "text"}'
KIND = "prompts, demonstrations or a kind of judgement; default told from the first row"
OUT = "file to write, .jsonl or .jsonl.gz"
SKIP = "leave out rows that are wrong, and count them, instead of refusing the file"


class CheckOptions(Config):
    """What `alignzoo data check` can be told."""

    kind: str | None = Field(None, description=KIND)
    columns: dict[str, str] = Field(default_factory=dict, description=COLUMNS)
    max_problems: int = Field(5, ge=1, description="how many problems are described")


class ConvertOptions(Config):
    """What `alignzoo data convert` can be told."""

    out: str = Field(..., description=OUT)
    to: str = Field(..., description="kind to make: prompts, demonstrations or one of judgement")
    kind: str | None = Field(None, description="kind of the file; default told from the first row")
    columns: dict[str, str] = Field(default_factory=dict, description=COLUMNS)
    skip_wrong: bool = Field(False, description=SKIP)


class KeepOptions(Config):
    """What `alignzoo data filter` can be told, apart from the filters."""

    out: str = Field(..., description=OUT)
    kind: str | None = Field(None, description=KIND)
    columns: dict[str, str] = Field(default_factory=dict, description=COLUMNS)
    skip_wrong: bool = Field(False, description=SKIP)


class SplitOptions(Config):
    """What `alignzoo data split` can be told."""

    out: str = Field(..., description="folder to write the parts to, as NAME.jsonl")
    parts: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.9, "test": 0.1},
        description="share of each part, as JSON; the last is what training would hold out",
    )
    by: str | None = Field(None, description="column whose rows stay together; default the prompt")
    salt: str = Field("", description="each gives another split; without, that of training")
    kind: str | None = Field(None, description=KIND)
    columns: dict[str, str] = Field(default_factory=dict, description=COLUMNS)


class MakeOptions(Config):
    """What `alignzoo data build` can be told, apart from how rows are made."""

    out: str = Field(..., description=OUT)
    templates: str = Field(
        "tasks",
        description="YAML file of templates, or a set: tasks (columns input and outputs, with "
        "--tasks) or questions (columns question and answer)",
    )
    tasks: str | None = Field(
        None, description="file of tasks, which instances name in their column 'task'"
    )


class DialogueFileOptions(Config):
    """What `alignzoo data dialogues` can be told, apart from how turns are read."""

    out: str = Field(..., description=OUT)
    skip_wrong: bool = Field(False, description=SKIP)


def run(arguments: list[str]) -> int:
    """Runs a subcommand on a file."""
    name, source, rest = _split_arguments(arguments)
    command = COMMANDS[name]
    parser = Parser(f"data {name}", command.summary)
    options = OptionSet(command.options)
    options.add_to(parser)
    parser.usage = f"%(prog)s {command.file} [OPTION]..."
    parser.switch("json", "print the counts as JSON")
    namespace = parser.parse(rest)
    if not source:
        raise ConfigError(f"data {name} needs a file: alignzoo data {name} {command.file}")
    return command.run(source, options.read(namespace), namespace)


def _split_arguments(arguments: list[str]) -> tuple[str, str, list[str]]:
    """Returns the subcommand, its file ("" where none is given), and the rest."""
    lines = "\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items())
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\nLooks into data files, and makes one of another.\n\n{lines}")
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"name what to do: {', '.join(COMMANDS)}; as in {USAGE}")
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ConfigError(
            f"data has no command '{name}'; expected one of {', '.join(COMMANDS)}."
            f"{did_you_mean(name, COMMANDS)}"
        )
    if rest and not rest[0].startswith("-"):
        return name, rest[0], rest[1:]
    return name, "", rest


class _Skipped:
    """Rows that were wrong and left out; the first is named."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def __call__(self, error: DataError) -> None:
        self.count += 1
        self.first = self.first or str(error)

    def tell(self) -> None:
        """Says on standard error how many rows were left out."""
        if self.count:
            print(f"left out {self.count} wrong rows; the first: {self.first}", file=sys.stderr)


def _on_error(skip: bool, skipped: _Skipped) -> Callable[[DataError], None]:
    from alignzoo.data.row import refuse

    return skipped if skip else refuse


def _check(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data.check import check_data

    options = given.build(CheckOptions, "data check")
    found = check_data(
        source, kind=options.kind, columns=options.columns, max_problems=options.max_problems
    )
    if namespace.json:
        print_json(found.to_json())
    else:
        print_table(source, ("what", "found"), _check_rows(found))
    if found.wrong:
        for problem in found.problems[1:]:
            print(problem, file=sys.stderr)
        raise DataError(f"{found.problems[0]} Rows that are wrong: {found.wrong}.")
    return 0


def _check_rows(found: Any) -> list[tuple[str, str]]:
    rows = [
        ("kind", found.kind or "unknown"),
        ("rows", str(found.rows)),
        *([(found.kind, str(found.items))] if found.items != found.rows else []),
        ("distinct prompts", str(found.prompts)),
        ("as chat", str(found.chat)),
        ("wrong rows", str(found.wrong)),
    ]
    for name, spread in found.lengths.items():
        shown = f"{spread.least:g} to {spread.largest:g}, median {spread.median:g} characters"
        rows.append((f"{name} length", shown))
    if found.ratings:
        spread = found.ratings
        rows.append(("rating", f"{spread.least:g} to {spread.largest:g}, median {spread.median:g}"))
        rows.append(("without a rating", str(found.unrated)))
    rows += [(f"rows of {label}", str(count)) for label, count in found.labels.items()]
    return rows + [(f"column '{name}'", str(count)) for name, count in found.columns.items()]


def _convert(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data.convert import convert_rows
    from alignzoo.data.rows import iterate_rows
    from alignzoo.data.write import write_rows

    options = given.build(ConvertOptions, "data convert")
    skipped = _Skipped()
    on_error = _on_error(options.skip_wrong, skipped)
    rows = convert_rows(
        iterate_rows(source, on_error=on_error),
        options.to,
        source=options.kind,
        columns=options.columns,
        on_error=on_error,
    )
    count = write_rows(options.out, rows)
    _finish(options.out, {"rows written": count, "wrong rows": skipped.count}, skipped, namespace)
    return 0


def _filter(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data.filters import FilterReport, filter_rows
    from alignzoo.data.rows import iterate_rows
    from alignzoo.data.write import write_rows

    options = given.build(KeepOptions, "data filter")
    filters = given.build(FilterOptions, "data filter")
    skipped, report = _Skipped(), FilterReport()
    on_error = _on_error(options.skip_wrong, skipped)
    rows = filter_rows(
        iterate_rows(source, on_error=on_error),
        filters,
        report,
        kind=options.kind,
        columns=options.columns,
        on_error=on_error,
    )
    write_rows(options.out, rows)
    counts = {"rows read": report.rows, "kept": report.kept, "wrong rows": skipped.count}
    dropped = {f"dropped: {reason}": count for reason, count in report.dropped.items()}
    _finish(options.out, {**counts, **dropped}, skipped, namespace, {"first": report.first})
    return 0


def _split(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data import split_file

    options = given.build(SplitOptions, "data split")
    counts = split_file(
        source,
        Path(options.out),
        options.parts,
        by=options.by,
        salt=options.salt,
        kind=options.kind,
        columns=options.columns,
    )
    _finish(options.out, counts, _Skipped(), namespace)
    return 0


def _build(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data.build import BuildReport, build_rows
    from alignzoo.data.templates import read_templates
    from alignzoo.data.write import write_rows

    options = given.build(MakeOptions, "data build")
    making = given.build(BuildOptions, "data build")
    report = BuildReport()
    templates = read_templates(options.templates)
    write_rows(options.out, build_rows(source, templates, making, report, tasks=options.tasks))
    counts = {"instances": report.instances, "tasks": len(report.tasks), "rows": report.rows}
    made = {f"template {name}": count for name, count in sorted(report.templates.items())}
    dropped = {f"dropped: {reason}": count for reason, count in report.dropped.items()}
    _finish(options.out, {**counts, **made, **dropped}, _Skipped(), namespace)
    return 0


def _dialogues(source: str, given: Given, namespace: Namespace) -> int:
    from alignzoo.data.dialogues import DialogueReport, dialogue_rows
    from alignzoo.data.rows import iterate_rows
    from alignzoo.data.write import write_rows

    options = given.build(DialogueFileOptions, "data dialogues")
    reading = given.build(DialogueOptions, "data dialogues")
    skipped, report = _Skipped(), DialogueReport()
    on_error = _on_error(options.skip_wrong, skipped)
    rows = iterate_rows(source, on_error=on_error)
    write_rows(options.out, dialogue_rows(rows, reading, report, on_error=on_error))
    counts = {"dialogues": report.dialogues, "kept": report.kept, "wrong rows": skipped.count}
    changed = {f"changed: {reason}": count for reason, count in report.changed.items()}
    dropped = {f"dropped: {reason}": count for reason, count in report.dropped.items()}
    _finish(options.out, {**counts, **changed, **dropped}, skipped, namespace)
    return 0


def _finish(
    out: str,
    counts: Mapping[str, int],
    skipped: _Skipped,
    namespace: Namespace,
    further: Mapping[str, Any] | None = None,
) -> None:
    """Prints what was written and left out."""
    skipped.tell()
    if namespace.json:
        print_json({"out": out, "counts": counts, **(further or {})})
    else:
        print_table(out, ("what", "count"), [(what, str(count)) for what, count in counts.items()])


class Command(NamedTuple):
    """A subcommand: what it does, its file, its options, and the function that runs it."""

    summary: str
    file: str
    options: Mapping[str, type[Config]]
    run: Callable[[str, Given, Namespace], int]


COMMANDS: Mapping[str, Command] = {
    "check": Command(
        "what a file holds: its kind, how many rows of what lengths, and the first problems",
        "FILE",
        {"check": CheckOptions},
        _check,
    ),
    "convert": Command(
        "any schema to our columns, and one kind of data to another",
        "FILE",
        {"convert": ConvertOptions},
        _convert,
    ),
    "filter": Command(
        "leaves out rows by length, language and duplicates, and counts why",
        "FILE",
        {"file": KeepOptions, "filter": FilterOptions},
        _filter,
    ),
    "split": Command(
        "parts of a file, no prompt in two of them, that stay the same when rows are added",
        "FILE",
        {"split": SplitOptions},
        _split,
    ),
    "build": Command(
        "instruction data from the instances of NLP tasks, by templates",
        "INSTANCES",
        {"file": MakeOptions, "build": BuildOptions},
        _build,
    ),
    "dialogues": Command(
        "chat demonstrations from dialogues",
        "FILE",
        {"file": DialogueFileOptions, "dialogue": DialogueOptions},
        _dialogues,
    ),
}
