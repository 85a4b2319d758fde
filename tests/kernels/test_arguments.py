"""What the kernels accept, what they give back, and how they refuse."""

import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from kernel_cases import LIBRARIES, bits, given_as, to_numpy

from alignzoo import kernels

FLAT = np.array([1, 2, 3])


def arguments(dtype: str = "float32") -> dict[str, tuple[list[np.ndarray], dict]]:
    """Good arguments for every kernel: arrays in order, then options."""
    rng = np.random.default_rng(0)
    per_token = [x.astype(dtype) for x in rng.normal(size=(3, 3, 5))]
    logits = rng.normal(size=(3, 7)).astype(dtype)
    return {
        "gae": (per_token[:2], {"gamma": 0.9, "gae_lambda": 0.9}),
        "discounted_returns": (per_token[:1], {"gamma": 0.9}),
        "masked_whiten": (per_token[:1], {}),
        "group_advantages": ([per_token[0][0], np.array([0, 0, 1, 1, 1])], {"mode": "grpo"}),
        "token_log_probs": ([logits, FLAT], {"entropy": True}),
        "linear_token_log_probs": ([logits, logits, np.array([0, 1, 2])], {"entropy": True}),
        "sample_tokens": ([logits], {"seed": 0}),
        "policy_loss": (per_token, {"clip_range": 0.2}),
        "value_loss": (per_token, {"clip_range": 0.2}),
        "kl_penalty": (per_token[:2], {"estimator": "k3"}),
        "huber": (per_token[:1], {}),
    }


def call(name: str, library: str, dtype: str = "float32", layout: str = "contiguous"):
    """The result of a kernel on good arguments."""
    arrays, options = arguments(dtype)[name]
    return getattr(kernels, name)(*(given_as(library, x, layout) for x in arrays), **options)


def leaves(result) -> list:
    """The arrays of a result, in order."""
    if isinstance(result, dict):
        return [x for name in sorted(result) for x in leaves(result[name])]
    if isinstance(result, tuple):
        return [x for part in result for x in leaves(part)]
    return [result]


NAMES = sorted(arguments())
# The product in front of the linear one is the library's, whose bits change with layout.
OWN_BITS = sorted(set(NAMES) - {"linear_token_log_probs"})


