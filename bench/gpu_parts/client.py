"""The worker's other side: asks it tasks, ends one that does not answer, and starts another."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
# A script's own folder comes before packages; these two hold what the worker imports by name.
FOLDERS = [WORKER.parents[1], WORKER.parents[1] / "kernel_speed"]
LAST_LINES = 8  # of a worker's log, where it ended before its time

Row = dict[str, Any]


class WorkerError(Exception):
    """A task that got no answer; the message says why."""


class Client:
    """A worker process that is started when it is first asked, and again after it ended."""

    def __init__(self, options: Row, log: Path, command: list[str] | None = None) -> None:
        self.options, self.log = options, log
        self.command = command or [sys.executable, str(WORKER)]
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, task: Row, timeout: float) -> Row:
        """The worker's answer.

        Raises:
            WorkerError: it ended, or did not answer in `timeout` seconds, and was ended then.
        """
        process = self.process or self._start()
        assert process.stdin is not None
        try:
            print(json.dumps(task), file=process.stdin, flush=True)
            line = self.lines.get(timeout=max(0.0, timeout))
        except BrokenPipeError:
            line = None
        except queue.Empty:
            self.end()
            raise WorkerError(f"no answer in {timeout:.0f} seconds") from None
        if line is None:
            self.end()
            raise WorkerError(f"the process ended: {self._last_words()}")
        reply: Row = json.loads(line)
        if reply.pop("lost", False):
            self.end()
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*self.command, json.dumps(self.options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(self._path())},
            )
        self.lines = queue.Queue()
        threading.Thread(target=_read, args=(self.process.stdout, self.lines), daemon=True).start()
        return self.process

    def _path(self) -> list[str]:
        return [*map(str, FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-LAST_LINES:]) or "it wrote nothing"


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
