"""Every argument of every kernel with a wrong type, dtype, shape, device or range."""

import inspect
import re

import pytest
from every_kernel import KERNELS, RowStarts
from kernel_cases import LIBRARIES, bits

from alignzoo import kernels

EVERY_ARGUMENT = [(name, argument) for name in KERNELS for argument in KERNELS[name].parameters]


def test_every_kernel_and_every_parameter_has_its_bad_values():
    assert set(KERNELS) == set(kernels.__all__)
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
