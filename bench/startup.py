"""How long `alignzoo` takes to start, with and without other people's plugins.

    python bench/startup.py
    python bench/startup.py --plugins 100 --rounds 21

Makes a temporary folder of plugin distributions of one module each, as `alignzoo new` writes them,
and runs every command in a fresh interpreter, without and with that folder on the path. The
commands take turns, round by round; reported are medians of wall and processor time, and the ratio
to the bare interpreter (`python -c pass`), which took its turn in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

BARE = "bare interpreter"
COMMANDS: dict[str, list[str]] = {
    BARE: ["-c", "pass"],
    "import pydantic, numpy": ["-c", "import pydantic, numpy; pydantic.BaseModel"],
    "alignzoo --version": ["-m", "alignzoo", "--version"],
    "alignzoo --help": ["-m", "alignzoo", "--help"],
    "alignzoo list": ["-m", "alignzoo", "list"],
    "alignzoo plugins": ["-m", "alignzoo", "plugins"],
}
WITH_PLUGINS = ("alignzoo --help", "alignzoo list", "alignzoo plugins")
MODULE = '''"""A plugin of one module: REINFORCE with a constant baseline."""

from __future__ import annotations

from pydantic import Field

import alignzoo as az
from alignzoo import objectives, options


class Config(az.AlgorithmConfig):
    """Options of `{name}`."""

    gamma: options.Gamma = 1.0
    baseline: float = Field(0.0, ge=-1e6, le=1e6, description="subtracted from every return")


class Algorithm(az.Algorithm):
    """The gradient of log p times what a return is above the baseline."""

    Config = Config

    def prepare(self, batch: az.RolloutBatch, learner: az.Learner) -> None:
        batch.advantages = batch.rewards.sum(1, keepdim=True) - self.config.baseline

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        return objectives.policy(batch, out, kind="plain")


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    """Returns the record of `{name}`."""
    return [
        az.AlgorithmSpec(id="{name}", target="{module}:Algorithm", summary="A constant baseline")
    ]
'''


def write_plugins(folder: Path, count: int) -> None:
    """Installs `count` plugin distributions into a folder."""
    for number in range(count):
        name, module = f"start-{number:03}", f"alignzoo_start_{number:03}"
        (folder / f"{module}.py").write_text(MODULE.format(name=name, module=module))
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: alignzoo-{name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(about)
        (info / "entry_points.txt").write_text(f"[alignzoo]\n{name} = {module}\n")


def run(arguments: list[str], path: str, cache: str) -> tuple[float, float]:
    """Returns the wall and processor seconds of one fresh interpreter.

    Args:
        path: PYTHONPATH.
        cache: where compiled modules are kept, as they are where pip installed them.
    """
    left_out = ("ALIGNZOO_PLUGINS", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    variables = {k: v for k, v in os.environ.items() if k not in left_out}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**variables, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": cache},
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def measure(plugins: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Returns medians by case, in milliseconds and as ratios to the bare interpreter."""
    cases = {name: (words, False) for name, words in COMMANDS.items()}
    cases |= {f"{name}, {plugins} plugins": (COMMANDS[name], True) for name in WITH_PLUGINS}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        write_plugins(Path(folder), plugins)
        for number in range(rounds + 1):  # the first, which compiles the modules, does not count
            order = list(cases)[:: 1 if number % 2 else -1]
            for name in order:
                words, with_plugins = cases[name]
                found = run(words, folder if with_plugins else "", cache)
                if number:
                    seen[name].append(found)
    return {name: _summary(found, seen[BARE]) for name, found in seen.items()}


def _summary(found: list[tuple[float, float]], bare: list[tuple[float, float]]) -> dict[str, Any]:
    wall, used = (statistics.median(values) * 1000 for values in zip(*found, strict=True))
    ratios = [mine[0] / other[0] for mine, other in zip(found, bare, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "wall_ms": round(wall, 1),
        "cpu_ms": round(used, 1),
        "wall_over_bare": round(statistics.median(ratios), 2),
        "quartiles": [round(low, 2), round(high, 2)],
    }


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plugins", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="bench/results/startup.json")
    given = parser.parse_args()
    cases = measure(given.plugins, given.rounds)
    print(f"{'':36}{'wall ms':>9}{'cpu ms':>9}{'over bare':>11}  quartiles")
    for name, row in cases.items():
        low, high = row["quartiles"]
        print(
            f"{name:36}{row['wall_ms']:9.0f}{row['cpu_ms']:9.0f}{row['wall_over_bare']:11.1f}"
            f"  {low:.1f} to {high:.1f}"
        )
    packages = ("alignzoo", "pydantic", "numpy", "pluggy")
    about = {
        "command": f"python bench/startup.py --plugins {given.plugins} --rounds {given.rounds}",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: version(name) for name in packages},
    }
    results = {**about, "plugins": given.plugins, "rounds": given.rounds, "cases": cases}
    Path(given.out).write_text(json.dumps(results, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
