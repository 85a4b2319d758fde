"""gae and discounted_returns: against the reference, and what must not change their results."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    FLOATS,
    LIBRARIES,
    assert_at_most_twice_the_error,
    assert_exact_to,
    bits,
    few_examples,
    fewer_examples,
    given_as,
    layouts,
    lengths,
    libraries,
    make_mask,
    mask_kinds,
    poison,
    rows,
    seeds,
    to_numpy,
)

from alignzoo import kernels
from alignzoo.kernels import reference

endings = st.sampled_from(
    (
        "unflagged",
        "bootstrapped",
        "rows_terminated",
        "rows_truncated",
        "steps_terminated",
        "steps_truncated",
        "all_kinds",
    )
)
mask_dtypes = st.sampled_from(("bool", "int64", "uint8", "int32"))


def flags_and_values(ending: str, shape: tuple[int, int], rng: np.random.Generator) -> dict:
    """The options of gae that say how episodes end, as float64 and bool arrays."""
    num_rows = shape[0]
    bootstrap = rng.normal(size=num_rows)
    next_values = rng.normal(size=shape)
    return {
        "unflagged": {},
        "bootstrapped": {"bootstrap": bootstrap},
        "rows_terminated": {"bootstrap": bootstrap, "terminated": rng.random(num_rows) < 0.5},
        "rows_truncated": {"bootstrap": bootstrap, "truncated": rng.random(num_rows) < 0.5},
        "steps_terminated": {"terminated": rng.random(shape) < 0.2},
        "steps_truncated": {"truncated": rng.random(shape) < 0.2, "next_values": next_values},
        "all_kinds": {
            "terminated": rng.random(shape) < 0.2,
            "truncated": rng.random(shape) < 0.2,
            "bootstrap": bootstrap,
            "next_values": next_values,
        },
    }[ending]


def as_options(library: str, options: dict, dtype: str, layout: str = "contiguous") -> dict:
    """The array options as `library` holds them, floats in `dtype`."""
    return {
        name: given_as(library, x.astype(dtype) if x.dtype.kind == "f" else x, layout)
        for name, x in options.items()
    }


@few_examples
@given(
    rows,
    lengths,
    seeds,
    mask_kinds,
    mask_dtypes,
    endings,
    st.sampled_from(("carry", "zero")),
    libraries,
    layouts,
    st.sampled_from((0.0, 0.9, 1.0)),
    st.sampled_from((0.0, 0.95, 1.0)),
)
def test_gae_in_float64_is_the_reference_to_1e12(
    num_rows, length, seed, kind, mask_dtype, ending, mask_mode, library, layout, gamma, gae_lambda
):
    rng = np.random.default_rng(seed)
    shape = (num_rows, length)
    mask = make_mask(kind, shape, rng)
    rewards, values = (poison(x, mask, rng) for x in rng.normal(size=(2, *shape)))
    options = flags_and_values(ending, shape, rng)
    if "next_values" in options:
        options["next_values"] = poison(options["next_values"], mask, rng)
    factors = {"gamma": gamma, "gae_lambda": gae_lambda, "mask_mode": mask_mode}
    expected = reference.gae(rewards, values, mask=mask, **options, **factors)
    actual = kernels.gae(
        given_as(library, rewards, layout),
        given_as(library, values, layout),
        mask=None if mask is None else given_as(library, mask.astype(mask_dtype), layout),
        **as_options(library, options, "float64", layout),
        **factors,
    )
    for ours, truth in zip(actual, expected, strict=True):
        assert_exact_to(ours, truth, 1e-12)


@few_examples
@given(
    rows,
    lengths,
    seeds,
    mask_kinds,
    st.sampled_from(("unflagged", "bootstrapped", "rows_terminated", "steps_terminated")),
    st.sampled_from(("carry", "zero")),
    libraries,
    layouts,
)
def test_discounted_returns_in_float64_are_the_reference_to_1e12(
    num_rows, length, seed, kind, ending, mask_mode, library, layout
):
    rng = np.random.default_rng(seed)
    shape = (num_rows, length)
    mask = make_mask(kind, shape, rng)
    rewards = poison(rng.normal(size=shape), mask, rng)
    options = flags_and_values(ending, shape, rng)
    expected = reference.discounted_returns(
        rewards, gamma=0.97, mask=mask, mask_mode=mask_mode, **options
    )
    actual = kernels.discounted_returns(
        given_as(library, rewards, layout),
        gamma=0.97,
        mask=given_as(library, mask, layout),
        mask_mode=mask_mode,
        **as_options(library, options, "float64", layout),
    )
    assert_exact_to(actual, expected, 1e-12)


@few_examples
@given(
    st.lists(st.sampled_from((0, 1, 5, 16, 33)), max_size=6),
    seeds,
    endings,
    libraries,
    st.sampled_from(FLOATS),
    st.sampled_from(("int32", "int64")),
)
def test_packed_rows_give_the_bits_of_padded_ones(
    sizes, seed, ending, library, dtype, offset_dtype
):
    rng = np.random.default_rng(seed)
    shape = (len(sizes), max(sizes, default=0) + 3)
    mask = np.arange(shape[1])[None, :] < np.array(sizes, int).reshape(-1, 1)
    arrays = [x.astype(dtype) for x in rng.normal(size=(2, *shape))]
    options = flags_and_values(ending, shape, rng)
    is_ambiguous = sum(sizes) == len(sizes)  # flags [B] would be read as flags [N]
    packed_options = {
        name: per_token(x, mask) if is_ambiguous and x.dtype == bool else packed(x, mask)
        for name, x in options.items()
    }
    factors = {"gamma": 0.99, "gae_lambda": 0.95}
    padded = kernels.gae(
        *(given_as(library, poison(x, mask, rng)) for x in arrays),
        mask=given_as(library, mask),
        **as_options(library, options, dtype),
        **factors,
    )
    flat = kernels.gae(
        *(given_as(library, x[mask]) for x in arrays),
        cu_seqlens=given_as(library, np.cumsum([0, *sizes]).astype(offset_dtype)),
        **as_options(library, packed_options, dtype),
        **factors,
    )
    for one, other in zip(padded, flat, strict=True):
        assert bits(to_numpy(one)[mask]) == bits(other)


def packed(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Per-token numbers [B, T] packed; per-row ones as they are."""
    return x[mask] if x.ndim == 2 else x