@pytest.mark.parametrize("name", NAMES)
def test_numpy_in_is_numpy_out_and_torch_in_is_torch_out(name):
    for x in leaves(call(name, "numpy")):
        assert isinstance(x, np.ndarray | np.generic)
    for x in leaves(call(name, "torch")):
        assert isinstance(x, torch.Tensor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_output_has_the_dtype_that_came_in(name, dtype):
    first = leaves(call(name, "numpy", dtype))[1 if name == "sample_tokens" else 0]
    assert first.dtype == dtype
    first = leaves(call(name, "torch", dtype))[1 if name == "sample_tokens" else 0]
    assert first.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("name", OWN_BITS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_torch_give_the_same_bits(name, dtype):
    numpy_bits = [bits(x) for x in leaves(call(name, "numpy", dtype))]
    assert numpy_bits == [bits(x) for x in leaves(call(name, "torch", dtype))]


@pytest.mark.parametrize("name", OWN_BITS)
@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed", "read_only"])
def test_the_layout_of_the_input_does_not_change_a_bit(name, layout):
    for library in LIBRARIES:
        expected = [bits(x) for x in leaves(call(name, library))]
        assert [bits(x) for x in leaves(call(name, library, layout=layout))] == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_inputs_are_left_as_they_were(name, library):
    arrays, options = arguments()[name]
    given = [given_as(library, x) for x in arrays]
    before = [bits(x) for x in given]
    getattr(kernels, name)(*given, **options)
    assert [bits(x) for x in given] == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_empty_arrays_are_legal(library):
    for shape in ((0, 5), (3, 0), (0, 0)):
        x = given_as(library, np.zeros(shape, np.float32))
        for result in (
            kernels.gae(x, x, gamma=0.9, gae_lambda=0.9),
            kernels.discounted_returns(x, gamma=0.9),
            kernels.masked_whiten(x)[0],
            kernels.kl_penalty(x, x, estimator="k3"),
            kernels.huber(x),
        ):
            assert all(to_numpy(y).shape == shape for y in leaves(result))
    logits, none = np.zeros((0, 7), np.float32), np.zeros(0, np.int64)
    logits, none = given_as(library, logits), given_as(library, none)
    for x in leaves(kernels.token_log_probs(logits, none, entropy=True)):
        assert to_numpy(x).shape == (0,)
    for x in leaves(kernels.sample_tokens(logits, seed=0)):
        assert to_numpy(x).shape == (0,)
    scores = given_as(library, np.zeros(0, np.float32))
    assert to_numpy(kernels.group_advantages(scores, none, mode="rloo")).shape == (0,)


A = np.zeros((3, 5), np.float32)
OTHER = np.zeros((3, 6), np.float32)
B = np.zeros(3, np.float32)
L = np.zeros((3, 7), np.float32)
GAE = {"gamma": 0.9, "gae_lambda": 0.9}
CLIP = {"clip_range": 0.2}
W = "behaviour_weights"
SUM_NORM = {"aggregate": "sequence_sum_norm"}

# function, its arrays, its options, what is raised, the argument that is named
REFUSED = [
    ("gae", [A, OTHER], GAE, ValueError, "values"),
    ("gae", [A, A.astype(np.float64)], GAE, TypeError, "values"),
    ("gae", [A, torch.zeros(3, 5)], GAE, TypeError, "values"),
    ("gae", [A.astype(np.int64), A], GAE, TypeError, "rewards"),
    ("gae", [A.astype(np.float16), A], GAE, TypeError, "rewards"),
    ("gae", [[[1.0]], A], GAE, TypeError, "rewards"),
    ("gae", [None, A], GAE, TypeError, "rewards"),
    ("gae", [B, B], GAE, ValueError, "rewards"),
    ("gae", [A.astype(">f4"), A], GAE, TypeError, "rewards"),
    ("gae", [A.astype(object), A], GAE, TypeError, "rewards"),
    ("gae", [A.astype(np.complex64), A], GAE, TypeError, "rewards"),
    ("gae", [np.float32(1), A], GAE, (TypeError, ValueError), "rewards"),
    ("gae", [A, A], {**GAE, "gamma": 1.5}, ValueError, "gamma"),
    ("gae", [A, A], {**GAE, "gamma": "0.9"}, TypeError, "gamma"),
    ("gae", [A, A], {**GAE, "gae_lambda": -0.1}, ValueError, "gae_lambda"),
    ("gae", [A, A], {**GAE, "mask": np.zeros((3, 6), bool)}, ValueError, "mask"),
    ("gae", [A, A], {**GAE, "mask": A}, TypeError, "mask"),
    ("gae", [A, A], {**GAE, "mask": np.full((3, 5), 2)}, ValueError, "mask"),
    ("gae", [A, A], {**GAE, "mask_mode": "skip"}, ValueError, "mask_mode"),
    ("gae", [A, A], {**GAE, "terminated": np.zeros(4, bool)}, ValueError, "terminated"),
    ("gae", [A, A], {**GAE, "terminated": B}, TypeError, "terminated"),
    ("gae", [A, A], {**GAE, "truncated": np.zeros((3, 4), bool)}, ValueError, "truncated"),
    ("gae", [A, A], {**GAE, "bootstrap": np.zeros(4, np.float32)}, ValueError, "bootstrap"),
    ("gae", [A, A], {**GAE, "next_values": OTHER}, ValueError, "next_values"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([0, 3])}, ValueError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([0, 4, 3, 5])}, ValueError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([1, 5])}, ValueError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([], int)}, ValueError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([0.0, 5.0])}, TypeError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([0, 2**62])}, ValueError, "cu_seqlens"),
    ("gae", [A[0], A[0]], {**GAE, "cu_seqlens": np.array([[0, 5]])}, ValueError, "cu_seqlens"),
    ("gae", [A, A], {**GAE, "cu_seqlens": np.array([0, 3])}, ValueError, "(rewards|cu_seqlens)"),
    ("discounted_returns", [A], {"gamma": -1.0}, ValueError, "gamma"),
    ("discounted_returns", [A], {"gamma": 1.0, "bootstrap": A}, ValueError, "bootstrap"),
    ("masked_whiten", [A, OTHER.astype(bool)], {}, ValueError, "mask"),
    ("masked_whiten", [A], {"ddof": -1}, ValueError, "ddof"),
    ("masked_whiten", [A], {"eps": -1.0}, ValueError, "eps"),
    ("masked_whiten", [A], {"moments": (1.0, 2.0)}, (TypeError, ValueError), "moments"),
    ("group_advantages", [B, FLAT], {"mode": "gpro"}, ValueError, "mode"),
    ("group_advantages", [B, np.arange(4)], {"mode": "grpo"}, ValueError, "group_ids"),
    ("group_advantages", [B, B], {"mode": "grpo"}, TypeError, "group_ids"),
    ("group_advantages", [A, FLAT], {"mode": "grpo"}, ValueError, "scores"),
    ("token_log_probs", [L, np.arange(4)], {}, ValueError, "targets"),
    ("token_log_probs", [L, B], {}, TypeError, "targets"),
    ("token_log_probs", [L, np.array([0, 7, 1])], {}, ValueError, "targets"),
    ("token_log_probs", [L, np.array([0, -1, 1])], {}, ValueError, "targets"),
    ("token_log_probs", [L, np.array([0, 2**40, 1])], {}, ValueError, "targets"),
    ("token_log_probs", [L, FLAT], {"temperature": math.inf}, ValueError, "temperature"),
    ("token_log_probs", [L, FLAT], {"temperature": 0.0}, ValueError, "temperature"),
    ("token_log_probs", [L, FLAT], {"temperature": -1.0}, ValueError, "temperature"),
    ("token_log_probs", [np.zeros((3, 0), np.float32), FLAT], {}, ValueError, "logits"),
    ("token_log_probs", [np.zeros((3, 7), int), FLAT], {}, TypeError, "logits"),
    ("linear_token_log_probs", [A, L, FLAT], {}, ValueError, "weight"),
    ("linear_token_log_probs", [L, L, np.arange(4)], {}, ValueError, "targets"),
    ("linear_token_log_probs", [L, L, FLAT], {}, ValueError, "targets"),
    ("linear_token_log_probs", [L, L, FLAT - 1], {"bias": L[0]}, ValueError, "bias"),
    ("linear_token_log_probs", [L, L, FLAT - 1], {"chunk_tokens": 0}, ValueError, "chunk_tokens"),
    ("sample_tokens", [L[0]], {"seed": 0}, ValueError, "logits"),
    ("sample_tokens", [L], {"seed": 0, "temperature": -1.0}, ValueError, "temperature"),
    ("sample_tokens", [L], {"seed": 0, "top_k": -1}, ValueError, "top_k"),
    ("sample_tokens", [L], {"seed": 0, "top_k": 2.5}, TypeError, "top_k"),
    ("sample_tokens", [L], {"seed": 0, "top_p": 0.0}, ValueError, "top_p"),
    ("sample_tokens", [L], {"seed": 0, "top_p": 1.1}, ValueError, "top_p"),
    ("sample_tokens", [L], {"seed": -1}, ValueError, "seed"),
    ("sample_tokens", [L], {"seed": 2**64}, ValueError, "seed"),
    ("sample_tokens", [L], {"seed": 0.5}, TypeError, "seed"),
    ("sample_tokens", [L], {"seed": 0, "offset": -1}, ValueError, "offset"),
    ("sample_tokens", [L], {"seed": 0, "row_ids": np.arange(2)}, ValueError, "row_ids"),
    ("sample_tokens", [L], {"seed": 0, "row_ids": -FLAT}, ValueError, "row_ids"),
    ("policy_loss", [A, OTHER, A], CLIP, ValueError, "old_log_probs"),
    ("policy_loss", [A, A, OTHER], CLIP, ValueError, "advantages"),
    ("policy_loss", [A, A, A], {"clip_range": -0.2}, ValueError, "clip_range"),
    ("policy_loss", [A, A, A], CLIP | {"clip_range_high": -1}, ValueError, "clip_range_high"),
    ("policy_loss", [A, A, A], CLIP | {"dual_clip": 0.5}, ValueError, "dual_clip"),
    ("policy_loss", [A, A, A], CLIP | {"dual_clip": 3, "kind": "plain"}, ValueError, "dual_clip"),
    ("policy_loss", [A, A, A], CLIP | {"level": "word"}, ValueError, "level"),
    ("policy_loss", [A, A, A], CLIP | {"kind": "ppo"}, ValueError, "kind"),
    ("policy_loss", [A, A, A], CLIP | {"aggregate": "mean"}, ValueError, "aggregate"),
    ("policy_loss", [A, A, A], CLIP | SUM_NORM, ValueError, "denominator"),
    ("policy_loss", [A, A, A], CLIP | {"denominator": 0}, ValueError, "denominator"),
    ("policy_loss", [A, A, A], CLIP | {"denominator": B}, (TypeError, ValueError), "denominator"),
    ("policy_loss", [A, A, A], CLIP | {W: OTHER}, ValueError, W),
    ("value_loss", [A, OTHER, A], {}, ValueError, "old_values"),
    ("value_loss", [A, A, OTHER], {}, ValueError, "returns"),
    ("value_loss", [A, A, A], {"clip_range": -1.0}, ValueError, "clip_range"),
    ("kl_penalty", [A, OTHER], {"estimator": "k1"}, ValueError, "ref_log_probs"),
    ("kl_penalty", [A, A], {"estimator": "k4"}, ValueError, "estimator"),
    ("huber", [A], {"delta": 0.0}, ValueError, "delta"),
    ("huber", [A.astype(np.int32)], {}, TypeError, "x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arrays", "options", "error", "argument"),
    REFUSED,
    ids=[f"{i}-{case[0]}-{case[4]}" for i, case in enumerate(REFUSED)],
)
def test_a_bad_argument_is_refused_by_function_and_name(name, arrays, options, error, argument):
    with pytest.raises(error, match=f"^{name}: .*`{argument}`"):
        getattr(kernels, name)(*arrays, **options)


