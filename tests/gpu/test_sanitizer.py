"""compute-sanitizer over every kernel: memory, races of shared memory, barriers, uninitialised."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
SCRIPT = Path(__file__).with_name("every_kernel_once.py")
PLACES = ("/usr/local/cuda/bin/compute-sanitizer",)


def sanitizer() -> str:
    found = shutil.which("compute-sanitizer")
    for place in PLACES:
        if found is None and Path(place).exists():
            found = place
    if found is None:
        pytest.skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    return found


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_every_kernel_passes_the_sanitizer(tool):
    done = subprocess.run(
        [
            sanitizer(),
            "--tool",
            tool,
            "--error-exitcode",
            "9",
            "--kernel-regex",
            "kns=alignzoo",
            sys.executable,
            str(SCRIPT),
        ],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