def per_token(flags: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Packed per-token flags, from padded ones or from per-row ones on each row's last token."""
    if flags.ndim == 2:
        return flags[mask]
    spread = np.zeros(mask.shape, bool)
    kept = mask.any(axis=1)
    spread[kept, mask.sum(axis=1)[kept] - 1] = flags[kept]
    return spread[mask]


@fewer_examples
@given(seeds, libraries, st.sampled_from(FLOATS))
def test_masked_tokens_inside_a_response_are_as_if_deleted(seed, library, dtype):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 41)) < 0.6
    rewards, values = rng.normal(size=(2, 7, 41)).astype(dtype)
    options = {
        "bootstrap": given_as(library, rng.normal(size=7).astype(dtype)),
        "terminated": given_as(library, rng.random(7) < 0.5),
        "gamma": 0.99,
        "gae_lambda": 0.9,
    }
    held = kernels.gae(
        given_as(library, poison(rewards, mask, rng)),
        given_as(library, poison(values, mask, rng)),
        mask=given_as(library, mask),
        **options,
    )
    deleted = kernels.gae(
        given_as(library, rewards[mask]),
        given_as(library, values[mask]),
        cu_seqlens=given_as(library, np.concatenate([[0], mask.sum(axis=1).cumsum()])),
        **options,
    )
    for one, other in zip(held, deleted, strict=True):
        assert bits(to_numpy(one)[mask]) == bits(other)
        assert not to_numpy(one)[~mask].any()


