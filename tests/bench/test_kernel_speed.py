"""`bench/kernel_speed`: its arithmetic, that every kernel has a case, and that it runs. Untimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignzoo import kernels

FOLDER = Path(__file__).parents[2] / "bench" / "kernel_speed"
MODULES = ("timing", "peers", "cases", "report")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = SimpleNamespace(**{name: __import__(name) for name in MODULES})
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name)
    return found


def test_an_interval_holds_its_median_and_a_constant_has_none(bench: SimpleNamespace) -> None:
    found = bench.timing.median_interval([1.0, 2.0, 4.0, 8.0, 16.0])
    assert found["low"] <= found["median"] == 4.0 <= found["high"]
    assert bench.timing.median_interval([3.0] * 5) == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_a_pair_times_both_sides_as_often_and_rotates_inputs(bench: SimpleNamespace) -> None:
    seen: list[int] = []
    times = bench.timing.pair(seen.append, lambda i: None, bench.timing.Options(rounds=4))
    assert len(times.ours) == len(times.other) == 4
    assert seen == list(range(len(seen)))


def test_inputs_are_rotated_until_no_cache_holds_them(bench: SimpleNamespace) -> None:
    assert bench.timing.copies_of(1 << 10) == 64
    assert bench.timing.copies_of(1 << 24) * (1 << 24) >= bench.timing.rotated_bytes
    assert bench.timing.copies_of(1 << 30) == 2


def test_every_kernel_has_a_case_and_a_peer(bench: SimpleNamespace) -> None:
    bench.timing.be_short()
    cases = [make(True) for make in bench.cases.CASES.values()]
    timed = {case.kernel.split()[0].rstrip(",") for case in cases if case.peers}
    assert timed >= set(kernels.__all__) - {"check_faults"}  # which computes nothing


def test_an_absent_peer_is_told_by_its_metadata(bench: SimpleNamespace) -> None:
    with pytest.raises(bench.peers.AbsentError, match="no-such-peer is not installed"):
        bench.peers.module("no-such-peer", "json")


def test_a_short_run_writes_results_tables_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, str(FOLDER), "huber", "group_advantages", "--short"]
    command += ["--rounds", "2", "--seconds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("kernels-*.json")
    results = json.loads(path.read_text())
    assert {row["kernel"] for row in results["peers"]} == {"huber", "group_advantages"}
    assert all(row["median"] > 0 or row["absent"] for row in results["bandwidth"])
    assert "| huber | 4096 elements" in done.stdout
    assert path.with_suffix(".svg").stat().st_size < 200_000
