"""token_log_probs and linear_token_log_probs: values, entropy, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to, largest_error
from kernel_cases import LIBRARIES, bits, given_as, to_numpy
from kernel_device import kernels
from kernel_strategies import few_examples, fewer_examples, integer_dtypes, seeds, sources
from logit_cases import HALVES, logit_kinds, logit_shapes, make_logits, tensor_layouts
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignzoo.kernels import reference


def make_targets(shape: tuple[int, ...], num_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Targets, about one in five ignored."""
    targets = rng.integers(0, num_tokens, shape)
    return np.where(rng.random(shape) < 0.2, -100, targets)


@few_examples
@given(logit_shapes, seeds, logit_kinds, sources, st.sampled_from((1.0, 0.3, 2.0)), integer_dtypes)
def test_values_in_float64_are_the_reference_to_1e12(
    shape, seed, kind, source, temperature, target_dtype
):
    (leading, num_tokens), (library, layout) = shape, source
    rng = np.random.default_rng(seed)
    logits = make_logits(kind, (*leading, num_tokens), rng)
    targets = make_targets(leading, num_tokens, rng)
    expected = reference.token_log_probs(logits, targets, temperature=temperature, entropy=True)
    actual = kernels.token_log_probs(
        given_as(library, logits, layout),
        given_as(library, targets.astype(target_dtype)),
        temperature=temperature,
        entropy=True,
    )
    for ours, truth in zip(actual, expected, strict=True):
        assert_exact_to(ours, truth, 1e-12, scale=1.0)


@few_examples
@given(logit_shapes, seeds, logit_kinds, tensor_layouts, st.sampled_from(("g", "h", "both")))
def test_gradients_in_float64_are_the_reference_to_1e12(shape, seed, kind, layout, upstream):
    leading, num_tokens = shape
    rng = np.random.default_rng(seed)
    logits = make_logits(kind, (*leading, num_tokens), rng)
    targets = make_targets(leading, num_tokens, rng)
    g, h = rng.normal(size=(2, *leading))
    g, h = (0 * g if upstream == "h" else g), (0 * h if upstream == "g" else h)
    held = given_as("torch", logits, layout).requires_grad_()
    log_probs, entropy = kernels.token_log_probs(
        held, torch.from_numpy(targets), temperature=0.7, entropy=True
    )
    outputs, upstreams = [], []
    for output, gradient in ((log_probs, g), (entropy, h)):
        if np.any(gradient):
            outputs.append(output)
            upstreams.append(torch.tensor(gradient))
    if not outputs:
        return
    (actual,) = torch.autograd.grad(outputs, held, upstreams)
    expected = reference.token_log_probs_grad(logits, targets, g, h, temperature=0.7)
    assert_exact_to(actual, expected, 1e-12, scale=1.0)


def test_gradcheck_passes_for_log_probs_and_entropy():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(4, 19)), requires_grad=True)
    targets = torch.tensor([3, -100, 18, 0])
    assert torch.autograd.gradcheck(
        lambda x: kernels.token_log_probs(x, targets, temperature=0.8, entropy=True), (logits,)
    )
    assert torch.autograd.gradcheck(lambda x: kernels.token_log_probs(x, targets), (logits,))


