"""Progress of a run on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

NUM_LINES = 20  # a run's plain lines, its last one aside
RECENT = 20  # updates over which seconds per update are averaged

FIGURES = (
    ("score_mean", "score"),
    ("loss", "loss"),
    ("kl", "kl"),
    ("eval_score_mean", "eval score"),
    ("eval_loss", "eval loss"),
    ("eval_kl", "eval kl"),
    ("skipped_updates", "skipped"),
    ("unscorable", "unscorable"),
)
ONLY_IF_ANY = frozenset({"skipped_updates", "unscorable"})


class Progress:
    """Shows how far a run is; a context manager.

    On a terminal a bar with the latest figures; elsewhere a line now and then, at most 20 in a run
    and one for its last update. Everything goes to standard error; colours only on a terminal, and
    none where NO_COLOR is set.

    Args:
        total_steps: the step at which the run ends.
        start_step: updates done before, by the run that is resumed.
        description: a word or two, such as the algorithm's id.
        stream: where to write; default is standard error as it is when the run starts.
        clock: returns seconds.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        description: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_steps = total_steps
        self.start_step = start_step
        self.description = description
        self.step = start_step
        self._stream = stream
        self._clock = clock
        self._times: deque[tuple[int, float]] = deque(maxlen=RECENT + 1)
        self._figures: dict[str, float] = {}
        self._every = max(1, math.ceil((total_steps - start_step) / (NUM_LINES - 1)))
        self._last_shown = start_step
        self._bar: _Bar | None = None

    def __enter__(self) -> Progress:
        self._times.append((self.start_step, self._clock()))
        if is_terminal(self.stream):
            self._bar = _Bar(self.stream, self.total_steps, self.start_step, self.description)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self.step > self._last_shown:
            self._write(self.line())

    @property
    def stream(self) -> TextIO:
        """Where the lines go."""
        return sys.stderr if self._stream is None else self._stream

    def update(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Shows that update `step` is done, with what it measured; older held-out figures stay."""
        self.step = step
        self._times.append((step, self._clock()))
        for name, _ in FIGURES:
            value = metrics.get(name)
            if value is not None:
                self._figures[name] = value
        if self._bar is not None:
            self._bar.show(step, self.figures())
            return
        is_first = self._last_shown == self.start_step
        is_due = (step - self.start_step) % self._every == 0 or step >= self.total_steps
        if is_first or is_due:
            self._write(self.line())
            self._last_shown = step

    def note(self, text: str) -> None:
        """Prints a line; on a terminal it stands above the bar."""
        if self._bar is not None:
            self._bar.note(text)
        else:
            self._write(text)

    def seconds_per_step(self) -> float | None:
        """Returns wall-clock seconds per update over the last 20; None before the first."""
        if len(self._times) < 2:
            return None
        (first, start), (last, now) = self._times[0], self._times[-1]
        return (now - start) / max(1, last - first)

    def figures(self) -> str:
        """Returns the latest figures: "score 0.612  kl 3.42  0.84 s/update  0:24 left"."""
        parts = [
            f"{label} {_number(self._figures[name])}"
            for name, label in FIGURES
            if name in self._figures and (name not in ONLY_IF_ANY or self._figures[name] > 0)
        ]
        seconds = self.seconds_per_step()
        if seconds is not None:
            parts.append(f"{_number(seconds)} s/update")
            if self.step < self.total_steps:
                parts.append(f"{_clock_text(seconds * (self.total_steps - self.step))} left")
        return "  ".join(parts)

    def line(self) -> str:
        """Returns the plain line of the latest update."""
        width = len(str(self.total_steps))
        place = f"{self.step:>{width}}/{self.total_steps}"
        return "  ".join(part for part in (self.description, place, self.figures()) if part)

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class _Bar:
    """The live bar, drawn by rich; a second line below it holds the figures."""

    def __init__(self, stream: TextIO, total: int, start: int, description: str) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        self._text = Text
        self._group = Group
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task(description, total=total, completed=start)
        self._console = Console(file=stream, highlight=False)
        self._live = Live(
            self._rendered(""),
            console=self._console,
            refresh_per_second=4,
            # what a reward prints would cut through the bar; piped output is left alone
            redirect_stdout=is_terminal(sys.stdout),
        )
        self._live.start()

    def _rendered(self, figures: str) -> Any:
        line = self._text(figures, style="dim", no_wrap=True, overflow="ellipsis")
        return self._group(self._bar, line)

    def show(self, step: int, figures: str) -> None:
        self._bar.update(self._task, completed=step)
        self._live.update(self._rendered(figures))

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)

    def stop(self) -> None:
        self._live.stop()


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can redraw a line."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "")
    except (AttributeError, ValueError):  # no such method, or closed
        return False


def _number(value: float) -> str:
    """Returns three significant digits, trailing zeros kept so that columns stand still."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 1000 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def _clock_text(seconds: float) -> str:
    """Returns 0:24, 12:05 or 3:07:00."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
