"""Known answers: how near to the best our algorithms come on the exact tasks, and ddqn and dqn."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, run_cell

PATH = Path(__file__).parents[2] / "bench" / "known_answers.py"
NEAR_ENOUGH = 0.02  # of the task's range
ONE_OF_EACH_FAMILY = [
    ("bandit", "grpo"),
    ("bandit", "kto"),
    ("chain", "ppo"),
    ("chain", "dpo"),
    ("tree", "reinforce"),
    ("tree", "ddqn"),
    ("noisy_max", "orpo"),
]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_known_answers", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(bench):
    return json.loads(bench.FILE.read_text(encoding="utf-8"))["tasks"]


def run(task, algorithm, seed, out, *, budget=None):
    samples = budget or az.registry().build("task", task, {}).samples
    cell = Cell(task, algorithm, seed, Budget("samples", samples), 1, {})
    row = run_cell(az.registry(), cell, out / task / algorithm / str(seed))
    assert row["status"] == "ok", row["error"]
    return row


def test_what_is_published_is_of_every_algorithm_and_task_as_they_are_now(bench, published):
    for task in bench.TASKS:
        for id in bench.algorithms():
            entry = published[task]["algorithms"][id]
            now = bench.conditions(task, id)
            assert {name: entry[name] for name in now} == now, f"{id} on {task}"
            assert len(entry["shares"]) >= bench.NUM_SEEDS


def test_what_is_published_is_within_two_percent_or_says_why_not(bench, published):
    for task, about in published.items():
        for id, entry in about["algorithms"].items():
            explained = id in bench.NOTES.get(task, {})
            assert entry["gap"] <= NEAR_ENOUGH or explained, f"{id} on {task}: {entry['gap']}"


def test_double_q_learning_is_published_as_better_while_it_learns(bench):
    found = json.loads(bench.FILE.read_text(encoding="utf-8"))["double_q"]["areas"]
    assert found["difference"][1] > 0  # the lower end of the interval
    assert found["probability"][1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("task", "algorithm"), ONE_OF_EACH_FAMILY)
def test_it_comes_within_two_percent_of_the_best(task, algorithm, tmp_path):
    rows = [run(task, algorithm, seed, tmp_path) for seed in (0, 1)]
    low, high = rows[0]["range"]
    gap = rows[0]["optimum"] - np.mean([row["score"] for row in rows])
    assert gap / (high - low) <= NEAR_ENOUGH


@pytest.mark.slow
def test_double_q_learning_is_better_while_everything_is_tried(tmp_path):
    def area(algorithm, seed):
        row = run("noisy_max", algorithm, seed, tmp_path, budget=4800)
        return np.mean([point["score"] for point in row["curve"][1:]])

    for seed in (0, 1):
        assert area("ddqn", seed) > area("dqn", seed) + 0.02
