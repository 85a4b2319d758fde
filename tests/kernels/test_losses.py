"""policy_loss, value_loss, kl_penalty and huber: value, gradient and statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import FLOATS, LIBRARIES, bits, given_as, make_mask, poison, to_numpy
from kernel_strategies import few_examples, layouts, lengths, libraries, mask_kinds, rows, seeds

from alignzoo import kernels
from alignzoo.kernels import reference

ESTIMATORS = ("k1", "k2", "k3", "abs", "k3_plus")
AGGREGATES = ("token_mean", "sequence_mean", "sequence_sum_norm", "token_sum")

tensor_layouts = st.sampled_from(("contiguous", "transposed", "strided"))


def value_and_grad(function, leaf, *others, **options):
    """A loss, its statistics, and its gradient in the first argument."""
    held = leaf.clone().requires_grad_()
    loss, stats = function(held, *others, **options)
    loss.backward()
    return loss.detach(), stats, held.grad


@few_examples
@given(
    rows,
    lengths,
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
    num_rows,
    length,
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
    shape = (num_rows, length)
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
        with pytest.raises(ValueError, match="policy_loss: "):
            run()
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


@few_examples
@given(
    rows,
    lengths,
    seeds,
    mask_kinds,
    libraries,
    layouts,
    st.sampled_from((None, 0.2)),
    st.sampled_from((None, 40.0)),
)
def test_value_loss_in_float64_is_the_reference_to_1e12(
    num_rows, length, seed, mask_kind, library, layout, clip_range, denominator
):
    rng = np.random.default_rng(seed)
    mask = make_mask(mask_kind, (num_rows, length), rng)
    arrays = [poison(x, mask, rng) for x in rng.normal(size=(3, num_rows, length))]
    options = {"clip_range": clip_range, "denominator": denominator}
    given_arrays = [given_as(library, x, layout) for x in arrays]
    given_mask = given_as(library, mask, layout)
    has_tokens = num_rows * length > 0 if mask is None else mask.any()
    if denominator is None and not has_tokens:
        with pytest.raises(ValueError, match="value_loss: "):
            kernels.value_loss(*given_arrays, given_mask, **options)
        return
    expected, expected_stats = reference.value_loss(*arrays, mask, **options)
    loss, stats = kernels.value_loss(*given_arrays, given_mask, **options)
    assert_exact_to(loss, expected, 1e-12)
    assert float(stats["clip_frac"]) == pytest.approx(expected_stats["clip_frac"], rel=1e-14)
    if library == "torch":
        _, _, grad = value_and_grad(kernels.value_loss, *given_arrays, given_mask, **options)
        assert_exact_to(grad, reference.value_loss_grad(*arrays, mask, **options), 1e-12)


@few_examples
@given(
    rows,
    lengths,
    seeds,
    libraries,
    layouts,
    st.sampled_from(ESTIMATORS),
    st.sampled_from((1e-6, 1.0, 15.0)),
)
def test_kl_penalty_in_float64_is_the_reference_to_1e12(
    num_rows, length, seed, library, layout, estimator, spread
):
    rng = np.random.default_rng(seed)
    log_probs = -rng.exponential(size=(num_rows, length))
    ref_log_probs = log_probs + spread * rng.normal(size=log_probs.shape)
    arrays = [given_as(library, x, layout) for x in (log_probs, ref_log_probs)]
    actual = kernels.kl_penalty(*arrays, estimator=estimator)
    expected = reference.kl_penalty(log_probs, ref_log_probs, estimator=estimator)
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-12)
    if library == "torch":
        arrays[0].requires_grad_()
        kernels.kl_penalty(*arrays, estimator=estimator).sum().backward()
        expected = reference.kl_penalty_grad(log_probs, ref_log_probs, estimator=estimator)
        np.testing.assert_allclose(to_numpy(arrays[0].grad), expected, rtol=1e-12)


@few_examples
@given(
    st.sampled_from(((), (0,), (17,), (3, 33), (2, 3, 5), (3, 5501))),
    seeds,
    libraries,
    layouts,
    st.sampled_from((0.1, 1.0, 3.0)),
)
def test_huber_in_float64_is_the_reference_to_1e12(shape, seed, library, layout, delta):
    x = 2 * np.random.default_rng(seed).normal(size=shape)
    held = given_as(library, x, layout)
    np.testing.assert_allclose(
        to_numpy(kernels.huber(held, delta=delta)), reference.huber(x, delta=delta), rtol=1e-12
    )
    if library == "torch":
        held.requires_grad_()
        kernels.huber(held, delta=delta).sum().backward()
        np.testing.assert_allclose(
            to_numpy(held.grad), reference.huber_grad(x, delta=delta), rtol=1e-12
        )


def losses_away_from_kinks(rng):
    """Scalar functions of one [3, 7] tensor, smooth around the tensor given."""
    old, advantages, weights = (
        torch.tensor(x)
        for x in (rng.normal(size=(3, 7)), rng.normal(size=(3, 7)), rng.random((3, 7)))
    )
    mask = torch.tensor(rng.random((3, 7)) < 0.7)
    clip = {"clip_range": 0.2, "clip_range_high": 0.3}

    def policy(**options):
        return lambda x: kernels.policy_loss(x, old, advantages, mask, **(clip | options))[0]

    return {
        "clip": policy(),
        "dual_clip": policy(dual_clip=1.5),
        "sequence": policy(level="sequence", aggregate="sequence_mean"),
        "sequence_plain": policy(level="sequence", kind="plain", behaviour_weights=weights),
        "plain": policy(kind="plain", behaviour_weights=weights),
        "sequence_sum_norm": policy(aggregate="sequence_sum_norm", denominator=11),
        "token_sum": policy(aggregate="token_sum"),
        "value": lambda x: kernels.value_loss(x, old, advantages, mask, clip_range=0.3)[0],
        "huber": lambda x: kernels.huber(x, delta=0.5),
        **{
            name: lambda x, name=name: kernels.kl_penalty(x, old, estimator=name)
            for name in ("k1", "k2", "k3", "abs")
        },
    }


@pytest.mark.parametrize("name", sorted(losses_away_from_kinks(np.random.default_rng(0))))
def test_gradcheck_passes(name):
    function = losses_away_from_kinks(np.random.default_rng(0))[name]
    x = torch.tensor(np.random.default_rng(1).normal(size=(3, 7)), requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))


def test_an_upstream_gradient_scales_the_gradient():
    rng = np.random.default_rng(2)
    new, old, advantages = torch.from_numpy(rng.normal(size=(3, 4, 5)))
    _, _, grad = value_and_grad(kernels.policy_loss, new, old, advantages, clip_range=0.2)
    held = new.clone().requires_grad_()
    loss, _ = kernels.policy_loss(held, old, advantages, clip_range=0.2)
    (-3 * loss).backward()
    assert_exact_to(held.grad, -3 * grad.numpy(), 1e-15)


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
    assert_at_most_twice_the_error(loss, peer[0], np.asarray(truth))
    assert_at_most_twice_the_error(grad[away], peer[2][away], truth_grad[away])
    assert_at_most_twice_the_error(
        stats["approx_kl"], peer[1]["approx_kl"], np.asarray(truth_stats["approx_kl"])
    )


def test_value_loss_in_float32_errs_at_most_twice_as_much_as_torch():
    rng = np.random.default_rng(4)
    values, old, returns = rng.normal(size=(3, 32, 301)).astype(np.float32)

    def in_torch(v, o, r):
        clipped = o + (v - o).clamp(-0.2, 0.2)
        return 0.5 * torch.maximum((v - r) ** 2, (clipped - r) ** 2).mean(), {}

    tensors = [torch.from_numpy(x) for x in (values, old, returns)]
    loss, _, grad = value_and_grad(kernels.value_loss, *tensors, clip_range=0.2)
    peer = value_and_grad(in_torch, *tensors)
    truth, _ = reference.value_loss(values, old, returns, clip_range=0.2)
    truth_grad = reference.value_loss_grad(values, old, returns, clip_range=0.2)
    assert_at_most_twice_the_error(loss, peer[0], np.asarray(truth))
    assert_at_most_twice_the_error(grad, peer[2], truth_grad)


@pytest.mark.parametrize("library", LIBRARIES)
def test_k3_keeps_its_digits_however_small_the_log_ratio(library):
    sizes = 10.0 ** np.linspace(-12, 1.2, 4001)
    q = np.concatenate([sizes, -sizes, [0.0]]).astype(np.float32)[None]
    for estimator in ("k3", "k3_plus"):
        actual = to_numpy(
            kernels.kl_penalty(
                given_as(library, np.zeros_like(q)), given_as(library, q), estimator=estimator
            )
        )
        truth = reference.kl_penalty(np.zeros_like(q), q, estimator=estimator)
        np.testing.assert_allclose(actual.astype(np.float64), truth, rtol=3e-7)
        assert actual[0, -1] == 0


def test_approx_kl_of_a_tiny_step_keeps_its_digits():
    step = np.full((2, 50), 1e-4, np.float32)
    zeros = np.zeros_like(step)
    _, stats = kernels.policy_loss(step, zeros, zeros, clip_range=0.2)
    d = float(step[0, 0])
    assert float(stats["approx_kl"]) == pytest.approx(d * d / 2 + d**3 / 6, rel=3e-7)


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    rng = np.random.default_rng(5)
    ref = torch.from_numpy(rng.normal(size=(4, 9)))
    held = {
        name: torch.tensor(rng.normal(size=(4, 9)) * 0 + 0.3, requires_grad=True)
        for name in ("k2", "k3", "k3_plus")
    }
    values = {name: kernels.kl_penalty(x, ref, estimator=name) for name, x in held.items()}
    for value in values.values():
        value.sum().backward()
    assert bits(values["k3_plus"]) == bits(values["k3"])
    assert bits(held["k3_plus"].grad) == bits(held["k2"].grad)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_expected_gradient_of_each_kl_estimator_is_the_one_documented(estimator):
    rng = np.random.default_rng(12)
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)
    ref = torch.from_numpy(rng.normal(size=6)).log_softmax(-1)
    log_pi = logits.log_softmax(-1)
    reverse, forward = (log_pi.exp() * (log_pi - ref)).sum(), (ref.exp() * (ref - log_pi)).sum()
    exact = {"k1": 0 * reverse, "k2": reverse, "k3": forward, "k3_plus": reverse, "abs": None}
    every_token = torch.arange(6)
    log_probs = kernels.token_log_probs(logits.expand(6, 6), every_token)
    penalty = kernels.kl_penalty(log_probs[None], ref[None], estimator=estimator)[0]
    expected_penalty = (log_pi.exp().detach() * penalty).sum()  # over tokens drawn from pi
    if estimator in ("k1", "k3", "k3_plus"):
        assert expected_penalty.item() == pytest.approx(reverse.item(), rel=1e-12)
    if exact[estimator] is not None:
        (truth,) = torch.autograd.grad(exact[estimator], logits, retain_graph=True)
        (actual,) = torch.autograd.grad(expected_penalty, logits)
        assert_exact_to(actual, truth.numpy(), 1e-13, scale=1.0)


def test_a_reference_that_rules_a_token_out_gives_a_finite_penalty():
    log_probs, ref = np.array([[0.0, -1000.0, -1.0]]), np.array([[-1000.0, 0.0, -math.inf]])
    for estimator in ("k3", "k3_plus"):
        assert np.isfinite(kernels.kl_penalty(log_probs, ref, estimator=estimator)).all()


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


def test_statistics_carry_no_gradient_and_are_at_least_float32():
    new = torch.randn(2, 3, requires_grad=True)
    old, advantages = torch.randn(2, 2, 3)
    for function, options in ((kernels.policy_loss, {"clip_range": 0.2}), (kernels.value_loss, {})):
        loss, stats = function(new, old, advantages, **options)
        assert loss.requires_grad
        assert loss.shape == ()
        for value in stats.values():
            assert not value.requires_grad
            assert value.dtype in (torch.float32, torch.float64)


def test_gradients_go_to_the_current_policy_and_values_alone():
    tensors = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    new, old, advantages, weights = tensors
    loss, _ = kernels.policy_loss(new, old, advantages, clip_range=0.2, behaviour_weights=weights)
    loss.backward()
    assert new.grad is not None
    assert all(x.grad is None for x in (old, advantages, weights))


def batch_of_losses(rng, num_rows=8, length=13):
    """The arrays of policy_loss in float64, and a ragged mask with holes."""
    arrays = rng.normal(size=(3, num_rows, length)) * 0.4
    mask = make_mask("right_padded", (num_rows, length), rng) & (
        rng.random((num_rows, length)) < 0.8
    )
    mask[:, 0] = True
    return [torch.from_numpy(x) for x in (*arrays, mask)]


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


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("length", "padding"), [(33, 77), (1031, 1100)])
def test_padding_on_the_right_changes_no_bit_of_loss_gradient_or_statistics(
    aggregate, level, dtype, length, padding
):
    rng = np.random.default_rng(8)
    new, old, advantages, mask = batch_of_losses(rng, num_rows=37, length=length)
    tensors = [x.to(dtype) for x in (new, old, advantages)]
    options = {"clip_range": 0.2, "aggregate": aggregate, "level": level}
    options["denominator"] = 50 if aggregate == "sequence_sum_norm" else None
    narrow = value_and_grad(kernels.policy_loss, *tensors, mask, **options)
    wide_tensors = [torch.nn.functional.pad(x, (0, padding), value=math.nan) for x in tensors]
    wide_mask = torch.nn.functional.pad(mask, (0, padding))
    wide = value_and_grad(kernels.policy_loss, *wide_tensors, wide_mask, **options)
    assert bits(wide[0]) == bits(narrow[0])
    assert bits(wide[2][:, :length].contiguous()) == bits(narrow[2])
    assert not wide[2][:, length:].any()
    assert {k: bits(v) for k, v in wide[1].items()} == {k: bits(v) for k, v in narrow[1].items()}


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_padding_on_the_left_changes_the_loss_by_rounding_only(aggregate):
    new, old, advantages, mask = batch_of_losses(np.random.default_rng(13))
    options = {"clip_range": 0.2, "aggregate": aggregate, "denominator": 50}
    loss, _, grad = value_and_grad(kernels.policy_loss, new, old, advantages, mask, **options)
    wide = [torch.nn.functional.pad(x, (29, 0), value=math.nan) for x in (new, old, advantages)]
    padded, _, wide_grad = value_and_grad(
        kernels.policy_loss, *wide, torch.nn.functional.pad(mask, (29, 0)), **options
    )
    assert padded.item() == pytest.approx(loss.item(), rel=1e-13)
    assert_exact_to(wide_grad[:, 29:], grad.numpy(), 1e-14)


@few_examples
@given(
    st.lists(st.sampled_from((0, 1, 5, 16, 33, 1031)), min_size=1, max_size=6),
    seeds,
    st.sampled_from(("token", "sequence")),
    st.sampled_from(AGGREGATES),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_packed_rows_give_the_bits_of_padded_ones(sizes, seed, level, aggregate, dtype):
    rng = np.random.default_rng(seed)
    shape = (len(sizes), max(sizes) + 3)
    inside = torch.arange(shape[1])[None, :] < torch.tensor(sizes)[:, None]
    mask = inside & torch.from_numpy(rng.random(shape) < 0.8)
    tensors = [torch.from_numpy(x).to(dtype) for x in rng.normal(size=(3, *shape)) * 0.4]
    cu_seqlens = torch.tensor([0, *sizes]).cumsum(0)
    options = {"clip_range": 0.2, "level": level, "aggregate": aggregate, "denominator": 9.0}
    padded = value_and_grad(kernels.policy_loss, *tensors, mask, **options)
    flat_tensors = [x[inside] for x in tensors]
    flat = value_and_grad(
        kernels.policy_loss, *flat_tensors, mask[inside], cu_seqlens=cu_seqlens, **options
    )
    assert bits(flat[0]) == bits(padded[0])
    assert bits(flat[2]) == bits(padded[2][inside])
    assert {k: bits(v) for k, v in flat[1].items()} == {k: bits(v) for k, v in padded[1].items()}
    if dtype == torch.float64:
        packed = [x.numpy() for x in (*flat_tensors, mask[inside])]
        expected, _ = reference.policy_loss(*packed, cu_seqlens=cu_seqlens, **options)
        assert_exact_to(flat[0], expected, 1e-12, scale=1.0)
        expected = reference.policy_loss_grad(*packed, cu_seqlens=cu_seqlens, **options)
        assert_exact_to(flat[2], expected, 1e-12)

    options = {"clip_range": 0.2, "denominator": 9.0}
    padded = value_and_grad(kernels.value_loss, *tensors, mask, **options)
    flat = value_and_grad(
        kernels.value_loss, *flat_tensors, mask[inside], cu_seqlens=cu_seqlens, **options
    )
    assert bits(flat[0]) == bits(padded[0])
    assert bits(flat[2]) == bits(padded[2][inside])


def test_permuting_rows_changes_the_loss_by_rounding_only_and_permutes_the_gradient():
    new, old, advantages, mask = batch_of_losses(np.random.default_rng(9), num_rows=64)
    order = torch.from_numpy(np.random.default_rng(10).permutation(64))
    options = {"clip_range": 0.2}
    loss, _, grad = value_and_grad(kernels.policy_loss, new, old, advantages, mask, **options)
    permuted, _, permuted_grad = value_and_grad(
        kernels.policy_loss, *(x[order] for x in (new, old, advantages, mask)), **options
    )
    assert permuted.item() == pytest.approx(loss.item(), rel=1e-13)
    assert bits(grad[order]) == bits(permuted_grad)


def test_a_single_row_may_come_without_its_batch_dimension():
    new, old, advantages, mask = (x[0] for x in batch_of_losses(np.random.default_rng(11)))
    flat, _, flat_grad = value_and_grad(
        kernels.policy_loss, new, old, advantages, mask, clip_range=0.2
    )
    batch, _, grad = value_and_grad(
        kernels.policy_loss, *(x[None] for x in (new, old, advantages, mask)), clip_range=0.2
    )
    assert bits(flat) == bits(batch)
    assert bits(flat_grad) == bits(grad[0])


def test_an_all_masked_part_of_a_split_batch_adds_nothing():
    x = torch.ones(3, 4)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    loss, stats, grad = value_and_grad(
        kernels.policy_loss, x, x, x, mask, clip_range=0.2, denominator=12
    )
    assert loss.item() == 0
    assert not grad.any()
    assert all(math.isfinite(v) for v in stats.values())


def test_value_clipping_is_around_the_old_values():
    # V moved from 0 to 1 and the return is 2: unclipped 1, clipped to 0.2 from old 1.8^2.
    one = np.ones((1, 1))
    loss, stats = kernels.value_loss(one, 0 * one, 2 * one, clip_range=0.2)
    assert float(loss) == pytest.approx(0.5 * 1.8**2, rel=1e-14)
    assert float(stats["clip_frac"]) == 1.0
    # Moved away from the return: the larger square is the unclipped one, and keeps its gradient.
    loss, stats = kernels.value_loss(one, 0 * one, -one, clip_range=0.2)
    assert float(loss) == pytest.approx(2.0, rel=1e-14)
    assert float(stats["clip_frac"]) == 0.0


def test_log_ratios_are_clamped_before_exp():
    new = torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    zeros, ones = torch.zeros_like(new), torch.ones_like(new)
    loss, stats, grad = value_and_grad(
        kernels.policy_loss, new, zeros, -ones, clip_range=0.2, kind="plain", aggregate="token_sum"
    )
    assert loss.item() == pytest.approx(math.exp(20) + math.exp(-20), rel=1e-14)
    assert not grad.any()
    assert float(stats["ratio_max"]) == pytest.approx(math.exp(20), rel=1e-14)
