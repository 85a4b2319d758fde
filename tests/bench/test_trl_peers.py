"""`bench/trl_peers.py`: how options are matched, what it says, and that equal draws teach alike."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peers import peer

import alignzoo as az
from alignzoo.run_options import TrainerOptions

BENCH = Path(__file__).parents[2] / "bench"
SETTINGS = TrainerOptions(batch_size=16, max_new_tokens=6)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("rounds", "trl_peers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCH))
    import trl_peers

    return trl_peers


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    from trl_side import training

    return training


def options_of(script: ModuleType, id: str, **given: Any) -> dict[str, Any]:
    kl_coef = given.get("kl_coef", 0.0)
    config = az.make(id, **{**script.our_options(kl_coef), **given}).config
    found: dict[str, Any] = script.trl_options(id, config, SETTINGS, 3)
    return found


def test_our_grpo_is_told_to_trl_option_by_option(script: ModuleType) -> None:
    found = options_of(script, "grpo", kl_coef=0.05, group_size=4, learning_rate=1e-3)
    assert (found["loss_type"], found["scale_rewards"], found["num_generations"]) == (
        "dapo",
        "group",
        4,
    )
    assert (found["beta"], found["learning_rate"], found["seed"]) == (0.05, 1e-3, 3)


def test_without_a_penalty_neither_side_keeps_a_reference(script: ModuleType) -> None:
    assert script.our_options(0.0)["kl_in"] == "none"
    assert options_of(script, "rloo", kl_coef=0.0)["beta"] == 0.0


@pytest.mark.parametrize(
    ("id", "name", "option"),
    [
        ("grpo", "ddof", {"ddof": 0}),
        ("grpo", "scale", {"scale": "leave_one_out"}),
        ("grpo", "kl_in", {"kl_coef": 0.1, "kl_in": "reward"}),
        ("grpo", "minibatch_size", {"minibatch_size": 8}),
        ("rloo", "ratio", {"ratio": "none"}),
        ("rloo", "schedule", {"schedule": "cosine", "decay_steps": 9}),
    ],
)
def test_what_trl_cannot_do_is_refused(
    script: ModuleType, id: str, name: str, option: dict[str, Any]
) -> None:
    with pytest.raises(script.NoMatchError, match=f"^{id} has {name} "):
        options_of(script, id, **option)


def test_without_trl_one_line_says_what_to_install(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(script.PeerError, match=r"^trl is not installed .* pip install [^\n]*$"):
        script.check_peer()


def test_no_seeds_are_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.parse_arguments(["--out", str(tmp_path), "--seeds", "0"])
    assert "--seeds and --threads are at least 1" in capsys.readouterr().err


def test_trl_is_measured_where_the_benchmark_measures(training: ModuleType) -> None:
    found = [update for update in range(1, 26) if training.is_due(update, 64, 1600, 10)]
    assert found == [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]


def test_a_policy_that_is_not_the_same_for_all_is_refused(script: ModuleType) -> None:
    rows = [row(id, seed, policy=id) for id in ("grpo", "trl_grpo") for seed in (0, 1)]
    with pytest.raises(az.ConfigError, match="began with different policies"):
        script.compare(rows, "reverse", "grpo")


def test_a_comparison_has_score_curve_time_and_memory(script: ModuleType) -> None:
    rows = [row("grpo", seed, seconds=1.0) for seed in range(3)]
    rows += [row("trl_grpo", seed, seconds=2.0) for seed in range(3)]
    found = script.compare(rows, "reverse", "grpo")
    assert found["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["verdict"] == "not told apart"
    assert found["curve"]["points_within"] == 2
    assert found["seconds_ratio"]["median"] == 2.0
    assert found["memory"][0] == {"peak": 5e6, "beyond_libraries": 2e6}
    assert "2.00 (2.00 to 2.00)" in script.tables([found])


def test_what_is_published_has_no_paths_and_is_json(script: ModuleType) -> None:
    row = {"task": 'keywords:{"policy": "/data/models/small"}', "none": [math.nan, 1.5, "3/4"]}
    assert script.published(row) == {
        "task": 'keywords:{"policy": "small"}',
        "none": [None, 1.5, "3/4"],
    }


def row(id: str, seed: int, **more: Any) -> dict[str, Any]:
    points = [{"samples": n, "score": 0.5 + 0.1 * seed, "kl": 0.0} for n in (0, 640)]
    about = {"task": "reverse", "algorithm": id, "seed": seed, "status": "ok", "policy": "same"}
    came = {"score": 0.5 + 0.1 * seed, "kl": 0.0, "samples": 640, "tokens": 900, "curve": points}
    cost = {"seconds": 1.0, "processor_seconds": 1.0, "peak_memory": 5e6, "libraries_memory": 3e6}
    return {**about, **came, **cost, **more}


def distinct_letters(completions: Sequence[str]) -> list[float]:
    return [len(set(text)) / 6 for text in completions]


class Distinct(az.Task):
    """Different characters, by the built-in policy; keeps the policies it made."""

    range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__(az.TaskConfig())
        self.made: list[az.Policy] = []

    def policy(self) -> az.Policy:
        self.made.append(az.Policy.from_pretrained("tiny"))
        return self.made[-1]

    def prompts(self) -> list[str]:
        return ["one", "two and", "three"]

    def eval_prompts(self) -> list[str]:
        return ["four"] * 4

    def reward(self, seed: int) -> Any:
        return distinct_letters


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("id", ["grpo", "rloo"])
def test_with_our_draws_trl_takes_the_steps_that_ours_takes(
    script: ModuleType, training: ModuleType, tmp_path: Path, id: str
) -> None:
    peer("trl", "trl")
    task, given = Distinct(), {"dialect": "trl", "kl_coef": 0.5, "learning_rate": 1e-3}
    algorithm = az.make(id, group_size=4, **given)
    row = training.train(
        id,
        script.trl_options(id, algorithm.config, SETTINGS, 3),
        task=task,
        settings=SETTINGS,
        seed=3,
        budget=2 * SETTINGS.batch_size,
        num_points=10,
        same_draws=True,
    )
    assert [point["step"] for point in row["curve"]] == [0, 1, 2]
    assert (row["samples"], row["updates"], row["skipped_updates"]) == (32, 2, 0)
    assert row["seconds"] > 0
    assert row["versions"]["trl"]

    ours = task.policy()
    trainer = az.Trainer(
        policy=ours,
        algorithm=algorithm,
        reward=task.reward(3),
        prompts=task.prompts(),
        out=tmp_path / "run",
        **{**dict(SETTINGS), "seed": 3, "eval_fraction": 0.0},
    )
    trainer.run(2)
    gap, moved = apart(ours, task.made[0]), apart(ours, az.Policy.from_pretrained("tiny"))
    # AdamW's first steps have one size whatever the gradient's, so rounding is seen where a
    # gradient is nearly 0; another clip, scale, mean or penalty is seen everywhere.
    assert gap < 1e-7 * moved  # of squares: 3e-4 of the way that was gone


def apart(one: az.Policy, other: az.Policy) -> float:
    """Returns the squared distance of two policies' parameters."""
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return sum(float((a - b).detach().double().square().sum()) for a, b in pairs)
