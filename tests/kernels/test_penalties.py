"""value_loss, kl_penalty and huber: value and gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import LIBRARIES, bits, given_as, make_mask, poison, to_numpy
from kernel_device import ON_CUDA, kernels, refused
from kernel_strategies import few_examples, layouts, libraries, mask_kinds, seeds, shapes, sources
from loss_cases import value_and_grad

from alignzoo.kernels import reference

ESTIMATORS = ("k1", "k2", "k3", "abs", "k3_plus")


@few_examples
@given(
    shapes,
    seeds,
    mask_kinds,
    sources,
    st.sampled_from((None, 0.2)),
    st.sampled_from((None, 40.0)),
)
def test_value_loss_in_float64_is_the_reference_to_1e12(
    shape, seed, mask_kind, source, clip_range, denominator
):
    library, layout = source
    rng = np.random.default_rng(seed)
    mask = make_mask(mask_kind, shape, rng)
    arrays = [poison(x, mask, rng) for x in rng.normal(size=(3, *shape))]
    options = {"clip_range": clip_range, "denominator": denominator}
    given_arrays = [given_as(library, x, layout) for x in arrays]
    given_mask = given_as(library, mask, layout)
    has_tokens = math.prod(shape) > 0 if mask is None else mask.any()
    if denominator is None and not has_tokens:
        found = refused(
            lambda: kernels.value_loss(*given_arrays, given_mask, **options), "value_loss: ", None
        )
        assert not ON_CUDA or np.isnan(to_numpy(found[0]))
        return
    expected, expected_stats = reference.value_loss(*arrays, mask, **options)
    loss, stats = kernels.value_loss(*given_arrays, given_mask, **options)
    assert_exact_to(loss, expected, 1e-12)
    assert float(stats["clip_frac"]) == pytest.approx(expected_stats["clip_frac"], rel=1e-14)
    if library == "torch":
        _, _, grad = value_and_grad(kernels.value_loss, *given_arrays, given_mask, **options)
        assert_exact_to(grad, reference.value_loss_grad(*arrays, mask, **options), 1e-12)


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


@few_examples
@given(shapes, seeds, sources, st.sampled_from(ESTIMATORS), st.sampled_from((1e-6, 1.0, 15.0)))
def test_kl_penalty_in_float64_is_the_reference_to_1e12(shape, seed, source, estimator, spread):
    library, layout = source
    rng = np.random.default_rng(seed)
    log_probs = -rng.exponential(size=shape)
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
