"""Runs in each precision learn as far, and go on bitwise where they were stopped."""

from __future__ import annotations

import pytest
from trainer.runs import assert_same_outcome, make_policy, make_trainer

import alignzoo as az

PRECISIONS = {
    "float32": {},
    "autocast": {"autocast": True},
    "bfloat16": {"dtype": "bfloat16"},
}


def share_of_a(prompts, completions):
    """A reward: the share of the letter a."""
    return [text.count("a") / max(1, len(text)) for text in completions]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy"))


def learn(folder, out, name, algorithm, steps, **options):
    policy = az.Policy.from_pretrained(folder, **PRECISIONS[name])
    return make_trainer(policy, out, algorithm, **options).run(steps)


@pytest.mark.parametrize("name", ["autocast", "bfloat16"])
def test_demonstrations_are_learned_as_well_below_float32(name, folder, tmp_path):
    def losses(name):
        algorithm = az.make("sft", learning_rate=3e-3)
        return [x["loss"] for x in learn(folder, tmp_path / name, name, algorithm, 30)]

    exact, found = losses("float32"), losses(name)
    assert exact[-1] < exact[0] - 2
    assert found[-1] == pytest.approx(exact[-1], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autocast", "bfloat16"])
def test_a_reward_is_learned_as_well_below_float32(name, folder, tmp_path):
    def scores(name):
        algorithm = az.make("rloo", group_size=4, learning_rate=1e-2, kl_in="none")
        options = {"batch_size": 32, "reward": share_of_a, "eval_every": 100}
        lines = learn(folder, tmp_path / name, name, algorithm, 40, **options)
        return [line["score_mean"] for line in lines]

    exact, found = scores("float32"), scores(name)
    assert exact[0] < 0.1
    assert min(exact[-1], found[-1]) > 0.8


@pytest.mark.parametrize("name", ["autocast", "bfloat16"])
def test_a_run_below_float32_goes_on_bitwise(name, folder, tmp_path):
    def run(out, steps, resume=False):
        policy = az.Policy.from_pretrained(folder, **PRECISIONS[name])
        algorithm = az.make("ppo", learning_rate=1e-3)
        return make_trainer(policy, tmp_path / out, algorithm, checkpoint_every=2).run(
            steps, resume=resume
        )

    run("whole", 4)
    run("parts", 2)
    run("parts", 4, resume=True)
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_run_under_autocast_is_no_run_without(folder, tmp_path):
    learn(folder, tmp_path, "autocast", az.make("ppo"), 1)
    other = make_trainer(az.Policy.from_pretrained(folder), tmp_path, az.make("ppo"))
    with pytest.raises(az.ConfigError, match=r"policy\.autocast = True and is now None"):
        other.run(2, resume=True)
