"""Our `ppo` and TRL's GRPO side by side: time of a round by part, and peak memory.

    python bench/rounds.py --stories FOLDER --peer-python PATH

Both trainers run at once, each in a process and an environment of its own, and stand still between
rounds; they take turns, one round each, and swap who goes first after every pair. So whatever the
machine is busy with meets both, and the ratio of each pair counts rather than any time.
`bench/README.md` says how the peer's environment is made and what the two do differently.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rounds_sides.shared import WORKLOADS, Workload, shared_settings

HERE = Path(__file__).parent
SCRIPTS = HERE / "rounds_sides"  # a folder of their own: a script's folder comes before packages
SIDES = ("alignzoo", "trl")
# A round is generation, scoring and update; passes are the part of the update without gradients;
# processor is the time all threads together spent computing, which neighbours disturb less.
PARTS = ("round", "generation", "scoring", "update", "passes", "processor")
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning workers take the core from whoever runs
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Round = dict[str, float]


def environment(threads: int, device: str) -> dict[str, str]:
    """A side's environment variables: those of this process, and what both sides have alike."""
    found = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    if device != "cpu":
        found["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return found


class BenchError(Exception):
    """A side could not be started, or ended before its time."""


class Side:
    """One trainer in its process, standing still until `round` is called."""

    def __init__(
        self, name: str, command: Sequence[str], threads: int, log: Path, device: str = "cpu"
    ) -> None:
        self.name = name
        self.log = log
        self._log_file = log.open("w")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            text=True,
            env=environment(threads, device),
        )
        self.facts: dict[str, Any] = {}
        self.peak_bytes = 0
        self.device_peak_bytes = 0

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log_file.close()

    def wait_until_ready(self) -> None:
        """Waits until the trainer is made and keeps what it says of itself."""
        self.facts = self._receive()

    def round(self) -> Round:
        """Runs one round and returns its seconds by part, and its response tokens."""
        self._send("go")
        reply = self._receive()
        parts = {name: reply["parts"].get(name, 0.0) for name in ("generation", "scoring")}
        update = reply["seconds"] - sum(parts.values())
        return {
            "round": reply["seconds"],
            **parts,
            "update": update,
            "passes": reply["parts"].get("passes", 0.0),
            "processor": reply["cpu_seconds"],
            "tokens": reply["tokens"],
        }

    def stop(self) -> None:
        """Ends the run and keeps its peak memory."""
        self._send("stop")
        peaks = self._receive()
        self.peak_bytes = peaks["peak_bytes"]
        self.device_peak_bytes = peaks.get("device_peak_bytes", 0)

    def _send(self, word: str) -> None:
        assert self._process.stdin is not None
        try:
            print(word, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _failure(self) -> BenchError:
        self._log_file.flush()
        last = self.log.read_text(errors="replace").strip().splitlines()[-12:]
        return BenchError(f"{self.name} ended before its time; it wrote:\n" + "\n".join(last))


@contextmanager
def started(
    workload: Workload, model: Path, options: argparse.Namespace, names: Sequence[str] = SIDES
) -> Iterator[list[Side]]:
    """Starts the trainers on `workload`, one after the other, and ends them."""
    pythons = {"alignzoo": sys.executable, "trl": options.peer_python}
    extras = {"alignzoo": options.ppo, "trl": options.grpo}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = []
        for name in names:
            out = Path(folder) / name
            command = [pythons[name], str(SCRIPTS / f"{name}_side.py"), workload.name, str(model)]
            command += [str(out), str(options.threads), json.dumps(extras[name])]
            log = out.with_suffix(".log")
            side = stack.enter_context(Side(name, command, options.threads, log, workload.device))
            side.wait_until_ready()
            sides.append(side)
        yield sides


def take_turns(sides: Sequence[Side], num_warmup: int, num_rounds: int) -> dict[str, list[Round]]:
    """Returns `num_rounds` rounds of each side by name; item i of both were neighbours in time."""
    rounds: dict[str, list[Round]] = {side.name: [] for side in sides}
    for number in range(num_warmup + num_rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        for side in order:
            taken = side.round()
            if number >= num_warmup:
                rounds[side.name].append(taken)
        progress = number + 1 - num_warmup
        print(f"  pair {progress} of {num_rounds}", file=sys.stderr, flush=True)
    return rounds


def ratio_of_pairs(
    ours: Sequence[float], theirs: Sequence[float], num_resamples: int = 10_000
) -> dict[str, float]:
    """Returns the median of theirs/ours over pairs, with a 95 % bootstrap interval over pairs.

    Above 1 we are faster. A part that took no time on either side has no ratio and gives {}.
    """
    ours_array, theirs_array = np.asarray(ours), np.asarray(theirs)
    if not (ours_array > 0).all() or not (theirs_array > 0).all():
        return {}
    ratios: NDArray[np.float64] = theirs_array / ours_array
    picks = np.random.default_rng(0).integers(len(ratios), size=(num_resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def summarise(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Returns, by part, each side's median seconds and quartiles, and the ratio of pairs."""
    summary: dict[str, Any] = {}
    for part in PARTS:
        seconds = {side: [taken[part] for taken in rounds[side]] for side in SIDES}
        summary[part] = {
            side: dict(
                zip(
                    ("first_quartile", "median", "third_quartile"),
                    map(float, np.percentile(seconds[side], [25, 50, 75])),
                    strict=True,
                )
            )
            for side in SIDES
        }
        summary[part]["ratio"] = ratio_of_pairs(seconds["alignzoo"], seconds["trl"])
    summary["tokens"] = {
        side: float(np.mean([taken["tokens"] for taken in rounds[side]])) for side in SIDES
    }
    return summary


def measure(workload: Workload, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the results of one workload, over `options.restarts` fresh pairs of processes."""
    rounds: dict[str, list[Round]] = {side: [] for side in SIDES}
    peaks: dict[str, list[int]] = {side: [] for side in SIDES}
    loads = []
    facts: dict[str, Any] = {}
    for _ in range(options.restarts):
        with started(workload, model, options) as sides:
            taken = take_turns(sides, options.warmup, options.rounds)
            for side in sides:
                side.stop()
                rounds[side.name] += taken[side.name]
                peaks[side.name].append(side.peak_bytes)
                facts[side.name] = {k: side.facts[k] for k in ("versions", "settings")}
        loads.append(os.getloadavg()[0])
    return {
        "shared_settings": shared_settings(workload),
        **facts,
        "summary": summarise(rounds),
        "peak_bytes": peaks,
        "load_average": loads,
        "rounds": rounds,
    }


def describe_machine(threads: int) -> dict[str, Any]:
    """Returns what the numbers were measured on."""
    model, flags = platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = dict(
            (part.strip() for part in line.split(":", 1))
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
        model, flags = lines.get("model name", model), lines.get("flags", "")
    wide = [
        name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()
    ]
    return {
        "processor": model,
        "vector_units": wide,
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def table(workload: Workload, result: Mapping[str, Any]) -> str:
    """Returns the results of one workload as a Markdown table."""
    summary = result["summary"]
    labels = {"passes": "of it passes without gradient", "processor": "processor time of a round"}
    lines = [
        f"### {workload.title}",
        "",
        "| part | alignzoo, s | TRL, s | TRL / alignzoo | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for part in PARTS:
        ours, theirs = (summary[part][side]["median"] for side in SIDES)
        ratio = summary[part]["ratio"]
        shown = (
            f"{ratio['median']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f}" if ratio else "|"
        )
        lines.append(f"| {labels.get(part, part)} | {ours:.4f} | {theirs:.4f} | {shown} |")
    ours, theirs = (max(result["peak_bytes"][side]) / 1e9 for side in SIDES)
    lines.append(f"| peak memory, GB | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} | |")
    ours, theirs = (summary["tokens"][side] for side in SIDES)
    lines.append(f"| response tokens a round | {ours:.0f} | {theirs:.0f} | | |")
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = os.environ.get("ALIGNZOO_DATA")
    parser.add_argument(
        "--stories",
        type=Path,
        default=Path(data) / "models" / "stories260K" if data else None,
        help="model folder of the first workload; default $ALIGNZOO_DATA/models/stories260K",
    )
    parser.add_argument("--peer-python", required=True, help="python of the environment with trl")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=10, help="pairs of rounds in each process")
    parser.add_argument("--warmup", type=int, default=2, help="pairs before those that count")
    parser.add_argument("--restarts", type=int, default=2, help="fresh processes, one by one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ppo", type=json.loads, default={}, help="further options of ppo, JSON")
    parser.add_argument(
        "--grpo", type=json.loads, default={}, help="further options of GRPOConfig, JSON"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of rounds-DATE.json"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.restarts, options.threads) < 1:
        parser.error("--rounds, --restarts and --threads are at least 1")
    if "stories" in options.workloads and not (options.stories and options.stories.is_dir()):
        parser.error(f"--stories is {options.stories}; expected the folder of stories260K")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table a workload, and writes everything to one JSON file."""
    options = parse_arguments(arguments)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"stories": options.stories, "wide": Path(folder) / "wide"}
        if "wide" in options.workloads:
            make = [sys.executable, str(SCRIPTS / "wide_model.py"), str(models["wide"])]
            subprocess.run(make, check=True, capture_output=True)
        for name in options.workloads:
            workload = WORKLOADS[name]
            print(workload.title, file=sys.stderr, flush=True)
            results[name] = measure(workload, models[name], options)
            print(table(workload, results[name]) + "\n", flush=True)
    today = datetime.date.today().isoformat()
    report = {
        "date": today,
        "machine": describe_machine(options.threads),
        "rounds": options.rounds,
        "warmup": options.warmup,
        "restarts": options.restarts,
        "workloads": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"rounds-{today}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(str(error))
