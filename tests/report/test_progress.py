"""Progress: lines where there is no terminal, a bar where there is one, nothing on stdout."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from alignzoo.progress import Progress


class Clock:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(
    total: int, done: int | None = None, start: int = 0, every_metrics: int = 0
) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    with Progress(total, start, "ppo", stream=stream, clock=clock) as progress:
        for step in range(start + 1, (total if done is None else done) + 1):
            clock.now += 2.0
            metrics = {"score_mean": step / total, "kl": 1.5, "unscorable": 0}
            if every_metrics and step % every_metrics == 0:
                metrics["eval_score_mean"] = 0.25
            progress.update(step, metrics)
    return stream.getvalue().splitlines()


def test_a_line_tells_place_figures_speed_and_time_left() -> None:
    line = lines_of(total=8)[1]
    assert line == "ppo  2/8  score 0.250  kl 1.50  2 s/update  0:12 left"


@pytest.mark.parametrize("total", [1, 2, 19, 20, 21, 40, 1000, 100_003])
def test_a_run_has_at_most_twenty_lines_and_its_last(total: int) -> None:
    lines = lines_of(total)
    assert len(lines) <= 21
    assert f"{1:>{len(str(total))}}/{total}" in lines[0]
    assert f"{total}/{total}" in lines[-1]


def test_short_runs_have_a_line_per_update() -> None:
    assert len(lines_of(total=12)) == 12


def test_a_run_that_ends_early_still_shows_its_last_update() -> None:
    assert "733/1000" in lines_of(total=1000, done=733)[-1]


def test_an_exception_passes_through_after_the_last_line() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(1000, 0, "ppo", stream=stream) as progress:  # noqa: PT012
        for step in (1, 2, 3):
            progress.update(step, {"loss": 1.0})
        raise KeyError
    assert "3/1000" in stream.getvalue().splitlines()[-1]


def test_a_resumed_run_goes_on_counting() -> None:
    lines = lines_of(total=100, start=60)
    assert " 61/100" in lines[0]
    assert "1:18 left" in lines[0]  # 39 updates of 2 s


def test_held_out_figures_stay_until_the_next_ones() -> None:
    lines = lines_of(total=10, every_metrics=4)
    assert "eval" not in lines[2]
    assert "eval score 0.250" in lines[3]
    assert "eval score 0.250" in lines[4]


def test_faults_are_shown_only_where_there_are_any() -> None:
    stream = io.StringIO()
    with Progress(3, 0, stream=stream) as progress:
        progress.update(1, {"loss": float("nan"), "skipped_updates": 0, "unscorable": 2})
    assert "unscorable 2" in stream.getvalue()
    assert "skipped" not in stream.getvalue()
    assert "loss nan" in stream.getvalue()


def test_a_note_is_a_line_of_its_own() -> None:
    stream = io.StringIO()
    with Progress(3, 0, stream=stream) as progress:
        progress.note("checkpoint [bold]step_1[/bold] written")
    assert stream.getvalue() == "checkpoint [bold]step_1[/bold] written\n"


SCRIPT = """
import sys
from alignzoo.progress import Progress
with Progress(3, 0, "ppo") as progress:
    for step in (1, 2, 3):
        progress.update(step, {"score_mean": step / 3})
        progress.note(f"note [{step}]")
print("rich" in sys.modules)
"""


def test_without_a_terminal_rich_is_not_imported_and_stdout_is_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
    assert "ppo  3/3  score 1" in done.stderr


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    pty = pytest.importorskip("pty")  # absent on Windows
    main, side = pty.openpty()
    yield main, side
    os.close(main)


def seen_on(terminal: tuple[int, int], **environment: str) -> tuple[str, str]:
    """Returns what SCRIPT writes to a terminal on stderr, and to stdout."""
    main, side = terminal
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(side)
    pieces = []
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        pieces.append(piece)
    stdout, _ = process.communicate(timeout=60)
    return b"".join(pieces).decode(), stdout


def test_on_a_terminal_a_bar_is_drawn_with_notes_above_it(terminal: tuple[int, int]) -> None:
    seen, stdout = seen_on(terminal)
    assert stdout == "True\n"
    assert "\x1b[2K" in seen  # redrawn in place
    assert "3/3" in seen
    assert "score 1" in seen
    assert "note [3]" in seen


def test_no_color_is_honoured(terminal: tuple[int, int]) -> None:
    seen, _ = seen_on(terminal, NO_COLOR="1")
    assert "\x1b[38;" not in seen
    assert "\x1b[3" not in seen


def test_a_dumb_terminal_gets_plain_lines(terminal: tuple[int, int]) -> None:
    seen, stdout = seen_on(terminal, TERM="dumb")
    assert stdout == "False\n"
    assert "\x1b" not in seen
