"""One cell of a benchmark: what its row says, that it is repeatable, and that it goes on."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark import bench_cases
from benchmark.bench_cases import MDP, Coin, Drawn, run, untimed

import alignzoo as az
from alignzoo.benchmark import Budget
from alignzoo.benchmark.measuring import Judge, Measurement
from alignzoo.benchmark.running import Recorder
from alignzoo.checkpoint import list_checkpoints
from alignzoo.plugin_registry import select_plugins, selected_plugins
from alignzoo.run_folder import RunFolder
from alignzoo.run_options import TrainerOptions


@pytest.fixture(autouse=True, scope="module")
def _installed():
    before = selected_plugins()
    select_plugins([bench_cases.__name__])
    yield
    select_plugins(before)


def test_a_row_says_what_was_run_and_what_came_of_it(tmp_path):
    row = run("plain", tmp_path / "run", seed=3)
    assert row["status"] == "ok"
    assert row["error"] is None
    assert (row["task"], row["algorithm"], row["seed"]) == ("coin", "plain", 3)
    assert row["options"]["learning_rate"] == 0.1
    assert row["chosen"] == {"task": {"learning_rate": 0.1}, "given": {}, "tuned": {}}
    assert row["samples"] == row["budget"]["samples"] == 64
    assert row["tokens"] == 64
    assert row["updates"] == 4
    assert [point["samples"] for point in row["curve"]] == [0, 16, 32, 48, 64]
    assert row["curve"][0]["score"] == pytest.approx(1 / 3)
    assert row["score"] == row["curve"][-1]["score"] > 0.4
    assert {"alignzoo", "torch", "numpy"} <= row["versions"].keys()
    assert row["seconds"] > 0
    assert row["peak_memory"] > 2**20
    json.dumps(row, allow_nan=False)


def test_the_same_cell_gives_the_same_row_and_another_seed_another(tmp_path):
    first, second = (untimed(run("plain", tmp_path / name)) for name in "ab")
    assert first == second
    assert run("plain", tmp_path / "c", seed=1)["score"] != first["score"]


def test_a_given_option_goes_over_the_tasks(tmp_path):
    row = run("plain", tmp_path / "run", learning_rate=0.5)
    assert row["options"]["learning_rate"] == 0.5
    assert row["chosen"]["given"] == {"learning_rate": 0.5}


@pytest.mark.parametrize("task", ["coin", "drawn"])
def test_a_cell_goes_on_where_it_was_interrupted_as_if_it_had_not_been(tmp_path, task, monkeypatch):
    whole = untimed(run("plain", tmp_path / "whole", task=task, budget=160))
    original, calls = Recorder.__call__, []

    def interrupt(recorder, step, metrics):
        stop = original(recorder, step, metrics)
        calls.append(step)
        if step == 7:
            raise KeyboardInterrupt
        return stop

    monkeypatch.setattr(Recorder, "__call__", interrupt)
    settings = {**Coin.settings, "checkpoint_every": 3}
    monkeypatch.setattr(Coin, "settings", settings)
    with pytest.raises(KeyboardInterrupt):
        run("plain", tmp_path / "part", task=task, budget=160)
    assert [c.name for c in list_checkpoints(tmp_path / "part" / "checkpoints")][-1] == "step_6"
    monkeypatch.setattr(Recorder, "__call__", original)
    row = untimed(run("plain", tmp_path / "part", task=task, budget=160))
    assert row["settings"].pop("checkpoint_every") == 3
    whole["settings"].pop("checkpoint_every")
    assert row == whole
    assert calls == list(range(1, 8))


def test_a_run_of_other_options_in_its_place_is_made_again(tmp_path):
    run("plain", tmp_path / "run", learning_rate=0.5)
    fresh = untimed(run("plain", tmp_path / "fresh"))
    assert untimed(run("plain", tmp_path / "run")) == fresh


def test_responses_that_are_dropped_count_in_the_budget(tmp_path):
    row = run("picky", tmp_path / "run", budget=160)
    assert row["status"] == "ok"
    assert row["updates"] < 10
    assert row["samples"] <= 160
    assert [point["samples"] for point in row["curve"]][-1] == row["samples"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    sampled = [json.loads(line)["samples"] for line in lines]
    assert max(s for s in sampled if s <= 160) == row["samples"]
    assert 160 - row["samples"] < 64  # no update that could count is left out


def test_a_failure_is_a_row_that_says_whose_it_was(tmp_path):
    row = run("raising", tmp_path / "run")
    assert row["status"] == "failed"
    assert "no third update" in row["error"]
    assert "bench_cases" in row["error"]
    assert "score" not in row
    assert row["options"]["learning_rate"] == 0.1


def test_another_evaluation_does_not_touch_the_policys_training(tmp_path):
    # `drawn` samples at each point, `coin` does not: the runs between them are the same.
    rows = [run("plain", tmp_path / task, task=task) for task in ("coin", "drawn")]
    finals = [
        (tmp_path / task / "final" / "model.safetensors").read_bytes() for task in ("coin", "drawn")
    ]
    assert finals[0] == finals[1]
    assert rows[0]["score"] != rows[1]["score"]


def test_what_is_sampled_agrees_with_the_exact_score_and_kl():
    logits = np.array([[1.0, 0.0, -1.0]])
    policy, initial = MDP.policy(logits), MDP.policy(np.zeros((1, 3)))
    settings = TrainerOptions(**Coin.settings)
    task = Drawn(Drawn.Config())
    task.eval_prompts = lambda: ["1"] * 4000
    found = Judge(task, initial, settings, seed=0).measure(policy)
    assert found.score == pytest.approx(MDP.objective(logits), abs=0.03)
    assert found.kl == pytest.approx(MDP.kl(logits, np.zeros((1, 3))), abs=0.04)


def test_a_response_that_cannot_be_scored_counts_as_the_least():
    task = Drawn(Drawn.Config())
    task.true_reward = lambda: lambda completions: [None for _ in completions]
    policy = task.policy()
    judge = Judge(task, task.policy(), TrainerOptions(**Coin.settings), seed=0)
    assert judge.measure(policy).score == 0.0


def test_a_score_that_is_not_finite_ends_the_run_with_that_reason():
    task = Coin(Coin.Config())
    task.evaluate = lambda policy: float("nan")
    judge = Judge(task, task.policy(), TrainerOptions(**Coin.settings), seed=0)
    with pytest.raises(az.RunError, match="finite"):
        judge.measure(task.policy())


def test_a_recorder_goes_on_from_the_points_and_the_use_that_its_run_left(tmp_path):
    run("plain", tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert [point["step"] for point in saved["points"]] == [0, 1, 2, 3, 4]
    judge = SimpleNamespace(measure=lambda policy: Measurement(0.25, 0.0))
    algorithm, settings = az.make("plain"), TrainerOptions(**Coin.settings)
    folder, budget = RunFolder(tmp_path / "run"), Budget("samples", 64)
    again = Recorder(judge, None, folder, budget, algorithm, settings)
    assert again.curve == saved["points"]
    again(3, {"step": 3, "samples": 48, "tokens": 48})
    assert [point["step"] for point in again.curve] == [0, 1, 2, 3]
    assert again.curve[-1]["score"] == 0.25
    assert again.used == [0.0, 16, 32, 48]


@pytest.mark.parametrize("algorithm", ["plain", "picky"])
def test_a_budget_of_tokens_is_not_overstepped_and_is_used_up(tmp_path, algorithm):
    row = run(algorithm, tmp_path / "run", budget=Budget("tokens", 170))
    assert row["budget"] == {"tokens": 170}
    assert row["tokens"] == row["curve"][-1]["tokens"] <= 170
    assert 170 - row["tokens"] < 64
    assert all("seconds" not in point for point in row["curve"])


def test_a_budget_of_seconds_ends_the_run_and_counts_no_measuring(tmp_path, monkeypatch):
    original = Coin.evaluate

    def slowly(task, policy):
        time.sleep(0.05)
        return original(task, policy)

    monkeypatch.setattr(Coin, "evaluate", slowly)
    row = run("plain", tmp_path / "run", budget=Budget("seconds", 0.4))
    seconds = [point["seconds"] for point in row["curve"]]
    assert row["status"] == "ok"
    assert row["updates"] > 4
    assert seconds == sorted(seconds)
    assert seconds[0] == 0
    assert 0.1 < seconds[-1] <= 0.4
