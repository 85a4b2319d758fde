"""The reference is the truth for the kernels; here it is held to numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from alignzoo.kernels import reference


def test_gae_of_three_steps_worked_by_hand():
    # gamma 0.5, lambda 0.5: d = (1 + 0.5*2 - 1, 0 + 0.5*4 - 2, 3 - 4) = (1, 0, -1)
    # A_3 = -1, A_2 = 0 - 0.25, A_1 = 1 - 0.0625
    advantages, returns = reference.gae(
        [[1.0, 0.0, 3.0]], [[1.0, 2.0, 4.0]], gamma=0.5, gae_lambda=0.5
    )
    np.testing.assert_array_equal(advantages, [[0.9375, -0.25, -1.0]])
    np.testing.assert_array_equal(returns, [[1.9375, 1.75, 3.0]])


def test_gae_bootstraps_a_row_that_goes_on():
    # d_2 = 1 + 0.5*8 - 2 = 3, A_1 = (0 + 0.5*2 - 1) + 0.5*3
    advantages, _ = reference.gae(
        [[0.0, 1.0]], [[1.0, 2.0]], gamma=0.5, gae_lambda=1.0, bootstrap=[8.0]
    )
    np.testing.assert_array_equal(advantages, [[1.5, 3.0]])


def test_gae_stops_at_a_terminated_step_and_ignores_its_bootstrap():
    advantages, _ = reference.gae(
        [[1.0, 1.0, 1.0]],
        [[0.0, 0.0, 0.0]],
        gamma=1.0,
        gae_lambda=1.0,
        terminated=[[False, True, True]],
        bootstrap=[100.0],
    )
    np.testing.assert_array_equal(advantages, [[2.0, 1.0, 1.0]])


def test_gae_takes_next_values_where_truncated_and_cuts_the_sum():
    advantages, _ = reference.gae(
        [[1.0, 1.0, 1.0]],
        [[0.0, 0.0, 0.0]],
        gamma=1.0,
        gae_lambda=1.0,
        truncated=[[False, True, False]],
        next_values=[[9.0, 5.0, 9.0]],
    )
    np.testing.assert_array_equal(advantages, [[7.0, 6.0, 1.0]])


def test_gae_per_row_flags_sit_on_the_last_unmasked_step():
    options = {"gamma": 1.0, "gae_lambda": 1.0, "mask": [[1, 1, 0], [1, 1, 1]]}
    advantages, _ = reference.gae(
        np.ones((2, 3)), np.zeros((2, 3)), terminated=[True, False], bootstrap=[7.0, 7.0], **options
    )
    np.testing.assert_array_equal(advantages, [[2.0, 1.0, 0.0], [10.0, 9.0, 8.0]])


def test_gae_needs_a_value_where_truncated():
    with pytest.raises(ValueError, match="truncated"):
        reference.gae([[1.0]], [[0.0]], gamma=1.0, gae_lambda=1.0, truncated=[True])


def test_a_hole_is_skipped_by_carry_and_is_a_step_of_nothing_for_zero():
    arrays = ([[1.0, 99.0, 1.0]], [[0.5, 99.0, 2.0]])
    options = {"gamma": 0.5, "gae_lambda": 1.0, "mask": [[1, 0, 1]]}
    carried, _ = reference.gae(*arrays, mask_mode="carry", **options)
    # A_3 = 1 - 2 = -1; carry: A_1 = 1 + 0.5*2 - 0.5 + 0.5*(-1)
    np.testing.assert_array_equal(carried, [[1.0, 0.0, -1.0]])
    zeroed, _ = reference.gae(*arrays, mask_mode="zero", **options)
    # A_2 = 0.5*2 + 0.5*(-1) = 0.5; A_1 = 1 + 0 - 0.5 + 0.5*0.5
    np.testing.assert_array_equal(zeroed, [[0.75, 0.0, -1.0]])
    with pytest.raises(ValueError, match="hole"):
        reference.gae(*arrays, mask_mode="prefix", **options)


def test_discounted_returns_worked_by_hand():
    returns = reference.discounted_returns([1.0, 2.0, 4.0, 8.0], gamma=0.5, cu_seqlens=[0, 3, 3, 4])
    np.testing.assert_array_equal(returns, [3.0, 4.0, 4.0, 8.0])


def test_masked_whiten_worked_by_hand():
    # mean 3, squared deviations 4 + 0 + 4, variance 8 / 2
    whitened, moments = reference.masked_whiten(
        [[1.0, 3.0, np.nan], [5.0, np.inf, 0.0]], [[1, 1, 0], [1, 0, 0]], eps=0.0
    )
    np.testing.assert_array_equal(whitened, [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert moments == (3.0, 3.0, 8.0)


@pytest.mark.parametrize(
    ("options", "winner"),
    [
        ({"mode": "grpo", "eps": 1e-6, "ddof": 1}, 2.4749),
        ({"mode": "grpo", "eps": 1e-4, "ddof": 1}, 2.4742),
        ({"mode": "grpo", "eps": 1e-8, "ddof": 0}, 2.6458),
        ({"mode": "dr_grpo"}, 0.875),
        ({"mode": "rloo"}, 1.0),
    ],
)
def test_the_winner_of_eight_gets_the_advantage_its_dialect_gives(options, winner):
    advantages = reference.group_advantages([1.0] + [0.0] * 7, [3] * 8, **options)
    assert advantages[0] == pytest.approx(winner, abs=5e-5)


def test_token_log_probs_of_a_known_distribution():
    probs = np.array([0.5, 0.25, 0.125, 0.125])
    log_probs, entropy = reference.token_log_probs(np.log([probs]) + 7, [2], entropy=True)
    np.testing.assert_allclose(log_probs, [math.log(0.125)], rtol=1e-14)
    np.testing.assert_allclose(entropy, [1.75 * math.log(2)], rtol=1e-14)


def test_top_k_comes_before_top_p_which_sees_renormalised_mass():
    logits = np.log([[0.4, 0.3, 0.2, 0.1]])
    # After top-2: (4/7, 3/7). 4/7 < 0.6 keeps both. 0.55 would need both of the full distribution,
    # where the first has 0.4, and needs the first alone after renormalisation.
    np.testing.assert_allclose(
        reference.sample_distribution(logits, top_k=2, top_p=0.6), [[4 / 7, 3 / 7, 0, 0]]
    )
    np.testing.assert_array_equal(
        reference.sample_distribution(logits, top_k=2, top_p=0.55), [[1, 0, 0, 0]]
    )


def test_ties_at_a_cut_keep_the_lower_index():
    logits = [[0.0, 1.0, 0.0, 1.0, 0.0]]
    kept = reference.sample_distribution(logits, top_k=3)[0] > 0
    np.testing.assert_array_equal(kept, [True, True, False, True, False])
    kept = reference.sample_distribution([[0.0] * 4], top_p=0.5)[0] > 0
    np.testing.assert_array_equal(kept, [True, True, False, False])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**128 - 1, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x03707344_13198A2E_85A308D3_243F6A88,
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, words):
    assert reference.philox(counter, key) == words


def test_policy_loss_of_four_tokens_worked_by_hand():
    ratio = np.array([[2.0, 0.5, 2.0, 0.5]])
    advantages = np.array([[1.0, 1.0, -1.0, -1.0]])
    loss, stats = reference.policy_loss(
        np.log(ratio), np.zeros((1, 4)), advantages, clip_range=0.25, aggregate="token_sum"
    )
    # -min(2, 1.25), -min(0.5, 0.75), -min(-2, -1.25), -min(-0.5, -0.75)
    assert loss == pytest.approx(-1.25 - 0.5 + 2.0 + 0.75, rel=1e-14)
    assert stats["clip_frac"] == 0.5
    assert stats["ratio_max"] == pytest.approx(2.0, rel=1e-14)
    assert stats["ess"] == pytest.approx(25.0 / (4 * 8.5), rel=1e-14)


def test_k3_of_a_tiny_log_ratio_keeps_its_digits():
    q = 1e-9
    assert reference.kl_penalty([[-1.0]], [[-1.0]], estimator="k3") == 0.0
    got = reference.kl_penalty([[0.0]], [[q]], estimator="k3")[0, 0]
    assert got == pytest.approx(q * q / 2 + q**3 / 6, rel=1e-15)


def slope_by_differences(function, x, step=1e-6):
    """Central differences of a scalar function of an array."""
    grad = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        grad[i] = (function(up) - function(down)) / (2 * step)
    return grad


@pytest.mark.parametrize("kind", ["clip", "plain"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "token_sum"])
def test_policy_loss_gradient_is_the_slope_of_its_value(kind, level, aggregate):
    rng = np.random.default_rng(0)
    new, old, advantages = rng.normal(size=(3, 3, 5))
    options = {
        "mask": rng.random((3, 5)) < 0.7,
        "clip_range": 0.2,
        "clip_range_high": 0.4,
        "dual_clip": 2.0 if kind == "clip" else None,
        "kind": kind,
        "level": level,
        "aggregate": aggregate,
        "behaviour_weights": rng.random((3, 5)),
    }
    slope = slope_by_differences(
        lambda x: reference.policy_loss(x, old, advantages, **options)[0], new
    )
    np.testing.assert_allclose(
        reference.policy_loss_grad(new, old, advantages, **options), slope, atol=1e-8
    )


def test_value_loss_gradient_is_the_slope_of_its_value():
    rng = np.random.default_rng(1)
    values, old, returns = rng.normal(size=(3, 4, 5))
    slope = slope_by_differences(
        lambda x: reference.value_loss(x, old, returns, clip_range=0.3)[0], values
    )
    np.testing.assert_allclose(
        reference.value_loss_grad(values, old, returns, clip_range=0.3), slope, atol=1e-8
    )


def test_log_prob_gradients_are_those_of_torch_in_float64():
    rng = np.random.default_rng(2)
    hidden, weight, bias = rng.normal(size=(6, 3)), rng.normal(size=(7, 3)), rng.normal(size=7)
    targets = np.array([0, 6, 3, -100, 2, 2])
    g, h = rng.normal(size=(2, 6))
    inputs = [torch.tensor(x, requires_grad=True) for x in (hidden, weight, bias)]
    log_p = ((inputs[0] @ inputs[1].T + inputs[2]) / 0.7).log_softmax(-1)
    counted = torch.tensor(targets >= 0)
    chosen = log_p.gather(-1, torch.tensor(targets).clamp(0)[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    (counted * (torch.tensor(g) * chosen + torch.tensor(h) * entropy)).sum().backward()
    grads = reference.linear_token_log_probs_grad(
        hidden, weight, targets, g, h, bias=bias, temperature=0.7
    )
    for ours, theirs in zip(grads, inputs, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, atol=1e-13)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_penalty_gradient_is_the_slope_of_its_value(estimator):
    log_probs, ref = np.random.default_rng(3).normal(size=(2, 2, 4))
    slope = slope_by_differences(
        lambda x: reference.kl_penalty(x, ref, estimator=estimator).sum(), log_probs
    )
    np.testing.assert_allclose(
        reference.kl_penalty_grad(log_probs, ref, estimator=estimator), slope, atol=1e-8
    )


def test_huber_is_quadratic_inside_delta_and_linear_beyond():
    x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])
    np.testing.assert_array_equal(reference.huber(x, delta=1.0), [2.5, 0.5, 0.0, 0.125, 1.5])
    np.testing.assert_array_equal(reference.huber_grad(x, delta=1.0), [-1.0, -1.0, 0.0, 0.5, 1.0])


def test_td_lambda_returns_worked_by_hand():
    # gamma 0.5, lambda 0.5: G_3 = 4; G_2 = 2 + 0.5 (0.5*8 + 0.5*4) = 5;
    # G_1 = 1 + 0.5 (0.5*2 + 0.5*5) = 2.75
    returns = reference.td_lambda_returns(
        [[1.0, 2.0, 4.0]], [[99.0, 2.0, 8.0]], gamma=0.5, td_lambda=0.5
    )
    np.testing.assert_array_equal(returns, [[2.75, 5.0, 4.0]])


def test_td_lambda_returns_end_with_the_whole_value_of_the_state_after():
    options = {"gamma": 0.5, "td_lambda": 0.5, "next_values": [[7.0, 6.0, 7.0]]}
    arrays = [[1.0, 2.0, 4.0]], [[99.0, 2.0, 8.0]]
    # G_3 = 4 + 0.5*20; step 2 is cut: 2 + 0.5*6, or 2 where terminated; G_1 = 1 + 0.5 (1 + G_2/2)
    options["bootstrap"] = [20.0]
    cut = reference.td_lambda_returns(*arrays, truncated=[[0, 1, 0]], **options)
    np.testing.assert_array_equal(cut, [[2.75, 5.0, 14.0]])
    ended = reference.td_lambda_returns(*arrays, terminated=[[0, 1, 0]], **options)
    np.testing.assert_array_equal(ended, [[2.0, 2.0, 14.0]])


@pytest.mark.parametrize("mask_mode", ["carry", "zero"])
def test_td_lambda_returns_are_the_returns_of_gae(mask_mode):
    rng = np.random.default_rng(4)
    rewards, values, next_values = rng.normal(size=(3, 5, 23))
    terminated, truncated, mask = rng.random((3, 5, 23)) < [[[0.1]], [[0.1]], [[0.7]]]
    options = {"terminated": terminated, "truncated": truncated, "next_values": next_values}
    options |= {"mask": mask, "mask_mode": mask_mode, "bootstrap": rng.normal(size=5)}
    _, returns = reference.gae(rewards, values, gamma=0.9, gae_lambda=0.8, **options)
    same = reference.td_lambda_returns(rewards, values, gamma=0.9, td_lambda=0.8, **options)
    np.testing.assert_allclose(same, returns, atol=1e-13)


def test_vtrace_of_two_steps_worked_by_hand():
    # Ratios 2 and 1/2, gamma 1/2, V = (1, 2), and 8 after the row: errors r + N/2 - V are
    # 3 + 1 - 1 = 3 and 1 + 4 - 2 = 3. With every clip 1: a_2 = 3/2, a_1 = 3 + 3/4.
    arrays = np.log([[2.0, 0.5]]), [[0.0, 0.0]], [[3.0, 1.0]], [[1.0, 2.0]]
    options = {"gamma": 0.5, "bootstrap": [8.0]}
    targets, advantages = reference.vtrace(*arrays, **options)
    np.testing.assert_allclose(targets, [[4.75, 3.5]], rtol=1e-15)
    # 3 + 3.5/2 - 1 and 1/2 (1 + 4 - 2)
    np.testing.assert_allclose(advantages, [[3.75, 1.5]], rtol=1e-15)
    # Unclipped, lambda 1/2: a_1 = 2*3 + 1/2 (1/2 * 2) a_2; advantages 2 (3 + 3.5/2 - 1) and 1.5
    unclipped = {"clip_rho": math.inf, "clip_c": math.inf, "clip_pg_rho": math.inf}
    targets, advantages = reference.vtrace(*arrays, vtrace_lambda=0.5, **unclipped, **options)
    np.testing.assert_allclose(targets, [[7.75, 3.5]], rtol=1e-15)
    np.testing.assert_allclose(advantages, [[7.5, 1.5]], rtol=1e-15)


def test_vtrace_cuts_the_correction_and_the_value_where_an_episode_ended():
    zeros = np.zeros((1, 3))
    targets, advantages = reference.vtrace(
        zeros, zeros, zeros + 1, zeros + 5, gamma=1.0, terminated=[[0, 1, 0]], bootstrap=[10.0]
    )
    np.testing.assert_array_equal(targets, [[2.0, 1.0, 11.0]])
    np.testing.assert_array_equal(advantages, [[-3.0, -4.0, 6.0]])


def test_vtrace_on_policy_gives_the_returns_and_advantages_of_gae():
    rng = np.random.default_rng(5)
    log_probs, rewards, values = rng.normal(size=(3, 4, 9))
    targets, advantages = reference.vtrace(log_probs, log_probs, rewards, values, gamma=0.9)
    gae, returns = reference.gae(rewards, values, gamma=0.9, gae_lambda=1.0)
    np.testing.assert_allclose(targets, returns, atol=1e-13)
    np.testing.assert_allclose(advantages, gae, atol=1e-13)


def test_td_targets_worked_by_hand():
    rewards, after = [1.0, 2.0, 4.0, 8.0], [10.0, 20.0, 40.0, 80.0]
    targets = reference.td_targets(rewards, after, gamma=0.5, terminated=[0, 0, 1, 0])
    np.testing.assert_array_equal(targets, [6.0, 12.0, 4.0, 48.0])
    # 1 + 2/2 + 20/4, 2 + 4/2 and its end, its end, and one step is left
    targets = reference.td_targets(rewards, after, gamma=0.5, terminated=[0, 0, 1, 0], n_step=2)
    np.testing.assert_array_equal(targets, [7.0, 4.0, 4.0, 48.0])
    # 1 + 2/2 + 4/4 + 8/8 + 80/16
    targets = reference.td_targets(rewards, after, gamma=0.5, n_step=9)
    np.testing.assert_array_equal(targets, [9.0, 16.0, 28.0, 48.0])
    assert reference.td_targets(1.0, 2.0, gamma=0.5) == 2.0


def test_kl_divergence_of_known_distributions():
    p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.25, 0.5]]) + 3
    forward = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    np.testing.assert_allclose(reference.kl_divergence(p, q), [forward], rtol=1e-14)
    p = np.log([[0.5, 0.5, 1e-300]])
    p[0, 2] = -math.inf
    # sum p log(p/q) = log 2 / 2 + 0 ; sum q log(q/p) is infinite where p has nothing
    np.testing.assert_allclose(reference.kl_divergence(p, q), [0.5 * math.log(4)], rtol=1e-14)
    assert reference.kl_divergence(p, q, direction="reverse")[0] == math.inf
    np.testing.assert_array_equal(reference.kl_divergence(p, p), [0.0])
    # Halving the logits at temperature 2: square roots of the odds, 1 : e
    halved = reference.kl_divergence([[0.0, 2.0]], [[0.0, 0.0]], temperature=2.0)
    x = math.e / (1 + math.e)
    truth = math.log(2) + x * math.log(x) + (1 - x) * math.log(1 - x)
    np.testing.assert_allclose(halved, [truth], rtol=1e-14)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_divergence_gradients_are_the_slopes_of_its_value(direction):
    rng = np.random.default_rng(6)
    p, q = rng.normal(size=(2, 3, 5))
    g = rng.normal(size=3)
    options = {"direction": direction, "temperature": 0.7}
    grads = reference.kl_divergence_grad(p, q, g, **options)
    of_p = slope_by_differences(lambda x: (g * reference.kl_divergence(x, q, **options)).sum(), p)
    of_q = slope_by_differences(lambda x: (g * reference.kl_divergence(p, x, **options)).sum(), q)
    np.testing.assert_allclose(grads[0], of_p, atol=1e-8)
    np.testing.assert_allclose(grads[1], of_q, atol=1e-8)


def test_kl_divergence_gradients_are_finite_where_neither_has_a_token():
    p, q = np.array([[0.0, 1.0, -math.inf]]), np.array([[1.0, 0.0, -math.inf]])
    for direction in ("forward", "reverse"):
        small = reference.kl_divergence_grad(p[:, :2], q[:, :2], [1.0], direction=direction)
        for wide, narrow in zip(
            reference.kl_divergence_grad(p, q, [1.0], direction=direction), small, strict=True
        ):
            np.testing.assert_allclose(wide, np.pad(narrow, ((0, 0), (0, 1))), atol=1e-15)


def test_max_and_gather_worked_by_hand():
    q = [[1.0, 3.0, 3.0, -1.0], [2.0, math.nan, 9.0, math.nan]]
    largest, argmax, chosen = reference.max_and_gather(q, [3, 2])
    np.testing.assert_array_equal(largest, [3.0, math.nan])
    np.testing.assert_array_equal(argmax, [1, 1])
    np.testing.assert_array_equal(chosen, [-1.0, 9.0])
    grad = reference.max_and_gather_grad(q[:1], [3], [5.0], [7.0])
    np.testing.assert_array_equal(grad, [[0.0, 5.0, 0.0, 7.0]])
    grad = reference.max_and_gather_grad(q[:1], [1], [5.0], [7.0])
    np.testing.assert_array_equal(grad, [[0.0, 12.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="action"):
        reference.max_and_gather(q, [4, 0])
