"""The folder of a benchmark: one row per cell in results.jsonl, whole after every cell.

OUT/results.jsonl                      rows by task, algorithm and seed, failures included
OUT/report.html                        tables and curves, one self-contained file
OUT/runs/TASK/ALGORITHM/SEED/          each cell's run, as `alignzoo train` leaves it
OUT/tuning/POINT/                      a sweep: for each point of the grid, a folder like this one
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignzoo.benchmark.cells import Key, differences
from alignzoo.errors import ConfigError, DataError

Row = dict[str, Any]
LOCK = ".lock"
OWN = ("runs", "tuning", LOCK)  # what a folder may hold before its first result


class Results:
    """The rows of a benchmark's folder, by cell."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.path = self.folder / "results.jsonl"
        self.rows: dict[Key, Row] = {}

    def check_place(self) -> None:
        """Checks that the folder is new, empty or a benchmark's; writes nothing.

        Raises:
            ConfigError: it holds something else.
        """
        for path in (self.folder, *self.folder.parents):
            if path.exists() and not path.is_dir():
                raise ConfigError(f"--out: '{path}' is a file; expected a folder to make")
        if not self.path.exists():
            others = [p.name for p in self.folder.iterdir()] if self.folder.exists() else []
            if any(name not in OWN for name in others):
                raise ConfigError(
                    f"--out '{self.folder}' holds no benchmark and is not empty; give a new folder"
                )

    def open(self, wanted: Mapping[Key, Mapping[str, Any]]) -> None:
        """Reads what is there and checks that it can be gone on with; writes nothing.

        Args:
            wanted: by cell, what its result is to follow from.
        Raises:
            ConfigError: the folder holds something else, or results of other conditions; the
                message names what differs.
        """
        self.check_place()
        self.check_conditions(wanted)
        for key, identity in wanted.items():
            row = self.rows.get(key)
            if row is not None and row["status"] != "ok":
                del self.rows[key]  # it is made again
            elif row is not None:
                self._check_same(row, identity)

    def check_conditions(self, wanted: Mapping[Key, Mapping[str, Any]]) -> None:
        """Reads what is there and checks that it has these tasks under the same conditions.

        Raises:
            ConfigError: it has others; the message names what differs.
        """
        self.rows = {_key(row): row for row in self._read()}
        # The cells of a task share these, so one of them is enough.
        of_tasks = {task: identity for (task, _, _), identity in wanted.items()}
        for row in self.rows.values():
            identity = of_tasks.get(row["task"], {})
            self._check_same(row, {k: v for k, v in identity.items() if _is_of_task(k)})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps the folder to this process, until it ends or is done.

        Raises:
            ConfigError: another process is writing to it.
        """
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"--out '{self.folder}' is being written to by another `alignzoo bench`; wait "
                    "for it, or give another folder"
                ) from None
            yield

    def _read(self) -> list[Row]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        try:
            rows: list[Row] = [json.loads(line) for line in lines]
            for row in rows:
                _key(row), row["status"], row["budget"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"'{self.path}' is no benchmark's result ({error}); give another --out"
            ) from None
        return rows

    def _check_same(self, row: Row, identity: Mapping[str, Any]) -> None:
        for name, before, now in differences(row, json.loads(json.dumps(identity))):
            what = f"task '{row['task']}'" if name.startswith("task") else f"'{row['algorithm']}'"
            if name in ("code", "task_code"):
                found = f"were made with another version of the file that {what} is in"
            else:
                before, now = _part(before, now)
                found = f"of {what} have {name} {before!r}, and now it is {now!r}"
            raise ConfigError(
                f"the results in '{self.folder}' {found}; give another --out, or run the same "
                "command as before"
            )

    def add(self, row: Row, order: Sequence[Key]) -> None:
        """Adds a row and replaces the file in one step; rows of no cell in `order` come last."""
        self.rows[_key(row)] = row
        place = {key: i for i, key in enumerate(order)}
        ordered = sorted(self.rows.items(), key=lambda item: place.get(item[0], len(place)))
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".results.jsonl.{os.getpid()}"
        with aside.open("w", encoding="utf-8") as file:
            for _, one in ordered:
                file.write(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)


def _key(row: Mapping[str, Any]) -> Key:
    return row["task"], row["algorithm"], row["seed"]


def _is_of_task(name: str) -> bool:
    return name.startswith("task") or name in ("settings", "budget", "threads")


def _part(before: Any, now: Any) -> tuple[Any, Any]:
    """Returns what differs of two mappings, and other values as they are."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return before, now
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return {n: before.get(n) for n in names}, {n: now.get(n) for n in names}
