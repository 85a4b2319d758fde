"""Scores on a common scale: the numbers, what a run learns from, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from trainer.runs import assert_same_outcome, make_trainer

import alignzoo as az
from alignzoo.errors import ConfigError, DataError
from alignzoo.reward_scale import RewardScale

ROUNDS = [np.array([1.0, 2.0, 3.0, np.nan]), np.array([10.0, 10.0]), np.array([np.inf, -4.0])]


def test_a_round_is_whitened_by_its_own_mean_and_deviation():
    scaled, clipped = RewardScale("batch").apply(np.array([1.0, 2.0, 3.0]))
    assert scaled == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5], abs=1e-12)
    assert clipped == 0.0


def test_running_statistics_are_those_of_every_finite_score_so_far():
    scale, seen = RewardScale("running"), []
    for scores in ROUNDS:
        scale.observe(scores)
        seen += scores[np.isfinite(scores)].tolist()
        scaled, _ = scale.apply(np.array([5.0]))
        assert scaled == pytest.approx([(5.0 - np.mean(seen)) / np.std(seen)], rel=1e-12)
    assert scale.count == len(seen) == 6


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_equal_scores_become_0(mode):
    scale = RewardScale(mode)
    scale.observe(np.full(4, 0.1 + 0.2))
    assert scale.apply(np.full(4, 0.1 + 0.2))[0] == pytest.approx([0.0] * 4, abs=1e-15)


def test_the_limit_is_on_what_was_scaled():
    scaled, clipped = RewardScale("batch", clip=1.0).apply(np.array([0.0, 0.0, 0.0, 9.0]))
    assert scaled[3] == 1.0
    assert scaled[0] == pytest.approx(-(3**-0.5))
    assert clipped == 0.25
    unscaled, clipped = RewardScale(clip=2.0).apply(np.array([-3.0, 1.0]))
    assert (unscaled.tolist(), clipped) == ([-2.0, 1.0], 0.5)


def test_the_state_goes_on_where_it_stopped():
    whole, first = RewardScale("running"), RewardScale("running")
    for scale in (whole, first):
        scale.observe(ROUNDS[0])
    rest = RewardScale("running")
    rest.load_state_dict(first.state_dict())
    for scale in (whole, rest):
        scale.observe(ROUNDS[1])
    assert rest.state_dict() == whole.state_dict()


@pytest.mark.parametrize("state", [{}, {"count": -1, "mean": 0.0, "squares": 0.0}])
def test_a_damaged_state_is_refused(state):
    with pytest.raises(DataError, match="reward scale is damaged"):
        RewardScale("running").load_state_dict(state)


def test_a_run_learns_from_scaled_scores_and_shows_raw_ones(policy, tmp_path):
    options = {"prompts": ["The dog"] * 20, "reward": lambda completions: map(_large, completions)}
    algorithm = az.make("reinforce", kl_in="none")
    trainer = make_trainer(
        policy, tmp_path / "run", algorithm, reward_scale="batch", reward_clip=1.0, **options
    )
    lines = trainer.run(1)
    scores = trainer.buffer.batch().scores.numpy()
    assert lines[0]["score_mean"] > 1000
    assert np.abs(scores).max() <= 1.0
    assert scores.std() > 0.5
    assert lines[0]["reward_clip_frac"] == np.mean(np.abs(scores) == 1.0)
    assert trainer.buffer.batch().rewards.sum(1).numpy() == pytest.approx(scores, abs=1e-6)


def _large(text):
    return 1000.0 + len(text)


def test_a_run_with_running_statistics_is_resumed_to_the_bit(policy, tmp_path):
    options = {"reward_scale": "running", "reward_clip": 2.0, "checkpoint_every": 2}
    make_trainer(policy, tmp_path / "whole", **options).run(5)
    make_trainer(policy, tmp_path / "run", **options).run(3)
    make_trainer(policy, tmp_path / "run", **options).run(5, resume=True)
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")


def test_the_scale_changes_what_is_learned(policy, tmp_path):
    make_trainer(policy, tmp_path / "raw").run(2)
    make_trainer(policy, tmp_path / "scaled", reward_scale="running").run(2)
    with pytest.raises(AssertionError):
        assert_same_outcome(tmp_path / "raw", tmp_path / "scaled")


def test_an_unknown_scale_is_refused(policy, tmp_path):
    with pytest.raises(ConfigError, match="reward_scale"):
        make_trainer(policy, tmp_path / "run", reward_scale="moving")
