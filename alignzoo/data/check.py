"""What a data file holds: its kind, how many rows of what lengths, and the first problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.data.columns import plain_text
from alignzoo.data.convert import check_kind, completions_of, find_data_kind, read_one
from alignzoo.data.feedback import ClassLabel, Ranking
from alignzoo.data.judgements import Rating
from alignzoo.data.kinds import NO_COLUMNS, rename
from alignzoo.data.row import DataSource
from alignzoo.data.rows import iterate_rows
from alignzoo.data.splits import prompt_key
from alignzoo.data.trees import gather_trees
from alignzoo.errors import DataError

MAX_CLASSES = 20


@dataclass(frozen=True)
class Spread:
    """How a number is spread over the rows, in characters where it is a length."""

    least: float
    median: float
    largest: float


@dataclass
class DataCheck:
    """What a file was found to hold.

    Args:
        kind: of data; None where no row could tell.
        rows: rows read.
        items: what they hold of the kind; of trees more than rows.
        columns: how many rows have each column.
        prompts: distinct prompts.
        lengths: of "prompt" and "completion", in characters.
        labels: how many rows have each of the commonest classes.
        ratings: their spread, and `unrated` how many have none.
        wrong: rows that cannot be read, and `problems` what is wrong with the first of them.
    """

    source: str
    kind: str | None = None
    rows: int = 0
    items: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    prompts: int = 0
    chat: int = 0
    lengths: dict[str, Spread] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    ratings: Spread | None = None
    unrated: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        return asdict(self)


def check_data(
    source: DataSource,
    *,
    kind: str | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    max_problems: int = 5,
) -> DataCheck:
    """Returns what a file, a hub data set or a list holds; wrong rows are counted, not raised.

    Rows are read one at a time; what is kept of each is its length, and its prompt's hash.

    Args:
        kind: what to read the rows as; told from the first where None.
        columns: the file's name of a column by ours.
        max_problems: how many problems are described.
    Raises:
        DataError: nothing can be read at all: no such file, or one that breaks off.
    """
    found = DataCheck(source=str(source) if isinstance(source, (str, Path)) else "data")
    found.kind = kind and check_kind(kind)
    tally = _Tally()

    def note(error: DataError) -> None:
        found.wrong += 1
        if len(found.problems) < max_problems:
            found.problems.append(str(error))

    for row in gather_trees(iterate_rows(source, on_error=note)):
        found.rows += 1
        tally.columns.update(map(str, row.values))
        try:
            renamed = rename(row, columns)
            found.kind = found.kind or find_data_kind(renamed)
            items = read_one(renamed, found.kind)
        except DataError as error:
            note(error)
            continue
        tally.add(items)
    tally.report(found)
    return found


class _Tally:
    """What is kept of the rows while they are read."""

    def __init__(self) -> None:
        self.columns: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.lengths: dict[str, Counter[int]] = {"prompt": Counter(), "completion": Counter()}
        self.ratings: Counter[float] = Counter()
        self.prompts: set[bytes] = set()
        self.items = self.chat = self.unrated = 0

    def add(self, items: Iterable[Any]) -> None:
        for item in items:
            self.items += 1
            self.chat += isinstance(item.prompt, list)
            self.prompts.add(prompt_key(item)[:8])
            self.lengths["prompt"][len(plain_text(item.prompt))] += 1
            answers = completions_of(item)
            self.lengths["completion"].update(len(plain_text(answer)) for answer in answers)
            if isinstance(item, ClassLabel):
                self.labels[item.label] += 1
            if isinstance(item, Rating):
                self._rate(item.rating)
            if isinstance(item, Ranking):
                self.labels[f"{len(item.completions)} completions"] += 1

    def _rate(self, rating: float) -> None:
        if math.isnan(rating):
            self.unrated += 1
        else:
            self.ratings[rating] += 1

    def report(self, found: DataCheck) -> None:
        found.items, found.chat, found.unrated = self.items, self.chat, self.unrated
        found.columns = dict(self.columns)
        found.prompts = len(self.prompts)
        found.labels = dict(self.labels.most_common(MAX_CLASSES))
        found.lengths = {name: _spread(counts) for name, counts in self.lengths.items() if counts}
        found.ratings = _spread(self.ratings) if self.ratings else None


def _spread(counts: Mapping[Any, int]) -> Spread:
    """Returns least, median and largest of numbers given by how often each occurs."""
    ordered = sorted(counts)
    left = sum(counts.values()) // 2
    for value in ordered:
        left -= counts[value]
        if left < 0:
            break
    return Spread(float(ordered[0]), float(value), float(ordered[-1]))
