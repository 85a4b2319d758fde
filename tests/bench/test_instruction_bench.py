"""`bench/instruction.py`: its measures and its comparison, by hand. Nothing is trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "bench" / "instruction.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_instruction", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The dog ran.", "the dog ran", 1.0),
        ("a b c d", "a x c", 2 * 2 / 7),
        ("c a", "a c", 0.5),
        ("a", "b", 0.0),
        ("", "b", 0.0),
        (".", "!", 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    bench: ModuleType, answer: str, reference: str, score: float
) -> None:
    assert bench.rouge_l(answer, reference) == pytest.approx(score)


def test_no_task_is_on_both_sides_and_a_seed_draws_others(bench: ModuleType) -> None:
    rows = [{"task": f"t{i % 30}", "n": i} for i in range(3000)]
    train, held_out = bench.split_tasks(rows, 0)
    assert {row["task"] for row in train}.isdisjoint(row["task"] for row in held_out)
    assert len({row["task"] for row in held_out}) == 6
    assert len(held_out) == 6 * bench.MAX_ROWS
    assert bench.split_tasks(rows, 1)[1] != held_out


def test_tasks_that_the_file_holds_out_are_held_out(bench: ModuleType) -> None:
    rows = [{"task": t, "split": s} for t, s in (("a", "train"), ("b", "test"), ("c", "train"))]
    for seed in (0, 1):
        train, held_out = bench.split_tasks(rows, seed)
        assert [row["task"] for row in train] == ["a", "c"]
        assert [row["task"] for row in held_out] == ["b"]


def test_shuffled_answers_are_the_same_answers(bench: ModuleType) -> None:
    rows = [{"prompt": i, "completion": i} for i in range(50)]
    shuffled = bench.shuffle_answers(rows, 0)
    assert sorted(row["completion"] for row in shuffled) == list(range(50))
    assert [row["prompt"] for row in shuffled] == list(range(50))
    assert shuffled != rows


def arms(gain: float, spread: float) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    tokens = np.full(200, 10)
    base = draw.normal(40, 5, 200)
    tuned = base - 10 * gain + draw.normal(0, spread, 200)
    return {
        "tasks": np.repeat([f"t{i}" for i in range(5)], 40),
        "tokens": tokens,
        "base": {"loss": base, "rouge": np.zeros(200)},
        "tuned": {"loss": tuned, "rouge": np.full(200, 0.25)},
    }


def test_the_gain_is_in_nats_a_token_and_its_interval_is_paired(bench: ModuleType) -> None:
    found = bench.compare([arms(0.3, 1.0), arms(0.3, 1.0)], "tuned", "base")
    loss, rouge = found["loss"], found["rouge"]
    assert loss["gain"] == pytest.approx(0.3, abs=0.02)
    assert loss["low"] < 0.3 < loss["high"]
    assert loss["high"] - loss["low"] < 0.1  # unpaired, the rows alone spread by 0.5
    assert rouge == {"gain": 0.25, "low": 0.25, "high": 0.25}


def test_no_difference_gives_an_interval_around_zero(bench: ModuleType) -> None:
    loss = bench.compare([arms(0.0, 5.0)], "tuned", "base")["loss"]
    assert loss["low"] < 0 < loss["high"]
