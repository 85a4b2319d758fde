"""What the kernels accept and what they give back."""

import re

import numpy as np
import pytest
import torch
from every_kernel import KERNELS, PADDED, Array
from kernel_cases import LAYOUTS, LIBRARIES, bits, given_as, leaves, to_numpy
from kernel_device import ON_CUDA, assert_same, kernels, refused

import alignzoo.kernels

NAMES = sorted(KERNELS)
# The product in front of the linear one is the library's, whose bits change with layout.
OWN_BITS = sorted(set(NAMES) - {"linear_token_log_probs"})

every_kernel = pytest.mark.parametrize("name", NAMES)
every_library = pytest.mark.parametrize("library", LIBRARIES)


def good(name, library="numpy", dtype="float64", layout="contiguous", is_packed=False) -> dict:
    """Good arguments, floats in `dtype`, arrays in `layout`."""
    arguments = KERNELS[name].good(is_packed=is_packed)
    for key, x in arguments.items():
        if isinstance(x, np.ndarray):
            held = x.astype(dtype) if x.dtype.kind == "f" else x
            arguments[key] = given_as(library, held, layout)
    return arguments


def call(name, *where, **how) -> list:
    """The arrays that a kernel gives for good arguments, in order."""
    return leaves(getattr(kernels, name)(**good(name, *where, **how)))


@every_kernel
def test_numpy_in_is_numpy_out_and_torch_in_is_torch_out(name):
    assert all(isinstance(x, np.ndarray | np.generic) for x in call(name, "numpy"))
    assert all(isinstance(x, torch.Tensor) for x in call(name, "torch"))


@every_kernel
@every_library
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_have_the_dtype_that_came_in_or_a_wider_one(name, library, dtype):
    outputs = [to_numpy(x) for x in call(name, library, dtype)]
    is_float = [x.dtype.kind == "f" for x in outputs]
    assert outputs[is_float.index(True)].dtype == dtype
    assert all(x.dtype in (dtype, "float64") for x in outputs if x.dtype.kind == "f")
    assert all(x.dtype == "int64" for x in outputs if x.dtype.kind != "f")


