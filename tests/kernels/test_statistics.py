"""masked_whiten and group_advantages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import FLOATS, LIBRARIES, bits, given_as, make_mask, poison, to_numpy
from kernel_device import assert_same, kernels
from kernel_strategies import few_examples, mask_kinds, seeds, shapes, sources

from alignzoo.kernels import reference

MODES = ("grpo", "dr_grpo", "rloo", "batch_std")

group_sizes = st.tuples(
    st.sampled_from((0, 1, 2, 15, 16, 17, 64, 127)), st.sampled_from((1, 2, 5, 40))
)


@few_examples
@given(shapes, seeds, mask_kinds, sources, st.booleans(), st.sampled_from((0, 1)))
def test_whitening_in_float64_is_the_reference_to_1e12(shape, seed, kind, source, shift_mean, ddof):
    library, layout = source
    rng = np.random.default_rng(seed)
    mask = make_mask(kind, shape, rng)
    x = poison(3 + rng.normal(size=shape), mask, rng)
    options = {"shift_mean": shift_mean, "ddof": ddof}
    expected, expected_moments = reference.masked_whiten(x, mask, **options)
    actual, moments = kernels.masked_whiten(
        given_as(library, x, layout), given_as(library, mask, layout), **options
    )
    assert_exact_to(actual, expected, 1e-12)
    for ours, truth in zip(moments, expected_moments, strict=True):
        assert float(ours) == pytest.approx(truth, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
def test_whitened_values_have_mean_0_and_variance_1_over_the_mask(library):
    rng = np.random.default_rng(0)
    mask = make_mask("holes", (20, 50), rng)
    x = poison(5 + 3 * rng.normal(size=(20, 50)), mask, rng)
    whitened = to_numpy(
        kernels.masked_whiten(given_as(library, x), given_as(library, mask), eps=0.0)[0]
    )
    assert whitened[mask].mean() == pytest.approx(0, abs=1e-14)
    assert whitened[mask].var(ddof=1) == pytest.approx(1, rel=1e-13)
    assert not whitened[~mask].any()


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_fewer_values_than_a_variance_needs_gives_0(kept, shift_mean):
    mask = np.zeros((2, 3), bool)
    mask.flat[:kept] = True
    whitened, (n, _, m2) = kernels.masked_whiten(np.full((2, 3), 7.0), mask, shift_mean=shift_mean)
    assert not whitened.any()
    assert (float(n), float(m2)) == (kept, 0.0)


def merged(a, b):
    """Chan, Golub and LeVeque's merge of two sets of moments."""
    n = a[0] + b[0]
    shift = b[1] - a[1]
    return n, a[1] + shift * b[0] / n, a[2] + b[2] + shift**2 * a[0] * b[0] / n


@pytest.mark.parametrize("library", LIBRARIES)
def test_ranks_that_merge_their_moments_whiten_as_one(library):
    rng = np.random.default_rng(1)
    x = 100 + rng.normal(size=(6, 31))
    whole, moments = kernels.masked_whiten(given_as(library, x))
    shards = [given_as(library, part.copy()) for part in (x[:2], x[2:])]
    own = [[float(m) for m in kernels.masked_whiten(shard)[1]] for shard in shards]
    both = merged(*own)
    assert both == pytest.approx([float(m) for m in moments], rel=1e-12)
    parts = [to_numpy(kernels.masked_whiten(shard, moments=both)[0]) for shard in shards]
    assert_exact_to(np.concatenate(parts), to_numpy(whole), 1e-12)


def test_moments_come_back_usable_as_moments():
    x = np.random.default_rng(2).normal(size=(4, 9)).astype(np.float32)
    whitened, moments = kernels.masked_whiten(x)
    again, _ = kernels.masked_whiten(x, moments=moments)
    assert bits(again) == bits(whitened)
    as_tensor, tensors = kernels.masked_whiten(torch.from_numpy(x))
    again, _ = kernels.masked_whiten(torch.from_numpy(x), moments=tensors)
    assert bits(again) == bits(as_tensor)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_whitening_in_float32_errs_at_most_twice_as_much_as_torch(offset):
    rng = np.random.default_rng(3)
    x = (offset + rng.normal(size=(64, 301))).astype(np.float32)
    tensor = torch.from_numpy(x)
    peer = (tensor - tensor.mean()) * torch.rsqrt(tensor.var() + 1e-8)
    expected, _ = reference.masked_whiten(x)
    assert_at_most_twice_the_error(kernels.masked_whiten(x)[0], peer, expected)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
@pytest.mark.parametrize("is_first_apart", [False, True])
def test_a_large_common_value_costs_no_more_digits_than_its_mean_has(offset, is_first_apart):
    rng = np.random.default_rng(8)
    x = offset + rng.normal(size=(64, 301))
    x[0, : 16 if is_first_apart else 0] = 0.0
    whitened, (_, _, m2) = kernels.masked_whiten(x)
    expected, (_, _, true_m2) = reference.masked_whiten(x)
    rounding = 4 * np.finfo(np.float64).eps * offset
    assert_exact_to(whitened, expected, rounding, scale=1.0)
    assert float(m2) == pytest.approx(true_m2, rel=rounding)