def torch_holds(x: object) -> bool:
    """Whether torch.from_numpy takes it."""
    return isinstance(x, np.ndarray) and x.dtype.isnative and x.dtype != object


@pytest.mark.parametrize(
    ("name", "arrays", "options", "error", "argument"),
    [case for case in REFUSED if all(torch_holds(x) for x in case[1])],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_tensors_are_refused_for_the_same_reasons(name, arrays, options, error, argument):
    options = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
    }
    with pytest.raises(error, match=f"^{name}: .*`{argument}`"):
        getattr(kernels, name)(*map(torch.from_numpy, arrays), **options)


def test_a_message_says_what_was_given_and_what_was_expected():
    with pytest.raises(ValueError, match="values") as refusal:
        kernels.gae(np.zeros((4, 12)), np.zeros((4, 10)), gamma=1.0, gae_lambda=1.0)
    assert re.match(r"gae: `values` is \[4, 10\] but `rewards` is \[4, 12\]", str(refusal.value))


@pytest.mark.parametrize("name", NAMES)
def test_options_are_keyword_only_and_unknown_ones_are_refused(name):
    arrays, options = arguments()[name]
    with pytest.raises(TypeError):
        getattr(kernels, name)(*arrays, **options, no_such_option=1)


NAN_OPTIONS = [
    ("gae", 2, {"gamma": 0.9, "gae_lambda": 0.9}),
    ("discounted_returns", 1, {"gamma": 0.9}),
    ("masked_whiten", 1, {"eps": 1e-8}),
    ("policy_loss", 3, {"clip_range": 0.2, "clip_range_high": 0.2, "dual_clip": 3.0}),
    ("policy_loss", 3, {"clip_range": 0.2, "denominator": 3.0}),
    ("value_loss", 3, {"clip_range": 0.2, "denominator": 3.0}),
    ("huber", 1, {"delta": 1.0}),
    ("sample_tokens", 1, {"seed": 0, "temperature": 1.0, "top_p": 1.0}),
]


@pytest.mark.parametrize(
    ("name", "num_arrays", "options", "spoiled"),
    [(n, k, o, option) for n, k, o in NAN_OPTIONS for option in o if option != "seed"],
)
def test_an_option_that_is_no_number_is_refused(name, num_arrays, options, spoiled):
    x = np.ones((3, 5))
    with pytest.raises(ValueError, match=f"^{name}: .*`{spoiled}`"):
        getattr(kernels, name)(*[x] * num_arrays, **(options | {spoiled: math.nan}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_the_same_bits():
    big = np.random.default_rng(1).normal(size=(64, 5003)).astype(np.float32)
    targets = np.arange(64)

    def compute() -> list[bytes]:
        return [bits(x) for x in kernels.token_log_probs(big, targets, entropy=True)] + [
            bits(x) for x in kernels.gae(big, big, gamma=0.99, gae_lambda=0.95)
        ]

    expected = compute()  # threads exist by now
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for its parent's threads
        try:
            os._exit(0 if compute() == expected else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