@pytest.mark.parametrize("mask_mode", ["carry", "zero", "prefix"])
def test_padding_on_the_right_changes_no_bit(mask_mode):
    rng = np.random.default_rng(0)
    mask = make_mask("right_padded", (9, 37), rng)
    arrays = rng.normal(size=(2, 9, 37)).astype(np.float32)
    wide_mask = np.pad(mask, ((0, 0), (0, 30)))
    wide = [np.pad(x, ((0, 0), (0, 30)), constant_values=np.nan) for x in arrays]
    options = {"gamma": 0.99, "gae_lambda": 0.95, "mask_mode": mask_mode}
    narrow = kernels.gae(*arrays, mask=mask, **options)
    for one, other in zip(narrow, kernels.gae(*wide, mask=wide_mask, **options), strict=True):
        assert bits(one) == bits(np.ascontiguousarray(other[:, :37]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch_and_order(library):
    rng = np.random.default_rng(1)
    rewards, values = rng.normal(size=(2, 70, 133)).astype(np.float32)
    order = rng.permutation(70)
    options = {"gamma": 0.99, "gae_lambda": 0.95}
    batch = kernels.gae(given_as(library, rewards), given_as(library, values), **options)
    permuted = kernels.gae(
        given_as(library, rewards[order]), given_as(library, values[order]), **options
    )
    for one, other in zip(batch, permuted, strict=True):
        assert bits(to_numpy(one)[order]) == bits(other)
    for b in (0, 1, 37, 69):
        alone = kernels.gae(
            given_as(library, rewards[b : b + 1]), given_as(library, values[b : b + 1]), **options
        )
        for one, other in zip(batch, alone, strict=True):
            assert bits(to_numpy(one)[b : b + 1]) == bits(other)


@pytest.mark.parametrize("cut", [1, 16, 29, 36])
def test_splitting_a_row_in_time_equals_composing_its_parts(cut):
    rng = np.random.default_rng(2)
    rewards, values = rng.normal(size=(2, 3, 37))
    options = {"gamma": 0.9, "gae_lambda": 0.8}
    whole, _ = kernels.gae(rewards, values, **options)
    late, _ = kernels.gae(rewards[:, cut:].copy(), values[:, cut:].copy(), **options)
    early_rewards = rewards[:, :cut].copy()
    early_rewards[:, -1] += 0.9 * 0.8 * late[:, 0]
    early, _ = kernels.gae(
        early_rewards, values[:, :cut].copy(), bootstrap=values[:, cut].copy(), **options
    )
    assert_exact_to(np.concatenate([early, late], axis=1), whole, 1e-12)

    whole = kernels.discounted_returns(rewards, gamma=0.9)
    late = kernels.discounted_returns(rewards[:, cut:].copy(), gamma=0.9)
    early = kernels.discounted_returns(
        rewards[:, :cut].copy(), gamma=0.9, bootstrap=late[:, 0].copy()
    )
    assert_exact_to(np.concatenate([early, late], axis=1), whole, 1e-12)


def test_undiscounted_returns_of_a_finished_row_are_the_sums_of_later_rewards():
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(2, 4, 21))
    later = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
    terminated = np.ones(4, bool)
    _, returns = kernels.gae(rewards, values, gamma=1.0, gae_lambda=1.0, terminated=terminated)
    assert_exact_to(returns, later, 1e-12)
    assert_exact_to(
        kernels.discounted_returns(rewards, gamma=1.0, terminated=terminated), later, 1e-12
    )


def test_a_terminated_row_ignores_its_bootstrap_and_a_truncated_one_needs_it():
    rewards, values = np.ones((2, 3)), np.zeros((2, 3))
    options = {"gamma": 1.0, "gae_lambda": 1.0}
    advantages, _ = kernels.gae(
        rewards,
        values,
        terminated=np.array([True, False]),
        truncated=np.array([True, True]),
        bootstrap=np.array([np.nan, 10.0]),
        **options,
    )
    np.testing.assert_array_equal(advantages, [[3.0, 2.0, 1.0], [13.0, 12.0, 11.0]])
    with pytest.raises(ValueError, match=r"gae: .*truncated"):
        kernels.gae(rewards, values, truncated=np.array([False, True]), **options)
    with pytest.raises(ValueError, match=r"discounted_returns: .*truncated"):
        kernels.discounted_returns(rewards, gamma=1.0, truncated=np.array([False, True]))


def test_a_step_truncated_inside_a_row_needs_its_own_next_value():
    truncated = np.array([[False, True, False]])
    arrays = np.ones((1, 3)), np.zeros((1, 3))
    with pytest.raises(ValueError, match=r"gae: .*next_values"):
        kernels.gae(
            *arrays, gamma=1.0, gae_lambda=1.0, truncated=truncated, bootstrap=np.array([1.0])
        )
    with pytest.raises(ValueError, match=r"discounted_returns: .*truncated"):
        kernels.discounted_returns(
            arrays[0], gamma=1.0, truncated=truncated, bootstrap=np.array([1.0])
        )


def test_truncation_flags_that_are_all_false_need_no_values():
    rewards, values = np.ones((2, 3)), np.zeros((2, 3))
    plain = kernels.gae(rewards, values, gamma=0.9, gae_lambda=0.9)
    flagged = kernels.gae(rewards, values, gamma=0.9, gae_lambda=0.9, truncated=np.zeros(2, bool))
    assert [bits(x) for x in plain] == [bits(x) for x in flagged]


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 1, 1]]])
def test_prefix_mode_refuses_a_mask_that_is_no_prefix(mask):
    arrays = np.ones((1, 3)), np.zeros((1, 3))
    with pytest.raises(ValueError, match="gae: `mask`"):
        kernels.gae(*arrays, gamma=1.0, gae_lambda=1.0, mask=np.array(mask), mask_mode="prefix")


