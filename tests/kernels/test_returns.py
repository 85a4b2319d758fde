"""What is particular to each of the scans, and td_targets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import FLOATS, LIBRARIES, TEST_DEVICE, bits, given_as, to_numpy
from kernel_device import kernels
from kernel_strategies import few_examples, lengths, seeds, sources
from scan_cases import arrays_of, ends, run

from alignzoo.kernels import reference


def test_undiscounted_returns_of_a_finished_row_are_the_sums_of_later_rewards():
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(2, 4, 21))
    later = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
    options = {"gamma": 1.0, "terminated": np.ones(4, bool)}
    assert_exact_to(kernels.gae(rewards, values, gae_lambda=1.0, **options)[1], later, 1e-12)
    assert_exact_to(kernels.discounted_returns(rewards, **options), later, 1e-12)
    returns = kernels.td_lambda_returns(rewards, values, td_lambda=1.0, **options)
    assert_exact_to(returns, later, 1e-12)
    targets, _ = kernels.vtrace(values, values, rewards, values, **options)
    assert_exact_to(targets, later, 1e-12)


def test_a_terminated_row_ignores_its_bootstrap_and_a_truncated_one_uses_it():
    rewards, values = np.ones((2, 3)), np.zeros((2, 3))
    options = {
        "terminated": np.array([True, False]),
        "truncated": np.array([True, True]),
        "bootstrap": np.array([np.nan, 10.0]),
        "gamma": 1.0,
    }
    expected = [[3.0, 2.0, 1.0], [13.0, 12.0, 11.0]]
    advantages, _ = kernels.gae(rewards, values, gae_lambda=1.0, **options)
    np.testing.assert_array_equal(advantages, expected)
    np.testing.assert_array_equal(kernels.discounted_returns(rewards, **options), expected)
    returns = kernels.td_lambda_returns(rewards, values, td_lambda=1.0, **options)
    np.testing.assert_array_equal(returns, expected)
    for output in kernels.vtrace(values, values, rewards, values, **options):
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("ending", ["bootstrapped", "all_kinds"])
@pytest.mark.parametrize("mask_mode", ["carry", "zero"])
def test_returns_of_td_lambda_are_those_of_gae_and_of_vtrace_on_policy(ending, mask_mode):
    rng = np.random.default_rng(4)
    shape = (5, 531)
    rewards, values, log_probs = rng.normal(size=(3, *shape))
    options = {"gamma": 0.97, "mask": rng.random(shape) < 0.8, "mask_mode": mask_mode}
    options |= ends(ending, shape, rng)
    advantages, returns = kernels.gae(rewards, values, gae_lambda=0.9, **options)
    same = kernels.td_lambda_returns(rewards, values, td_lambda=0.9, **options)
    assert_exact_to(same, returns, 1e-12)
    on_policy = log_probs, log_probs, rewards, values
    targets, _ = kernels.vtrace(*on_policy, vtrace_lambda=0.9, **options)
    assert_exact_to(targets, returns, 1e-12)
    _, theirs = kernels.vtrace(*on_policy, **options)
    advantages, _ = kernels.gae(rewards, values, gae_lambda=1.0, **options)
    assert_exact_to(theirs, advantages, 1e-12)


def test_a_lambda_of_0_looks_one_step_ahead():
    rng = np.random.default_rng(5)
    rewards, values = rng.normal(size=(2, 3, 77))
    after = np.pad(values[:, 1:], ((0, 0), (0, 1)))
    one_step = kernels.td_targets(rewards, after, gamma=0.9)
    returns = kernels.td_lambda_returns(rewards, values, gamma=0.9, td_lambda=0.0)
    assert_exact_to(returns, one_step, 1e-15)
    advantages, _ = kernels.gae(rewards, values, gamma=0.9, gae_lambda=0.0)
    assert_exact_to(advantages, one_step - values, 1e-15)


def test_a_gamma_of_0_sees_the_reward_alone():
    rng = np.random.default_rng(6)
    rewards, values = rng.normal(size=(2, 3, 77))
    options = {"gamma": 0.0, "bootstrap": np.full(3, 1e300)}
    advantages, _ = kernels.gae(rewards, values, gae_lambda=1.0, **options)
    np.testing.assert_array_equal(advantages, rewards - values)
    for returns in (
        kernels.discounted_returns(rewards, **options),
        kernels.td_lambda_returns(rewards, values, td_lambda=1.0, **options),
        kernels.td_targets(rewards, values, gamma=0.0),
        kernels.td_targets(rewards, values, gamma=0.0, n_step=5),
    ):
        np.testing.assert_array_equal(returns, rewards)


@pytest.mark.parametrize("dtype", FLOATS)
def test_vtrace_clips_each_ratio_by_its_own_limit(dtype):
    # One step of error 1 after another of error 1; ratio 4 at both.
    zeros = np.zeros((1, 2), dtype)
    limits = {"clip_rho": 3.0, "clip_c": 2.0, "clip_pg_rho": 1.5}
    targets, advantages = kernels.vtrace(
        zeros + np.log(4).astype(dtype), zeros, zeros + 1, zeros, gamma=1.0, **limits
    )
    np.testing.assert_allclose(targets, [[3 + 2 * 3, 3]], rtol=1e-6)
    np.testing.assert_allclose(advantages, [[1.5 * 4, 1.5]], rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_vtrace_clamps_log_ratios_before_exp(dtype):
    new = np.array([[800.0, -800.0]], dtype)
    zeros = np.zeros_like(new)
    limits = {"clip_rho": math.inf, "clip_c": math.inf, "clip_pg_rho": math.inf}
    targets, _ = kernels.vtrace(new, zeros, zeros + 1, zeros, gamma=0.0, **limits)
    np.testing.assert_allclose(targets, np.exp([[20.0, -20.0]]), rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_products_of_large_ratios_that_carry_nothing_leave_vtrace_finite(dtype):
    # Their product is no float, but the sum of what comes after the 37 large ratios is 0.
    log_probs = np.zeros((2, 300), dtype)
    log_probs[:, 100:137] = 20
    rewards = np.zeros_like(log_probs)
    rewards[0, :90] = 1
    arrays = [log_probs, np.zeros_like(log_probs), rewards, np.zeros_like(log_probs)]
    limits = {"clip_rho": math.inf, "clip_c": math.inf, "clip_pg_rho": math.inf}
    expected = run(reference, "vtrace", arrays, **limits)
    for ours, truth in zip(run(kernels, "vtrace", arrays, **limits), expected, strict=True):
        assert_exact_to(ours, truth, 1e-12 if dtype == "float64" else 1e-5)


def test_vtrace_takes_expanded_tensors_and_records_no_gradient():
    rng = np.random.default_rng(7)
    new, old, rewards, values = map(torch.from_numpy, arrays_of("vtrace", (1, 40), rng))
    wide = [x.expand(3, 40).requires_grad_() for x in (new, old, rewards, values)]
    alone = kernels.vtrace(new, old, rewards, values, gamma=0.9)
    for one, other in zip(alone, kernels.vtrace(*wide, gamma=0.9), strict=True):
        assert not other.requires_grad
        assert bits(one.expand(3, 40).contiguous()) == bits(other)


leading = st.sampled_from(((), (1,), (3,), (2, 3), (0,)))
steps = st.sampled_from((1, 2, 3, 16, 17, 5000))


@few_examples
@given(leading, lengths, seeds, sources, steps, st.booleans(), st.sampled_from((0.0, 0.9, 1.0)))
def test_td_targets_in_float64_are_the_reference_to_1e12(
    lead, length, seed, source, n_step, has_ends, gamma
):
    library, layout = source
    rng = np.random.default_rng(seed)
    rewards, after = rng.normal(size=(2, *lead, length))
    terminated = rng.random(rewards.shape) < 0.2 if has_ends else None
    if has_ends:  # what would follow an end is never looked at
        after[terminated] = rng.choice([np.nan, np.inf, 1e300], size=int(terminated.sum()))
    options = {"gamma": gamma, "n_step": n_step}
    expected = reference.td_targets(rewards, after, terminated=terminated, **options)
    actual = kernels.td_targets(
        *(given_as(library, x, layout) for x in (rewards, after)),
        terminated=given_as(library, terminated, layout),
        **options,
    )
    assert_exact_to(actual, expected, 1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
def test_td_targets_of_one_step_need_no_axis_of_time(library):
    for shape in ((), (17,), (2, 3, 5), (0, 4)):
        rng = np.random.default_rng(8)
        rewards, after = rng.normal(size=(2, *shape))
        actual = kernels.td_targets(given_as(library, rewards), given_as(library, after), gamma=0.5)
        assert to_numpy(actual).shape == shape
        assert_exact_to(actual, rewards + 0.5 * after, 1e-15)


def test_td_targets_of_more_steps_than_the_row_has_are_discounted_returns():
    rng = np.random.default_rng(9)
    rewards, after = rng.normal(size=(2, 3, 40))
    whole = kernels.td_targets(rewards, after, gamma=0.9, n_step=40)
    returns = kernels.discounted_returns(rewards, gamma=0.9, bootstrap=after[:, -1].copy())
    assert_exact_to(whole, returns, 1e-12)
    more = kernels.td_targets(rewards, after, gamma=0.9, n_step=2**31)
    assert_exact_to(more, returns, 1e-12)


@pytest.mark.parametrize("n_step", [1, 7, 40])
def test_td_targets_of_rows_that_cross_tiles_are_the_reference_to_1e12(n_step):
    rng = np.random.default_rng(13)
    rewards, after = rng.normal(size=(2, 2, 33_003))
    options = {"gamma": 0.97, "n_step": n_step, "terminated": rng.random(rewards.shape) < 0.02}
    expected = reference.td_targets(rewards, after, **options)
    assert_exact_to(kernels.td_targets(rewards, after, **options), expected, 1e-12)


def test_monte_carlo_targets_of_a_long_row_are_its_discounted_returns():
    rng = np.random.default_rng(14)  # so long that a row is not walked once for each of its steps
    length = 20_003 if TEST_DEVICE == "emulated" else 200_003
    rewards, after = rng.normal(size=(2, 1, length))
    terminated = rng.random(rewards.shape) < 1e-5
    options = {"gamma": 0.99, "terminated": terminated}
    returns = kernels.discounted_returns(rewards, bootstrap=after[:, -1].copy(), **options)
    targets = kernels.td_targets(rewards, after, n_step=rewards.size, **options)
    assert_exact_to(targets, returns, 1e-12)


@pytest.mark.parametrize("n_step", [2, 5, 16])
def test_nothing_crosses_the_end_of_an_episode_in_td_targets(n_step):
    rng = np.random.default_rng(10)
    rewards, after = rng.normal(size=(2, 4, 50)).astype(np.float32)
    terminated = np.zeros((4, 50), bool)
    terminated[:, 31] = True
    options = {"gamma": 0.9, "terminated": terminated, "n_step": n_step}
    clean = kernels.td_targets(rewards, after, **options)
    rewards[:, 32:], after[:, 31:] = np.nan, np.inf
    spoiled = kernels.td_targets(rewards, after, **options)
    assert bits(clean[:, :32].copy()) == bits(spoiled[:, :32].copy())


@pytest.mark.parametrize("n_step", [1, 3, 20])
def test_td_targets_in_float32_err_at_most_twice_as_much_as_torch(n_step):
    rng = np.random.default_rng(11)
    rewards, after = rng.normal(size=(2, 32, 200)).astype(np.float32)
    peer = torch.from_numpy(after)
    for k in range(n_step):  # the step whose value is looked at recedes by one each time
        behind = peer if k == 0 else torch.cat([peer[:, 1:], torch.from_numpy(after)[:, -1:]], 1)
        peer = torch.from_numpy(rewards) + 0.9 * behind
    actual = kernels.td_targets(rewards, after, gamma=0.9, n_step=n_step)
    truth = reference.td_targets(rewards, after, gamma=0.9, n_step=n_step)
    assert_at_most_twice_the_error(actual, peer, truth)


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_of_td_targets_has_the_same_bits_alone_and_in_a_batch(n_step, dtype):
    rng = np.random.default_rng(12)
    rewards, after = rng.normal(size=(2, 37, 133)).astype(dtype)
    batch = kernels.td_targets(rewards, after, gamma=0.9, n_step=n_step)
    for b in (0, 17, 36):
        alone = kernels.td_targets(rewards[b], after[b], gamma=0.9, n_step=n_step)
        assert bits(batch[b].copy()) == bits(alone)
