"""What padding, packing, order and length of rows may do to the losses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_exact_to
from kernel_cases import BORDER_LENGTHS, bits, leaves, poison
from kernel_device import assert_same, kernels
from kernel_strategies import few_examples, seeds
from loss_cases import AGGREGATES, batch_of_losses, value_and_grad

from alignzoo.kernels import reference


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
    assert bits(wide[2][:, :length].contiguous()) == bits(narrow[2])
    assert not wide[2][:, length:].any()
    for one, other in zip(leaves(wide[:2]), leaves(narrow[:2]), strict=True):
        assert_same(one, other)


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
    assert bits(flat[2]) == bits(padded[2][inside])
    for one, other in zip(leaves(flat[:2]), leaves(padded[:2]), strict=True):
        assert_same(one, other)
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
    assert_same(flat[0], padded[0])
    assert bits(flat[2]) == bits(padded[2][inside])


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_packed_rows_of_several_tiles_give_the_bits_of_padded_ones(level, dtype):
    rng = np.random.default_rng(18)
    sizes = torch.tensor([16_385, 5, 0, 33_001])
    inside = torch.arange(33_100)[None, :] < sizes[:, None]
    mask = inside & torch.from_numpy(rng.random(inside.shape) < 0.8)
    tensors = [torch.from_numpy(x).to(dtype) for x in rng.normal(size=(3, *inside.shape)) * 0.4]
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    options = {"clip_range": 0.2, "level": level, "aggregate": "sequence_mean"}
    padded = value_and_grad(kernels.policy_loss, *tensors, mask, **options)
    flat = [x[inside] for x in (*tensors, mask)]
    packed = value_and_grad(kernels.policy_loss, *flat, cu_seqlens=starts, **options)
    assert bits(packed[2]) == bits(padded[2][inside])
    for one, other in zip(leaves(packed[:2]), leaves(padded[:2]), strict=True):
        assert_same(one, other)


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


def long_rows(rng):
    """The per-token arrays of a packed batch whose rows cross every border, and its options."""
    num_tokens = sum(BORDER_LENGTHS)
    arrays = [x * 0.4 for x in rng.normal(size=(3, num_tokens))]
    mask = rng.random(num_tokens) < 0.9
    return arrays, {"mask": mask, "cu_seqlens": np.cumsum([0, *BORDER_LENGTHS])}


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_policy_loss_of_rows_that_cross_lanes_and_tiles_is_the_reference(level, aggregate):
    rng = np.random.default_rng(14)
    arrays, rows = long_rows(rng)
    options = {"level": level, "aggregate": aggregate, "clip_range": 0.2, "denominator": 1e3}
    tensors = [torch.from_numpy(poison(x, rows["mask"], rng)) for x in arrays]
    given_rows = {name: torch.from_numpy(x) for name, x in rows.items()}
    loss, stats, grad = value_and_grad(kernels.policy_loss, *tensors, **given_rows, **options)
    truth, truth_stats = reference.policy_loss(*arrays, **rows, **options)
    # What is summed is far larger than the sum, whose terms have either sign.
    assert_exact_to(loss, truth, 1e-12, scale=np.abs(arrays[2]).sum() / 1e3)
    assert_exact_to(grad, reference.policy_loss_grad(*arrays, **rows, **options), 1e-12)
    for name, expected in truth_stats.items():
        assert float(stats[name]) == pytest.approx(expected, rel=1e-12), name


def test_sums_over_rows_that_cross_lanes_and_tiles_are_the_reference():
    rng = np.random.default_rng(15)
    arrays, rows = long_rows(rng)
    loss, stats = kernels.value_loss(*arrays, clip_range=0.3, **rows)
    truth, truth_stats = reference.value_loss(*arrays, clip_range=0.3, **rows)
    assert_exact_to(loss, truth, 1e-12)
    assert float(stats["clip_frac"]) == pytest.approx(truth_stats["clip_frac"], rel=1e-14)
    whitened, moments = kernels.masked_whiten(arrays[0], **rows)
    truth, truth_moments = reference.masked_whiten(arrays[0], **rows)
    assert_exact_to(whitened, truth, 1e-12)
    for ours, expected in zip(moments, truth_moments, strict=True):
        assert float(ours) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("size", BORDER_LENGTHS[::4])
def test_elementwise_kernels_reach_the_last_element_of_any_size(size):
    rng = np.random.default_rng(16)
    x, y = rng.normal(size=(2, size))
    for estimator in ("k1", "k2", "k3", "abs"):
        truth = reference.kl_penalty(x, y, estimator=estimator)
        assert_exact_to(kernels.kl_penalty(x, y, estimator=estimator), truth, 1e-12)
    assert_exact_to(kernels.huber(x), reference.huber(x), 1e-12)


@pytest.mark.parametrize("at", [0, 15, 16, 1030])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_unmasked_nan_shows_in_the_loss_and_in_no_other_token(at, dtype):
    new, old, advantages, mask = batch_of_losses(np.random.default_rng(17), 5, 1031)
    mask[2, at] = True
    tensors = [x.to(dtype) for x in (new, old, advantages)]
    others = torch.ones_like(mask)
    others[2, at] = False
    policy = {"clip_range": 0.2}
    for function, options in ((kernels.policy_loss, policy), (kernels.value_loss, {})):
        _, _, clean = value_and_grad(function, *tensors, mask, **options)
        spoiled = [x.clone() for x in tensors]
        spoiled[0][2, at] = math.nan
        loss, _, grad = value_and_grad(function, *spoiled, mask, **options)
        assert loss.isnan()
        assert bits(grad[others]) == bits(clean[others])