def gae_in_torch(rewards, values, gamma, gae_lambda):
    """The loop everyone writes."""
    advantages, carried = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(carried)
        carried = rewards[:, t] + gamma * following - values[:, t] + gamma * gae_lambda * carried
        advantages[:, t] = carried
    return advantages, advantages + values


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("library", LIBRARIES)
def test_gae_in_float32_errs_at_most_twice_as_much_as_torch(library, gamma):
    rng = np.random.default_rng(4)
    rewards, values = rng.normal(size=(2, 64, 500)).astype(np.float32)
    truth = reference.gae(rewards, values, gamma=gamma, gae_lambda=0.95)
    peer = gae_in_torch(torch.from_numpy(rewards), torch.from_numpy(values), gamma, 0.95)
    actual = kernels.gae(
        given_as(library, rewards), given_as(library, values), gamma=gamma, gae_lambda=0.95
    )
    for ours, theirs, expected in zip(actual, peer, truth, strict=True):
        assert to_numpy(ours).dtype == np.float32
        assert_at_most_twice_the_error(ours, theirs, expected)


def test_infinite_and_missing_rewards_stay_in_their_own_row():
    rewards = np.ones((3, 20))
    rewards[1, 5] = math.inf
    rewards[2, 5] = math.nan
    values = np.zeros((3, 20))
    advantages, _ = kernels.gae(rewards, values, gamma=0.9, gae_lambda=0.9)
    clean, _ = kernels.gae(np.ones((3, 20)), values, gamma=0.9, gae_lambda=0.9)
    assert bits(advantages[:1].copy()) == bits(clean[:1].copy())
    assert np.isposinf(advantages[1, :6]).all()
    assert np.isnan(advantages[2, :6]).all()
    assert bits(advantages[1:, 6:].copy()) == bits(clean[1:, 6:].copy())
