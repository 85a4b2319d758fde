"""Compiles every CUDA kernel for each architecture and fails on spills or missing symbols.

`python bench/cuda_check.py --build DIR` compiles what changed since the last time, links the
library, and looks at it: it must export its table and nothing else, need no CUDA library at run
time, and open on a machine without a driver. What the assembler says of each kernel (registers,
shared memory, stack, spills) must be what bench/results/cuda_registers.md says where that was
written with this nvcc; `--write` writes it anew. Exit code 1: something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "bench" / "results" / "cuda_registers.md"
ARCHITECTURES = ("80", "90")
ENTRY = "alignzoo_cuda_kernels"


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel on one architecture; bytes, and registers a thread."""

    source: str
    name: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spilled: int


def sections(log: str) -> dict[str, str]:
    """The part of a build log that belongs to each .cu file, by the file's name."""
    found: dict[str, str] = {}
    current = None
    for line in log.splitlines(keepends=True):
        built = re.match(r"\[\d+/\d+\] Building CUDA object \S*?(\w+\.cu)\.o", line)
        if built:
            current = built[1]
            found[current] = ""
        elif re.match(r"\[\d+/\d+\] ", line):
            current = None
        elif current is not None:
            found[current] += line
    return found


def kernels_in(source: str, log: str) -> list[Kernel]:
    """The kernels of one source's part of the log."""
    entry = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
    memory = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill")
    usage = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
    found, name, architecture, stack, spilled = [], "", "", 0, 0
    for line in log.splitlines():
        if match := entry.search(line):
            name, architecture = match[1], match[2]
        elif match := memory.search(line):
            stack, spilled = int(match[1]), int(match[2]) + int(match[3])
        elif (match := usage.search(line)) and name:
            shared = int(match[2] or 0)
            found.append(Kernel(source, name, architecture, int(match[1]), shared, stack, spilled))
            name = ""
    return found


def readable(names: list[str]) -> dict[str, str]:
    """Mangled names as they are in the source, without arguments and our own namespaces."""
    tool = shutil.which("c++filt")
    if tool is None:
        return {name: name for name in names}
    given = "\n".join(names)
    lines = subprocess.run([tool], input=given, capture_output=True, text=True, check=True)
    short = {}
    for mangled, name in zip(names, lines.stdout.splitlines(), strict=True):
        name = re.sub(
            r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|alignzoo::|cuda::|math::(host::)?",
            "",
            name,
        )
        name = re.sub(r"^void ", "", name)
        short[mangled] = re.sub(r">\(.*$", ">", name) if ">(" in name else name.split("(")[0]
    return short


def nvcc_release() -> str:
    """Such as "13.0, V13.0.88"."""
    nvcc = os.environ.get("CUDACXX", "nvcc")
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\S+, \S+)", text)
    return found[1] if found else "unknown"


def build(folder: Path) -> tuple[Path, list[Kernel]]:
    """The library, compiled where something changed, and what is known of all its kernels."""
    tools = Path(sys.executable).parent
    cmake = shutil.which("cmake", path=f"{tools}{os.pathsep}{os.environ['PATH']}")
    ninja = shutil.which("ninja", path=f"{tools}{os.pathsep}{os.environ['PATH']}")
    if cmake is None or ninja is None:
        raise SystemExit("cuda_check: CMake and Ninja are needed; pip install cmake ninja")
    configure = [cmake, "-G", "Ninja", "-S", str(ROOT / "csrc" / "cuda" / "alone"), "-B", folder]
    options = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_ARCHITECTURES": ";".join(f"{number}-real" for number in ARCHITECTURES),
        "CMAKE_CUDA_FLAGS": "-Xptxas -v",
    }
    arguments = [*configure, *(f"-D{name}={value}" for name, value in options.items())]
    run(arguments)
    known_file = folder / "ptxas.json"
    known = json.loads(known_file.read_text()) if known_file.exists() else {}
    for compiled in folder.rglob("*.cu.o"):
        if compiled.name.removesuffix(".o") not in known:
            compiled.unlink()  # compiled by a run that was stopped before it noted what it saw
    known |= sections(run([cmake, "--build", folder]))
    known_file.write_text(json.dumps(known))
    library = next(folder.rglob("libalignzoo_cuda.so"))
    return library, [one for source, log in known.items() for one in kernels_in(source, log)]


