"""What gae, discounted_returns, td_lambda_returns and vtrace have in common."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_bounds import assert_at_most_twice_the_error, assert_exact_to
from kernel_cases import BORDER_LENGTHS, LIBRARIES, bits, given_as, make_mask, poison, to_numpy
from kernel_device import kernels, refused
from kernel_strategies import few_examples, mask_kinds, seeds, shapes, sources
from scan_cases import NAMES, SCANS, arrays_of, as_options, endings_of, ends, every_scan, run

from alignzoo.kernels import reference

mask_dtypes = st.sampled_from(("bool", "int64", "uint8", "int32"))
fractions = st.sampled_from((0.0, 0.9, 1.0))
limits = st.sampled_from((0.4, 1.0, math.inf))


@st.composite
def factors_of(draw, name):
    """Numbers at and inside the edges of their ranges."""
    return {key: draw(limits if "clip" in key else fractions) for key in SCANS[name].factors}


@every_scan
@few_examples
@given(st.data(), shapes, seeds, mask_kinds, mask_dtypes, sources)
def test_float64_is_the_reference_to_1e12(name, data, shape, seed, kind, mask_dtype, source):
    library, layout = source
    rng = np.random.default_rng(seed)
    mask = make_mask(kind, shape, rng)
    arrays = [poison(x, mask, rng) for x in arrays_of(name, shape, rng)]
    options = ends(data.draw(st.sampled_from(endings_of(name))), shape, rng)
    if "next_values" in options:
        options["next_values"] = poison(options["next_values"], mask, rng)
    factors = data.draw(factors_of(name))
    factors["mask_mode"] = data.draw(st.sampled_from(("carry", "zero")))
    expected = run(reference, name, arrays, mask=mask, **options, **factors)
    actual = run(
        kernels,
        name,
        [given_as(library, x, layout) for x in arrays],
        mask=None if mask is None else given_as(library, mask.astype(mask_dtype), layout),
        **as_options(library, options, layout=layout),
        **factors,
    )
    for ours, truth in zip(actual, expected, strict=True):
        assert_exact_to(ours, truth, 1e-12)


@every_scan
@pytest.mark.parametrize("share", [0.0, 0.01])
def test_rows_that_cross_lanes_and_tiles_are_the_reference_to_1e12(name, share):
    rng = np.random.default_rng(0)
    num_tokens = sum(BORDER_LENGTHS)
    arrays = arrays_of(name, (num_tokens,), rng)
    options = {
        "cu_seqlens": np.cumsum([0, *BORDER_LENGTHS]),
        "terminated": rng.random(num_tokens) < share,
        "bootstrap": rng.normal(size=len(BORDER_LENGTHS)),
        "mask": rng.random(num_tokens) >= share,
    }
    if name != "discounted_returns":
        options["truncated"] = rng.random(num_tokens) < share
        options["next_values"] = rng.normal(size=num_tokens)
    ours = run(kernels, name, arrays, **options)
    for one, truth in zip(ours, run(reference, name, arrays, **options), strict=True):
        assert_exact_to(one, truth, 1e-12)


@every_scan
@pytest.mark.parametrize("cut", [1, 16, 29, 36, 256, 1024])
def test_splitting_a_row_in_time_equals_composing_its_parts(name, cut):
    rng = np.random.default_rng(2)
    arrays = dict(zip(SCANS[name].arrays, arrays_of(name, (3, cut + 21), rng), strict=True))
    factors = {"gamma": 0.9}
    if name == "vtrace":  # one clip, so that the rest of the row can come in as a reward
        factors |= {"clip_rho": 1.2, "clip_c": 1.2, "vtrace_lambda": 1.0}
    whole = run(kernels, name, list(arrays.values()), **factors)
    late = run(kernels, name, [x[:, cut:].copy() for x in arrays.values()], **factors)
    early = {key: x[:, :cut].copy() for key, x in arrays.items()}
    following = arrays["values"][:, cut] if "values" in arrays else late[0][:, 0]
    if name != "discounted_returns":
        returns = late[1] if name == "gae" else late[0]
        decay = {"gae": 0.95, "td_lambda_returns": 0.9, "vtrace": 1.0}[name]
        early["rewards"][:, -1] += 0.9 * decay * (returns[:, 0] - following)
    first = run(kernels, name, list(early.values()), bootstrap=following.copy(), **factors)
    if name == "gae":  # its returns hold the reward that was added
        whole, first, late = whole[:1], first[:1], late[:1]
    for parts, truth in zip(zip(first, late, strict=True), whole, strict=True):
        assert_exact_to(np.concatenate(parts, axis=1), truth, 1e-12)


CUTS = np.array([0, 14, 15, 16, 47, 63, 254, 255, 256, 511, 512, 700, 1023, 1024])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "ending"),
    [(name, "terminated") for name in NAMES]
    + [(name, "truncated") for name in NAMES if name != "discounted_returns"],
)
def test_nothing_crosses_the_end_of_an_episode(name, ending, bad):
    # Each cut is tried alone: behind it everything is bad, up to it nothing may change.
    rng = np.random.default_rng(3)
    shape = (len(CUTS), 1031)
    arrays = [x.astype(np.float32) for x in arrays_of(name, shape, rng)]
    is_cut = np.arange(shape[1]) == CUTS[:, None]
    options = {ending: is_cut}
    if ending == "truncated":
        options["next_values"] = rng.normal(size=shape).astype(np.float32)
    before = np.arange(shape[1]) <= CUTS[:, None]
    clean = run(kernels, name, arrays, **options)
    spoiled = run(kernels, name, [np.where(before, x, bad) for x in arrays], **options)
    for one, other in zip(clean, spoiled, strict=True):
        assert np.isfinite(one).all()
        assert bits(one[before]) == bits(other[before])
        assert not np.isfinite(other[~before]).all()


@every_scan
@pytest.mark.parametrize("at", [5, 16, 700])
def test_an_infinite_or_missing_reward_spoils_earlier_steps_of_its_row_only(name, at):
    rng = np.random.default_rng(4)
    arrays = arrays_of(name, (3, 1031), rng)
    clean = run(kernels, name, arrays)
    arrays[SCANS[name].arrays.index("rewards")][1:, at] = math.inf, math.nan
    for one, other in zip(clean, run(kernels, name, arrays), strict=True):
        assert bits(one[0]) == bits(other[0])
        assert bits(one[1:, at + 1 :]) == bits(other[1:, at + 1 :])
        assert not np.isfinite(other[1:, : at + 1]).any()


@every_scan
def test_flags_and_values_that_do_not_count_are_never_used(name):
    # Under the mask, behind a row's end, the bootstrap of a row that terminated.
    rng = np.random.default_rng(5)
    mask = make_mask("right_padded", (6, 50), rng) & (rng.random((6, 50)) < 0.7)
    arrays = arrays_of(name, mask.shape, rng)
    terminated = np.array([True, False] * 3)
    bootstrap = rng.normal(size=6)
    options = {"mask": mask, "terminated": terminated}
    expected = run(kernels, name, arrays, bootstrap=bootstrap, **options)
    last = mask & (mask[:, ::-1].cumsum(axis=1)[:, ::-1] == 1)
    options["terminated"] = np.where(mask, last & terminated[:, None], True)
    if name != "discounted_returns":
        options["truncated"] = ~mask
        options["next_values"] = np.full(mask.shape, np.nan)
    ours = run(kernels, name, arrays, bootstrap=np.where(terminated, np.nan, bootstrap), **options)
    for one, other in zip(expected, ours, strict=True):
        assert bits(one) == bits(other)


@every_scan
@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 1, 1]]])
def test_prefix_mode_refuses_a_mask_that_is_no_prefix(name, mask):
    arrays = arrays_of(name, (1, 3), np.random.default_rng(6))

    def call():
        return run(kernels, name, arrays, mask=np.array(mask), mask_mode="prefix")

    for x in refused(call, f"{name}: `mask`", "mask_mode") or ():
        assert np.isnan(x).any()


@every_scan
def test_a_step_truncated_inside_a_row_needs_its_own_next_value(name):
    arrays = arrays_of(name, (1, 3), np.random.default_rng(7))
    options = {"bootstrap": np.ones(1)}
    inside, last = np.array([[False, True, False]]), np.array([[False, False, True]])
    argument = "truncated" if name == "discounted_returns" else "next_values"
    for outputs in (
        refused(
            lambda: run(kernels, name, arrays, truncated=inside, **options),
            f"{name}: .*{argument}",
            "truncated",
        ),
        refused(
            lambda: run(kernels, name, arrays, truncated=last), f"{name}: .*truncated", "truncated"
        ),
    ):
        assert all(np.isnan(x).any() for x in outputs or ())
    plain = run(kernels, name, arrays, **options)
    flagged = run(kernels, name, arrays, truncated=last, **options)
    assert [bits(x) for x in plain] == [bits(x) for x in flagged]


@every_scan
def test_a_step_that_terminated_needs_no_value_though_it_was_truncated_too(name):
    arrays = arrays_of(name, (2, 40), np.random.default_rng(12))
    flags = np.arange(40) == np.array([[7], [39]])
    expected = run(kernels, name, arrays, terminated=flags)
    both = run(kernels, name, arrays, terminated=flags, truncated=flags)
    assert [bits(x) for x in both] == [bits(x) for x in expected]


@every_scan
def test_truncation_flags_that_are_all_false_need_no_values(name):
    arrays = arrays_of(name, (2, 3), np.random.default_rng(8))
    plain = run(kernels, name, arrays)
    for flags in (np.zeros(2, bool), np.zeros((2, 3), bool)):
        flagged = run(kernels, name, arrays, truncated=flags)
        assert [bits(x) for x in plain] == [bits(x) for x in flagged]


def sequential(name, arrays, factors):
    """The loop everyone writes, over columns of torch tensors. No masks, no flags."""
    held = dict(zip(SCANS[name].arrays, map(torch.from_numpy, arrays), strict=True))
    rewards = held["rewards"]
    values = held.get("values", torch.zeros_like(rewards))
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    rho = c = pg = torch.ones_like(rewards)
    gamma = factors["gamma"]
    decay = {"gae": "gae_lambda", "td_lambda_returns": "td_lambda", "vtrace": "vtrace_lambda"}
    weight = gamma * factors.get(decay.get(name), 1.0)
    if name == "vtrace":
        ratio = (held["log_probs"] - held["old_log_probs"]).exp()
        rho, c, pg = (ratio.clamp(max=factors[k]) for k in ("clip_rho", "clip_c", "clip_pg_rho"))
    errors = rho * (rewards + gamma * after - values)
    sums, carried = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        carried = errors[:, t] + weight * c[:, t] * carried
        sums[:, t] = carried
    targets = sums + values
    if name != "vtrace":
        return (sums, targets) if name == "gae" else (targets,)
    following = torch.cat([targets[:, 1:], torch.zeros_like(targets[:, :1])], dim=1)
    return targets, pg * (rewards + gamma * following - values)


@every_scan
@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("library", LIBRARIES)
def test_float32_errs_at_most_twice_as_much_as_torch(name, library, gamma):
    rng = np.random.default_rng(9)
    arrays = [x.astype(np.float32) for x in arrays_of(name, (64, 500), rng)]
    truth = run(reference, name, arrays, gamma=gamma)
    peer = sequential(name, arrays, SCANS[name].factors | {"gamma": gamma})
    actual = run(kernels, name, [given_as(library, x) for x in arrays], gamma=gamma)
    for ours, theirs, expected in zip(actual, peer, truth, strict=True):
        assert to_numpy(ours).dtype == np.float32
        assert_at_most_twice_the_error(ours, theirs, expected)
