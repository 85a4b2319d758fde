"""Wide instructions lie where the dispatcher guards them; both usual compilers take the sources."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64")
    or not (shutil.which("objdump") and shutil.which("nm")),
    reason="disassembles x86-64 with objdump, of binutils",
)

WIDE = ("avx2", "avx512")
# A VEX or EVEX instruction is written with a v; verr and verw are older.
WIDE_INSTRUCTION = re.compile(r"\t(v(?!err|erw)\w+\b.*)|(.*%[yz]mm.*)")
# A pointer to the language's handler of exceptions, the same in every file: no code.
NO_CODE = "DW.ref.__gxx_personality_v0"
FLAGS = {
    "generic": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}


@pytest.fixture(scope="module")
def objects(wheel, wheel_build) -> list[Path]:
    """The object files that the wheel's core was linked of."""
    sources = {path.name for path in (Path(__file__).parents[2] / "csrc").rglob("*.c*")}
    return [path for path in sorted(wheel_build.rglob("*.o")) if path.stem in sources]


def isa_of(path: Path) -> str | None:
    """Returns the wide instruction set an object file was compiled for, if any."""
    return next((isa for isa in WIDE if f"alignzoo_{isa}.dir" in path.parts), None)


def listing(*words: object) -> str:
    return subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, text=True
    ).stdout


@on_x86
def test_no_wide_instruction_lies_outside_the_files_of_its_instruction_set(objects):
    narrow = [path for path in objects if isa_of(path) is None]
    assert narrow
    for path in narrow:
        code = listing("objdump", "--disassemble", "--no-show-raw-insn", path)
        found = WIDE_INSTRUCTION.search(code)
        assert found is None, f"{path.parent.name}/{path.name}: {found.group(0).strip()}"


@on_x86
@pytest.mark.parametrize("isa", WIDE)
def test_the_linker_can_take_nothing_wide_for_another_file(objects, isa):
    """What other files could share, weak or global, belongs to the instruction set's namespace."""
    wide = [path for path in objects if isa_of(path) == isa]
    assert wide
    namespace = f"{len(isa)}{isa}"
    for path in wide:
        rows = [line.split() for line in listing("nm", "--defined-only", path).splitlines()]
        shared = [row[2] for row in rows if len(row) == 3 and row[1] in "TWVuBDGR"]
        foreign = [name for name in shared if namespace not in name and name != NO_CODE]
        assert foreign == [], path.name


@on_x86
@pytest.mark.parametrize("isa", WIDE)
def test_nothing_wide_runs_when_the_library_is_loaded(objects, isa):
    for path in objects:
        if isa_of(path) == isa:
            assert ".init_array" not in listing("objdump", "--section-headers", path), path.name


@on_x86
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_sources_compile_without_a_warning(root, tmp_path, compiler):
    found = shutil.which(compiler) or next(
        filter(None, (shutil.which(f"{compiler}-{version}") for version in range(25, 9, -1))), None
    )
    if found is None:
        pytest.skip(f"{compiler} is missing")
    pybind11 = pytest.importorskip("pybind11")
    options = ("-fsyntax-only", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")
    options += ("-fvisibility=hidden", f"-I{root / 'csrc'}", "-DALIGNZOO_X86")
    once = sorted((root / "csrc" / "bindings").glob("*.cpp"))
    per_isa = []
    for path in sorted((root / "csrc" / "cpu").glob("*.cpp")):
        (once if path.name in ("dispatch.cpp", "host.cpp", "pool.cpp") else per_isa).append(path)
    includes = (f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}")
    commands = [(found, *options, *includes, *once)]
    commands += [
        (found, *options, f"-DALIGNZOO_ISA={isa}", *flags, *per_isa) for isa, flags in FLAGS.items()
    ]
    for command in commands:
        done = subprocess.run(
            [str(word) for word in command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
