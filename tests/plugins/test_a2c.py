"""A2C: by hand, against the definition of its returns, and against the exact policy gradient.

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
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az
from alignzoo import objectives
from alignzoo.learner import restrict
from alignzoo.testing import TokenMDP

NAN = float("nan")


def prepared(columns, lengths, *, given=None, **options):
    algorithm = az.make("a2c", **{"whiten_advantages": "none"} | options)
    batch = make_batch(algorithm, columns, lengths, **(given or {}))
    algorithm.prepare(batch)
    return algorithm, batch


# -- by hand -----------------------------------------------------------------------------------

EXAMPLE = {"rewards": [[0, 0, 1]], "values": [[0.5, 0.2, 0.4]]}


def test_the_example_worked_by_hand():
    # Three tokens, rewards (0, 0, 1), values (0.5, 0.2, 0.4), gamma 0.5, n 2:
    #   R_1 = 0 + 0.5 * 0 + 0.25 * V_3 = 0.1      A_1 = 0.1 - 0.5 = -0.4
    #   R_2 = 0 + 0.5 * 1             = 0.5      A_2 = 0.5 - 0.2 =  0.3     the episode ends
    #   R_3 = 1                                  A_3 = 1   - 0.4 =  0.6
    # Log-probs (-1, -2, -0.5): policy loss -(0.4 - 0.6 - 0.3) / 3 = 0.5 / 3.
    # Values (0.6, 0.1, 0.8): squares (0.25, 0.16, 0.04), value loss 0.45 / 2 / 3 = 0.075.
    # Entropies (0.3, 0.6, 0.9), mean 0.6.
    #   loss 0.5 / 3 + 0.5 * 0.075 - 0.1 * 0.6 = 0.5 / 3 - 0.0225
    algorithm, batch = prepared(EXAMPLE, [3], gamma=0.5, n_step=2, vf_coef=0.5, ent_coef=0.1)
    assert batch.returns.flatten().tolist() == pytest.approx([0.1, 0.5, 1.0], abs=1e-12)
    assert batch.advantages.flatten().tolist() == pytest.approx([-0.4, 0.3, 0.6], abs=1e-12)
    out = outputs(log_probs=[[-1, -2, -0.5]], values=[[0.6, 0.1, 0.8]], entropy=[[0.3, 0.6, 0.9]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.5 / 3 - 0.0225, abs=1e-12)
    loss.value.backward()
    assert out.log_probs.grad.flatten().tolist() == pytest.approx([0.4 / 3, -0.1, -0.2])  # -A / 3
    expected = [0.5 * 0.5 / 3, 0.5 * -0.4 / 3, 0.5 * -0.2 / 3]  # vf_coef * (V - R) / 3
    assert out.values.grad.flatten().tolist() == pytest.approx(expected)
    assert az.Metrics(loss.metrics).result() == pytest.approx(
        {"policy_loss": 0.5 / 3, "value_loss": 0.075, "entropy": 0.6}
    )


def test_generalised_advantages_of_the_same_example():
    # gamma 1, lambda 0.5: d = (-0.3, 0.2, 0.6); A_3 = 0.6, A_2 = 0.2 + 0.3, A_1 = -0.3 + 0.25.
    _, batch = prepared(EXAMPLE, [3], advantages="gae", gae_lambda=0.5)
    assert batch.advantages.flatten().tolist() == pytest.approx([-0.05, 0.5, 0.6], abs=1e-12)
    assert batch.returns.flatten().tolist() == pytest.approx([0.45, 0.7, 1.0], abs=1e-12)


# -- returns -----------------------------------------------------------------------------------

MASKS = [[1, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]]
LENGTHS = [7, 7, 3]


def random_case():
    generator = np.random.default_rng(4)
    mask = np.array(MASKS, dtype=bool)
    columns = {
        name: np.where(mask, generator.normal(size=mask.shape), NAN)
        for name in ("rewards", "values")
    }
    columns["bootstrap_values"] = generator.normal(size=3)
    ends = {"terminated": [True, False, False], "truncated": [False, True, True]}
    given = {"response_masks": [row[:n].tolist() for row, n in zip(mask, LENGTHS, strict=True)]}
    return mask, columns, given | ends


def by_definition(rewards, values, after, *, gamma, n_step):
    """Sutton and Barto 2018, eq. 7.1, token by token, of one response without masked tokens."""
    values = [*values, after]
    found = []
    for t in range(len(rewards)):
        steps = min(n_step, len(rewards) - t)
        total = sum(gamma**k * rewards[t + k] for k in range(steps))
        found.append(total + gamma**steps * values[t + steps])
    return found


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("n_step", [1, 2, 3, 9, None])
def test_returns_are_those_of_the_definition_without_masked_tokens(n_step, cut):
    # correctness.md #7, and #6: V after the last token counts of truncated rows alone.
    mask, columns, given = random_case()
    _, batch = prepared(
        columns, LENGTHS, given=given, gamma=0.9, n_step=n_step, bootstrap_truncated=cut
    )
    for row, chosen in enumerate(mask):
        after = columns["bootstrap_values"][row] if cut and given["truncated"][row] else 0.0
        rewards, values = columns["rewards"][row, chosen], columns["values"][row, chosen]
        expected = by_definition(rewards, values, after, gamma=0.9, n_step=n_step or 9)
        where = batch.response_mask[row]
        np.testing.assert_allclose(batch.returns[row][where].numpy(), expected, atol=1e-12)
        found = batch.advantages[row][where].numpy()
        np.testing.assert_allclose(found, expected - values, atol=1e-12)
    assert not batch.returns[~batch.response_mask].any()
    assert not batch.advantages[~batch.response_mask].any()


@pytest.mark.parametrize(("n_step", "gae_lambda"), [(1, 0.0), (None, 1.0)])
def test_one_step_is_lambda_0_and_to_the_end_is_lambda_1(n_step, gae_lambda):
    _, columns, given = random_case()
    options = {"given": given, "gamma": 0.9, "bootstrap_truncated": True}
    _, steps = prepared(columns, LENGTHS, n_step=n_step, **options)
    _, mixed = prepared(columns, LENGTHS, advantages="gae", gae_lambda=gae_lambda, **options)
    torch.testing.assert_close(steps.returns, mixed.returns, atol=1e-12, rtol=0)
    torch.testing.assert_close(steps.advantages, mixed.advantages, atol=1e-12, rtol=0)


@pytest.mark.parametrize("advantages", ["n_step", "gae"])
def test_padding_changes_no_bit_of_the_returns(advantages):
    # correctness.md #3.
    options = {"advantages": advantages, "n_step": 2, "gamma": 0.9}
    columns = {"rewards": [[1, 2, 3]], "values": [[0.1, 0.2, 0.3]]}
    _, alone = prepared(columns, [3], **options)
    padded = {name: [[*row[0], 7, 7, 7], [5] * 6] for name, row in columns.items()}
    _, mated = prepared(padded, [3, 6], **options)
    assert torch.equal(mated.returns[0, :3], alone.returns[0])


@pytest.mark.parametrize("whiten", ["center", "full"])
def test_whitening_leaves_the_returns_alone_and_is_over_the_batch(whiten):
    # correctness.md #8.
    _, columns, given = random_case()
    _, raw = prepared(columns, LENGTHS, given=given, n_step=2)
    _, white = prepared(columns, LENGTHS, given=given, n_step=2, whiten_advantages=whiten)
    mask = raw.response_mask
    expected = raw.advantages[mask] - raw.advantages[mask].mean()
    if whiten == "full":
        expected = expected / (raw.advantages[mask].var() + 1e-8).sqrt()
    torch.testing.assert_close(white.advantages[mask], expected, atol=1e-7, rtol=1e-6)
    assert torch.equal(white.returns, raw.returns)


# -- the update --------------------------------------------------------------------------------


def test_an_update_is_one_step_and_says_how_good_the_critic_was():
    algorithm = az.make("a2c")
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2]))
    metrics = algorithm.update(restrict(run.batch, algorithm), run.learner).result()
    assert run.learner.num_steps == 1
    assert metrics["explained_variance"] == pytest.approx(0.0)  # the values are all 0
    assert {"policy_loss", "value_loss", "entropy", "grad_norm"} <= metrics.keys()


def test_a_gradient_can_be_taken_in_one_place_and_applied_in_another():
    # What asynchronous workers (A3C) do: the step equals that of `update`.
    vectors = []
    for apart in (False, True):
        algorithm = az.make("a2c", learning_rate=1e-2)
        run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2]))
        batch = restrict(run.batch, algorithm)
        if apart:
            gradient = run.learner.gradient(batch, algorithm.loss)
            run.learner.apply(gradient)
        else:
            algorithm.update(batch, run.learner)
        vectors.append(run.learner.get_vector())
    assert torch.equal(*vectors)


def test_the_value_head_learns_at_its_own_rate():
    algorithm = az.make("a2c", learning_rate=1e-4, value_learning_rate=3e-2)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    assert run.learner.peak_rates == [1e-4, 3e-2]


@pytest.mark.parametrize("detach", [True, False])
def test_the_value_loss_stops_at_the_trunk_where_asked(detach):
    algorithm = az.make("a2c", detach_values=detach)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    torch.nn.init.ones_(run.learner.policy.value_head.weight)
    gradient = run.learner.gradient(run.batch, objectives.value)
    assert bool(run.learner.gradient_vector(gradient, group=0).any()) is not detach
    assert bool(run.learner.gradient_vector(gradient, group=1).any())


# -- the exact gradient ------------------------------------------------------------------------


def unbiased(**options):
    return az.make("a2c", whiten_advantages="none", **options)


@pytest.mark.parametrize("end_token", [None, 2])
@pytest.mark.parametrize("options", [{}, {"n_step": 9}, {"advantages": "gae", "gae_lambda": 1.0}])
def test_to_the_end_the_expected_gradient_is_exact_whatever_the_critic(options, end_token):
    mdp = TokenMDP.random(0, end_token=end_token)
    logits, _ = random_tables(mdp, 1)
    values = np.random.default_rng(2).normal(size=len(mdp.contexts))
    case = Enumeration(mdp, logits, unbiased(**options), values=values)
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


STEPS = [{"n_step": 1}, {"n_step": 2}, {"advantages": "gae", "gae_lambda": 0.5}]


@pytest.mark.parametrize("options", STEPS)
def test_with_the_exact_critic_the_expected_gradient_is_exact_at_any_step(options):
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    case = Enumeration(mdp, logits, unbiased(**options), values=mdp.values(logits))
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


@pytest.mark.parametrize("options", STEPS)
def test_with_a_wrong_critic_that_is_trusted_early_it_is_biased(options):
    # Which shows that the two tests above can fail.
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    values = np.random.default_rng(2).normal(size=len(mdp.contexts))
    case = Enumeration(mdp, logits, unbiased(**options), values=values)
    assert np.abs(case.expected_gradient() - mdp.policy_gradient(logits)).max() > 1e-2


def test_the_penalty_in_the_loss_has_the_gradient_of_the_divergence_in_each_visited_state():
    # correctness.md #12.
    mdp, coef = TokenMDP.random(0, end_token=2), 0.3
    logits, ref = random_tables(mdp, 1)
    algorithm = unbiased(kl_in="loss", kl_coef=coef)
    assert algorithm.needs.ref_log_probs
    case = Enumeration(
        mdp, logits, algorithm, values=np.zeros(len(mdp.contexts)),
        ref_logits=ref, rewards=np.zeros(mdp.rewards.shape),
    )  # fmt: skip
    table = torch.tensor(logits, requires_grad=True)
    log_ratio = torch.log_softmax(table, 1) - torch.tensor(mdp.log_probs(ref))
    per_state = (torch.softmax(table, 1) * log_ratio).sum(1)
    (torch.tensor(mdp.visits(logits)) * per_state).sum().backward()
    np.testing.assert_allclose(case.expected_gradient(), -coef * table.grad.numpy(), atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


GAE = {"advantages": "gae"}


@pytest.mark.parametrize(("seed", "options"), [*((seed, {}) for seed in range(5)), (0, GAE)])
def test_it_reaches_the_optimum_of_value_minus_divergence(seed, options):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "a2c", learning_rate=0.2, value_learning_rate=0.1, kl_coef=0.2, schedule="linear",
        decay_steps=50, **options,
    )  # fmt: skip
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=50, batch_size=96)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": -0.1}, {"gamma": 1.1}, {"gae_lambda": -0.1}, {"gae_lambda": 1.1}, {"n_step": 0},
        {"n_step": 1.5}, {"advantages": "td"}, {"vf_coef": -1}, {"value_learning_rate": 0},
        {"ent_coef": -1}, {"group_size": 0}, {"kl_coef": -1}, {"num_epochs": 2},
        {"num_epochs": 0}, {"whiten_advantages": "yes"}, {"aggregate": "sum"}, {"gamma": NAN},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"a2c: option '{name}' is"):
        az.make("a2c", **wrong)


def test_what_is_needed_follows_the_options():
    needs = az.make("a2c", bootstrap_truncated=True, group_size=4).needs
    assert (needs.values, needs.bootstrap_values, needs.group_size) == (True, True, 4)
    assert not az.make("a2c").needs.bootstrap_values
    assert not az.make("a2c", kl_in="reward", kl_coef=0.5).needs.ref_log_probs


# -- averaging ---------------------------------------------------------------------------------


def test_how_token_losses_are_averaged_is_an_option():
    # correctness.md #10. Rows of 3 tokens and of 1, returns and so advantages 1 and 2, log-probs
    # -1: over tokens (3 * 1 + 1 * 2) / 4 = 1.25; over sequences (1 + 2) / 2 = 1.5.
    found = {}
    for aggregate in ("token_mean", "sequence_mean"):
        columns = {"rewards": [[0, 0, 1], [2, 0, 0]], "values": np.zeros((2, 3))}
        algorithm, batch = prepared(columns, [3, 1], aggregate=aggregate, vf_coef=0.0)
        out = outputs(log_probs=[[-1, -1, -1], [-1, 0, 0]], values=np.zeros((2, 3)))
        found[aggregate] = float(algorithm.loss(batch, out).value.detach())
    assert found == pytest.approx({"token_mean": 1.25, "sequence_mean": 1.5})