def run(command: list[object]) -> str:
    """The command's output; where it fails, that and the end."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise SystemExit(f"cuda_check: `{' '.join(str(part) for part in command)}` failed")
    return done.stdout + done.stderr


def faults_of(library: Path) -> list[str]:
    """What is wrong with the linked library."""
    faults = []
    exported = [
        line.split()[-1]
        for line in run(["nm", "--dynamic", "--defined-only", library]).splitlines()
        if line.split()[-2] not in "Aa"
    ]
    if exported != [ENTRY]:
        faults.append(f"it exports {exported}; expected {ENTRY} alone")
    needed = re.findall(r"NEEDED.*\[(.+?)\]", run(["readelf", "--dynamic", library]))
    if cuda := [name for name in needed if "cuda" in name or "torch" in name]:
        faults.append(f"it needs {cuda} at run time")
    opened = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(library)!r}, 2).{ENTRY}"],
        capture_output=True,
        text=True,
    )
    if opened.returncode != 0:
        faults.append(f"it cannot be opened: {opened.stderr.strip().splitlines()[-1]}")
    return faults


def report(kernels: list[Kernel]) -> str:
    """The table of every kernel, as Markdown."""
    names = readable([one.name for one in kernels])
    rows: dict[tuple[str, str], dict[str, Kernel]] = defaultdict(dict)
    for one in kernels:
        rows[one.source, names[one.name]][one.architecture] = one
    architectures = " and ".join(f"sm_{number}" for number in ARCHITECTURES)
    lines = [
        "# Registers of the CUDA kernels",
        "",
        f"Written by `make cuda-report` with nvcc {nvcc_release()}. Registers a thread and bytes",
        f"of shared memory a block, for {architectures}. No kernel spills or has a stack frame,",
        "which `make cuda-check` holds.",
        "",
        "| source | kernel | registers | shared memory |",
        "|---|---|---|---|",
    ]
    for (source, name), by_architecture in sorted(rows.items()):
        both = [by_architecture[a] for a in ARCHITECTURES if a in by_architecture]
        registers = " / ".join(str(one.registers) for one in both)
        shared = " / ".join(dict.fromkeys(str(one.shared) for one in both))
        lines.append(f"| {source} | `{name}` | {registers} | {shared} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="folder to build in")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name} anew")
    options = parser.parse_args()
    library, kernels = build(options.build)
    faults = faults_of(library)
    for one in kernels:
        if one.spilled or one.stack:
            faults.append(f"{one.source}: {asdict(one)} spills, or has a stack frame")
    missing = {a for a in ARCHITECTURES if a not in {one.architecture for one in kernels}}
    if missing or not kernels:
        faults.append(f"nothing was compiled for sm_{', sm_'.join(sorted(missing))}")
    now = report(kernels)
    if options.write and not faults:
        REPORT.write_text(now)
    before = REPORT.read_text() if REPORT.exists() else ""
    if f"nvcc {nvcc_release()}." in before and now != before:
        faults.append(f"{REPORT.relative_to(ROOT)} is of other kernels; run `make cuda-report`")
    for fault in faults:
        print(f"cuda_check: {fault}", file=sys.stderr)
    most = max((one.registers for one in kernels), default=0)
    print(
        f"cuda_check: {len(kernels)} kernels for sm_{' and sm_'.join(ARCHITECTURES)}, at most "
        f"{most} registers, {sum(one.spilled for one in kernels)} bytes spilled"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
