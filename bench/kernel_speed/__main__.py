"""Times every kernel beside its peers and beside the memory's bandwidth.

    python bench/kernel_speed [--threads N] [--short] [--sections NAME ...] [CASE ...]

Writes a JSON file and a picture to `--out` and prints the tables. `bench/README.md` says how it is
measured and what it showed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

import mismatch
import numpy
import peers
import report
import torch
from cases import CASES, Case
from sections import SECTIONS, TOKEN_SIZES, VOCABULARIES
from timing import Options, bandwidth_share, be_short, copy_run, kept_memory, pair, read_run

import alignzoo
from alignzoo import _core

Row = dict[str, Any]
RESULTS = Path(__file__).parents[1] / "results"
NAMES = ("peers", "bandwidth", *SECTIONS, "mismatch")


def beside_peers(name: str, case: Case, options: Options) -> list[Row]:
    """One row for each peer: times and the ratio, or why there is none."""
    rows = []
    for label, make in case.peers.items():
        row: Row = {
            "case": name,
            "kernel": case.kernel,
            "workload": case.workload,
            "peer": label,
        }
        row["aim"] = case.aims.get(label)
        try:
            row.update(pair(case.ours, make(), options).describe())
        except peers.AbsentError as absent:
            row["absent"] = str(absent)
        except Exception as error:  # a peer's own failure is a result, too
            row["absent"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        rows.append(row)
        _progress(row)
    return rows


def beside_memory(name: str, case: Case, outputs: str, options: Options) -> list[Row]:
    """The share of a copy's or a read's bandwidth, where the case names its bytes.

    Results as large as the inputs are measured twice: as fresh pages, and in memory used before, as
    the copy's is. The aim is about the latter.
    """
    if case.num_bytes is None or (outputs == "reused" and not case.writes):
        return []
    with kept_memory() if outputs == "reused" else nullcontext():
        found = bandwidth_share(case.ours, case.num_bytes, case.bandwidth, options)
    row: Row = {"case": name, "kernel": case.kernel, "kind": case.bandwidth}
    row["workload"] = case.workload + (f", {outputs} results" if case.writes else "")
    row["aim"] = None if case.writes and outputs == "fresh" else case.share
    row.update(found)
    _progress(row)
    return [row]


def _progress(row: Row) -> None:
    shown = {key: row[key] for key in ("kernel", "peer", "kind", "median", "absent") if key in row}
    print(json.dumps(shown), file=sys.stderr, flush=True)


def machine() -> Row:
    """What the numbers depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "alignzoo": alignzoo.__version__,
        "core": _core.build_info(),
        "peers": peers.versions(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ["OMP_WAIT_POLICY"],
    }


def measure(options: argparse.Namespace, save: Callable[[Row], None]) -> Row:
    """Everything that was asked for. What there is so far is saved after each part."""
    timing = Options(rounds=options.rounds, seconds=options.seconds)
    results: Row = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "rounds": timing.rounds,
        "token_sizes": TOKEN_SIZES,
        "vocabulary_sizes": VOCABULARIES,
    }
    began = time.monotonic()
    for name, section in SECTIONS.items():
        if name in options.sections:
            results[name] = section(timing, options.short)
            save(results)
    if "mismatch" in options.sections:
        results["mismatch"] = mismatch.measure(options.short)
    # Once memory has been kept, no result is quite fresh again, so those come last.
    for outputs in ("fresh", "reused"):
        for name in options.cases or CASES:
            if not {"peers", "bandwidth"} & set(options.sections):
                break
            made = CASES[name](options.short)
            torch.set_num_threads(made.threads or options.threads)
            if "peers" in options.sections and outputs == "fresh":
                results.setdefault("peers", []).extend(beside_peers(name, made, timing))
            if "bandwidth" in options.sections:
                rows = beside_memory(name, made, outputs, timing)
                results.setdefault("bandwidth", []).extend(rows)
            del made
            torch.compiler.reset()
            save(results)
    results["seconds"] = round(time.monotonic() - began)
    save(results)
    return results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="kernel_speed")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--sections", nargs="+", choices=NAMES, help="default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="pairs for each ratio")
    parser.add_argument("--seconds", type=float, default=4, help="most for each ratio")
    parser.add_argument("--short", action="store_true", help="small sizes: does it run at all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tables", type=Path, metavar="FILE", help="only print its tables")
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if not options.sections:
        options.sections = ["peers", "bandwidth"] if options.cases else list(NAMES)
    return options


def main() -> None:
    options = arguments()
    if options.tables:
        print(report.tables(json.loads(options.tables.read_text())))
        return
    torch.set_num_threads(options.threads)
    if options.short:
        be_short()
    copy_run(), read_run()  # their buffers are the same ones, from the first case to the last
    random.seed(0)
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"kernels-{datetime.date.today().isoformat()}.json"

    def save(found: Row) -> None:
        path.write_text(json.dumps(found, indent=1) + "\n")

    results = measure(options, save)
    print(report.tables(results))
    try:
        report.plot(results, path.with_suffix(".svg"))
    except ImportError:
        print("no picture: pip install 'alignzoo[bench]'", file=sys.stderr)


if __name__ == "__main__":
    main()
