"""sample_tokens: what it draws from, what a draw depends on, and the log-prob it gives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_exact_to
from kernel_cases import LIBRARIES, NUM_DRAWS, bits, given_as, to_numpy
from kernel_device import kernels, refused
from kernel_strategies import few_examples, seeds, sources

from alignzoo.kernels import reference

CUTS = (
    {},
    {"temperature": 0.5},
    {"top_k": 3},
    {"top_p": 0.7},
    {"top_k": 4, "top_p": 0.6, "temperature": 1.5},
)


STRETCHES = ([2999], [0, 2999], [5, 1023, 1024], list(range(2048, 2100)))


def chi_square(counts: np.ndarray, probs: np.ndarray) -> float:
    """Pearson's statistic over the tokens that can be drawn, in standard deviations."""
    kept = probs > 0
    expected = counts.sum() * probs[kept]
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    freedom = max(kept.sum() - 1, 1)
    return float((statistic - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("options", CUTS, ids=str)
@pytest.mark.parametrize("varied", ["row_ids", "offset", "seed"])
def test_frequencies_are_those_of_the_exact_distribution(options, varied):
    row = np.array([0.3, -1.0, 2.0, 1.0, -math.inf, 0.0, 1.5, -0.5], np.float32)
    if varied == "row_ids":
        ids, _ = kernels.sample_tokens(np.tile(row, (NUM_DRAWS, 1)), seed=3, **options)
    else:
        draws = [
            kernels.sample_tokens(row[None], **{"seed": 11, varied: i}, **options)[0]
            for i in range(NUM_DRAWS // 10)
        ]
        ids = np.concatenate(draws)
    probs = reference.sample_distribution(row[None], **options)[0]
    counts = np.bincount(ids, minlength=8)
    assert not counts[probs == 0].any()
    assert chi_square(counts, probs) < 4


def test_rows_draw_independently_of_one_another():
    logits = np.zeros((NUM_DRAWS // 2, 4), np.float32)
    ids, _ = kernels.sample_tokens(logits, seed=0)
    pairs = np.bincount(4 * ids[:-1] + ids[1:], minlength=16)
    assert chi_square(pairs, np.full(16, 1 / 16)) < 4
    later, _ = kernels.sample_tokens(logits, seed=0, offset=1)
    pairs = np.bincount(4 * ids + later, minlength=16)
    assert chi_square(pairs, np.full(16, 1 / 16)) < 4


KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "ties": lambda rng, shape: rng.integers(0, 3, shape).astype(np.float64),
    "rounded": lambda rng, shape: np.round(rng.normal(size=shape), 1),
    "constant": lambda rng, shape: np.full(shape, -2.5),
    "outlier": lambda rng, shape: (
        np.where(np.arange(shape[1]) == shape[1] // 2, 30.0, 0.0) + rng.normal(size=shape)
    ),
    "falling": lambda rng, shape: np.broadcast_to(-0.37 * np.arange(shape[1]), shape).copy(),
    "far_apart": lambda rng, shape: (
        10.0 ** rng.integers(-300, 300, shape) * rng.choice([-1, 1], shape)
    ),
    "next_to_equal": lambda rng, shape: 1 + rng.integers(0, 3, shape) * np.finfo(np.float64).eps,
}


@few_examples
@given(
    st.sampled_from((0, 1, 2, 17)),
    st.sampled_from((1, 2, 15, 16, 17, 33, 127, 1031, 4099)),
    seeds,
    sources,
    st.sampled_from((0.0, 0.7, 1.0, 3.0)),
    st.sampled_from((0, 1, 5, 31, 33, 40, 2000)),
    st.sampled_from((1.0, 0.9012345678, 0.3003456789, 1e-9)),  # equal masses end at none of them
    st.sampled_from(sorted(KINDS)),
    st.booleans(),
    st.integers(0, 2**63 - 1),
)
def test_ids_and_log_probs_are_those_of_the_reference(
    num_rows, num_tokens, seed, source, temperature, top_k, top_p, kind, is_cut, offset
):
    library, layout = source
    rng = np.random.default_rng(seed)
    logits = KINDS[kind](rng, (num_rows, num_tokens))
    if is_cut:
        logits[:, 1:][rng.random((num_rows, num_tokens - 1)) < 0.5] = -math.inf
    row_ids = rng.integers(0, 2**62, num_rows)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    draw = {"seed": seed, "offset": offset}
    expected_ids, expected = reference.sample_tokens(logits, row_ids=row_ids, **draw, **options)
    ids, log_probs = kernels.sample_tokens(
        given_as(library, logits, layout), row_ids=given_as(library, row_ids), **draw, **options
    )
    assert to_numpy(ids).dtype == np.int64
    np.testing.assert_array_equal(to_numpy(ids), expected_ids)
    assert_exact_to(log_probs, expected, 1e-12, scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", CUTS, ids=str)
def test_narrow_logits_draw_what_the_reference_draws_unless_at_a_boundary(dtype, options):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(2 * rng.normal(size=(400, 1031))).to(dtype)
    ids, log_probs = kernels.sample_tokens(logits, seed=5, offset=9, **options)
    assert log_probs.dtype == torch.float32
    probs = reference.sample_distribution(logits.double(), **options)
    uniforms = np.array([reference.uniform(5, 9, b) for b in range(400)])
    upper = np.take_along_axis(probs.cumsum(axis=1), ids.numpy()[:, None], 1)[:, 0]
    chosen = np.take_along_axis(probs, ids.numpy()[:, None], 1)[:, 0]
    assert np.all(upper >= uniforms - 2e-6)
    assert np.all(upper - chosen <= uniforms + 2e-6)
    np.testing.assert_allclose(log_probs.double(), np.log(chosen), atol=4e-6)


@pytest.mark.parametrize("options", CUTS, ids=str)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_row_leaving_the_batch_changes_nothing_for_its_mates(options, library):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(23, 301)).astype(np.float32)
    row_ids = rng.permutation(1000)[:23]
    whole = kernels.sample_tokens(
        given_as(library, logits), seed=7, offset=2, row_ids=given_as(library, row_ids), **options
    )
    kept = rng.permutation(23)[:9]
    fewer = kernels.sample_tokens(
        given_as(library, logits[kept]),
        seed=7,
        offset=2,
        row_ids=given_as(library, row_ids[kept]),
        **options,
    )
    for one, other in zip(whole, fewer, strict=True):
        assert bits(to_numpy(one)[kept]) == bits(other)


def test_rows_are_numbered_from_0_by_default():
    logits = np.random.default_rng(2).normal(size=(31, 50)).astype(np.float32)
    default = kernels.sample_tokens(logits, seed=1)
    numbered = kernels.sample_tokens(logits, seed=1, row_ids=np.arange(31))
    assert [bits(x) for x in default] == [bits(x) for x in numbered]


def test_the_draw_depends_on_seed_offset_and_row_id():
    logits = np.zeros((64, 1000), np.float32)
    base = kernels.sample_tokens(logits, seed=1)[0]
    again = kernels.sample_tokens(logits, seed=1)[0]
    np.testing.assert_array_equal(base, again)
    for other in (
        kernels.sample_tokens(logits, seed=2)[0],
        kernels.sample_tokens(logits, seed=1, offset=1)[0],
        kernels.sample_tokens(logits, seed=1, row_ids=np.arange(64) + 64)[0],
        kernels.sample_tokens(logits, seed=1 + 2**32)[0],
        kernels.sample_tokens(logits, seed=1, offset=2**32)[0],
        kernels.sample_tokens(logits, seed=1, row_ids=np.arange(64) + 2**32)[0],
    ):
        assert (base == other).mean() < 0.1


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.1}], ids=str)
def test_temperature_0_takes_the_first_largest_logit_with_log_prob_0(library, options):
    logits = np.array([[0.0, 3.0, 3.0, -1.0], [-math.inf, -5.0, -math.inf, -5.0]], np.float32)
    ids, log_probs = kernels.sample_tokens(
        given_as(library, logits), temperature=0.0, seed=0, **options
    )
    np.testing.assert_array_equal(to_numpy(ids), [1, 1])
    np.testing.assert_array_equal(to_numpy(log_probs), [0.0, 0.0])


def drawn(row, **options) -> set[int]:
    """Every token that some two thousand draws of one row give."""
    rows = np.tile(row, (NUM_DRAWS // 20 + 250, 1))
    return set(kernels.sample_tokens(rows, seed=0, **options)[0].tolist())


def test_equal_logits_at_the_cut_keep_the_lower_index():
    row = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert drawn(row, top_k=1) == {1}
    assert drawn(row, top_k=3) == {0, 1, 3}
    assert drawn(np.zeros(4), top_p=0.5) == {0, 1}
    assert drawn(np.zeros(40), top_k=17) == set(range(17))


def test_top_k_comes_before_top_p_which_sees_renormalised_mass():
    row = np.log([0.1, 0.4, 0.2, 0.3])
    assert drawn(row, top_p=0.55) == {1, 3}
    assert drawn(row, top_k=2, top_p=0.55) == {1}
    assert drawn(row, top_k=2, top_p=0.6) == {1, 3}


def test_a_top_p_next_to_nothing_keeps_the_best_token():
    assert drawn(np.array([0.0, 0.1, 0.0]), top_p=1e-12) == {1}


def test_cuts_that_cut_nothing_change_no_bit():
    logits = np.random.default_rng(3).normal(size=(20, 133)).astype(np.float32)
    plain = kernels.sample_tokens(logits, seed=4)
    for options in ({"top_k": 133}, {"top_k": 1000}, {"top_p": 1.0}):
        uncut = kernels.sample_tokens(logits, seed=4, **options)
        assert [bits(x) for x in uncut] == [bits(x) for x in plain]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_the_log_prob_is_that_of_token_log_probs_at_the_same_temperature(temperature, dtype, bound):
    logits = torch.from_numpy(np.random.default_rng(4).normal(size=(50, 1031))).to(dtype)
    ids, log_probs = kernels.sample_tokens(logits, temperature=temperature, seed=0)
    again = kernels.token_log_probs(logits, ids, temperature=temperature)
    assert_exact_to(log_probs, to_numpy(again).astype(np.float64), bound)


def test_the_log_prob_of_a_cut_distribution_is_renormalised():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    ids, log_probs = kernels.sample_tokens(np.tile(logits, (50, 1)), top_k=2, seed=0)
    np.testing.assert_allclose(log_probs, np.log(np.array([4 / 7, 3 / 7]))[ids], rtol=1e-13)


@pytest.mark.parametrize("options", CUTS, ids=str)
@pytest.mark.parametrize("kept", STRETCHES, ids=len)
def test_long_stretches_of_ruled_out_tokens_are_stepped_over(kept, options):
    row = np.full(3000, -math.inf)
    row[kept] = np.random.default_rng(6).normal(size=len(kept))
    row[kept[0]] += 30  # one stretch outweighs the others by far
    logits = np.tile(row, (NUM_DRAWS // 200, 1))
    ids, log_probs = kernels.sample_tokens(logits, seed=8, **options)
    expected_ids, expected = reference.sample_tokens(logits, seed=8, **options)
    np.testing.assert_array_equal(ids, expected_ids)
    assert_exact_to(log_probs, expected, 1e-12, scale=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "all"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_distribution_is_refused_by_number(bad, temperature):
    logits = np.zeros((4, 20), np.float32)
    if bad == "all":
        logits[2] = -math.inf
    else:
        logits[2, 13] = bad

    def call():
        return kernels.sample_tokens(logits, temperature=temperature, seed=0)

    found = refused(call, r"sample_tokens: `logits`.*\b2\b", "no distribution")
    if found is not None:
        np.testing.assert_array_equal(np.isnan(found[1]), [False, False, True, False])
        assert found[0][2] == 0


def test_no_gradient_flows_through_a_draw():
    logits = torch.zeros(3, 5, requires_grad=True)
    ids, log_probs = kernels.sample_tokens(logits, seed=0)
    assert not ids.requires_grad
    assert not log_probs.requires_grad
