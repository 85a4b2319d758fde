"""Lets the test modules of this folder import their shared cases, whatever the import mode."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_fault_is_left() -> Iterator[None]:
    """On a device: a test that does not expect a fault leaves none."""
    from kernel_device import ON_CUDA, kernels

    yield
    if ON_CUDA:
        kernels.check_faults()
