"""The kernel suite of tests/kernels, run on a CUDA device: a process, and a test, for each file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
SUITE = Path(__file__).parent.parent / "kernels"
ABOUT_THE_CPU = {"test_determinism", "test_peers", "test_reference", "test_robustness"}
ABOUT_PLACEMENT = {"test_devices", "test_linear_chunks"}
FILES = sorted({path.stem for path in SUITE.glob("test_*.py")} - ABOUT_THE_CPU - ABOUT_PLACEMENT)


@pytest.mark.parametrize("name", FILES)
def test_the_kernel_suite_passes_on_the_device(name):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            str(SUITE / f"{name}.py"),
        ],
        env=os.environ | {"ALIGNZOO_TEST_DEVICE": "cuda"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