@pytest.mark.parametrize("name", OWN_BITS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_numpy_and_torch_give_the_same_bits(name, dtype, is_packed):
    options = {"dtype": dtype, "is_packed": is_packed}
    arguments = good(name, "numpy", **options)
    outputs = leaves(getattr(alignzoo.kernels, name)(**arguments))  # the CPU's, whatever the device
    for one, other in zip(outputs, call(name, "torch", **options), strict=True):
        assert_same(other, one)


@pytest.mark.parametrize("name", OWN_BITS)
@every_library
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_the_input_does_not_change_a_bit(name, library, layout):
    expected = [bits(x) for x in call(name, library)]
    assert [bits(x) for x in call(name, library, layout=layout)] == expected


@every_kernel
@every_library
def test_inputs_are_left_as_they_were_and_share_no_memory_with_outputs(name, library):
    arguments = good(name, library)
    arrays = [x for x in arguments.values() if hasattr(x, "shape")]
    before = [bits(x) for x in arrays]
    outputs = leaves(getattr(kernels, name)(**arguments))
    assert [bits(x) for x in arrays] == before
    held = [to_numpy(x) for x in (*arrays, *outputs)]
    for i, x in enumerate(held):
        assert not any(np.shares_memory(x, other) for other in held[:i])


@every_kernel
@every_library
def test_what_was_given_out_is_never_written_again(name, library):
    first = call(name, library)
    before = [bits(x) for x in first]
    for dtype in ("float32", "float64"):
        call(name, library, dtype)
    assert [bits(x) for x in first] == before
    for x in first:
        assert not isinstance(x, np.ndarray) or x.flags.writeable


@every_kernel
@every_library
@pytest.mark.parametrize("is_without", ["rows", "tokens"])
def test_empty_arrays_are_legal(name, library, is_without):
    arguments = KERNELS[name].good()
    for key, x in arguments.items():
        if isinstance(x, np.ndarray) and is_without == "rows" and len(x) == PADDED[0]:
            arguments[key] = given_as(library, x[:0].copy())
        elif isinstance(x, np.ndarray):
            is_per_token = is_without == "tokens" and x.shape == PADDED
            arguments[key] = given_as(library, x[:, :0].copy() if is_per_token else x)
    if "moments" in arguments:
        arguments["moments"] = None
    for x in leaves(getattr(kernels, name)(**arguments)):
        assert to_numpy(x).ndim == 0 or is_without == "tokens" or len(x) == 0
        assert not np.isnan(to_numpy(x)).any()


@every_kernel
def test_numbers_of_numpy_are_numbers(name):
    arguments = good(name)
    expected = [bits(x) for x in leaves(getattr(kernels, name)(**arguments))]
    wrapped = {bool: np.bool_, int: np.int64, float: np.float64}
    given = {key: wrapped.get(type(x), lambda same: same)(x) for key, x in arguments.items()}
    assert [bits(x) for x in leaves(getattr(kernels, name)(**given))] == expected


@every_kernel
def test_arrays_may_come_by_position_and_options_only_by_name(name):
    arguments, parameters = good(name), KERNELS[name].parameters
    arrays = [key for key, kind in parameters.items() if isinstance(kind, Array)]
    required = [key for key in arrays if not parameters[key].is_optional]
    options = {key: x for key, x in arguments.items() if key not in required}
    getattr(kernels, name)(*(arguments[key] for key in required), **options)
    with pytest.raises(TypeError):
        getattr(kernels, name)(**arguments, no_such_option=1)
    if options:
        with pytest.raises(TypeError):
            getattr(kernels, name)(*arguments.values())


@every_library
@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_mean", "token_sum"])
def test_an_all_masked_batch_is_an_error_that_names_rows_and_never_a_loss_of_0(library, aggregate):
    x, mask = given_as(library, np.ones((3, 4))), given_as(library, np.zeros((3, 4), bool))

    def policy_loss():
        return kernels.policy_loss(x, x, x, mask, clip_range=0.2, aggregate=aggregate)

    results = [
        refused(policy_loss, r"policy_loss: `mask`.*row", None),
        refused(lambda: kernels.value_loss(x, x, x, mask), r"value_loss: `mask`.*row", None),
    ]
    # A device does not know it at the call.
    assert not ON_CUDA or all(np.isnan(to_numpy(loss)) for loss, _ in results)


A, B, L = np.zeros((3, 5)), np.zeros(3), np.zeros((3, 7))
TARGETS = np.array([0, 1, 2])
GAE = {"gamma": 0.9, "gae_lambda": 0.9}
CLIP = {"clip_range": 0.2}

# Arguments that are good one by one and do not go together, and the one that is named.
DISAGREEING = [
    ("gae", [B, B], GAE, "rewards"),
    ("gae", [A, A], GAE | {"cu_seqlens": np.array([0, 3])}, "(rewards|cu_seqlens)"),
    ("gae", [A[:, 0], A[:, 0]], GAE | {"cu_seqlens": np.array([0, 4])}, "cu_seqlens"),
    ("td_targets", [A, A], {"gamma": 0.9, "terminated": B.astype(bool)}, "terminated"),
    ("td_targets", [A[0, 0:1].reshape(())] * 2, {"gamma": 0.9, "n_step": 2}, "(rewards|n_step)"),
    ("token_log_probs", [np.zeros((3, 0)), TARGETS], {}, "logits"),
    ("max_and_gather", [np.zeros((3, 0)), TARGETS], {}, "q"),
    ("kl_divergence", [np.zeros((3, 0))] * 2, {}, "logits_p"),
    ("linear_token_log_probs", [A, L, TARGETS], {}, "weight"),
    ("sample_tokens", [L[0]], {"seed": 0}, "logits"),
    ("policy_loss", [A, A, A], CLIP | {"dual_clip": 3, "kind": "plain"}, "dual_clip"),
    ("policy_loss", [A, A, A], CLIP | {"aggregate": "sequence_sum_norm"}, "denominator"),
]


@pytest.mark.parametrize(("name", "arrays", "options", "argument"), DISAGREEING)
@every_library
def test_arguments_that_do_not_go_together_are_refused_by_name(
    library, name, arrays, options, argument
):
    is_in_data = "cu_seqlens" in options and arrays[0].ndim == 1
    options = {k: given_as(library, x) if hasattr(x, "shape") else x for k, x in options.items()}

    def call_it():
        return getattr(kernels, name)(*(given_as(library, x) for x in arrays), **options)

    if is_in_data:
        for x in refused(call_it, f"^{name}: .*`{argument}`", "cu_seqlens") or ():
            assert np.isnan(to_numpy(x)).all()
        return
    with pytest.raises(ValueError, match=f"^{name}: .*`{argument}`"):
        call_it()


def test_a_message_says_what_was_given_and_what_was_expected():
    with pytest.raises(ValueError, match="values") as refusal:
        kernels.gae(np.zeros((4, 12)), np.zeros((4, 10)), gamma=1.0, gae_lambda=1.0)
    assert re.match(r"gae: `values` is \[4, 10\] but `rewards` is \[4, 12\]", str(refusal.value))
