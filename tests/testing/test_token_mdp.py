"""The oracle itself: held against plain enumeration, finite differences and brute force."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from alignzoo.testing import TokenMDP

SHAPES = [(3, 2, None), (3, 3, 2), (4, 2, 0), (2, 4, None)]


def make(vocab_size, horizon, end_token, **options):
    return TokenMDP.random(
        5, vocab_size=vocab_size, horizon=horizon, end_token=end_token, **options
    )


def random_logits(mdp, seed=0):
    return np.random.default_rng(seed).normal(size=mdp.rewards.shape)


def discounted_return(mdp, response):
    return sum(mdp.gamma**t * mdp.rewards[step] for t, step in enumerate(mdp.steps(response)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_objective_is_the_mean_return_over_all_responses(shape):
    mdp = make(*shape, gamma=0.9)
    logits = random_logits(mdp)
    probs = mdp.response_probs(logits)
    returns = [discounted_return(mdp, response) for response in mdp.responses]
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    assert mdp.objective(logits) == pytest.approx(probs @ returns, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_mean_returns_from_a_context_on(shape):
    mdp = make(*shape, gamma=0.9)
    logits = random_logits(mdp)
    probs, values = mdp.response_probs(logits), mdp.values(logits)
    for number, context in enumerate(mdp.contexts):
        passing = [
            (p, discounted_return(mdp, r) - discounted_return(mdp, r[: len(context)]))
            for p, r in zip(probs, mdp.responses, strict=True)
            if r[: len(context)] == context
        ]
        mean = sum(p * later for p, later in passing) / sum(p for p, _ in passing)
        assert values[number] * mdp.gamma ** len(context) == pytest.approx(mean, abs=1e-12)
        assert mdp.visits(logits)[number] == pytest.approx(sum(p for p, _ in passing), abs=1e-12)


def test_the_policy_gradient_is_the_derivative_of_the_objective():
    mdp = make(3, 3, 2, gamma=0.9)
    logits, step = random_logits(mdp), 1e-5
    gradient = mdp.policy_gradient(logits)
    for place in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += step
        down[place] -= step
        slope = (mdp.objective(up) - mdp.objective(down)) / (2 * step)
        assert gradient[place] == pytest.approx(slope, abs=1e-9)


def test_the_divergence_is_that_of_whole_responses():
    mdp = make(3, 3, 2)
    logits, ref = random_logits(mdp, 1), random_logits(mdp, 2)
    p, q = mdp.response_probs(logits), mdp.response_probs(ref)
    assert mdp.kl(logits, ref) == pytest.approx(p @ np.log(p / q), abs=1e-12)


def test_the_penalised_gradient_is_the_derivative_of_objective_minus_divergence():
    mdp, coef, step = make(3, 2, 2), 0.3, 1e-5
    logits, ref = random_logits(mdp, 1), random_logits(mdp, 2)

    def penalised_objective(table):
        return mdp.objective(table) - coef * mdp.kl(table, ref)

    penalised = mdp.penalised(logits, ref, kl_coef=coef)
    assert penalised.objective(logits) == pytest.approx(penalised_objective(logits), abs=1e-12)
    gradient = penalised.policy_gradient(logits)
    for place in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[place] += step
        down[place] -= step
        slope = (penalised_objective(up) - penalised_objective(down)) / (2 * step)
        assert gradient[place] == pytest.approx(slope, abs=1e-9)


def test_no_deterministic_policy_is_better_than_the_optimal_one():
    mdp = make(3, 2, None, gamma=0.9)
    best = -np.inf
    for tokens in itertools.product(range(3), repeat=len(mdp.contexts)):
        table = np.where(np.eye(3)[list(tokens)] > 0, 0.0, -np.inf)
        best = max(best, mdp.objective(table))
    assert mdp.objective(mdp.optimal_logits()) == pytest.approx(best, abs=1e-12)
    assert mdp.optimal_q_values()[0].max() == pytest.approx(best, abs=1e-12)


def test_the_regularised_optimum_has_the_soft_value_and_no_gradient():
    mdp, coef = make(3, 3, 2), 0.5
    ref = random_logits(mdp, 2)
    best = mdp.optimal_logits(ref, kl_coef=coef)
    penalised = mdp.penalised(best, ref, kl_coef=coef)
    q = mdp.optimal_q_values(ref, kl_coef=coef)
    soft = coef * np.log(np.exp(mdp.log_probs(ref)[0] + q[0] / coef).sum())
    assert penalised.objective(best) == pytest.approx(soft, abs=1e-12)
    assert np.abs(penalised.policy_gradient(best)).max() < 1e-12


def test_a_score_is_paid_at_the_end_alone():
    mdp = make(3, 3, 2, score_only=True)
    assert not mdp.rewards[mdp.next_states >= 0].any()
    assert mdp.rewards[mdp.next_states < 0].all()


def test_rewards_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`rewards` is \[2, 2\].*must be \[4, 3\]"):
        TokenMDP(np.zeros((2, 2)), vocab_size=3, horizon=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_policy_samples_and_scores_as_the_table_says(shape):
    mdp = make(*shape)
    logits = random_logits(mdp)
    policy = mdp.policy(logits)
    drawn = policy.generate([mdp.prompt], num_samples=40, max_new_tokens=mdp.horizon, seed=3)
    log_probs = mdp.log_probs(logits)
    for tokens, said, reason in zip(
        drawn.token_ids, drawn.log_probs, drawn.stop_reasons, strict=True
    ):
        assert tuple(tokens) in mdp.responses
        exact = [log_probs[step] for step in mdp.steps(tokens.tolist())]
        np.testing.assert_allclose(said, exact, atol=1e-6)
        assert (reason == "end") == mdp.ends(tokens.tolist())
    exact = [sum(mdp.rewards[s] for s in mdp.steps(row.tolist())) for row in drawn.token_ids]
    np.testing.assert_allclose(mdp.score(policy.decode(drawn.token_ids)), exact, atol=1e-12)


def test_importing_it_imports_no_torch():
    code = "import sys, alignzoo.testing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_noisy_score_is_the_score_plus_noise_of_mean_zero():
    mdp = make(3, 2, None)
    texts = ["0 1"] * 20_000
    (exact,) = mdp.score(["0 1"])
    noisy = mdp.noisy_score(np.random.default_rng(0), spread=0.5)(texts)
    assert np.mean(noisy) == pytest.approx(exact, abs=0.02)
    assert np.std(noisy) == pytest.approx(0.5, abs=0.02)
    again = mdp.noisy_score(np.random.default_rng(0), spread=0.5)(texts)
    assert noisy == again
