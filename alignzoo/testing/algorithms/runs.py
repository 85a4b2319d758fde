"""Short runs of the real trainer on the kit's policy, in a temporary folder."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.testing.algorithms.scenes import new_policy
from alignzoo.trainer import Trainer

if TYPE_CHECKING:
    from alignzoo.testing.algorithms.subject import AlgorithmSubject

STOP, END = 1, 3  # updates of the run that is stopped, and of the whole one
PROMPTS = [f"{who} {did}" for who in ("The dog", "A cat", "One bird") for did in "abcdefg"]
SOURCES: dict[str, list[dict[str, Any]]] = {
    "demonstrations": [{"prompt": p, "completion": f" then {p[::-1]}"} for p in PROMPTS],
    "preferences": [
        {"prompt": p, "chosen": f" then {p[::-1]}", "rejected": f" {p} again"} for p in PROMPTS
    ],
    "ratings": [
        {"prompt": p, "completion": f" then {p[: i % 9]}", "rating": (i % 5) / 4}
        for i, p in enumerate(PROMPTS)
    ],
}


def vary(completions: Sequence[str]) -> list[float]:
    """Returns a score in [0, 1) for each response: any two that differ score differently."""
    return [sum((i + 1) * ord(c) for i, c in enumerate(text)) % 997 / 997 for text in completions]


class Runs:
    """A whole run, the same run stopped half-way, and the stopped one gone on with."""

    def __init__(self, subject: AlgorithmSubject) -> None:
        self.subject = subject
        self._root = tempfile.TemporaryDirectory(prefix="alignzoo-check-")

    def _folder(self, name: str) -> Path:
        return Path(self._root.name) / name

    def _run(self, name: str, steps: int, *, resume: bool = False) -> Path:
        algorithm = self.subject.make_with(learning_rate=1e-3)
        needs, folder = algorithm.needs, self._folder(name)
        data: dict[str, Any] = {"data": SOURCES.get(needs.source)}
        if needs.source == "rollouts":
            data = {"prompts": PROMPTS, "reward": vary}
        with _quiet():
            Trainer(
                policy=new_policy(),
                algorithm=algorithm,
                out=folder,
                batch_size=needs.group_size * max(2, -(-8 // needs.group_size)),
                max_new_tokens=6,
                eval_every=2,
                eval_fraction=0.25,
                checkpoint_every=STOP,
                keep_checkpoints=END,
                **data,
            ).run(steps, resume=resume)
        return folder

    @cached_property
    def whole(self) -> Path:
        """Returns the folder of a run of `END` updates."""
        return self._run("whole", END)

    @cached_property
    def part(self) -> Path:
        """Returns the folder of the same run that ended after `STOP` updates."""
        return self._run("part", STOP)

    @cached_property
    def resumed(self) -> Path:
        """Returns a copy of `part`, gone on with to `END` updates."""
        shutil.copytree(self.part, self._folder("resumed"))
        return self._run("resumed", END, resume=True)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Returns metrics.jsonl without the seconds."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: v for name, v in line.items() if name != "seconds"} for line in lines]


@contextlib.contextmanager
def _quiet() -> Any:
    """Keeps the runs' own progress and warnings from the reader of a check."""
    level = logging.getLogger("alignzoo").level
    logging.getLogger("alignzoo").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.getLogger("alignzoo").setLevel(level)
