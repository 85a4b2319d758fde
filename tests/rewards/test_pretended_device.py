"""Reward models on a pretended CUDA device: fitted, saved, and read where there is none."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from pretend_cuda import pretend_cuda
from rewards.test_training import make_rows
from trainer.runs import make_policy

import alignzoo as az

TEXTS = ["kind clear right", "rude", "", "wrong long vague rude"]


@pytest.mark.parametrize(("name", "kind"), [("preference", "rankings"), ("process", "steps")])
def test_a_reward_fitted_there_scores_as_one_fitted_on_the_cpu(name, kind, tmp_path, caplog):
    folder = make_policy(tmp_path / "policy")

    def fitted(device):
        reward = az.make_reward(
            name, policy=str(folder), device=device, learning_rate=1e-4, minibatch_size=8
        )
        reward.fit(make_rows(kind, 16))
        return reward

    def scores(reward):
        found = reward.score(["a prompt"] * len(TEXTS), TEXTS)
        return np.concatenate([np.ravel(np.asarray(x, dtype=float)) for x in found])

    with pretend_cuda() as counts:
        there = fitted("cuda")
        found = scores(there)
        assert counts["download"] > 0
        (tmp_path / "saved").mkdir()
        there.save(tmp_path / "saved")
    assert np.allclose(found, scores(fitted("cpu")), rtol=1e-3, atol=1e-5)
    loaded = az.make_reward(name, policy=str(folder), device="cuda")
    with caplog.at_level(logging.WARNING, "alignzoo"):
        loaded.load(tmp_path / "saved")
    assert "finds no GPU here and uses the CPU" in caplog.text
    assert np.allclose(found, scores(loaded), rtol=1e-5, atol=1e-6)
