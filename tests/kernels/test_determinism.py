"""Bits do not depend on the number of threads, who runs them, or on avx2 against avx512."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("digest.py")


def cpu_has(flag: str) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and f" {flag} " in cpuinfo.read_text().replace("\n", " ")


needs_avx2 = pytest.mark.skipif(not cpu_has("avx2"), reason="this CPU has no AVX2")
needs_avx512 = pytest.mark.skipif(not cpu_has("avx512f"), reason="this CPU has no AVX-512")


def run_python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A Python process with these ALIGNZOO_ settings and no others."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ALIGNZOO_")}
    env |= {f"ALIGNZOO_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False
    )


@functools.cache
def digest(**settings: str) -> dict:
    """What digest.py prints under these settings."""
    run = run_python(str(SCRIPT), **settings)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "settings",
    [
        {"NUM_THREADS": "3", "POOL": "own"},
        pytest.param({"NUM_THREADS": "2", "ISA": "avx2"}, marks=needs_avx2),
        pytest.param({"NUM_THREADS": "2", "ISA": "avx512"}, marks=needs_avx512),
    ],
    ids=str,
)
def test_bits_are_those_of_one_thread(settings):
    assert digest(**settings)["digests"] == digest(NUM_THREADS="1")["digests"]


@pytest.mark.parametrize("settings", [{"NUM_THREADS": "1"}, {"ISA": "generic"}], ids=str)
def test_every_instruction_set_meets_the_error_bounds(settings):
    for name, error in digest(**settings)["errors"].items():
        assert error <= (1e-12 if name.endswith("float64") else 2e-6), name


@pytest.mark.parametrize(
    ("name", "value"),
    [("ISA", "sse9"), ("POOL", "swimming"), ("NUM_THREADS", "many"), ("NUM_THREADS", "0")],
)
def test_a_setting_that_means_nothing_is_refused_by_name(name, value):
    use = "import numpy; from alignzoo import kernels; kernels.huber(numpy.ones(3))"
    run = run_python("-c", use, **{name: value})
    assert run.returncode != 0
    assert f"ALIGNZOO_{name}" in run.stderr.splitlines()[-1]
    assert value in run.stderr.splitlines()[-1]
