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
def digest(*arguments: str, **settings: str) -> dict:
    """What digest.py prints under these settings."""
    run = run_python(str(SCRIPT), *arguments, **settings)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def assert_same_bits(one: dict, other: dict) -> None:
    """The digests of both are equal, whatever their threads."""
    names = one.keys() - {"threads"}
    assert names == other.keys() - {"threads"}
    assert not {name for name in names if one[name] != other[name]}


@pytest.mark.parametrize(
    "settings",
    [
        {"NUM_THREADS": "4", "POOL": "own"},
        {"NUM_THREADS": "4", "POOL": "torch"},
        pytest.param({"NUM_THREADS": "3", "ISA": "avx2"}, marks=needs_avx2),
        pytest.param({"NUM_THREADS": "2", "ISA": "avx512"}, marks=needs_avx512),
    ],
    ids=str,
)
def test_bits_are_those_of_one_thread(settings):
    assert_same_bits(digest(**settings), digest(NUM_THREADS="1"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_of_a_process_with_torch_threads_has_the_bits_of_one_thread():
    # The linear head's product is torch's, whose bits may change with its threads.
    child, single = digest("forked", NUM_THREADS="2", POOL="torch"), digest(NUM_THREADS="1")
    own = {name for name in single if "linear" not in name}
    assert_same_bits({k: child[k] for k in own}, {k: single[k] for k in own})


def test_without_vector_instructions_bits_are_those_of_one_thread():
    single = digest(ISA="generic", NUM_THREADS="1")
    assert_same_bits(digest(ISA="generic", NUM_THREADS="4"), single)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads cannot be counted here")
def test_the_digests_are_of_work_that_threads_shared():
    alone, shared = digest(NUM_THREADS="1"), digest(NUM_THREADS="4", POOL="own")
    assert shared["threads"] - alone["threads"] == 3


def test_without_vector_instructions_the_error_bounds_are_met():
    errors = digest("errors", ISA="generic")
    bounds = {"float64": 1e-12, "float32": 3e-6}
    assert not {name: x for name, x in errors.items() if x > bounds[name.split()[-1]]}


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
