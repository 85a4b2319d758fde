"""policy_loss: value, gradient and statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import FLOATS, LIBRARIES, given_as, make_mask, poison
from kernel_device import ON_CUDA, kernels, refused
from kernel_strategies import few_examples, mask_kinds, seeds, shapes
from logit_cases import tensor_layouts
from loss_cases import AGGREGATES, batch_of_losses, value_and_grad

from alignzoo.kernels import reference


@few_examples
@given(
    shapes,
    seeds,
    mask_kinds,
    tensor_layouts,
    st.sampled_from(("clip", "clip", "plain", "cispo")),
    st.sampled_from(("token", "sequence")),
    st.sampled_from(AGGREGATES),
    st.sampled_from((None, 0.5)),
    st.sampled_from((None, 1.5)),
    st.booleans(),
    st.booleans(),
    st.sampled_from((0.1, 1.0, 15.0)),
)
def test_policy_loss_in_float64_is_the_reference_to_1e12(
    shape,
    seed,
    mask_kind,
    layout,
    kind,
    level,
    aggregate,
    clip_range_high,
    dual_clip,
    has_weights,
    has_denominator,
    spread,
):
    rng = np.random.default_rng(seed)
    mask = make_mask(mask_kind, shape, rng)
    live = np.ones(shape, bool) if mask is None else mask
    log_probs = -rng.exponential(size=shape)
    old_log_probs = log_probs - spread * rng.normal(size=shape)
    advantages = rng.normal(size=shape) * rng.integers(0, 2, shape)
    arrays = [poison(x, mask, rng) for x in (log_probs, old_log_probs, advantages)]
    weights = poison(rng.random(shape), mask, rng) if has_weights else None
    options = {
        "clip_range": 0.2,
        "clip_range_high": clip_range_high,
        "dual_clip": dual_clip if kind == "clip" else None,
        "level": level,
        "aggregate": aggregate,
        "kind": kind,
        "denominator": 7.5 if has_denominator or aggregate == "sequence_sum_norm" else None,
    }

    def run():
        return value_and_grad(
            kernels.policy_loss,
            *(given_as("torch", x, layout) for x in arrays),
            mask=given_as("torch", mask, layout),
            behaviour_weights=given_as("torch", weights, layout),
            **options,
        )

    if options["denominator"] is None and not live.any():
        found = refused(run, "policy_loss: ", None)
        assert not ON_CUDA or found[0].isnan()
        return
    loss, stats, grad = run()
    options |= {"mask": mask, "behaviour_weights": weights}
    expected, expected_stats = reference.policy_loss(*arrays, **options)
    expected_grad = reference.policy_loss_grad(*arrays, **options)
    largest = np.exp(np.clip(np.abs(log_probs - old_log_probs)[live].max(initial=0), 0, 20)) * 5
    assert_exact_to(loss, expected, 1e-12, scale=largest)
    assert_exact_to(grad, expected_grad, 1e-12)
    assert set(stats) == set(expected_stats)
    for name, truth in expected_stats.items():
        assert stats[name].shape == ()
        assert float(stats[name]) == pytest.approx(truth, rel=1e-12, abs=1e-13), name


def policy_loss_in_torch(new, old, advantages, mask, clip_range):
    """The clipped surrogate everyone writes."""
    d = new - old
    ratio = d.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = (torch.maximum(-ratio * advantages, -clipped * advantages) * mask).sum() / mask.sum()
    return loss, {"approx_kl": ((ratio - 1 - d) * mask).sum().detach() / mask.sum()}


@pytest.mark.parametrize("spread", [1e-4, 0.1, 1.0])
def test_policy_loss_in_float32_errs_at_most_twice_as_much_as_torch(spread):
    rng = np.random.default_rng(3)
    new = (-rng.exponential(size=(32, 301))).astype(np.float32)
    old = (new + spread * rng.normal(size=new.shape)).astype(np.float32)
    advantages = rng.normal(size=new.shape).astype(np.float32)
    mask = make_mask("holes", new.shape, rng)
    tensors = [torch.from_numpy(x) for x in (new, old, advantages, mask)]
    loss, stats, grad = value_and_grad(kernels.policy_loss, *tensors, clip_range=0.2)
    peer = value_and_grad(policy_loss_in_torch, *tensors, clip_range=0.2)
    truth, truth_stats = reference.policy_loss(new, old, advantages, mask, clip_range=0.2)
    # A float32 ratio next to a clip edge may fall on its other side: compare away from the edges.
    ratio = np.exp(new.astype(np.float64) - old)
    away = (np.abs(ratio - 0.8) > 1e-6) & (np.abs(ratio - 1.2) > 1e-6)
    truth_grad = reference.policy_loss_grad(new, old, advantages, mask, clip_range=0.2)
    if not ON_CUDA:  # one number's error is much luck, which another order of sums may not have
        assert_at_most_twice_the_error(loss, peer[0], np.asarray(truth))
    assert_at_most_twice_the_error(grad[away], peer[2][away], truth_grad[away])
    assert_at_most_twice_the_error(
        stats["approx_kl"], peer[1]["approx_kl"], np.asarray(truth_stats["approx_kl"])
    )


def test_losses_of_many_batches_in_float32_err_at_most_twice_as_much_as_torch():
    ours, theirs = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        new = (-rng.exponential(size=(8, 301))).astype(np.float32)
        old = (new + 1e-4 * rng.normal(size=new.shape)).astype(np.float32)
        advantages = rng.normal(size=new.shape).astype(np.float32)
        mask = make_mask("holes", new.shape, rng)
        truth, _ = reference.policy_loss(new, old, advantages, mask, clip_range=0.2)
        tensors = [torch.from_numpy(x) for x in (new, old, advantages, mask)]
        ours.append(float(kernels.policy_loss(*tensors, clip_range=0.2)[0]) - truth)
        theirs.append(float(policy_loss_in_torch(*tensors, clip_range=0.2)[0]) - truth)
    assert np.square(ours).mean() <= 4 * np.square(theirs).mean()


def test_approx_kl_of_a_tiny_step_keeps_its_digits():
    step = np.full((2, 50), 1e-4, np.float32)
    zeros = np.zeros_like(step)
    _, stats = kernels.policy_loss(step, zeros, zeros, clip_range=0.2)
    d = float(step[0, 0])
    assert float(stats["approx_kl"]) == pytest.approx(d * d / 2 + d**3 / 6, rel=3e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual_clip", "is_cut"),
    [
        (1.5, 1.0, None, True),  # would gain more, is not let to
        (0.5, 1.0, None, False),  # outside the range, but the minimum is the plain term
        (0.5, -1.0, None, True),
        (1.5, -1.0, None, False),
        (1.1, 1.0, None, False),
        (0.9, -1.0, None, False),
        (1.5, 0.0, None, False),  # no gradient to begin with
        (4.0, -1.0, 3.0, True),
        (2.0, -1.0, 3.0, False),
        (4.0, 1.0, 30.0, True),
    ],
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_clip_frac_counts_the_clips_that_act_and_no_others(
    ratio, advantage, dual_clip, is_cut, dtype
):
    new = torch.full((1, 1), math.log(ratio), dtype=getattr(torch, dtype))
    loss, stats, grad = value_and_grad(
        kernels.policy_loss,
        new,
        torch.zeros_like(new),
        torch.full_like(new, advantage),
        clip_range=0.2,
        dual_clip=dual_clip,
    )
    assert float(stats["clip_frac"]) == float(is_cut)
    assert (grad.item() == 0) == (is_cut or advantage == 0)
    surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    if dual_clip is not None and advantage < 0:
        surrogate = max(surrogate, dual_clip * advantage)
    assert loss.item() == pytest.approx(-surrogate, rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_ratio_of_1_gives_minus_the_mean_advantage_and_quiet_statistics(library):
    rng = np.random.default_rng(6)
    log_probs, advantages = rng.normal(size=(2, 5, 8))
    log_probs = given_as(library, log_probs)
    loss, stats = kernels.policy_loss(
        log_probs, log_probs, given_as(library, advantages), clip_range=0.2
    )
    assert float(loss) == pytest.approx(-advantages.mean(), rel=1e-13)
    assert {name: float(x) for name, x in stats.items()} == {
        "clip_frac": 0.0,
        "approx_kl": 0.0,
        "ratio_max": 1.0,
        "ess": 1.0,
    }


def test_an_all_masked_part_of_a_split_batch_adds_nothing():
    x = torch.ones(3, 4)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    loss, stats, grad = value_and_grad(
        kernels.policy_loss, x, x, x, mask, clip_range=0.2, denominator=12
    )
    assert loss.item() == 0
    assert not grad.any()
    assert all(math.isfinite(v) for v in stats.values())


def test_log_ratios_are_clamped_before_exp():
    new = torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    zeros, ones = torch.zeros_like(new), torch.ones_like(new)
    loss, stats, grad = value_and_grad(
        kernels.policy_loss, new, zeros, -ones, clip_range=0.2, kind="plain", aggregate="token_sum"
    )
    assert loss.item() == pytest.approx(math.exp(20) + math.exp(-20), rel=1e-14)
    assert not grad.any()
    assert float(stats["ratio_max"]) == pytest.approx(math.exp(20), rel=1e-14)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_splitting_a_minibatch_changes_neither_loss_nor_gradient(aggregate, level, as_tensor):
    new, old, advantages, mask = batch_of_losses(np.random.default_rng(7))
    total = {
        "token_mean": mask.sum().item(),
        "sequence_mean": len(mask),
        "sequence_sum_norm": 20,
        "token_sum": 1,
    }[aggregate]
    options = {"clip_range": 0.2, "aggregate": aggregate, "level": level}
    whole, _, grad = value_and_grad(
        kernels.policy_loss, new, old, advantages, mask, denominator=total, **options
    )
    if aggregate != "sequence_sum_norm":
        own = value_and_grad(kernels.policy_loss, new, old, advantages, mask, **options)
        assert_exact_to(own[0], whole.numpy(), 1e-14)
    denominator = torch.tensor(float(total)) if as_tensor else total
    parts = [
        value_and_grad(
            kernels.policy_loss,
            *(x[chunk] for x in (new, old, advantages, mask)),
            denominator=denominator,
            **options,
        )
        for chunk in (slice(0, 3), slice(3, 4), slice(4, 8))
    ]
    assert sum(part[0].item() for part in parts) == pytest.approx(whole.item(), rel=1e-10)
    assert_exact_to(torch.cat([part[2] for part in parts]), grad.numpy(), 1e-12)