@pytest.mark.parametrize(("length", "padding"), [(37, 91), (1031, 1100)])
def test_padding_on_the_right_changes_no_bit_of_the_moments_or_the_values(length, padding):
    rng = np.random.default_rng(4)
    mask = make_mask("right_padded", (33, length), rng)
    x = rng.normal(size=(33, length)).astype(np.float32)
    narrow, moments = kernels.masked_whiten(x, mask)
    wide, wide_moments = kernels.masked_whiten(
        np.pad(x, ((0, 0), (0, padding)), constant_values=np.nan),
        np.pad(mask, ((0, 0), (0, padding))),
    )
    assert_same(np.ascontiguousarray(wide[:, :length]), narrow)
    for one, other in zip(wide_moments, moments, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("library", LIBRARIES)
def test_packed_rows_have_the_bits_of_padded_ones(library):
    rng = np.random.default_rng(7)
    sizes = np.array([5, 0, 16_385, 1031, 16, 1, 33])
    inside = np.arange(16_385)[None, :] < sizes[:, None]
    x = rng.normal(size=inside.shape).astype(np.float32)
    padded, moments = kernels.masked_whiten(given_as(library, x), given_as(library, inside))
    flat, flat_moments = kernels.masked_whiten(
        given_as(library, x[inside]), cu_seqlens=given_as(library, np.cumsum([0, *sizes]))
    )
    assert_same(flat, to_numpy(padded)[inside])
    for one, other in zip(flat_moments, moments, strict=True):
        assert_same(one, other)


@few_examples
@given(group_sizes, seeds, st.sampled_from(MODES), st.sampled_from((0, 1)), sources, st.booleans())
def test_group_advantages_in_float64_are_the_reference_to_1e12(
    sizes, seed, mode, ddof, source, is_tied
):
    (num_rows, num_groups), (library, layout) = sizes, source
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 2, num_rows) * 0.1 if is_tied else rng.normal(size=num_rows)
    scores[rng.random(num_rows) < 0.1] = np.nan
    group_ids = rng.integers(-3, num_groups, num_rows) * 1_000_003
    options = {"mode": mode, "ddof": ddof}
    actual = kernels.group_advantages(
        given_as(library, scores, "contiguous" if layout == "transposed" else layout),
        given_as(library, group_ids),
        **options,
    )
    assert_exact_to(actual, reference.group_advantages(scores, group_ids, **options), 1e-12)


WINNER = [
    ({"mode": "grpo", "eps": 1e-6, "ddof": 1}, 2.4749),  # verl
    ({"mode": "grpo", "eps": 1e-4, "ddof": 1}, 2.4742),  # TRL
    ({"mode": "grpo", "eps": 1e-8, "ddof": 0}, 2.6458),
    ({"mode": "batch_std", "eps": 1e-6, "ddof": 1}, 2.4749),
    ({"mode": "dr_grpo"}, 0.875),
    ({"mode": "rloo"}, 1.0),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("options", "winner"), WINNER)
def test_the_winner_of_eight_gets_the_advantage_its_dialect_gives(options, winner, dtype):
    scores = np.array([1] + [0] * 7, dtype)
    advantages = kernels.group_advantages(scores, np.zeros(8, np.int64), **options)
    assert float(advantages[0]) == pytest.approx(winner, abs=5e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_groups_of_equal_scores_and_groups_of_one_get_exactly_0(mode, dtype):
    scores = np.array([0.1, 0.7, 0.1, 0.3, 0.1, 0.9], dtype)
    group_ids = np.array([5, 2, 5, 9, 5, 2])
    advantages = kernels.group_advantages(scores, group_ids, mode=mode)
    assert not advantages[[0, 2, 4]].any()
    assert advantages[3] == 0
    assert advantages[1] < 0 < advantages[5]


@pytest.mark.parametrize("mode", MODES)
def test_the_advantages_of_a_group_sum_to_0(mode):
    rng = np.random.default_rng(5)
    scores, group_ids = rng.normal(size=200) + 50, rng.integers(0, 23, 200)
    advantages = kernels.group_advantages(scores, group_ids, mode=mode)
    sums = np.bincount(group_ids, weights=advantages)
    np.testing.assert_allclose(sums, 0, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_score_gets_0_and_leaves_its_group(mode, library):
    scores = np.array([1.0, math.nan, 0.0, 0.5, math.nan, 2.0])
    group_ids = np.array([0, 0, 0, 1, 1, 0])
    kept = ~np.isnan(scores)
    advantages = to_numpy(
        kernels.group_advantages(given_as(library, scores), given_as(library, group_ids), mode=mode)
    )
    without = kernels.group_advantages(scores[kept], group_ids[kept], mode=mode)
    assert not advantages[~kept].any()
    assert_same(advantages[kept], without)


def test_groups_may_lie_scattered_over_the_batch():
    rng = np.random.default_rng(6)
    scores, group_ids = rng.normal(size=60), np.repeat(np.arange(12), 5)
    together = kernels.group_advantages(scores, group_ids, mode="grpo")
    order = rng.permutation(60)
    scattered = kernels.group_advantages(scores[order], group_ids[order], mode="grpo")
    assert_exact_to(scattered, together[order], 1e-13)


def test_a_large_common_score_does_not_cost_the_group_its_digits():
    scores = np.array([4096.0, 4096.5, 4097.0, 4097.5], np.float32)
    expected = reference.group_advantages(scores, np.zeros(4, int), mode="grpo")
    actual = kernels.group_advantages(scores, np.zeros(4, np.int64), mode="grpo")
    np.testing.assert_allclose(actual, expected, rtol=2e-7)
