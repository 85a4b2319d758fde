"""TRPO: by hand, its products against the explicit Fisher matrix, its steps against their bounds.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from alignzoo.plugins.trpo import conjugate_gradient
from learner.algorithm_cases import Enumeration, learn, make_batch, random_tables, shortfall
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az
from alignzoo.learner import restrict
from alignzoo.policy.tiny import make_model
from alignzoo.testing import TokenMDP

EXACT = {
    "whiten_advantages": "none", "damping": 0.0, "kl_coef": 0.0, "cg_steps": 10,
    "fisher_fraction": 1.0,
}  # fmt: skip


def updated(case, **columns):
    """Prepares and learns from every response of an MDP once; returns the metrics."""
    batch = restrict(case.buffer.batch(), case.algorithm, may_write=True)
    case.algorithm.prepare(batch)
    return case.algorithm.update(batch, case.learner).result()


def two_tokens(logits, rewards, **options):
    """Returns the case of responses of one token out of two, each seen once."""
    mdp = TokenMDP(np.array([rewards], dtype=np.float64), vocab_size=2, horizon=1)
    return Enumeration(mdp, np.array([logits]), az.make("trpo", **EXACT | options), values=[0.0])


# -- by hand -----------------------------------------------------------------------------------


def test_the_example_worked_by_hand():
    # One state, two tokens at 1/2 each, each drawn once; advantages (1, -1).
    #   g = p A = (1/2, -1/2),   F = diag(p) - p p' = 1/4 [[1, -1], [-1, 1]]
    #   F x = g:  x = (1, -1), because 1/4 (1 + 1) = 1/2;   x'F x = x'g = 1
    #   step = sqrt(2 * 0.02 / 1) x = (0.2, -0.2)
    #   p_new = sigmoid(0.4) = 0.598688, and KL = -1/2 log(4 p (1 - p)) = 0.019868 <= 0.02: taken
    #   surrogate: 1/2 (p / 0.5 - (1 - p) / 0.5) = 2 p - 1 = 0.197375
    case = two_tokens([0.0, 0.0], [1, -1], max_kl=0.02)
    metrics = updated(case)
    found = case.learner.get_vector(0).tolist()
    assert found == pytest.approx([0.2, -0.2], abs=1e-6)
    expected = {
        "surrogate_before": 0.0, "surrogate_after": 0.197375, "mean_kl": 0.019868,
        "step_fraction": 1.0, "line_search_steps": 1.0, "cg_residual": 0.0,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_step_beyond_the_bound_is_shortened():
    # Towards the rare token the divergence grows faster than its second order says: with tokens at
    # p = (0.9, 0.1) and logits (z, -z) moved by u, KL = log(0.9 e^u + 0.1 e^-u) - 0.8 u.
    odds = 0.5 * math.log(9)
    case = two_tokens([odds, -odds], [-1, 1], max_kl=0.1, backtrack=0.9)
    metrics = updated(case)
    moved = case.learner.get_vector(0).tolist()[0] - odds

    def divergence(u):
        return math.log(0.9 * math.exp(u) + 0.1 * math.exp(-u)) - 0.8 * u

    fraction, tried = metrics["step_fraction"], int(metrics["line_search_steps"])
    assert tried > 1
    assert fraction == pytest.approx(0.9 ** (tried - 1))
    assert metrics["mean_kl"] == pytest.approx(divergence(moved), abs=1e-6)
    assert divergence(moved) <= 0.1 < divergence(moved / 0.9)


def test_the_natural_gradient_of_a_table_is_its_advantages():
    # Kakade 2001: in each state F x = g reads (diag(p) - p p') x = p A, so x = A, whatever the
    # state's weight. Under the flat policy every response of 2 tokens is as likely as any other.
    mdp = TokenMDP.random(0, horizon=2)
    flat = np.zeros(mdp.rewards.shape)
    algorithm = az.make("trpo", **EXACT | {"cg_steps": 50}, max_kl=1e-4, cg_tolerance=1e-6)
    case = Enumeration(mdp, flat, algorithm, values=mdp.values(flat))
    assert updated(case)["step_fraction"] == 1.0
    step = case.learner.get_vector(0).reshape(mdp.vocab_size, -1).T.numpy()
    advantages = mdp.advantages(flat)
    scale = np.linalg.norm(advantages) / np.linalg.norm(step)
    np.testing.assert_allclose(step * scale, advantages, atol=1e-3)


# -- conjugate gradient ------------------------------------------------------------------------


def random_system(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrix, torch.randn(size, generator=generator, dtype=torch.float64)


def test_conjugate_gradient_solves_the_system():
    matrix, g = random_system(12)
    solution = conjugate_gradient(lambda v: matrix @ v, g, steps=60, tolerance=1e-12)
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, g))
    assert solution.curvature == pytest.approx(float(solution.x @ matrix @ solution.x))
    assert solution.residual <= 1e-12


def test_what_it_reports_is_right_where_it_stops_early():
    matrix, g = random_system(12)
    solution = conjugate_gradient(lambda v: matrix @ v, g, steps=4, tolerance=0.0)
    gap = matrix @ solution.x - g
    assert solution.residual == pytest.approx(float(gap.norm() / g.norm()))
    assert solution.curvature == pytest.approx(float(solution.x @ matrix @ solution.x))


def test_it_takes_as_many_products_as_there_are_different_eigenvalues():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0], dtype=torch.float64))
    products = []
    g = torch.arange(1.0, 6.0, dtype=torch.float64)
    conjugate_gradient(lambda v: products.append(v) or matrix @ v, g, steps=50, tolerance=1e-10)
    assert len(products) == 3


def test_without_a_gradient_there_is_no_direction():
    solution = conjugate_gradient(lambda v: v, torch.zeros(3), steps=5, tolerance=1e-4)
    assert (solution.x.tolist(), solution.curvature, solution.residual) == ([0, 0, 0], 0.0, 0.0)


# -- Fisher-vector products --------------------------------------------------------------------


def test_the_fisher_product_of_a_table_is_that_of_its_matrix():
    # correctness.md #20. In a state seen n of N times: n / N (diag(p) - p p').
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("trpo", damping=0.3)
    case = Enumeration(mdp, logits, algorithm, values=np.zeros(len(mdp.contexts)))
    batch = restrict(case.buffer.batch(), algorithm)
    seen = np.zeros(len(mdp.contexts))
    for response in mdp.responses:
        for state, _ in mdp.steps(response):
            seen[state] += 1
    vector = torch.tensor(np.random.default_rng(3).normal(size=logits.size), dtype=torch.float32)
    table = vector.reshape(mdp.vocab_size, -1).T.double().numpy()  # [S, V]
    probs = mdp.probs(logits)
    mean = (probs * table).sum(1, keepdims=True)
    expected = (seen / seen.sum())[:, None] * probs * (table - mean) + 0.3 * table
    found = algorithm.fisher_vector(batch, case.learner, vector)
    np.testing.assert_allclose(found.reshape(mdp.vocab_size, -1).T.numpy(), expected, atol=1e-6)


def tiny_policy():
    model, tokenizer = make_model(0, width=8, num_layers=1, context_length=32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5, generator=generator)
    return az.Policy(model, tokenizer)


def explicit_fisher(policy, batch, temperature):
    """Returns 1/N sum_t J_t' (diag(p_t) - p_t p_t') J_t, [P, P], row by row without padding."""
    parameters = list(policy.model.parameters())
    total = 0.0
    for row in range(len(batch)):
        start, length = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
        tokens = batch.token_ids[row, : start + length]
        logits = policy.model(input_ids=tokens[None]).logits[0, start - 1 : -1] / temperature
        logits = logits[batch.response_mask[row, :length]]
        for line in logits:
            picks = torch.eye(len(line))
            gradients = torch.autograd.grad(
                line, parameters, picks, retain_graph=True, is_grads_batched=True
            )
            jacobian = torch.cat([g.flatten(1) for g in gradients], 1)  # [V, P]
            p = line.detach().softmax(0)
            total = total + jacobian.T @ (p[:, None] * (jacobian - p @ jacobian))
    return total / batch.num_tokens


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_fisher_product_of_a_small_net_is_that_of_its_matrix(temperature):
    # correctness.md #20, and #1: of the distribution that was drawn from.
    policy, algorithm = tiny_policy(), az.make("trpo", damping=0.0)
    run = roll_out(
        policy, algorithm, byte_prompts([3, 5]), temperature=temperature, max_new_tokens=3
    )
    fisher = explicit_fisher(policy, run.batch, temperature)
    batch = restrict(run.batch, algorithm)
    for seed in range(3):
        vector = torch.randn(len(fisher), generator=torch.Generator().manual_seed(seed))
        found = algorithm.fisher_vector(batch, run.learner, vector)
        expected = fisher @ vector
        assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_the_product_does_not_depend_on_how_the_rollout_is_split():
    # correctness.md #11.
    products = []
    for size in (None, 1):
        algorithm = az.make("trpo")
        run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2]), micro_batch_size=size)
        vector = torch.randn(
            len(run.learner.get_vector(0)), generator=torch.Generator().manual_seed(1)
        )
        batch = restrict(run.batch, algorithm)
        products.append(algorithm.fisher_vector(batch, run.learner, vector))
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-5)


def test_the_fisher_matrix_may_be_taken_over_a_share_of_the_responses():
    seen = []
    for fraction, expected in [(1.0, [0, 1, 2, 3, 4]), (0.5, [0, 2]), (0.01, [0])]:
        algorithm = az.make("trpo", fisher_fraction=fraction)
        run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2, 4, 6]))
        product = algorithm.fisher_vector

        def record(batch, *rest, product=product):
            seen.append((batch.row_numbers, batch.num_sequences))
            return product(batch, *rest)

        algorithm.fisher_vector = record
        algorithm.update(restrict(run.batch, algorithm), run.learner)
        assert {str(one) for one in seen} == {str((expected, len(expected)))}
        seen.clear()


# -- the step ----------------------------------------------------------------------------------


def distributions(policy, batch, temperature):
    """Returns log-probs [B, T, V] of a plain forward pass over each row alone."""
    rows = []
    for row in range(len(batch)):
        start, length = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
        with torch.no_grad():
            out = policy.model(input_ids=batch.token_ids[row, None, : start + length])
        rows.append((out.logits[0, start - 1 : -1] / temperature).double().log_softmax(-1))
    return torch.cat(rows)  # [N, V]


@pytest.mark.parametrize("max_kl", [1e-3, 0.03, 1.0])
def test_an_accepted_step_is_within_the_bound_and_improves_the_surrogate(max_kl):
    # correctness.md #20, by plain torch on whole distributions.
    algorithm = az.make("trpo", max_kl=max_kl, kl_coef=0.0)
    policy = small_policy(3)
    run = roll_out(policy, algorithm, byte_prompts([3, 5, 2, 4]), temperature=0.8)
    batch = run.batch
    old = distributions(policy, batch, 0.8)
    metrics = algorithm.update(restrict(batch, algorithm), run.learner).result()
    new = distributions(policy, batch, 0.8)
    kl = float((old.exp() * (old - new)).sum(-1).mean())
    tokens = batch.response_ids[batch.response_mask][:, None]
    ratio = (new - old).gather(1, tokens).exp().squeeze(1)
    advantages = batch.advantages[batch.response_mask]
    assert metrics["step_fraction"] > 0
    assert metrics["mean_kl"] == pytest.approx(kl, rel=1e-3)
    assert 0 < kl <= max_kl * (1 + 1e-3)
    surrogate = float((ratio * advantages).mean())
    assert metrics["surrogate_after"] == pytest.approx(surrogate, abs=1e-4)
    assert metrics["surrogate_before"] == pytest.approx(float(advantages.mean()), abs=1e-4)
    assert surrogate > float(advantages.mean())


@pytest.mark.parametrize("said", [(1.0, 0.5), (-1.0, 0.0), (math.nan, 0.0), (1.0, math.nan)])
def test_where_no_step_is_accepted_the_policy_stays_to_the_bit(said):
    # correctness.md #20: too far, or no better, or not finite.
    algorithm = az.make("trpo", max_kl=0.01, line_search_steps=3)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    start = run.learner.get_vector(0)
    seen = []

    def measure(batch, learner, old):
        seen.append(learner.get_vector(0))
        return (0.0, 0.0) if len(seen) == 1 else said

    algorithm._measure = measure
    metrics = algorithm.update(restrict(run.batch, algorithm), run.learner).result()
    assert torch.equal(run.learner.get_vector(0), start)
    moves = [float((one - start).norm()) for one in seen]
    assert moves[1:] == pytest.approx([moves[1], 0.8 * moves[1], 0.64 * moves[1]], rel=1e-4)
    assert moves[0] == 0.0 < moves[1]
    found = {name: metrics[name] for name in ("step_fraction", "line_search_steps", "mean_kl")}
    assert found == {"step_fraction": 0.0, "line_search_steps": 3.0, "mean_kl": 0.0}
    assert metrics["surrogate_after"] == metrics["surrogate_before"]


def test_without_advantages_the_policy_stays():
    algorithm = az.make("trpo", kl_coef=0.0)
    run = roll_out(
        small_policy(3), algorithm, byte_prompts([3, 5]), reward=lambda completions: [1.0] * 2,
        max_new_tokens=1,
    )  # fmt: skip
    start = run.learner.get_vector(0)
    metrics = algorithm.update(restrict(run.batch, algorithm), run.learner).result()
    assert torch.equal(run.learner.get_vector(0), start)
    assert metrics["step_fraction"] == metrics["line_search_steps"] == 0.0


def test_a_gradient_that_is_not_finite_is_skipped_and_its_rows_are_named():
    algorithm = az.make("trpo")
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    start, loss = run.learner.get_vector(), algorithm.loss
    algorithm.loss = lambda batch, out: math.nan * loss(batch, out)
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    assert torch.equal(run.learner.get_vector(), start)
    assert run.learner.skipped_rows == run.batch.row_numbers


# -- the value head ----------------------------------------------------------------------------


def test_the_value_head_is_fitted_by_steps_that_leave_the_policy_alone():
    algorithm = az.make("trpo", vf_epochs=4, minibatch_size=2, value_learning_rate=0.05)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2, 4]))
    seen = []
    step = run.learner.step

    def record(*arguments):
        before = run.learner.get_vector(0)
        result = step(*arguments)
        assert torch.equal(run.learner.get_vector(0), before)
        seen.append(result.metrics.result()["value_loss"])
        return result

    run.learner.step = record
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    assert run.learner.num_steps == len(seen) == 4 * 2
    assert sum(seen[-2:]) < sum(seen[:2])


def test_the_learning_rate_moves_the_value_head_alone():
    policies, heads = [], []
    for rate in (1e-4, 1e-2):
        algorithm = az.make("trpo", learning_rate=rate, value_learning_rate=None)
        run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
        algorithm.update(restrict(run.batch, algorithm), run.learner)
        policies.append(run.learner.get_vector(0))
        heads.append(run.learner.get_vector(1))
    assert torch.equal(*policies)
    assert not torch.equal(*heads)


# -- advantages --------------------------------------------------------------------------------


def test_advantages_skip_masked_tokens_and_go_on_in_the_value_of_truncated_rows_alone():
    # correctness.md #6 and #7. gamma 0.5, lambda 1: the last tokens return 2 + 0.5 * (0, 4), the
    # first 1 + 0.5 * that; values 0.5 and 0.25. The tool's token in between does not count.
    nan = math.nan
    algorithm = az.make(
        "trpo", gamma=0.5, gae_lambda=1.0, bootstrap_truncated=True, whiten_advantages="none"
    )
    columns = {
        "rewards": [[1, nan, 2]] * 2, "values": [[0.5, nan, 0.25]] * 2,
        "bootstrap_values": [8.0, 4.0],
    }  # fmt: skip
    ends = {"terminated": [True, False], "truncated": [False, True]}
    batch = make_batch(algorithm, columns, [3, 3], response_masks=[[True, False, True]] * 2, **ends)
    algorithm.prepare(batch)
    assert batch.returns.tolist() == [[2.0, 0.0, 2.0], [3.0, 0.0, 4.0]]
    assert batch.advantages.tolist() == [[1.5, 0.0, 1.75], [2.5, 0.0, 3.75]]


# -- the exact gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("end_token", [None, 2])
def test_the_expected_gradient_of_the_surrogate_is_the_exact_policy_gradient(end_token):
    mdp = TokenMDP.random(0, end_token=end_token)
    logits, _ = random_tables(mdp, 1)
    values = np.random.default_rng(2).normal(size=len(mdp.contexts))
    case = Enumeration(mdp, logits, az.make("trpo", **EXACT), values=values)
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


def test_with_the_exact_critic_it_is_exact_at_any_lambda():
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("trpo", **EXACT, gae_lambda=0.5)
    case = Enumeration(mdp, logits, algorithm, values=mdp.values(logits))
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimum_of_value_minus_divergence(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "trpo", max_kl=0.03, damping=0.01, cg_steps=6, fisher_fraction=0.5, kl_coef=0.2,
        value_learning_rate=0.1, vf_epochs=2,
    )  # fmt: skip
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=18, batch_size=128)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.1}, {"gae_lambda": -0.1}, {"max_kl": 0}, {"cg_steps": 0},
        {"cg_tolerance": -1}, {"damping": -0.1}, {"fisher_fraction": 0}, {"fisher_fraction": 1.1},
        {"line_search_steps": 0}, {"backtrack": 0}, {"backtrack": 1}, {"vf_epochs": 0},
        {"value_learning_rate": 0}, {"num_epochs": 2}, {"kl_coef": -1}, {"learning_rate": 0},
        {"ent_coef": -1}, {"group_size": 0}, {"max_kl": float("nan")},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"trpo: option '{name}' is"):
        az.make("trpo", **wrong)
