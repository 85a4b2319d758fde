"""The start-up benchmark: its plugins are real, its rows complete."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from fixture_plugins import run_alignzoo


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "startup.py"
    spec = importlib.util.spec_from_file_location("bench_startup", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_plugins_load_and_are_listed(startup: ModuleType, tmp_path: Path) -> None:
    startup.write_plugins(tmp_path, 3)
    done = run_alignzoo("-p", "no:alignzoo", "list", "--json", path=tmp_path)
    found = json.loads(done.stdout)["algorithms"]
    assert [(e["id"], e["distribution"]) for e in found] == [
        (f"start-{i:03}", f"alignzoo-start-{i:03}") for i in range(3)
    ]
    assert done.stderr == ""


def test_ratios_are_of_the_same_round(startup: ModuleType) -> None:
    bare = [(1.0, 0.5), (2.0, 0.5), (4.0, 0.5)]
    row = startup._summary([(3.0, 1.0), (6.0, 1.0), (12.0, 1.0)], bare)
    assert row["wall_over_bare"] == 3.0
    assert row["quartiles"] == [3.0, 3.0]
    assert (row["wall_ms"], row["cpu_ms"]) == (6000.0, 1000.0)
