"""`bench/rounds.py`: its arithmetic, its protocol, and one real round of each side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"

FAKE_SIDE = """
import sys
sys.path.insert(0, {scripts!r})
from shared import Gate, Stopwatch

class Work:
    def generate(self):
        print("a library prints this")

stopwatch = Stopwatch()
gate = Gate(stopwatch)
stopwatch.wrap(Work, "generate", "generation")
gate.open(framework="fake", versions={{}}, settings={{}})
Work().generate()
while not gate.turn(num_tokens=7):
    Work().generate()
"""


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "rounds", raising=False)
    import rounds

    return rounds


def fake_side(rounds: ModuleType, folder: Path, code: str) -> Any:
    script = code.format(scripts=str(BENCH / "rounds_sides"))
    return rounds.Side("fake", [sys.executable, "-c", script], 1, folder / "log")


def test_a_side_answers_each_round_and_keeps_what_libraries_print_apart(
    rounds: ModuleType, tmp_path: Path
) -> None:
    with fake_side(rounds, tmp_path, FAKE_SIDE) as side:
        side.wait_until_ready()
        taken = [side.round() for _ in range(3)]
        side.stop()
    assert side.facts["framework"] == "fake"
    assert side.peak_bytes > 1e6
    for one in taken:
        assert one["tokens"] == 7
        assert one["generation"] > 0
        assert one["scoring"] == 0
        assert one["round"] == pytest.approx(one["generation"] + one["update"])


def test_a_side_that_dies_is_an_error_with_its_last_words(
    rounds: ModuleType, tmp_path: Path
) -> None:
    side = fake_side(rounds, tmp_path, "raise SystemExit('no such model')")
    with side, pytest.raises(rounds.BenchError, match="no such model"):
        side.wait_until_ready()


def test_the_ratio_is_the_median_over_pairs_with_its_interval(rounds: ModuleType) -> None:
    ratio = rounds.ratio_of_pairs([1.0, 2.0, 4.0], [3.0, 4.0, 20.0])
    assert ratio["median"] == 3.0
    assert (ratio["low"], ratio["high"]) == (2.0, 5.0)


def test_a_part_that_took_no_time_has_no_ratio(rounds: ModuleType) -> None:
    assert rounds.ratio_of_pairs([0.0, 1.0], [1.0, 1.0]) == {}


def test_the_table_shows_every_part_and_the_memory(rounds: ModuleType) -> None:
    one = dict.fromkeys(rounds.PARTS, 1.0) | {"tokens": 8.0}
    two = dict.fromkeys(rounds.PARTS, 2.0) | {"tokens": 8.0}
    result = {
        "summary": rounds.summarise({"alignzoo": [one], "trl": [two]}),
        "peak_bytes": {"alignzoo": [10**9], "trl": [3 * 10**9]},
    }
    text = rounds.table(rounds.WORKLOADS["wide"], result)
    assert "| update | 1.0000 | 2.0000 | 2.00 | 2.00 to 2.00 |" in text
    assert "| peak memory, GB | 1.00 | 3.00 | 3.00 | |" in text


def real_round(side: str, python: str, folder: Path) -> list[dict[str, Any]]:
    scripts = BENCH / "rounds_sides"
    model = folder / "model"
    subprocess.run([sys.executable, scripts / "wide_model.py", model], check=True)
    ended = subprocess.run(
        [python, scripts / f"{side}_side.py", "wide", model, folder / "out", "2", "{}"],
        input="go\nstop\n",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"},
    )
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_our_side_runs_a_round_of_full_length(tmp_path: Path) -> None:
    ready, taken, stopped = real_round("alignzoo", sys.executable, tmp_path)
    assert ready["versions"]["alignzoo"]
    assert taken["tokens"] == 32 * 64
    assert set(taken["parts"]) == {"generation", "scoring", "passes"}
    assert stopped["peak_bytes"] >= ready["peak_bytes"]


@pytest.mark.slow
@pytest.mark.peer
def test_the_other_side_runs_a_round_of_full_length(tmp_path: Path) -> None:
    python = os.environ.get("ALIGNZOO_PEER_PYTHON")
    if python is None:
        pytest.skip("ALIGNZOO_PEER_PYTHON names no environment with trl")
    ready, taken, _ = real_round("trl", python, tmp_path)
    assert ready["versions"]["trl"]
    assert taken["tokens"] == 32 * 64
    assert set(taken["parts"]) == {"generation", "scoring", "passes"}
