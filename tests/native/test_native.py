"""The kernels, driven from C++: under ASan and UBSan, and on a processor without AVX.

The short form of what `make sanitize` runs, which adds the driver as it is, and TSan.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="its walls around memory are Linux's"),
]
HERE = Path(__file__).parent


def run(*words: object, timeout: float = 600) -> str:
    """Returns what a command printed, or fails with the end of all it said."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        pytest.fail(f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done.stdout


@pytest.fixture(scope="module")
def build(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Builds the driver with a sanitizer, in a cache: only what changed is compiled again."""

    def build_driver(sanitizer: str) -> Path:
        cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which(
            "cmake"
        )
        if cmake is None or not (shutil.which("c++") or shutil.which("g++")):
            pytest.skip("CMake or a C++ compiler is missing")
        folder = pytestconfig.cache.mkdir(f"native-{sanitizer}")
        run(cmake, "-S", HERE, "-B", folder, f"-DALIGNZOO_SANITIZE={sanitizer}")
        run(cmake, "--build", folder, "--parallel", 2, timeout=1200)
        return folder / "drive_kernels"

    return build_driver


def test_kernels_pass_the_address_and_undefined_behaviour_sanitizers(build):
    assert "instruction sets: generic" in run(build("address"), "--quick")


@pytest.mark.parametrize("kernel", ["max_and_gather", "kl_penalty"])
def test_cuda_kernels_pass_the_sanitizers_on_the_emulator(build, kernel):
    printed = run(build("address"), "--emulated", "--quick", "--only", kernel)
    assert "instruction sets: generic emulated CUDA" in printed


def test_kernels_run_on_a_processor_without_avx(build):
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is missing; Debian's qemu-user has it")
    driver = build("none")
    printed = run(emulator, "-cpu", "Nehalem", driver, "--quick", "--no-fork")
    assert printed.rstrip().endswith("instruction sets: generic")
