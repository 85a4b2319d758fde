"""What bench/cuda_check.py reads from the compiler, and what it finds wrong with a library."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "bench" / "cuda_check.py"
_spec = importlib.util.spec_from_file_location("cuda_check", PATH)
cuda_check = sys.modules["cuda_check"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cuda_check)

LOG = """\
[1/4] Building CUDA object cuda/CMakeFiles/alignzoo_cuda.dir/one.cu.o
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstv' for 'sm_80'
ptxas info    : Function properties for _Z5firstv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 112 bytes smem, 401 bytes cmem[0]
[2/4] Building CUDA object cuda/CMakeFiles/alignzoo_cuda.dir/two.cu.o
ptxas info    : Compiling entry function '_Z6secondv' for 'sm_90'
ptxas info    : Function properties for _Z6secondv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 80 registers, used 0 barriers, 8 bytes cumulative stack size
[3/4] Linking CUDA shared module cuda/libalignzoo_cuda.so
ptxas info    : Compiling entry function '_Z5otherv' for 'sm_90'
"""


def test_each_source_has_its_part_of_the_log():
    parts = cuda_check.sections(LOG)
    assert list(parts) == ["one.cu", "two.cu"]
    assert "_Z5otherv" not in "".join(parts.values())


def test_registers_shared_memory_and_spills_are_read():
    parts = cuda_check.sections(LOG)
    assert cuda_check.kernels_in("one.cu", parts["one.cu"]) == [
        cuda_check.Kernel("one.cu", "_Z5firstv", "80", 40, 112, 0, 0)
    ]
    (second,) = cuda_check.kernels_in("two.cu", parts["two.cu"])
    assert (second.stack, second.spilled) == (8, 16)


def test_names_do_not_hold_what_changes_from_one_compilation_to_the_next():
    names = [
        f"_ZN8alignzoo4cuda51_GLOBAL__N__{digits}_12_penalties_cu_056b0882_19667"
        "18elementwise_kernelILi2EdEEvv"
        for digits in ("d65ff436", "0f05ac81")
    ]
    if shutil.which("c++filt"):
        assert set(cuda_check.readable(names).values()) == {"elementwise_kernel<2, double>"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('extern "C" int alignzoo_cuda_kernels() { return 1; }', None),
        ('extern "C" int alignzoo_cuda_kernels() { return 1; } int more() { return 2; }', "export"),
        ("int more() { return 2; }", "export"),
        ('int absent(); extern "C" int alignzoo_cuda_kernels() { return absent(); }', "opened"),
    ],
)
def test_a_library_that_lacks_a_symbol_or_shows_too_many_is_a_fault(tmp_path, source, fault):
    library = tmp_path / "libalignzoo_cuda.so"
    (tmp_path / "source.cpp").write_text(source)
    command = ["g++", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "source.cpp")]
    subprocess.run(command, check=True)
    faults = cuda_check.faults_of(library)
    assert bool(faults) == (fault is not None)
    assert fault is None or fault in " ".join(faults)
