"""max_and_gather: the largest value, its place, and the value of the action taken."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import LIBRARIES, bits, given_as, to_numpy
from kernel_device import kernels, refused
from kernel_strategies import few_examples, float_dtypes, integer_dtypes, seeds, sources
from logit_cases import HALVES, logit_kinds, logit_shapes, make_logits, tensor_layouts

from alignzoo.kernels import reference

ALL_FLOATS = (torch.float32, torch.float64, *HALVES)


@few_examples
@given(logit_shapes, seeds, logit_kinds, sources, st.booleans(), integer_dtypes, float_dtypes)
def test_every_output_is_exactly_the_reference(
    shape, seed, kind, source, has_nan, action_dtype, dtype
):
    (lead, num_actions), (library, layout) = shape, source
    rng = np.random.default_rng(seed)
    q = make_logits(kind, (*lead, num_actions), rng).astype(dtype)
    if has_nan:
        q[rng.random(q.shape) < 0.02] = np.nan
    actions = rng.integers(0, num_actions, lead).astype(action_dtype)
    largest, argmax, chosen = kernels.max_and_gather(
        given_as(library, q, layout), given_as(library, actions)
    )
    truth = reference.max_and_gather(q, actions)
    assert to_numpy(argmax).dtype == np.int64
    for ours, expected in zip((largest, argmax, chosen), truth, strict=True):
        np.testing.assert_array_equal(to_numpy(ours).astype(expected.dtype), expected)
    assert to_numpy(largest).dtype == to_numpy(chosen).dtype == dtype


@few_examples
@given(logit_shapes, seeds, logit_kinds, tensor_layouts)
def test_the_gradient_is_exactly_the_reference(shape, seed, kind, layout):
    lead, num_actions = shape
    rng = np.random.default_rng(seed)
    q = make_logits(kind, (*lead, num_actions), rng)
    actions = rng.integers(0, num_actions, lead)
    grads = rng.normal(size=(2, *lead))
    held = given_as("torch", q, layout).requires_grad_()
    largest, argmax, chosen = kernels.max_and_gather(held, torch.tensor(actions))
    assert not argmax.requires_grad
    torch.autograd.backward((largest, chosen), [torch.tensor(g) for g in grads])
    np.testing.assert_array_equal(held.grad, reference.max_and_gather_grad(q, actions, *grads))


def test_gradcheck_passes():
    q = torch.randperm(60, generator=torch.Generator().manual_seed(0)).double().view(4, 15)
    q.requires_grad_()  # no two are closer than 1, so that no step of the check makes a tie
    actions = torch.tensor([0, 3, 14, 7])
    assert torch.autograd.gradcheck(lambda x: kernels.max_and_gather(x, actions)[::2], (q,))


@pytest.mark.parametrize("output", [0, 2])
def test_one_output_may_go_without_a_gradient(output):
    q = torch.randn(3, 33, requires_grad=True)
    actions = torch.tensor([0, 32, 5])
    outputs = kernels.max_and_gather(q, actions)
    outputs[output].sum().backward()
    places = outputs[1] if output == 0 else actions
    assert torch.equal(q.grad, torch.nn.functional.one_hot(places, 33).float())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("num_actions", [1, 2, 16, 17, 40, 1031])
def test_equal_values_give_the_lowest_index(library, num_actions):
    q = np.zeros((num_actions, num_actions), np.float32)
    q[np.tril_indices(num_actions, -1)] = -1  # row b has its largest value from b on
    _, argmax, _ = kernels.max_and_gather(
        given_as(library, q), given_as(library, np.zeros(num_actions, np.int64))
    )
    np.testing.assert_array_equal(to_numpy(argmax), np.arange(num_actions))


def test_both_zeros_are_equal_and_nothing_but_minus_inf_has_a_maximum_too():
    q = np.array([[-0.0, 0.0, -1.0], [-math.inf, -math.inf, -math.inf]])
    largest, argmax, chosen = kernels.max_and_gather(q, np.array([1, 2]))
    np.testing.assert_array_equal(largest, [0.0, -math.inf])
    np.testing.assert_array_equal(argmax, [0, 0])
    np.testing.assert_array_equal(chosen, [0.0, -math.inf])


@pytest.mark.parametrize("places", [[0], [39], [17, 3], [16, 31]])
def test_a_missing_value_is_the_maximum_at_its_first_place(places):
    q = np.random.default_rng(0).normal(size=(2, 40)).astype(np.float32)
    q[1, places] = np.nan
    largest, argmax, chosen = kernels.max_and_gather(q, np.array([5, 5]))
    np.testing.assert_array_equal(np.isnan(largest), [False, True])
    assert argmax[1] == min(places)
    np.testing.assert_array_equal(chosen, q[:, 5])


@pytest.mark.parametrize("dtype", ALL_FLOATS, ids=str)
def test_values_come_back_exact_and_in_float32_or_wider(dtype):
    rng = np.random.default_rng(1)
    q = torch.from_numpy(rng.normal(size=(33, 257))).to(dtype).requires_grad_()
    actions = torch.from_numpy(rng.integers(0, 257, 33))
    largest, argmax, chosen = kernels.max_and_gather(q, actions)
    wide = torch.promote_types(dtype, torch.float32)
    assert largest.dtype == chosen.dtype == wide
    peer = q.detach().max(-1)
    assert torch.equal(largest.detach(), peer.values.to(wide))
    assert torch.equal(argmax, peer.indices)
    assert torch.equal(chosen.detach(), q.detach().gather(-1, actions[:, None])[:, 0].to(wide))
    (largest.sum() + chosen.sum()).backward()
    assert q.grad.dtype == dtype
    assert q.grad.sum().item() == 66


def test_a_row_has_the_same_answer_in_any_batch_and_order():
    rng = np.random.default_rng(2)
    q, actions = rng.integers(0, 9, (67, 133)).astype(np.float32), rng.integers(0, 133, 67)
    order = rng.permutation(67)
    batch = kernels.max_and_gather(q, actions)
    for one, other in zip(batch, kernels.max_and_gather(q[order], actions[order]), strict=True):
        assert bits(one[order]) == bits(other)
    for b in (0, 31, 66):
        for one, other in zip(batch, kernels.max_and_gather(q[[b]], actions[[b]]), strict=True):
            assert bits(one[[b]]) == bits(other)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("action", [-1, 7, 2**40, -100])
def test_an_action_that_there_is_not_is_refused(library, action):
    q, actions = np.zeros((3, 7), np.float32), np.array([0, action, 6])

    def call():
        return kernels.max_and_gather(given_as(library, q), given_as(library, actions))

    found = refused(call, f"max_and_gather: `actions`.*{action}", "actions")
    if found is not None:
        np.testing.assert_array_equal(to_numpy(found[2]), [0, np.nan, 0])