def log_probs_in_torch(logits, targets):
    """log_softmax, gather, and the entropy everyone writes."""
    log_p = logits.log_softmax(-1)
    return log_p.gather(-1, targets[..., None])[..., 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("num_tokens", [33, 1031, 50257])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_float32_errs_at_most_twice_as_much_as_torch_in_value_and_gradient(num_tokens, scale):
    rng = np.random.default_rng(1)
    logits = torch.from_numpy((scale * rng.normal(size=(32, num_tokens))).astype(np.float32))
    targets = torch.from_numpy(rng.integers(0, num_tokens, 32))
    g, h = torch.from_numpy(rng.normal(size=(2, 32)).astype(np.float32))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    actual = kernels.token_log_probs(ours, targets, entropy=True)
    peer = log_probs_in_torch(theirs, targets)
    truth = reference.token_log_probs(logits, targets, entropy=True)
    for a, p, t in zip(actual, peer, truth, strict=True):
        assert a.dtype == torch.float32
        assert_at_most_twice_the_error(a, p, t)
    torch.autograd.backward(actual, (g, h))
    torch.autograd.backward(peer, (g, h))
    assert_at_most_twice_the_error(
        ours.grad, theirs.grad, reference.token_log_probs_grad(logits, targets, g, h)
    )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_logits_give_float32_statistics_as_exact_as_torch_in_float32(dtype):
    rng = np.random.default_rng(2)
    logits = torch.from_numpy(4 * rng.normal(size=(32, 1031))).to(dtype)
    targets = torch.from_numpy(rng.integers(0, 1031, 32))
    actual = kernels.token_log_probs(logits, targets, entropy=True)
    peer = log_probs_in_torch(logits.float(), targets)
    truth = reference.token_log_probs(logits.double(), targets, entropy=True)
    for a, p, t in zip(actual, peer, truth, strict=True):
        assert a.dtype == torch.float32
        assert_at_most_twice_the_error(a, p, t)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_gradients_are_rounded_once(dtype):
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(size=(16, 257))).to(dtype).requires_grad_()
    targets = torch.from_numpy(rng.integers(0, 257, 16))
    g, h = torch.from_numpy(rng.normal(size=(2, 16)).astype(np.float32))
    torch.autograd.backward(kernels.token_log_probs(logits, targets, entropy=True), (g, h))
    assert logits.grad.dtype == dtype
    truth = torch.from_numpy(
        reference.token_log_probs_grad(logits.detach().double(), targets, g, h)
    )
    rounded = truth.to(dtype).double()
    assert largest_error(logits.grad, truth.numpy()) <= 1.01 * largest_error(rounded, truth.numpy())


@pytest.mark.parametrize("library", LIBRARIES)
def test_ignored_targets_give_0_and_their_logits_are_never_looked_at(library):
    logits = np.random.default_rng(4).normal(size=(3, 20)).astype(np.float32)
    logits[1] = np.nan
    log_probs, entropy = kernels.token_log_probs(
        given_as(library, logits), given_as(library, np.array([2, -100, 5])), entropy=True
    )
    assert (float(log_probs[1]), float(entropy[1])) == (0.0, 0.0)
    assert np.isfinite(to_numpy(log_probs)).all()
    log_probs = kernels.token_log_probs(
        given_as(library, logits), given_as(library, np.array([2, 7, 5])), ignore_index=7
    )
    assert float(log_probs[1]) == 0.0


def test_rows_without_upstream_gradient_are_not_read():
    logits = np.random.default_rng(5).normal(size=(4, 40))
    logits[1:3] = np.nan
    held = torch.tensor(logits, requires_grad=True)
    log_probs, entropy = kernels.token_log_probs(
        held, torch.tensor([1, 2, -100, 4]), temperature=0.5, entropy=True
    )
    upstream = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    torch.autograd.backward([log_probs, entropy], [upstream, upstream])
    assert not held.grad[1:3].any()
    assert held.grad.isfinite().all()


def test_a_masked_vocabulary_gives_what_the_smaller_vocabulary_gives():
    rng = np.random.default_rng(6)
    kept = np.sort(rng.choice(100, 37, replace=False))
    small = rng.normal(size=(5, 37))
    wide = np.full((5, 100), -np.inf)
    wide[:, kept] = small
    targets = rng.integers(0, 37, 5)
    held = [torch.tensor(x, requires_grad=True) for x in (wide, small)]
    results = [
        kernels.token_log_probs(x, torch.from_numpy(y), entropy=True)
        for x, y in zip(held, (kept[targets], targets), strict=True)
    ]
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert_exact_to(one, to_numpy(other), 1e-13, scale=1.0)
    for result in results:
        torch.autograd.backward(result, (torch.ones(5).double(), torch.ones(5).double()))
    assert_exact_to(held[0].grad[:, kept], to_numpy(held[1].grad), 1e-13, scale=1.0)
    assert held[0].grad.isfinite().all()


