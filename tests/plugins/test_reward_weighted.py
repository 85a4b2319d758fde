"""reward_weighted: its weights by hand, its gradient, and what it converges to.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

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
from alignzoo.learner import Learner, restrict
from alignzoo.testing import TokenMDP

PLAIN = {"standardise": False, "advantage_temperature": 1.0}


def weights(totals, *, groups=None, **options):
    """Returns the weights of responses of one token."""
    algorithm = az.make("reward_weighted", **{**PLAIN, **options})
    given = {} if groups is None else {"group_ids": groups}
    batch = make_batch(algorithm, {"rewards": [[t] for t in totals]}, [1] * len(totals), **given)
    algorithm.prepare(batch)
    return batch.weights.tolist()


# -- by hand -----------------------------------------------------------------------------------


def test_weights_are_exponentials_whose_mean_is_1():
    # e^0, e^(log 3), e^(log 2): 1, 3, 2 of 6, times 3 responses.
    assert weights([0.0, math.log(3), math.log(2)]) == pytest.approx([0.5, 1.5, 1.0])
    halved = weights([0.0, math.log(3) / 2, math.log(2) / 2], advantage_temperature=0.5)
    assert halved == pytest.approx([0.5, 1.5, 1.0])


def test_a_constant_and_with_standardising_a_factor_change_nothing():
    scores = np.array([0.0, 1.0, 3.0])
    assert weights(scores + 100) == pytest.approx(weights(scores))
    plain = weights(scores, standardise=True)
    assert weights(100 * scores - 7, standardise=True) == pytest.approx(plain)
    # The deviation of 0, 1, 3 is sqrt(14) / 3 = 1.247219.
    assert plain == pytest.approx(weights(scores / 1.247219), rel=1e-5)


def test_equal_scores_have_equal_weights():
    # correctness.md #9.
    assert weights([0.1] * 3, standardise=True) == pytest.approx([1.0] * 3)


def test_in_groups_a_response_is_compared_with_its_own():
    # 0 and 2 log 2 around log 2, 10 and 10 + 2 log 2 around 10 + log 2: the same advantages.
    gap = 2 * math.log(2)
    found = weights([0, gap, 10, 10 + gap], groups=[0, 0, 1, 1], group_size=2)
    assert found == pytest.approx([0.4, 1.6, 0.4, 1.6])  # 1/2 and 2 over their mean, 1.25


def test_a_bound_cuts_weights():
    assert weights([0.0, math.log(7)], max_weight=1.5) == pytest.approx([0.25, 1.5])


def test_ratings_are_scores():
    algorithm = az.make("reward_weighted", source="ratings", **PLAIN)
    batch = make_batch(algorithm, {"scores": [0.0, math.log(3)]}, [1, 1])
    algorithm.prepare(batch)
    assert batch.weights.tolist() == pytest.approx([0.5, 1.5])


def test_the_example_worked_by_hand():
    # Responses of 2 tokens and of 1, scores 0 and log 3: weights 0.5 and 1.5;
    # (0.5 * (1 + 2) + 1.5 * 3) / 3 tokens = 2.
    algorithm = az.make("reward_weighted", **PLAIN)
    batch = make_batch(algorithm, {"rewards": [[0, 0], [math.log(3), 0]]}, [2, 1])
    algorithm.prepare(batch)
    out = outputs(log_probs=[[-1, -2], [-3, 0]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(2.0, abs=1e-6)
    loss.value.backward()
    assert out.log_probs.grad[0].tolist() == pytest.approx([-1 / 6] * 2, abs=1e-6)
    assert float(out.log_probs.grad[1, 0]) == pytest.approx(-0.5, abs=1e-6)
    metrics = az.Metrics(loss.metrics).result()
    assert metrics == pytest.approx({"loss": 2.0, "weight_max": 1.5, "entropy": 0.0}, abs=1e-6)


# -- in expectation ----------------------------------------------------------------------------


def test_the_gradient_of_all_responses_is_that_of_the_weighted_likelihood():
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, _ = random_tables(mdp, 1)
    case = Enumeration(mdp, logits, az.make("reward_weighted", **PLAIN))
    found = case.row_gradient(range(len(mdp.responses)))
    returns = np.array([sum(mdp.rewards[s] for s in mdp.steps(r)) for r in mdp.responses])
    share = torch.softmax(torch.as_tensor(returns), 0) * len(returns)
    table = torch.tensor(logits, requires_grad=True)
    (share @ response_log_probs(mdp, table)).backward()
    np.testing.assert_allclose(found, table.grad.numpy(), atol=1e-5)  # a sum of 12 tokens, float32


@pytest.mark.parametrize("seed", range(5))
def test_on_ratings_it_converges_to_the_data_times_the_exponential_of_the_reward(seed):
    # Peters & Schaal: argmin E_mu[-exp(r / T) log pi] is mu exp(r / T) / Z; mu is uniform here.
    temperature = 0.7
    mdp = TokenMDP.random(seed, horizon=2, end_token=2)
    returns = np.array([sum(mdp.rewards[s] for s in mdp.steps(r)) for r in mdp.responses])
    algorithm = az.make(
        "reward_weighted", source="ratings", standardise=False, advantage_temperature=temperature,
        learning_rate=0.3, num_epochs=80, schedule="linear", decay_steps=80,
    )  # fmt: skip
    policy = mdp.policy(np.zeros(mdp.rewards.shape))
    buffer = az.RolloutBuffer()
    buffer.append([mdp.prompt] * len(returns), mdp.responses, policy_version=0, scores=returns)
    batch = restrict(buffer.batch(), algorithm, may_write=True)
    algorithm.prepare(batch)
    algorithm.update(batch, Learner(policy, algorithm, buffer))
    learned = mdp.response_probs(policy.model.lm_head.weight.detach().double().T.numpy())
    best = np.exp(returns / temperature)
    best /= best.sum()

    def value(probs):
        return probs @ returns - temperature * probs @ np.log(probs)

    uniform = np.full(len(returns), 1 / len(returns))
    assert (value(best) - value(learned)) / (value(best) - value(uniform)) < 0.02
    np.testing.assert_allclose(learned, best, atol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_on_its_own_samples_it_reaches_the_best_response(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make("reward_weighted", learning_rate=0.2)
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.0) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=40, batch_size=64)
    assert shortfall(mdp, logits, kl_coef=0.0) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"advantage_temperature": 0.0}, {"max_weight": 1.0}, {"group_size": 0}, {"ent_coef": -1.0},
        {"source": "preferences"},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"reward_weighted: option '{name}' is"):
        az.make("reward_weighted", **wrong)


def test_ratings_have_no_groups_and_no_rewards_to_penalise():
    with pytest.raises(az.ConfigError, match="'ratings' has no groups, and group_size is 4"):
        az.make("reward_weighted", source="ratings", group_size=4)
    with pytest.raises(az.ConfigError, match="no KL penalty in its rewards; use kl_in 'loss'"):
        az.make("reward_weighted", source="ratings", kl_coef=0.1)
    assert az.make("reward_weighted", source="ratings", kl_coef=0.1, kl_in="loss").needs == (
        az.Needs(source="ratings", ref_log_probs=True)
    )
