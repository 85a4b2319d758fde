"""A round, sampling and learning, on the GPU: our `ppo`, and TRL's GRPO where it is installed.

The workers, and what is measured of them, are those of `bench/rounds.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rounds
from gpu_parts.preparing import last_lines, run_limited
from rounds_sides.shared import Workload, shared_settings, workload_named

Row = dict[str, Any]


class RoundError(Exception):
    """A round that was not measured; the message says why."""


def measure(workload: Workload, num_rounds: int, num_warmup: int) -> Row:
    """Rounds of each side in turns, by part, and the table that shows them."""
    names = [name for name in rounds.SIDES if name == "alignzoo" or has_trl()]
    options = argparse.Namespace(
        peer_python=sys.executable, threads=max(1, (os.cpu_count() or 1) // 2), ppo={}, grpo={}
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make = [sys.executable, str(rounds.SCRIPTS / "wide_model.py"), str(model), workload.name]
        made = subprocess.run(make, check=True, capture_output=True, text=True)
        with rounds.started(workload, model, options, names) as sides:
            taken = rounds.take_turns(sides, num_warmup, num_rounds)
            for side in sides:
                side.stop()
    facts = {side.name: {k: side.facts[k] for k in ("versions", "settings")} for side in sides}
    return {
        "title": workload.title,
        "parameters": int(made.stdout.split()[-1]),
        "shared_settings": shared_settings(workload),
        "absent": [] if "trl" in names else ["trl is not installed"],
        "sides": facts,
        "rounds": taken,
        "device_peak_bytes": {side.name: side.device_peak_bytes for side in sides},
        "table": table(taken),
    }


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


def table(taken: dict[str, list[rounds.Round]]) -> dict[str, list[str]]:
    """part -> median seconds of ours and TRL's, and the ratio of neighbours."""
    found = {}
    for part in rounds.PARTS:
        seconds = {side: [one[part] for one in taken[side]] for side in taken}
        shown = [
            f"{statistics.median(seconds[side]):.4f}" if side in seconds else "not installed"
            for side in rounds.SIDES
        ]
        ratio = rounds.ratio_of_pairs(*seconds.values()) if len(seconds) == 2 else {}
        text = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
        found[part] = [*shown, text]
    return found


def run(workload: str, num_rounds: int, num_warmup: int, timeout: float, log: Path) -> Row:
    """`measure` in processes of its own, which are all ended after `timeout` seconds.

    Raises:
        RoundError: a side failed, or time ran out.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "round.json"
        command = [sys.executable, __file__, workload, str(num_rounds), str(num_warmup), str(path)]
        folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
        try:
            done = run_limited(command, timeout, log, env=environment)
        except subprocess.TimeoutExpired:
            raise RoundError(f"the rounds took more than {timeout:.0f} seconds") from None
        if done.returncode != 0:
            raise RoundError(last_lines(log))
        found: Row = json.loads(path.read_text())
        return found


def main() -> None:
    workload, num_rounds, num_warmup, path = sys.argv[1:]
    found = measure(workload_named(workload), int(num_rounds), int(num_warmup))
    Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