def test_a_target_that_is_masked_out_of_the_vocabulary_has_log_prob_minus_inf():
    logits = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    log_probs, entropy = kernels.token_log_probs(logits, torch.tensor([1]), entropy=True)
    assert log_probs.item() == -math.inf
    assert math.isfinite(entropy.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_at_any_address(dtype):
    rng = np.random.default_rng(7)
    logits = torch.from_numpy(rng.normal(size=(67, 1031))).to(dtype)
    targets = torch.from_numpy(rng.integers(0, 1031, 67))
    batch = kernels.token_log_probs(logits, targets, entropy=True)
    order = torch.from_numpy(rng.permutation(67))
    permuted = kernels.token_log_probs(logits[order], targets[order], entropy=True)
    for one, other in zip(batch, permuted, strict=True):
        assert bits(one[order]) == bits(other)
    for b, shift in ((0, 1), (31, 3), (66, 7)):
        elsewhere = torch.empty(1031 + shift, dtype=dtype)[shift:]
        elsewhere.copy_(logits[b])
        alone = kernels.token_log_probs(elsewhere, targets[b], entropy=True)
        for one, other in zip(batch, alone, strict=True):
            assert bits(one[b]) == bits(other)


@pytest.mark.parametrize("library", LIBRARIES)
def test_asking_for_the_entropy_changes_no_bit_of_the_log_probs(library):
    rng = np.random.default_rng(8)
    logits = given_as(library, rng.normal(size=(9, 777)).astype(np.float32))
    targets = given_as(library, rng.integers(0, 777, 9))
    alone = kernels.token_log_probs(logits, targets)
    assert bits(alone) == bits(kernels.token_log_probs(logits, targets, entropy=True)[0])


def test_uniform_logits_have_the_entropy_of_a_uniform_choice():
    for num_tokens in (1, 7, 16, 1000):
        log_probs, entropy = kernels.token_log_probs(
            np.full((1, num_tokens), 3.0), np.array([num_tokens - 1]), entropy=True
        )
        assert float(entropy[0]) == pytest.approx(math.log(num_tokens), rel=1e-14)
        assert float(log_probs[0]) == pytest.approx(-math.log(num_tokens), rel=1e-14)


@pytest.mark.parametrize("chunk_tokens", [None, 1, 4, 100])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("leading", [(0,), (9,), (3, 4)], ids=str)
def test_linear_log_probs_in_float64_are_the_reference_to_1e12(leading, has_bias, chunk_tokens):
    rng = np.random.default_rng(9)
    hidden, weight = rng.normal(size=(*leading, 6)), rng.normal(size=(131, 6))
    bias = rng.normal(size=131) if has_bias else None
    targets = make_targets(leading, 131, rng)
    g, h = rng.normal(size=(2, *leading))
    inputs = [torch.tensor(x, requires_grad=True) for x in (hidden, weight)]
    held_bias = torch.tensor(bias, requires_grad=True) if has_bias else None
    options = {"temperature": 0.9, "entropy": True, "chunk_tokens": chunk_tokens}
    actual = kernels.linear_token_log_probs(
        *inputs, torch.from_numpy(targets), bias=held_bias, **options
    )
    expected = reference.linear_token_log_probs(hidden, weight, targets, bias=bias, **options)
    for ours, truth in zip(actual, expected, strict=True):
        assert_exact_to(ours, truth, 1e-12, scale=1.0)
    torch.autograd.backward(actual, (torch.tensor(g), torch.tensor(h)))
    grads = reference.linear_token_log_probs_grad(
        hidden, weight, targets, g, h, bias=bias, temperature=0.9
    )
    leaves = [*inputs, held_bias] if has_bias else inputs
    for leaf, truth in zip(leaves, grads, strict=False):
        assert_exact_to(leaf.grad, truth, 1e-12, scale=10.0)


def test_linear_log_probs_of_numpy_arrays_are_numpy_arrays():
    rng = np.random.default_rng(10)
    arrays = rng.normal(size=(5, 3)), rng.normal(size=(17, 3)), rng.integers(0, 17, 5)
    log_probs = kernels.linear_token_log_probs(*arrays)
    assert isinstance(log_probs, np.ndarray)
    assert_exact_to(log_probs, reference.linear_token_log_probs(*arrays), 1e-12, scale=1.0)


@pytest.mark.parametrize("chunk_tokens", [None, 3])
def test_gradcheck_passes_for_linear_log_probs(chunk_tokens):
    rng = np.random.default_rng(11)
    inputs = [
        torch.tensor(rng.normal(size=s), requires_grad=True) for s in ((5, 3), (11, 3), (11,))
    ]
    targets = torch.tensor([0, -100, 3, 10, 7])
    assert torch.autograd.gradcheck(
        lambda hidden, weight, bias: kernels.linear_token_log_probs(
            hidden, weight, targets, bias=bias, entropy=True, chunk_tokens=chunk_tokens
        ),
        inputs,
    )


@pytest.mark.parametrize("needs", ["hidden", "weight"])
def test_linear_log_probs_give_gradients_to_the_one_input_that_wants_them(needs):
    rng = np.random.default_rng(12)
    inputs = {"hidden": torch.tensor(rng.normal(size=(5, 3)))}
    inputs["weight"] = torch.tensor(rng.normal(size=(11, 3)))
    inputs[needs].requires_grad_()
    targets = rng.integers(0, 11, 5)
    kernels.linear_token_log_probs(*inputs.values(), torch.from_numpy(targets)).sum().backward()
    grads = reference.linear_token_log_probs_grad(
        *(x.detach().numpy() for x in inputs.values()), targets, np.ones(5)
    )
    assert_exact_to(inputs[needs].grad, grads[0 if needs == "hidden" else 1], 1e-12, scale=1.0)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made under it holds."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return made


def test_linear_log_probs_never_hold_all_logits_forward_or_backward():
    hidden = torch.randn(64, 4, requires_grad=True)
    weight = torch.randn(512, 4, requires_grad=True)
    with LargestTensor() as largest:
        log_probs, entropy = kernels.linear_token_log_probs(
            hidden, weight, torch.arange(64), entropy=True, chunk_tokens=8
        )
        (log_probs.sum() + entropy.sum()).backward()
    assert 0 < largest.numel <= 8 * 512  # one chunk of the 64 x 512 logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_log_probs_err_at_most_twice_as_much_as_torch(dtype):
    rng = np.random.default_rng(13)
    hidden = torch.from_numpy(rng.normal(size=(64, 32))).to(dtype)
    weight = torch.from_numpy(rng.normal(size=(523, 32)) / 4).to(dtype)
    targets = torch.from_numpy(rng.integers(0, 523, 64))
    g, h = torch.from_numpy(rng.normal(size=(2, 64)).astype(np.float32))
    ours = [x.clone().requires_grad_() for x in (hidden, weight)]
    theirs = [x.clone().requires_grad_() for x in (hidden, weight)]
    actual = kernels.linear_token_log_probs(*ours, targets, entropy=True, chunk_tokens=16)
    peer = log_probs_in_torch((theirs[0] @ theirs[1].T).float(), targets)
    doubles = hidden.double(), weight.double(), targets
    truth = reference.linear_token_log_probs(*doubles, entropy=True)
    for a, p, t in zip(actual, peer, truth, strict=True):
        assert a.dtype == torch.float32
        assert_at_most_twice_the_error(a, p, t)
    torch.autograd.backward(actual, (g, h))
    torch.autograd.backward(peer, (g, h))
    grads = reference.linear_token_log_probs_grad(*doubles, g, h)
    for a, p, t in zip(ours, theirs, grads, strict=False):
        assert a.grad.dtype == dtype
        assert_at_most_twice_the_error(a.grad.float(), p.grad.float(), t)


@fewer_examples
@given(seeds)
def test_logits_are_left_as_they_were(seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(4, 33)).astype(np.float32)).requires_grad_()
    before = bits(logits)
    kernels.token_log_probs(logits, torch.tensor([0, 1, 2, 3]), entropy=True)[0].sum().backward()
    assert bits(logits) == before
