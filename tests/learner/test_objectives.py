"""The terms of objectives: worked by hand, and the same however a minibatch is split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import make_batch, outputs

import alignzoo as az
from alignzoo import objectives

LENGTHS = [3, 1, 2]
COLUMNS = {
    "advantages": [[1.0, -2.0, 0.5], [3.0, 9.0, 9.0], [-1.0, 2.0, 9.0]],
    "old_log_probs": [[-1.0, -2.0, -0.5], [-3.0, 0, 0], [-1.5, -0.5, 0]],
    "ref_log_probs": [[-1.2, -2.0, -0.4], [-3.3, 0, 0], [-1.0, -0.5, 0]],
    "values": [[0.1, 0.2, 0.3], [0.0, 9, 9], [1.0, -1.0, 9]],
    "returns": [[1.0, 1.0, 1.0], [2.0, 9, 9], [0.5, 0.0, 9]],
}
SPLITS = [[[0, 1, 2]], [[0], [1], [2]], [[0, 2], [1]]]


def make():
    algorithm = az.make("ppo", kl_in="loss")
    batch = make_batch(algorithm, COLUMNS, LENGTHS)
    out = {
        "log_probs": [[-0.9, -2.3, -0.5], [-2.6, 0, 0], [-1.5, -0.9, 0]],
        "entropy": [[0.5, 0.6, 0.7], [0.1, 0, 0], [0.2, 0.3, 0]],
        "values": [[0.2, 0.2, 0.2], [1.0, 0, 0], [0.0, 0.0, 0]],
    }
    return batch, out


def rows_of(out, rows, width):
    return outputs(**{name: np.array(x)[rows][:, :width].tolist() for name, x in out.items()})


TERMS = {
    "policy": lambda b, o: objectives.policy(b, o, clip_range=0.1),
    "policy, sequence_mean": lambda b, o: objectives.policy(b, o, aggregate="sequence_mean"),
    "policy, sequence_sum": lambda b, o: objectives.policy(b, o, aggregate="sequence_sum"),
    "policy, sequence_sum_norm": lambda b, o: objectives.policy(
        b, o, aggregate="sequence_sum_norm", max_length=8
    ),
    "policy_gradient": objectives.policy_gradient,
    "value": lambda b, o: objectives.value(b, o, clip_range=0.3),
    "regularisation": lambda b, o: objectives.regularisation(b, o, ent_coef=0.1, kl_coef=0.3),
}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("split", SPLITS[1:], ids=str)
def test_a_term_and_its_metrics_add_up_however_the_minibatch_is_split(term, split):
    batch, out = make()
    whole = TERMS[term](batch, rows_of(out, [0, 1, 2], 3))
    value, metrics = 0.0, az.Metrics()
    for rows in split:
        part = batch.select(rows, keep_counts=True)
        loss = TERMS[term](part, rows_of(out, rows, part.response_mask.shape[1]))
        value += float(loss.value.detach())
        metrics.merge(az.Metrics(loss.metrics))
    assert value == pytest.approx(float(whole.value.detach()), rel=1e-12)
    assert metrics.result() == pytest.approx(az.Metrics(whole.metrics).result(), rel=1e-12)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        # Rows (1, -2, 0.5), (3) and (-1, 2): sums -0.5, 3, 1.
        ("token_mean", 3.5 / 6),
        ("sequence_mean", (-0.5 / 3 + 3 + 0.5) / 3),
        ("sequence_sum", 3.5 / 3),
        ("sequence_sum_norm", 3.5 / (3 * 8)),
    ],
)
def test_a_mean_is_over_what_its_name_says(aggregate, expected):
    # correctness.md #10.
    batch, _ = make()
    found = objectives.mean(batch, batch.advantages, aggregate, max_length=8)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    out = outputs(log_probs=batch.old_log_probs.tolist())
    surrogate = objectives.policy(batch, out, aggregate=aggregate, max_length=8)  # every ratio is 1
    assert float(surrogate.value.detach()) == pytest.approx(-expected, rel=1e-12)


def test_what_lies_under_the_mask_is_not_looked_at():
    # correctness.md #7.
    batch, _ = make()
    x = torch.where(batch.response_mask, batch.advantages, math.nan)
    assert float(objectives.mean(batch, x)) == pytest.approx(3.5 / 6)


def test_a_sum_over_the_longest_length_must_be_told_it():
    batch, _ = make()
    with pytest.raises(ValueError, match="divides by max_length, which was not given"):
        objectives.mean(batch, batch.advantages, "sequence_sum_norm")


def test_the_explained_variance_of_a_perfect_and_of_a_constant_critic():
    batch, _ = make()
    assert objectives.explained_variance(batch, batch.returns) == {"explained_variance": 1.0}
    constant = torch.ones_like(batch.returns)
    found = objectives.explained_variance(batch, constant)["explained_variance"]
    assert found == pytest.approx(0.0, abs=1e-12)
    still = make_batch(az.make("ppo"), {"returns": [[1.0, 1.0]], "values": [[0.0, 2.0]]}, [2])
    assert objectives.explained_variance(still) == {}


def test_a_dialect_sets_options_and_what_is_given_goes_first():
    from typing import ClassVar, Literal

    from alignzoo.config import build_config

    class Config(az.AlgorithmConfig):
        dialects: ClassVar = {"plain": {}, "other": {"kl_coef": 0.5, "num_epochs": 3}}
        dialect: Literal["plain", "other"] = "plain"

    assert build_config(Config, {}, "x").kl_coef == 0.0
    spoken = build_config(Config, {"dialect": "other", "num_epochs": 2}, "x")
    assert (spoken.kl_coef, spoken.num_epochs) == (0.5, 2)
    again = build_config(Config, spoken.model_dump(), "x")
    assert again == spoken
    with pytest.raises(az.ConfigError, match="option 'dialect' is 'third'"):
        build_config(Config, {"dialect": "third"}, "x")
