"""REINFORCE: by hand, and against the exact policy gradient.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

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
from pydantic import ValidationError

import alignzoo as az
from alignzoo.testing import TokenMDP


def prepared(columns, lengths, *, given=None, **options):
    algorithm = az.make("reinforce", **options)
    batch = make_batch(algorithm, columns, lengths, **(given or {}))
    algorithm.prepare(batch)
    return algorithm, batch


# -- by hand -----------------------------------------------------------------------------------


def test_the_example_worked_by_hand():
    # Two responses, of 3 tokens and of 1; rewards (0, 0.5, 1) and (2); gamma = 0.5.
    #   returns: G_3 = 1, G_2 = 0.5 + 0.5 * 1 = 1, G_1 = 0 + 0.5 * 1 = 0.5; and G_1 = 2.
    #   their mean over the 4 tokens: (0.5 + 1 + 1 + 2) / 4 = 1.125, the baseline.
    #   advantages: (-0.625, -0.125, -0.125) and 0.875.
    #   log-probs (-1, -2, -0.5) and -3; entropies (0.4, 0.8, 1.2) and 1.6, their mean is 1.
    #   loss = -(0.625 + 0.25 + 0.0625 - 2.625) / 4 - 0.1 * 1 = 0.421875 - 0.1 = 0.321875.
    algorithm, batch = prepared(
        {"rewards": [[0, 0.5, 1], [2, 9, 9]]}, [3, 1], gamma=0.5, baseline="batch", ent_coef=0.1
    )
    assert batch.returns.tolist() == [[0.5, 1.0, 1.0], [2.0, 0.0, 0.0]]
    assert batch.advantages.tolist() == [[-0.625, -0.125, -0.125], [0.875, 0.0, 0.0]]
    out = outputs(log_probs=[[-1, -2, -0.5], [-3, 0, 0]], entropy=[[0.4, 0.8, 1.2], [1.6, 0, 0]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.321875, abs=1e-12)
    loss.value.backward()
    expected = [[0.15625, 0.03125, 0.03125], [-0.21875, 0, 0]]  # -A / 4
    assert out.log_probs.grad.tolist() == expected
    metrics = az.Metrics(loss.metrics).result()
    assert metrics == pytest.approx({"policy_loss": 0.421875, "entropy": 1.0})


# -- baselines ---------------------------------------------------------------------------------


def test_without_a_baseline_the_advantage_is_the_return():
    _, batch = prepared({"rewards": [[1, 2], [3, 0]]}, [2, 1], baseline="none")
    assert batch.advantages.tolist() == batch.returns.tolist() == [[3, 2], [3, 0]]


def test_the_batch_baseline_is_the_mean_return_of_a_token():
    _, batch = prepared({"rewards": [[1, 2], [4, 0]]}, [2, 1], baseline="batch")
    assert batch.advantages.tolist() == [[0, -1], [1, 0]]  # returns 3, 2, 4: mean 3


def test_the_moving_baseline_is_an_average_over_past_updates():
    algorithm = az.make("reinforce", baseline="moving", baseline_decay=0.75)
    advantages = []
    for reward in (4.0, 8.0, 0.0):
        batch = make_batch(algorithm, {"rewards": [[reward]]}, [1])
        algorithm.prepare(batch)
        advantages.append(float(batch.advantages))
    # The first update's own mean, 4; then 4; then 0.75 * 4 + 0.25 * 8 = 5.
    assert advantages == [0.0, 4.0, -5.0]
    assert algorithm.state_dict() == {"moving_mean": 0.75 * 5}


def test_the_moving_baseline_goes_on_where_it_was_saved():
    algorithm, again = az.make("reinforce"), az.make("reinforce")
    algorithm.prepare(make_batch(algorithm, {"rewards": [[4.0]]}, [1]))
    again.load_state_dict(algorithm.state_dict())
    for one in (algorithm, again):
        one.prepare(make_batch(one, {"rewards": [[1.0]]}, [1]))
    assert algorithm.state_dict() == again.state_dict()


# -- masks -------------------------------------------------------------------------------------


def test_advantages_are_those_of_the_response_without_its_masked_tokens():
    # correctness.md #7.
    masks = [[True, False, True, True], [False, True, True, False]]
    nan = float("nan")
    _, holes = prepared(
        {"rewards": [[1, nan, 2, 3], [nan, 4, 5, nan]]}, [4, 4], gamma=0.5, baseline="batch",
        given={"response_masks": masks},
    )  # fmt: skip
    _, dense = prepared({"rewards": [[1, 2, 3], [4, 5, 0]]}, [3, 2], gamma=0.5, baseline="batch")
    for name in ("returns", "advantages"):
        found, expected = getattr(holes, name), getattr(dense, name)
        assert found[holes.response_mask].tolist() == expected[dense.response_mask].tolist()
        assert not found[~holes.response_mask].any()


# -- KL in the loss ----------------------------------------------------------------------------


def test_the_penalty_in_the_loss_is_half_the_squared_log_ratio():
    # correctness.md #12. Log-ratios 0.4 and -0.2: k2 = 0.08 and 0.02, mean 0.05.
    algorithm, batch = prepared(
        {"rewards": [[0, 0]], "ref_log_probs": [[-1.4, -1.8]]}, [2], baseline="none", kl_in="loss",
        kl_coef=0.5,
    )  # fmt: skip
    out = outputs(log_probs=[[-1.0, -2.0]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.5 * 0.05)
    loss.value.backward()
    assert out.log_probs.grad.flatten().tolist() == pytest.approx([0.5 * 0.2, -0.5 * 0.1])


def test_the_reference_is_asked_for_only_where_the_loss_needs_it():
    assert az.make("reinforce", kl_in="loss").needs.ref_log_probs
    assert not az.make("reinforce", kl_in="reward").needs.ref_log_probs
    assert not az.make("reinforce", kl_in="none").needs.ref_log_probs
    assert az.make("reinforce", kl_in="none", kl_coef=0.5).kl_coef == 0.0


# -- the exact gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("end_token", [None, 2])
def test_the_expected_gradient_is_the_exact_policy_gradient(end_token):
    mdp = TokenMDP.random(0, end_token=end_token)
    logits, _ = random_tables(mdp, 1)
    found = Enumeration(mdp, logits, az.make("reinforce", baseline="none")).expected_gradient()
    np.testing.assert_allclose(found, mdp.policy_gradient(logits), atol=1e-6)


def test_a_moving_baseline_leaves_the_expected_gradient_as_it_is():
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("reinforce", baseline="moving", baseline_decay=0.999)
    case = Enumeration(mdp, logits, algorithm)
    algorithm.load_state_dict({"moving_mean": 0.7})
    probs = mdp.response_probs(logits)
    found = 0.0
    for row, p in enumerate(probs):
        algorithm.load_state_dict({"moving_mean": 0.7})
        found = found + p * case.row_gradient([row])
    np.testing.assert_allclose(found, mdp.policy_gradient(logits), atol=1e-6)


def test_with_the_batch_mean_it_is_that_times_b_minus_one_over_b():
    # Of a score paid at the end of responses of one length.
    mdp = TokenMDP.random(0, horizon=2, score_only=True)
    logits, _ = random_tables(mdp, 1)
    case = Enumeration(mdp, logits, az.make("reinforce", baseline="batch"))
    probs = mdp.response_probs(logits)
    found = sum(
        p * q * case.row_gradient([i, j]) / 2
        for i, p in enumerate(probs)
        for j, q in enumerate(probs)
        if i != j  # a batch holding one row twice is summed below
    )
    twice = Enumeration(mdp, logits, az.make("reinforce", baseline="batch"))
    assert not twice.row_gradient([0, 0]).any()  # equal returns: no advantage
    np.testing.assert_allclose(found, mdp.policy_gradient(logits) / 2, atol=1e-6)


def test_with_the_penalty_in_the_rewards_it_is_the_gradient_of_value_minus_divergence():
    mdp, coef = TokenMDP.random(0, end_token=2), 0.3
    logits, ref = random_tables(mdp, 1)
    penalised = mdp.penalised(logits, ref, kl_coef=coef)
    algorithm = az.make("reinforce", baseline="none", kl_coef=coef)
    found = Enumeration(mdp, logits, algorithm, rewards=penalised.rewards).expected_gradient()
    np.testing.assert_allclose(found, penalised.policy_gradient(logits), atol=1e-6)


def test_the_penalty_in_the_loss_has_the_gradient_of_the_divergence_in_each_visited_state():
    # correctness.md #12: k2's expected gradient is that of KL(pi || ref) where the policy stands.
    mdp, coef = TokenMDP.random(0, end_token=2), 0.3
    logits, ref = random_tables(mdp, 1)
    algorithm = az.make("reinforce", baseline="none", kl_in="loss", kl_coef=coef)
    still = np.zeros(mdp.rewards.shape)
    case = Enumeration(mdp, logits, algorithm, ref_logits=ref, rewards=still)
    table = torch.tensor(logits, requires_grad=True)
    log_ratio = torch.log_softmax(table, 1) - torch.tensor(mdp.log_probs(ref))
    per_state = (torch.softmax(table, 1) * log_ratio).sum(1)
    (torch.tensor(mdp.visits(logits)) * per_state).sum().backward()
    np.testing.assert_allclose(case.expected_gradient(), -coef * table.grad.numpy(), atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimum_of_value_minus_divergence(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "reinforce", learning_rate=0.2, kl_coef=0.2, schedule="linear", decay_steps=50
    )
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=50, batch_size=96)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": -0.1}, {"gamma": 1.1}, {"baseline": "mean"}, {"baseline_decay": 1.0},
        {"baseline_decay": -0.1}, {"ent_coef": -1}, {"group_size": 0}, {"kl_coef": -0.1},
        {"kl_in": "both"}, {"learning_rate": 0}, {"max_grad_norm": 0}, {"num_epochs": 0},
        {"minibatch_size": 0}, {"gamma": float("nan")}, {"kl_coef": float("inf")},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"reinforce: option '{name}' is"):
        az.make("reinforce", **wrong)


def test_options_cannot_change_after_they_were_checked():
    with pytest.raises(ValidationError):
        az.make("reinforce").config.gamma = 2.0


def test_groups_are_as_large_as_asked():
    assert az.make("reinforce", group_size=4).needs.group_size == 4


# -- averaging ---------------------------------------------------------------------------------


def test_how_token_losses_are_averaged_is_an_option():
    # correctness.md #10. Rows of 3 tokens and of 1, returns 1 and 2, log-probs -1 everywhere:
    # over tokens (3 * 1 + 1 * 2) / 4 = 1.25; over sequences (1 + 2) / 2 = 1.5.
    values = {}
    for aggregate in ("token_mean", "sequence_mean"):
        algorithm, batch = prepared(
            {"rewards": [[0, 0, 1], [2, 0, 0]]}, [3, 1], baseline="none", aggregate=aggregate
        )
        out = outputs(log_probs=[[-1, -1, -1], [-1, 0, 0]])
        values[aggregate] = float(algorithm.loss(batch, out).value.detach())
    assert values == pytest.approx({"token_mean": 1.25, "sequence_mean": 1.5})


def test_leave_one_out_takes_the_mean_of_the_others():
    # Totals 3, 4 and 8: baselines (4 + 8) / 2 = 6, 5.5 and 3.5. Without groups over the batch.
    columns = {"rewards": [[1, 2], [4, 0], [0, 8]]}
    _, batch = prepared(columns, [2, 1, 2], baseline="leave_one_out")
    assert batch.advantages.tolist() == [[-3, -4], [-1.5, 0], [4.5, 4.5]]


def test_leave_one_out_stays_within_groups():
    columns = {"rewards": [[1.0], [3.0], [10.0], [16.0]]}
    given = {"group_ids": [0, 0, 1, 1]}
    _, batch = prepared(columns, [1] * 4, baseline="leave_one_out", group_size=2, given=given)
    assert batch.advantages.flatten().tolist() == [-2, 2, -6, 6]


def test_leave_one_out_leaves_the_expected_gradient_as_it_is():
    mdp = TokenMDP.random(0, horizon=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("reinforce", baseline="leave_one_out", aggregate="token_mean")
    case = Enumeration(mdp, logits, algorithm)
    probs = mdp.response_probs(logits)
    found = sum(
        p * q * case.row_gradient([i, j]) / 2
        for i, p in enumerate(probs)
        for j, q in enumerate(probs)
    )
    np.testing.assert_allclose(found, mdp.policy_gradient(logits), atol=1e-6)
