"""kl_divergence: value, both gradients, and what may not change a bit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to, largest_error
from kernel_cases import LIBRARIES, NUM_DRAWS, bits, given_as, to_numpy
from kernel_device import kernels
from kernel_strategies import few_examples, seeds, sources
from logit_cases import HALVES, logit_kinds, logit_shapes, make_logits, tensor_layouts

from alignzoo.kernels import reference

DIRECTIONS = ("forward", "reverse")

directions = st.sampled_from(DIRECTIONS)
temperatures = st.sampled_from((1.0, 0.3, 2.0))
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def logit_pair(kind, shape, rng):
    """Two arrays of logits; where one has no token, the other has none."""
    p = make_logits(kind, shape, rng)
    return p, np.where(np.isneginf(p), p, p + rng.normal(size=shape))


@few_examples
@given(logit_shapes, seeds, logit_kinds, sources, directions, temperatures)
def test_float64_is_the_reference_to_1e12(shape, seed, kind, source, direction, temperature):
    (lead, num_tokens), (library, layout) = shape, source
    p, q = logit_pair(kind, (*lead, num_tokens), np.random.default_rng(seed))
    options = {"direction": direction, "temperature": temperature}
    actual = kernels.kl_divergence(
        given_as(library, p, layout), given_as(library, q, layout), **options
    )
    # Each log-prob is exact to rounding, the sum of their differences no better.
    assert_exact_to(actual, reference.kl_divergence(p, q, **options), 1e-12, scale=1.0)
    assert np.all(to_numpy(actual) >= 0)


@few_examples
@given(logit_shapes, seeds, logit_kinds, tensor_layouts, directions)
def test_gradients_in_float64_are_the_reference_to_1e12(shape, seed, kind, layout, direction):
    lead, num_tokens = shape
    rng = np.random.default_rng(seed)
    p, q = logit_pair(kind, (*lead, num_tokens), rng)
    g = rng.normal(size=lead)
    options = {"direction": direction, "temperature": 0.7}
    held = [given_as("torch", x, layout).requires_grad_() for x in (p, q)]
    kernels.kl_divergence(*held, **options).backward(torch.tensor(g))
    for ours, truth in zip(held, reference.kl_divergence_grad(p, q, g, **options), strict=True):
        assert_exact_to(ours.grad, truth, 1e-12, scale=1.0)


@every_direction
def test_gradcheck_passes(direction):
    rng = np.random.default_rng(0)
    p, q = (torch.tensor(x, requires_grad=True) for x in rng.normal(size=(2, 4, 19)))
    options = {"direction": direction, "temperature": 0.8}
    assert torch.autograd.gradcheck(lambda *x: kernels.kl_divergence(*x, **options), (p, q))


@every_direction
@pytest.mark.parametrize("needs", [0, 1])
def test_a_gradient_goes_to_the_one_side_that_wants_it(direction, needs):
    p, q = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 33)))
    sides = [p.clone(), q.clone()]
    sides[needs].requires_grad_()
    kernels.kl_divergence(*sides, direction=direction).sum().backward()
    truth = reference.kl_divergence_grad(p, q, np.ones(3), direction=direction)
    assert_exact_to(sides[needs].grad, truth[needs], 1e-12, scale=1.0)
    assert sides[1 - needs].grad is None


@every_direction
def test_both_sides_may_be_one_tensor(direction):
    x = torch.randn(3, 17, dtype=torch.float64, requires_grad=True)
    kl = kernels.kl_divergence(x, x, direction=direction)
    assert not kl.any()
    kl.sum().backward()
    assert largest_error(x.grad, np.zeros((3, 17))) <= 1e-15


def kl_in_torch(p, q, temperature=1.0):
    """KL(p || q) as everyone writes it."""
    log_p, log_q = (p / temperature).log_softmax(-1), (q / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@every_direction
@pytest.mark.parametrize("shape", [(256, 33), (256, 1031), (16, 50257)])
@pytest.mark.parametrize("distance", [0.1, 3.0])
def test_float32_errs_at_most_twice_as_much_as_torch(direction, shape, distance):
    rng = np.random.default_rng(2)
    p = torch.from_numpy(2 * rng.normal(size=shape).astype(np.float32))
    q = p + torch.from_numpy(distance * rng.normal(size=p.shape).astype(np.float32))
    g = torch.from_numpy(rng.normal(size=len(p)).astype(np.float32))
    ours, theirs = ([x.clone().requires_grad_() for x in (p, q)] for _ in range(2))
    actual = kernels.kl_divergence(*ours, direction=direction)
    peer = kl_in_torch(*(theirs if direction == "forward" else theirs[::-1]))
    assert actual.dtype == torch.float32
    assert_at_most_twice_the_error(actual, peer, reference.kl_divergence(p, q, direction=direction))
    actual.backward(g)
    peer.backward(g)
    truth = reference.kl_divergence_grad(p, q, g, direction=direction)
    for one, other, expected in zip(ours, theirs, truth, strict=True):
        assert_at_most_twice_the_error(one.grad, other.grad, expected)


@every_direction
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_gives_float32_as_exact_as_torch_and_gradients_rounded_once(
    direction, dtype
):
    rng = np.random.default_rng(3)
    p, q = (torch.from_numpy(3 * x).to(dtype) for x in rng.normal(size=(2, 16, 1031)))
    held = [x.clone().requires_grad_() for x in (p, q)]
    actual = kernels.kl_divergence(*held, direction=direction)
    assert actual.dtype == torch.float32
    sides = (p.float(), q.float()) if direction == "forward" else (q.float(), p.float())
    truth = reference.kl_divergence(p.double(), q.double(), direction=direction)
    assert_at_most_twice_the_error(actual, kl_in_torch(*sides), truth)
    g = torch.from_numpy(rng.normal(size=16).astype(np.float32))
    actual.backward(g)
    grads = reference.kl_divergence_grad(p.double(), q.double(), g, direction=direction)
    for leaf, expected in zip(held, grads, strict=True):
        assert leaf.grad.dtype == dtype
        rounded = torch.from_numpy(expected).to(dtype).double()
        assert largest_error(leaf.grad, expected) <= 1.01 * largest_error(rounded, expected)


def test_forward_is_reverse_with_the_sides_exchanged():
    p, q = np.random.default_rng(4).normal(size=(2, 5, 133)).astype(np.float32)
    assert bits(kernels.kl_divergence(p, q)) == bits(
        kernels.kl_divergence(q, p, direction="reverse")
    )


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_logits_give_exactly_0_and_near_ones_never_less(library, dtype):
    rng = np.random.default_rng(5)
    p = (3 * rng.normal(size=(50, 257))).astype(dtype)
    shifted = p + rng.normal(size=(50, 1)).astype(dtype)
    q = p * (1 + np.finfo(dtype).eps)
    for direction in DIRECTIONS:
        kl = kernels.kl_divergence(
            given_as(library, p), given_as(library, p.copy()), direction=direction
        )
        assert not to_numpy(kl).any()
        for other in (shifted, q):
            kl = to_numpy(
                kernels.kl_divergence(
                    given_as(library, p), given_as(library, other), direction=direction
                )
            )
            assert np.all(kl >= 0)
            assert np.all(kl <= 1e3 * np.finfo(dtype).eps)


def test_tokens_that_neither_has_change_nothing():
    rng = np.random.default_rng(6)
    kept = np.sort(rng.choice(100, 37, replace=False))
    small = rng.normal(size=(2, 5, 37))
    wide = np.full((2, 5, 100), -np.inf)
    wide[..., kept] = small
    for direction in DIRECTIONS:
        held = [[torch.tensor(x, requires_grad=True) for x in pair] for pair in (wide, small)]
        one, other = (kernels.kl_divergence(*pair, direction=direction) for pair in held)
        assert_exact_to(one, to_numpy(other), 1e-13, scale=1.0)
        (one.sum() + other.sum()).backward()
        for broad, narrow in zip(*held, strict=True):
            assert_exact_to(broad.grad[:, kept], to_numpy(narrow.grad), 1e-13, scale=1.0)
            assert not broad.grad[:, np.setdiff1d(np.arange(100), kept)].any()


def test_a_token_that_only_one_side_has_costs_nothing_one_way_and_everything_the_other():
    p, q = np.array([[0.0, 1.0, -math.inf]]), np.array([[0.0, 1.0, 2.0]])
    forward = kernels.kl_divergence(p, q)
    assert_exact_to(forward, reference.kl_divergence(p, q), 1e-14)
    assert np.isfinite(forward).all()
    assert kernels.kl_divergence(p, q, direction="reverse")[0] == math.inf
    assert kernels.kl_divergence(q, p)[0] == math.inf
    held = torch.tensor(p, requires_grad=True), torch.tensor(q, requires_grad=True)
    kernels.kl_divergence(*held).sum().backward()
    for leaf, truth in zip(held, reference.kl_divergence_grad(p, q, [1.0]), strict=True):
        assert_exact_to(leaf.grad, truth, 1e-14, scale=1.0)


@pytest.mark.parametrize("first", [0, 1, 1024, 2048, 3000])
@pytest.mark.parametrize("last", [3000, 3072, 4098, 4099])
def test_long_stretches_that_p_lacks_count_nothing(first, last):
    p, q = np.random.default_rng(11).normal(size=(2, 3, 4099))
    p[:, :first] = p[:, last:] = -math.inf
    p[:, 3000] = 0.5
    assert_exact_to(kernels.kl_divergence(p, q), reference.kl_divergence(p, q), 1e-12, scale=1.0)
    backwards = kernels.kl_divergence(q, p)
    assert np.isposinf(backwards).all() == (last - first < 4099)
    held = torch.tensor(p, requires_grad=True), torch.tensor(q, requires_grad=True)
    kernels.kl_divergence(*held).sum().backward()
    for leaf, truth in zip(held, reference.kl_divergence_grad(p, q, np.ones(3)), strict=True):
        assert_exact_to(leaf.grad, truth, 1e-12, scale=1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_token_that_q_lacks_costs_everything_however_unlikely_in_p(dtype):
    p, q = np.array([[0.0, -2000.0]], dtype), np.array([[0.0, -math.inf]], dtype)
    assert kernels.kl_divergence(p, q)[0] == math.inf
    assert kernels.kl_divergence(q, p)[0] == 0
    # What is merely far away has a price: p gives it e^-2000 and q e^-3000.
    assert kernels.kl_divergence(p, 1.5 * p)[0] == 0
    far = kernels.kl_divergence(np.array([[0.0, 0.0]], dtype), p)
    assert_exact_to(far, [1000 - math.log(2)], 1e-6)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, "empty"])
def test_a_row_that_is_no_distribution_gives_nan_and_leaves_its_mates(side, bad):
    pair = np.random.default_rng(7).normal(size=(2, 3, 40))
    clean = kernels.kl_divergence(*pair)
    pair[side, 1] = -math.inf if bad == "empty" else pair[side, 1]
    if bad != "empty":
        pair[side, 1, 33] = bad
    for direction in DIRECTIONS:
        kl = kernels.kl_divergence(*pair, direction=direction)
        np.testing.assert_array_equal(np.isnan(kl), [False, True, False])
    assert bits(kernels.kl_divergence(*pair)[[0, 2]]) == bits(clean[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_at_any_address(dtype):
    rng = np.random.default_rng(8)
    p, q = (torch.from_numpy(x).to(dtype) for x in rng.normal(size=(2, 67, 1031)))
    batch, order = kernels.kl_divergence(p, q), torch.from_numpy(rng.permutation(67))
    assert bits(batch[order]) == bits(kernels.kl_divergence(p[order], q[order]))
    for b, shift in ((0, 1), (31, 3), (66, 7)):
        elsewhere = [torch.empty(1031 + shift, dtype=dtype)[shift:].copy_(x[b]) for x in (p, q)]
        assert bits(batch[b]) == bits(kernels.kl_divergence(*elsewhere))


def test_rows_without_upstream_gradient_get_none_whatever_their_logits():
    pair = np.random.default_rng(9).normal(size=(2, 3, 40))
    pair[:, 1] = np.nan
    held = [torch.tensor(x, requires_grad=True) for x in pair]
    kernels.kl_divergence(*held).backward(torch.tensor([1.0, 0.0, 1.0]).double())
    for leaf in held:
        assert not leaf.grad[1].any()
        assert leaf.grad.isfinite().all()


def test_the_expected_log_ratio_of_draws_is_the_divergence():
    rng = np.random.default_rng(10)
    p, q = rng.normal(size=(2, 1, 6)).astype(np.float32)
    ids, log_probs = kernels.sample_tokens(np.tile(p, (NUM_DRAWS, 1)), seed=1)
    others = kernels.token_log_probs(np.tile(q, (NUM_DRAWS, 1)), ids)
    ratios = log_probs - others
    error = ratios.std() / math.sqrt(ratios.size)
    assert abs(ratios.mean() - float(kernels.kl_divergence(p, q)[0])) < 4 * error
