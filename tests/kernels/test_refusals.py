"""Every argument of every kernel with a wrong type, dtype, shape, device or range."""

import contextlib
import inspect
import re

import numpy as np
import pytest
from every_kernel import KERNELS, Array, RowStarts
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import LIBRARIES, bits, given_as
from kernel_device import ON_CUDA, kernels
from kernel_strategies import few_examples, libraries

EVERY_ARGUMENT = [(name, argument) for name in KERNELS for argument in KERNELS[name].parameters]


def test_every_kernel_and_every_parameter_has_its_bad_values():
    assert set(KERNELS) == set(kernels.__all__) - {"check_faults"}
    for name, kernel in KERNELS.items():
        assert [*inspect.signature(getattr(kernels, name)).parameters] == [*kernel.parameters]


def described(value) -> str:
    """A bad value in a few words."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    return repr(value)


def complaint(name, arguments, argument, value, error) -> str | None:
    """What is wrong with how a kernel refuses one bad value; None where nothing is."""
    arrays = {key: x for key, x in arguments.items() if hasattr(x, "shape")}
    before = {key: bits(x) for key, x in arrays.items()}
    try:
        getattr(kernels, name)(**(arguments | {argument: value}))
    except Exception as refusal:
        if not isinstance(refusal, error):
            return f"raised {refusal!r}"
        if not re.search(f"^{name}: .*`{argument}`", str(refusal)):
            return f"said {str(refusal)!r}"
    else:
        return "was accepted"
    touched = [key for key, x in arrays.items() if bits(x) != before[key]]
    return f"changed {touched}" if touched else None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("name", "argument"), EVERY_ARGUMENT)
def test_a_bad_argument_is_refused_by_function_and_name_before_any_work(name, argument, library):
    parameter = KERNELS[name].parameters[argument]
    arguments = KERNELS[name].good(library, is_packed=isinstance(parameter, RowStarts))
    getattr(kernels, name)(**arguments)
    complaints = {
        described(value): complaint(name, arguments, argument, value, error)
        for value, error in parameter.bad(library)
    }
    assert not {value: text for value, text in complaints.items() if text}


NOTHING_ELSE = (TypeError, ValueError, RuntimeError)


@pytest.mark.parametrize("name", KERNELS)
@few_examples
@given(st.data(), libraries)
def test_several_bad_arguments_are_refused_by_the_name_of_one(name, data, library):
    kernel = KERNELS[name]
    spoiled = data.draw(st.sets(st.sampled_from([*kernel.parameters]), min_size=1))
    arguments = kernel.good(library, is_packed="cu_seqlens" in spoiled)
    for argument in sorted(spoiled):
        cases = kernel.parameters[argument].bad(library)
        # Two arrays of wrong shapes may fit each other.
        is_array = isinstance(kernel.parameters[argument], Array)
        certain = [value for value, error in cases if error is TypeError or not is_array]
        arguments[argument] = data.draw(st.sampled_from(certain))
    with pytest.raises(NOTHING_ELSE, match=f"^{name}: .*`({'|'.join(spoiled)})`"):
        getattr(kernels, name)(**arguments)


odd_shapes = st.lists(st.sampled_from((0, 1, 2, 3, 5, 7)), max_size=3).map(tuple)


@pytest.mark.parametrize("name", KERNELS)
@few_examples
@given(st.data(), libraries)
def test_arrays_of_any_shapes_and_dtypes_are_taken_or_refused_by_name(name, data, library):
    arguments = KERNELS[name].good(library)
    for argument, parameter in KERNELS[name].parameters.items():
        if isinstance(parameter, Array) and data.draw(st.booleans()):
            dtype = data.draw(st.sampled_from(("float32", "float64", "int64", "int8", "bool")))
            array = np.resize(parameter.good, data.draw(odd_shapes)).astype(dtype)
            arguments[argument] = given_as(library, array)
    refusal = None
    try:
        getattr(kernels, name)(**arguments)
    except NOTHING_ELSE as caught:
        refusal = str(caught)
    if ON_CUDA:  # what was taken may hold targets of another vocabulary
        with contextlib.suppress(ValueError):
            kernels.check_faults()
    names = "|".join(KERNELS[name].parameters)
    assert refusal is None or re.match(f"{name}: .*`({names})`", refusal)
