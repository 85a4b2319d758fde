"""best_of_n: which responses are imitated, by hand and in expectation.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from learner.algorithm_cases import (
    Enumeration,
    learn,
    make_batch,
    outputs,
    random_tables,
    shortfall,
)
from learner.pair_cases import response_log_probs

import alignzoo as az
from alignzoo.learner import Learner
from alignzoo.testing import TokenMDP


def prepared(totals, groups, **options):
    """Returns which responses are imitated, one token each."""
    algorithm = az.make("best_of_n", **{"group_size": 4, **options})
    batch = make_batch(
        algorithm, {"rewards": [[t] for t in totals]}, [1] * len(totals), group_ids=groups
    )
    algorithm.prepare(batch)
    return batch.weights.tolist()


# -- by hand -----------------------------------------------------------------------------------


def test_the_best_of_each_group_are_imitated():
    totals, groups = [0.1, 0.9, 0.5, 0.2, 3.0, 1.0, 2.0, 0.0], [0] * 4 + [1] * 4
    assert prepared(totals, groups) == [0, 1, 0, 0, 1, 0, 0, 0]
    assert prepared(totals, groups, num_best=2) == [0, 1, 1, 0, 1, 0, 1, 0]


def test_equal_scores_rank_as_they_were_sampled():
    assert prepared([1.0, 2.0, 2.0, 2.0], [0] * 4, num_best=2) == [0, 1, 1, 0]
    assert prepared([0.0] * 4, [0] * 4) == [1, 0, 0, 0]


def test_a_group_that_lost_responses_still_has_its_best():
    # correctness.md #9: those without a score have left.
    assert prepared([0.1, 0.9, 3.0], [0, 0, 1], num_best=1) == [0, 1, 1]


def test_what_was_paid_in_all_ranks_and_not_the_score_alone():
    algorithm = az.make("best_of_n", group_size=2)
    batch = make_batch(
        algorithm, {"rewards": [[-2, 1], [-0.1, 0.5]]}, [2, 2], group_ids=[0, 0], scores=[1, 0.5]
    )
    algorithm.prepare(batch)
    assert batch.weights.tolist() == [0, 1]


def test_the_example_worked_by_hand():
    # correctness.md #10. Two winners of 3 tokens and of 1: (1 + 2 + 0.5 + 3) / 4 = 1.625 over
    # tokens, ((1 + 2 + 0.5) / 3 + 3) / 2 = 2.083333 over responses.
    for aggregate, expected in (("token_mean", 1.625), ("sequence_mean", 2.083333)):
        algorithm = az.make("best_of_n", aggregate=aggregate)
        batch = make_batch(algorithm, {"rewards": [[0, 0, 1], [2, 0, 0]]}, [3, 1])
        loss = algorithm.loss(batch, outputs(log_probs=[[-1, -2, -0.5], [-3, 0, 0]]))
        assert float(loss.value.detach()) == pytest.approx(expected, abs=1e-6)
        assert az.Metrics(loss.metrics).result()["loss"] == pytest.approx(1.625)


class Recorder(Learner):
    """Keeps the batches that steps are taken on."""

    def step(self, batch, loss, *, needs=None):
        self.seen = [*getattr(self, "seen", []), batch]
        return super().step(batch, loss, needs=needs)


def test_counts_are_those_of_the_winners_alone():
    mdp = TokenMDP.random(0, end_token=2)
    algorithm = az.make("best_of_n", group_size=2, num_epochs=2)
    case = Enumeration(mdp, np.zeros(mdp.rewards.shape), algorithm)
    case.buffer.set("scores", np.arange(len(case.buffer)))
    learner = Recorder(case.policy, algorithm, case.buffer)
    batch = case.buffer.batch()
    batch.weights = torch.arange(len(batch)) % 3 == 0
    metrics = algorithm.update(batch, learner).result()
    winners = batch.weights > 0
    for seen in learner.seen:
        assert seen.num_sequences == int(winners.sum())
        assert seen.num_tokens == int(batch.response_lengths[winners].sum())
    assert len(learner.seen) == 2
    assert metrics["best_score_mean"] == float(batch.scores[winners].mean())


# -- in expectation ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_the_expected_gradient_is_that_of_the_likelihood_of_the_best_of_n(size):
    # P(the best is y) = F(r(y))^n - F(r(y)-)^n, F the distribution function of the reward.
    mdp = TokenMDP.random(0, horizon=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("best_of_n", group_size=size, aggregate="sequence_mean")
    case = Enumeration(mdp, logits, algorithm)
    probs = mdp.response_probs(logits)
    returns = np.array([sum(mdp.rewards[s] for s in mdp.steps(r)) for r in mdp.responses])
    found = np.zeros(logits.shape)
    gradients = [case.row_gradient([row]) for row in range(len(probs))]
    for group in itertools.product(range(len(probs)), repeat=size):
        totals = returns[list(group)]
        batch = make_batch(
            algorithm, {"rewards": totals[:, None]}, [1] * size, group_ids=[0] * size
        )
        algorithm.prepare(batch)
        (winner,) = np.flatnonzero(batch.weights.numpy())
        found += np.prod(probs[list(group)]) * gradients[group[winner]]
    below = np.array([probs[returns < r].sum() for r in returns])
    best = (below + probs) ** size - below**size
    table = torch.tensor(logits, requires_grad=True)
    (torch.as_tensor(best) @ response_log_probs(mdp, table)).backward()
    np.testing.assert_allclose(found, table.grad.numpy(), atol=1e-6)
    assert best @ returns > probs @ returns


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_best_response(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make("best_of_n", learning_rate=0.2, group_size=8)
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.0) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=40, batch_size=64)
    assert shortfall(mdp, logits, kl_coef=0.0) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"group_size": 1}, {"num_best": 0}, {"aggregate": "sum"}, {"ent_coef": -1}, {"kl_coef": -1}],
)
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"best_of_n: option '{name}' is"):
        az.make("best_of_n", **wrong)


def test_imitating_all_that_was_sampled_is_refused():
    with pytest.raises(az.ConfigError, match=r"num_best is 4 of groups of group_size 4; imitate"):
        az.make("best_of_n", group_size=4, num_best=4)


def test_the_reference_is_asked_for_only_where_the_loss_needs_it():
    assert az.make("best_of_n", kl_in="loss").needs.ref_log_probs
    assert not az.make("best_of_n").needs.ref_log_probs
