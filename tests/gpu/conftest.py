"""Lets the tests of this folder import the kernel suite's cases; what they share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))


@pytest.fixture(autouse=True)
def no_fault_is_left() -> Iterator[None]:
    """A test that does not expect a fault leaves none, and no error of the device."""
    import torch

    from alignzoo import kernels

    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        kernels.check_faults()
