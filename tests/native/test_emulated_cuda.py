"""The kernel suite on the CUDA kernels, which an emulator runs on the host: see docs/kernels.md.

The whole suite runs once, in a process of its own; each of its files is a test here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built for Linux alone")
HERE = Path(__file__).parent
SUITE = HERE.parent / "kernels"
# What is about the CPU's threads and processes, peers, and the reference is left out.
FILES = (
    "test_arguments",
    "test_faults",
    "test_kl_divergence",
    "test_loss_gradients",
    "test_loss_layouts",
    "test_max_and_gather",
    "test_penalties",
    "test_policy_loss",
    "test_refusals",
    "test_returns",
    "test_sampling",
    "test_scan_layouts",
    "test_scans",
    "test_statistics",
    "test_token_log_probs",
    "test_torch",
    "test_torch_ops",
)


def run(*words: object, timeout: float = 900, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def library(pytestconfig: pytest.Config) -> Path:
    """The CUDA kernels and their emulator, compiled in a cache: what changed is built again."""
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if cmake is None or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("CMake or a C++ compiler is missing")
    folder = pytestconfig.cache.mkdir("native-none")
    for words in (
        ("-S", HERE, "-B", folder, "-DALIGNZOO_SANITIZE=none"),
        ("--build", folder, "--target", "alignzoo_emulated_cuda", "--parallel", 2),
    ):
        done = run(cmake, *words)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "libalignzoo_emulated_cuda.so"


@pytest.fixture(scope="module")
def outcomes(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What failed, by file of the suite; a file without tests that passed has none."""
    report = tmp_path_factory.mktemp("suite") / "report.xml"
    done = run(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
        f"--junitxml={report}",
        *(SUITE / f"{name}.py" for name in FILES),
        ALIGNZOO_CUDA_LIBRARY=str(library),
        ALIGNZOO_TEST_DEVICE="emulated",
    )
    if not report.exists():  # as where the emulator ends the process
        pytest.fail(done.stdout[-4000:] + done.stderr[-4000:])
    found: dict[str, list[str]] = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").rpartition(".")[2]
        failures = [
            f"{case.get('name')}: {problem.get('message')}\n{(problem.text or '')[-1500:]}"
            for problem in case
            if problem.tag in ("failure", "error")
        ]
        found.setdefault(file, []).extend(failures)
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_kernel_suite_passes_on_the_emulated_device(name, outcomes):
    assert name in outcomes, "none of its tests ran"
    assert not outcomes[name], "\n".join(outcomes[name][:5])


def test_the_suite_names_every_file_that_a_device_is_tested_by():
    about_the_cpu = {"test_determinism", "test_peers", "test_reference", "test_robustness"}
    about_placement = {"test_devices", "test_linear_chunks"}
    files = {path.stem for path in SUITE.glob("test_*.py")}
    assert files - about_the_cpu - about_placement == set(FILES)
