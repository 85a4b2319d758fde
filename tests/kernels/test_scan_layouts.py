"""What padding, packing, holes, order and mates of a row may do to the scans: not a bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import FLOATS, LIBRARIES, TEST_DEVICE, bits, given_as, make_mask, poison, to_numpy
from kernel_device import assert_same, kernels
from kernel_strategies import few_examples, float_dtypes, integer_dtypes, libraries, seeds
from scan_cases import arrays_of, as_options, endings_of, ends, every_scan, packed_ends, run


@every_scan
@few_examples
@given(
    st.data(),
    st.lists(st.sampled_from((0, 1, 5, 16, 33, 257, 1031, 16_385)), max_size=6),
    seeds,
    libraries,
    float_dtypes,
    integer_dtypes,
    st.booleans(),
)
def test_packed_rows_give_the_bits_of_padded_ones(
    name, data, sizes, seed, library, dtype, offset_dtype, has_holes
):
    rng = np.random.default_rng(seed)
    shape = (len(sizes), max(sizes, default=0) + 3)
    inside = np.arange(shape[1])[None, :] < np.array(sizes, int).reshape(-1, 1)
    mask = inside & (rng.random(shape) < 0.7) if has_holes else inside
    arrays = [x.astype(dtype) for x in arrays_of(name, shape, rng)]
    options = ends(data.draw(st.sampled_from(endings_of(name))), shape, rng)
    if has_holes and inside.sum() == len(inside):
        options = {}  # flags per row cannot be told from flags per token here
    mask_mode = data.draw(st.sampled_from(("carry", "zero")))
    padded = run(
        kernels,
        name,
        [given_as(library, poison(x, mask, rng)) for x in arrays],
        mask=given_as(library, mask),
        mask_mode=mask_mode,
        **as_options(library, options, dtype),
    )
    flat = run(
        kernels,
        name,
        [given_as(library, x[inside]) for x in arrays],
        mask=given_as(library, mask[inside]) if has_holes else None,
        mask_mode=mask_mode,
        cu_seqlens=given_as(library, np.cumsum([0, *sizes]).astype(offset_dtype)),
        **as_options(library, packed_ends(options, inside), dtype),
    )
    for one, other in zip(padded, flat, strict=True):
        assert bits(to_numpy(one)[inside]) == bits(other)


# So long that counts up to the border of a tile fall every way; the emulator is too slow for that.
VERY_LONG = 70_001 if TEST_DEVICE == "emulated" else 700_001


def mask_with_holes(pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Masks of rows within one block, and of rows of several tiles."""
    if pattern == "short":
        return rng.random((7, 41)) < 0.6
    if pattern == "rare":
        return rng.random((3, 9001)) < 0.9995
    if pattern == "many":
        return rng.random((1, VERY_LONG)) < 0.6
    runs = rng.integers(1, 3000, size=(3, 40))  # stretches of either kind, the first masked
    stretches = [np.repeat(np.arange(40) % 2 == 1, row)[:9001] for row in runs]
    return np.array(stretches)


@every_scan
@pytest.mark.parametrize("pattern", ["short", "rare", "many", "stretches"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_masked_tokens_inside_a_response_are_as_if_deleted(name, pattern, dtype, library):
    rng = np.random.default_rng(10)
    mask = mask_with_holes(pattern, rng)
    arrays = [x.astype(dtype) for x in arrays_of(name, mask.shape, rng)]
    options = as_options(library, ends("rows_terminated", mask.shape, rng), dtype)
    held = run(
        kernels,
        name,
        [given_as(library, poison(x, mask, rng)) for x in arrays],
        mask=given_as(library, mask),
        **options,
    )
    deleted = run(
        kernels,
        name,
        [given_as(library, x[mask]) for x in arrays],
        cu_seqlens=given_as(library, np.concatenate([[0], mask.sum(axis=1).cumsum()])),
        **options,
    )
    for one, other in zip(held, deleted, strict=True):
        assert_same(to_numpy(one)[mask], to_numpy(other))
        assert not to_numpy(one)[~mask].any()


@every_scan
@pytest.mark.parametrize("pattern", ["short", "rare", "many", "stretches"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_holes_in_zero_mode_are_as_steps_of_nothing(name, pattern, dtype):
    rng = np.random.default_rng(11)
    mask = mask_with_holes(pattern, rng)
    mask[:, -1] = True  # what is behind the last unmasked step is no hole
    arrays = [x.astype(dtype) for x in arrays_of(name, mask.shape, rng)]
    flags = rng.random(mask.shape) < 0.01
    held = run(
        kernels,
        name,
        [poison(x, mask, rng) for x in arrays],
        mask=mask,
        mask_mode="zero",
        terminated=flags,
    )
    filled = run(kernels, name, [np.where(mask, x, 0) for x in arrays], terminated=flags & mask)
    for one, other in zip(held, filled, strict=True):
        assert bits(one) == bits(np.where(mask, other, 0).astype(dtype))


@every_scan
@pytest.mark.parametrize("mask_mode", ["carry", "zero", "prefix"])
@pytest.mark.parametrize(("length", "padding"), [(37, 30), (1031, 1), (1031, 3100)])
def test_padding_on_the_right_changes_no_bit(name, mask_mode, length, padding):
    rng = np.random.default_rng(0)
    mask = make_mask("right_padded", (9, length), rng)
    if mask_mode != "prefix":
        mask &= rng.random(mask.shape) < 0.8
    arrays = [x.astype(np.float32) for x in arrays_of(name, mask.shape, rng)]
    wide_mask = np.pad(mask, ((0, 0), (0, padding)))
    wide = [np.pad(x, ((0, 0), (0, padding)), constant_values=np.nan) for x in arrays]
    narrow = run(kernels, name, arrays, mask=mask, mask_mode=mask_mode)
    padded = run(kernels, name, wide, mask=wide_mask, mask_mode=mask_mode)
    for one, other in zip(narrow, padded, strict=True):
        assert bits(one) == bits(np.ascontiguousarray(other[:, :length]))
        assert not other[:, length:].any()


@every_scan
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch_and_order(name, library):
    rng = np.random.default_rng(1)
    arrays = [x.astype(np.float32) for x in arrays_of(name, (70, 133), rng)]
    flags = rng.random((70, 133)) < 0.05

    def of_rows(kept):
        picked = [given_as(library, x[kept]) for x in arrays]
        return run(kernels, name, picked, terminated=given_as(library, flags[kept]))

    batch, order = of_rows(slice(None)), rng.permutation(70)
    for one, other in zip(batch, of_rows(order), strict=True):
        assert bits(to_numpy(one)[order]) == bits(other)
    for b in (0, 1, 37, 69):
        for one, other in zip(batch, of_rows([b]), strict=True):
            assert bits(to_numpy(one)[[b]]) == bits(other)
