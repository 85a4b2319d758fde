"""Everything there is to know of the kernels on a GPU, in ten minutes and one command.

    python bench/gpu.py

Builds alignzoo with CUDA where the installed one has no kernels, runs the tests of the GPU, and
measures what copies and products reach, every kernel beside its floor and its peers, and rounds of
training. Prints tables and writes `bench/results/gpu-DATE.json`. `bench/README.md` says how it is
measured.

Exit status: 0, 1 where something failed (the rest was measured all the same), 2 without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_parts import end_to_end, preparing, table
from gpu_parts.budget import Budget
from gpu_parts.client import Client, WorkerError

HERE = Path(__file__).parent
PARTS = ("build", "tests", "ceilings", "kernels", "round", "peers")
AIMS_OF = "H200"  # whose aims the plans have

# Seconds without which a piece is not begun, and after which it is ended.
NEEDED = {"build": 20, "tests": 20, "ceilings": 10, "kernels": 6, "round": 60, "peers": 8}
MOST = {"build": 300, "ceilings": 60, "kernels": 60, "round": 150, "peers": 90}
COMPILING = 25  # seconds that a compiled peer needs more
SHARE_OF_TESTS = 0.35  # of the budget at most

Row = dict[str, Any]


class Run:
    """One run of the command: what was found so far, on disk after each piece."""

    def __init__(self, options: argparse.Namespace, budget: Budget, save: Callable[[Row], None]):
        self.options, self.budget, self.save = options, budget, save
        self.log = Path(options.log)
        self.results: Row = {
            "date": datetime.date.today().isoformat(),
            "budget_seconds": options.budget,
            "parts": list(options.parts),
            "errors": [],
            "left_out": budget.left_out,
        }
        timing = {"rounds": options.rounds, "seconds": options.seconds, "fewest": 5}
        if options.dry:
            timing = {"rounds": 2, "seconds": 0.05, "fewest": 1}
        self.client = Client(
            {"device": "cpu" if options.dry else "cuda", "small": options.dry, **timing}, self.log
        )

    def everything(self) -> Row:
        """All parts that were asked for, in their order."""
        with self.client:
            for part in PARTS:
                if part in self.options.parts:
                    getattr(self, part)()
        self.keep("seconds", round(self.budget.spent, 1))
        return self.results

    def build(self) -> None:
        if self.options.dry or (preparing.has_kernels() and not self.options.rebuild):
            return
        self.attempt("build", "build", lambda most: preparing.build(most, self.log))

    def tests(self) -> None:
        if self.options.dry:
            return
        most = SHARE_OF_TESTS * self.budget.seconds

        def run(left: float) -> None:
            found = preparing.run_tests(min(most, left), self.log)
            self.keep("tests", found)
            if found["failed"] or found["errors"]:
                raise preparing.PreparingError(f"not passed: {', '.join(found['names'])}")

        self.attempt("tests", "tests", run)

    def ceilings(self) -> None:
        def facts(most: float) -> None:
            found = self.client.ask({"do": "facts"}, most)
            self.keep("machine", found)
            self.keep("aims_apply", AIMS_OF in found["device"])

        def ceilings(most: float) -> None:
            self.keep("ceilings", self.client.ask({"do": "ceilings"}, most))

        self.attempt("ceilings", "facts of the device", facts)
        self.attempt("ceilings", "ceilings", ceilings)

    def kernels(self) -> None:
        for plan in self.plans("kernels"):
            task = {"do": "ours", "plan": plan["name"]}
            self.measure("kernels", plan["name"], task, {**plan, "peers": None})

    def peers(self) -> None:
        for plan in self.plans("peers"):
            for label in plan["peers"]:
                row = {key: plan[key] for key in ("name", "kernel", "workload")}
                task = {"do": "peer", "plan": plan["name"], "peer": label}
                name = f"{plan['name']} beside {label}"
                more = COMPILING if "compile" in label else 0
                self.measure("peers", name, task, {**row, "peer": label}, more=more)

    def round(self) -> None:
        workload = "half_billion_tried" if self.options.dry else "half_billion"
        self.client.end()  # the device's memory is the round's

        def run(most: float) -> None:
            found = end_to_end.run(workload, 1 if self.options.dry else 4, 1, most, self.log)
            self.keep("round", found)

        self.attempt("round", "round", run)

    def plans(self, part: str) -> list[Row]:
        """The plans that were asked for."""
        found: list[Row] = []

        def ask(most: float) -> None:
            found.extend(self.client.ask({"do": "plans"}, most)["plans"])

        self.attempt(part, "plans", ask)
        chosen = self.options.cases
        for name in sorted(set(chosen) - {plan["name"] for plan in found}) if found else ():
            self.failed(part, f"there is no case {name}")
        return [plan for plan in found if not chosen or plan["name"] in chosen]

    def measure(self, part: str, name: str, task: Row, row: Row, *, more: float = 0.0) -> None:
        """One answer of the worker, as a row of its part."""

        def ask(most: float) -> None:
            found = self.client.ask(task, most)
            rows = self.results.setdefault(part, [])
            rows.append({key: value for key, value in row.items() if value is not None} | found)

        self.attempt(part, name, ask, more=more)

    def attempt(
        self, part: str, name: str, run: Callable[[float], None], *, more: float = 0.0
    ) -> None:
        """Runs a piece if there is time for it; a failure is kept, and the next piece follows."""
        kept = NEEDED["round"] if self.is_before_round(part) else 0
        if not self.budget.allows(name, NEEDED[part] + more, kept=kept):
            print(f"{name}: no time left", file=sys.stderr, flush=True)
            self.save(self.results)
            return
        began = self.budget.spent
        try:
            run(min(MOST.get(part, self.budget.left) + more, max(1.0, self.budget.left - kept)))
            print(f"{name}: {self.budget.spent - began:.1f} s", file=sys.stderr, flush=True)
        except (
            WorkerError,
            preparing.PreparingError,
            end_to_end.RoundError,
            OSError,
        ) as error:
            self.failed(part, f"{name}: {error}")
        self.save(self.results)

    def is_before_round(self, part: str) -> bool:
        return "round" in self.options.parts and PARTS.index(part) < PARTS.index("round")

    def failed(self, part: str, text: str) -> None:
        self.results["errors"].append({"part": part, "error": text})
        print(f"ERROR in {part}: {text}", file=sys.stderr, flush=True)

    def keep(self, key: str, value: Any) -> None:
        self.results[key] = value
        self.save(self.results)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="exit status: 0; 1 where something failed; 2 without a GPU",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these; default all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--budget", type=float, default=570, help="seconds; default %(default)s")
    parser.add_argument("--rebuild", action="store_true", help="also where there are kernels")
    parser.add_argument("--rounds", type=int, default=30, help="timings of each side, at most")
    parser.add_argument("--seconds", type=float, default=3, help="for each pair, at most")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="of gpu-DATE.json")
    parser.add_argument("--log", type=Path, help="of what the parts write; default a temporary one")
    parser.add_argument(
        "--dry",
        action="store_true",
        help="try every case and peer at tiny sizes on the CPU and compare them; writes nothing",
    )
    options = parser.parse_args(arguments)
    if options.budget <= 0 or options.rounds < 1 or options.seconds <= 0:
        parser.error("--budget, --rounds and --seconds are above 0")
    if options.log is None:
        options.log = Path(tempfile.mkdtemp()) / "gpu.log"
    options.log.touch()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_arguments(arguments)
    if not options.dry and not has_gpu():
        print("bench/gpu.py: torch sees no CUDA device here; --dry tries the cases on the CPU")
        return 2
    path = options.out / f"gpu-{datetime.date.today().isoformat()}.json"

    def save(results: Row) -> None:
        if options.dry:
            return
        options.out.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".part")
        written.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        written.replace(path)

    results = Run(options, Budget(options.budget), save).everything()
    print(table.agreements(results) if options.dry else table.tables(results))
    if not options.dry:
        print(f"written to {os.path.relpath(path)}; log {options.log}", file=sys.stderr)
    return 1 if results["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
