"""The folder of a run: what each file is called, how lines are added, and how it is cut back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from alignzoo.errors import ConfigError, RunError

LINE_FILES = ("metrics.jsonl", "samples.jsonl", "timings.jsonl", "skipped.jsonl")


class RunFolder:
    """Reads and writes the files of one run.

    `metrics.jsonl` has one line per update and is the same, bit for bit, however often the run was
    interrupted (`seconds` aside); `timings.jsonl` says where the seconds went.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.final = self.path / "final"
        self._was_made = False

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.yaml").exists()

    def check_free(self) -> None:
        """Checks that a run can be made here without writing over anything.

        Raises:
            ConfigError: the folder holds a run already, or other files that are not ours.
        """
        if self.holds_run:
            raise ConfigError(
                f"out '{self.path}' already holds a run; give another folder, or go on with "
                f"--resume --out {self.path}"
            )
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise ConfigError(f"out: '{path}' is a file; expected a folder to make")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ConfigError(f"out '{self.path}' is not empty; give a new folder")

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder and writes config.yaml; raises as `check_free` does."""
        self.check_free()
        try:
            self._was_made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_config(config)
        except OSError as error:
            raise ConfigError(f"out '{self.path}' cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Removes the run, and its folder if it was made here; for a run that never began."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._was_made:
            self.path.rmdir()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replaces config.yaml atomically."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        aside = self.path / ".config.yaml"
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path / "config.yaml")

    def read_config(self) -> dict[str, Any]:
        """Returns config.yaml.

        Raises:
            ConfigError: there is no run here, or its config cannot be read.
        """
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(
                f"'{self.path}' holds no run to resume: it has no config.yaml"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"'{self.path}/config.yaml' cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"'{self.path}/config.yaml' is not valid YAML: {error}") from error
        if not isinstance(config, dict):
            raise ConfigError(f"'{self.path}/config.yaml' is not a mapping")
        return config

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to a JSON-lines file."""
        text = "".join(
            json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )
        if text:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)

    def read(self, name: str) -> list[dict[str, Any]]:
        """Returns the whole lines of a JSON-lines file; a half-written last one is left out."""
        path = self.path / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunError(f"'{path}' was damaged: {error}") from error

    def cut_back(self, step: int, *, keep_evaluation: bool = True) -> None:
        """Removes every line after update `step` from the files that grow by lines.

        Args:
            keep_evaluation: False also removes what was measured at `step` only because the run
                was to end there; a longer run would not have measured it.
        """
        for name in LINE_FILES:
            path = self.path / name
            if not path.exists():
                continue
            rows = [row for row in self.read(name) if row["step"] <= step]
            if not keep_evaluation and name == "samples.jsonl":
                rows = [row for row in rows if row["step"] != step]
            elif not keep_evaluation and name == "metrics.jsonl" and rows:
                rows[-1] = {k: v for k, v in rows[-1].items() if not k.startswith("eval_")}
            aside = path.with_name(f".{name}")
            aside.unlink(missing_ok=True)
            self.append(aside.name, rows)
            if rows:
                os.replace(aside, path)
            else:
                path.unlink()

    def sync(self) -> None:
        """Makes the line files durable, before a checkpoint that counts on them."""
        for name in LINE_FILES:
            path = self.path / name
            if path.exists():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
