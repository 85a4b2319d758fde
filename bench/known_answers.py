"""Known answers: how near to the best every algorithm of ours comes on the exact tasks.

    python bench/known_answers.py
    python bench/known_answers.py --tasks bandit --algorithms ppo,dpo --seeds 2 --out found.json
    python bench/known_answers.py --rows OUT

Each algorithm runs at the task's own options and budget, through the benchmark's own cells. Its gap
is the optimum less the mean of its final scores over seeds, as a share of the task's range; at most
2 % is expected, and NOTES says why where more is right. `ddqn` and `dqn` run with more seeds on
`noisy_max`, where their learning curves are compared. The file is written after every cell, and
cells that it has are not run again unless a revision or an option changed. `--rows` takes what a
folder of `alignzoo bench` has of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, load_rows, make_task, run_cell, statistics

FILE = Path(__file__).parent / "results" / "known_answers.json"
TASKS = ("bandit", "chain", "noisy_max", "tree")
LIMIT = 0.02  # of the range
NUM_SEEDS = 5
NUM_CURVES = 10  # seeds of ddqn and dqn on noisy_max

# Why a gap above the limit is right, by task and algorithm.
NOTES: dict[str, dict[str, str]] = {
    "noisy_max": {
        "best_of_n": (
            "It maximises the expected best of a group, not the expected score. One noisy response "
            "(mean -1, deviation 3) among seven that pay 0 is the best of the eight with "
            "probability 1 - Phi(1/3) = 0.37, three times its share of the group, so it is "
            "imitated more than it was sampled: always beginning with 0 is no fixed point."
        ),
        "reward_weighted": (
            "It maximises E[exp(score / T)], not the expected score. With weights "
            "exp(2 score / s), s the batch's deviation, a noisy response (mean -1, deviation 3) "
            "has exp(18 / s^2 - 2 / s) times the mean weight of one that pays 0: at least 3.6, "
            "as s is at most 3.04."
        ),
    },
    "tree": {
        "simpo": (
            "Four seeds of five end at the best, one at the empty response. Means over tokens "
            "give the shorter, rejected responses more weight: a pair's weights sum to -0.02 on "
            "average. So the first token's logit is raised by its own share of the pairs plus "
            "0.02 times its probability, and the end token, which only begins rejected responses "
            "(17 of 1,024, a push of -0.017), goes on rising once chance has brought it above "
            "0.73."
        ),
    },
}


def algorithms() -> list[str]:
    """Returns the ids of the algorithms that alignzoo brings."""
    return [entry.id for entry in az.registry().algorithms if entry.plugin.first_party]


def conditions(task: str, algorithm: str) -> dict[str, Any]:
    """Returns what a result follows from beside the seed."""
    registry, made = az.registry(), make_task(az.registry(), task)
    config = registry.algorithm(algorithm).Config
    return {
        "revision": registry.find("algorithm", algorithm).spec.revision,
        "task_revision": registry.find("task", task).spec.revision,
        "options": dict(made.options(algorithm, config)),
        "samples": made.samples,
    }


def run(task: str, algorithm: str, seed: int) -> dict[str, Any]:
    """Returns the row of one cell, run in a folder that is gone afterwards."""
    registry = az.registry()
    budget = Budget("samples", make_task(registry, task).samples)
    with tempfile.TemporaryDirectory() as folder, quiet():
        row = run_cell(registry, Cell(task, algorithm, seed, budget, 1, {}), Path(folder) / "run")
    if row["status"] != "ok":
        raise SystemExit(f"{task} {algorithm} seed {seed}: {row['error']}")
    return row


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops the trainer's progress lines."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def normalised(row: dict[str, Any], score: float) -> float:
    """Returns a score's place in its task's range."""
    low, high = row["range"]
    return float((score - low) / (high - low))


def entry_of(found: dict[str, Any], task: str, algorithm: str) -> dict[str, Any]:
    """Returns the entry that results of a task and algorithm go to, emptied if out of date."""
    made = make_task(az.registry(), task)
    low, high = made.range
    about = found["tasks"].setdefault(task, {"algorithms": {}})
    about.update(metric=made.metric, range=[low, high], optimum=made.optimum)
    entry: dict[str, Any] = about["algorithms"].setdefault(algorithm, {})
    now = conditions(task, algorithm)
    if {name: entry.get(name) for name in now} != now:
        entry.clear()
        entry.update(now, shares={}, areas={})
    return entry


def fill(entry: dict[str, Any], task: str, algorithm: str, seed: int) -> bool:
    """Runs a cell that the entry lacks; returns whether there was something to run."""
    if str(seed) in entry["shares"]:
        return False
    put(entry, run(task, algorithm, seed))
    return True


def put(entry: dict[str, Any], row: dict[str, Any]) -> None:
    """Writes what a row says to its entry.

    `shares` are final scores and `areas` the means over the curve's points after its start, each
    normalised by the range, by seed.
    """
    seed = row["seed"]
    points = [normalised(row, point["score"]) for point in row["curve"][1:]]
    entry["shares"][str(seed)] = round(normalised(row, row["score"]), 6)
    entry["areas"][str(seed)] = round(sum(points) / len(points), 6)
    entry["seconds"] = round(row["seconds"], 2)


def take(found: dict[str, Any], rows: list[dict[str, Any]]) -> int:
    """Takes rows of our algorithms on the exact tasks at their own conditions; returns how many."""
    known, num_taken = set(algorithms()), 0
    for row in rows:
        task, id = row["task"], row["algorithm"]
        if task not in TASKS or id not in known or row["status"] != "ok":
            continue
        now, chosen = conditions(task, id), row["chosen"]
        is_own = {
            "revision": row["revision"],
            "task_revision": row["task_revision"],
            "options": chosen["task"],
            "samples": row["budget"].get("samples"),
        } == now and not (chosen["given"] or chosen.get("tuned"))
        if is_own:
            put(entry_of(found, task, id), row)
            num_taken += 1
    return num_taken


def summarise(found: dict[str, Any]) -> None:
    """Writes each entry's gap, whether it is explained, and what sets ddqn apart from dqn."""
    for task, about in found["tasks"].items():
        best = normalised(about, about["optimum"])
        for id, entry in about["algorithms"].items():
            shares = [entry["shares"][key] for key in sorted(entry["shares"], key=int)][:NUM_SEEDS]
            entry["gap"] = round(best - sum(shares) / len(shares), 6) if shares else None
            entry["note"] = NOTES.get(task, {}).get(id)
    sides = [
        found["tasks"].get("noisy_max", {"algorithms": {}})["algorithms"].get(id, {})
        for id in ("ddqn", "dqn")
    ]
    if all(len(side.get("areas", ())) >= NUM_CURVES for side in sides):
        found["double_q"] = double_q(*sides)


def double_q(double: dict[str, Any], single: dict[str, Any]) -> dict[str, Any]:
    """Returns how ddqn and dqn differ on `noisy_max`: by the mean of the curve, and at its end."""
    report: dict[str, Any] = {"task": "noisy_max", "seeds": NUM_CURVES}
    for name in ("areas", "shares"):
        x, y = ([[side[name][str(s)] for s in range(NUM_CURVES)]] for side in (double, single))
        difference = statistics.mean_difference(x, y)
        better = statistics.probability_of_improvement(x, y)
        report[name] = {
            "ddqn": round(sum(x[0]) / NUM_CURVES, 4),
            "dqn": round(sum(y[0]) / NUM_CURVES, 4),
            "difference": rounded(difference),
            "probability": rounded(better),
            "p_value": round(statistics.permutation_test(x, y), 4),
        }
    return report


def rounded(estimate: statistics.Estimate) -> list[float]:
    """Returns a number and the ends of its interval."""
    return [round(v, 4) for v in (estimate.value, estimate.low, estimate.high)]


def write(found: dict[str, Any], path: Path) -> None:
    """Writes the file in one step, after the numbers were summarised."""
    summarise(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(aside, path)


def read(path: Path) -> dict[str, Any]:
    """Returns what a file holds already."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {"limit": LIMIT, "tasks": {}}


def print_table(found: dict[str, Any]) -> None:
    """Prints the gaps in percent of the range, a row for each algorithm."""
    tasks = sorted(found["tasks"])
    print(f"| gap, % of the range | {' | '.join(tasks)} |\n|---|{'---:|' * len(tasks)}")
    for id in sorted({id for task in tasks for id in found["tasks"][task]["algorithms"]}):
        entries = [found["tasks"][task]["algorithms"].get(id, {}) for task in tasks]
        cells = ["-" if e.get("gap") is None else f"{100 * e['gap']:.2f}" for e in entries]
        print(f"| `{id}` | {' | '.join(cells)} |")
    if "double_q" in found:
        print(json.dumps(found["double_q"], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--algorithms", default=",".join(algorithms()))
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--rows", type=Path, help="results of alignzoo bench to take first")
    given = parser.parse_args()
    found = read(given.out)
    if given.rows:
        rows = [dict(row) for row in load_rows(given.rows)]
        print(f"{take(found, rows)} of {len(rows)} rows taken")
    wanted = [
        (task, id, seed)
        for task in given.tasks.split(",")
        for id in given.algorithms.split(",")
        for seed in range(
            NUM_CURVES if task == "noisy_max" and id in ("ddqn", "dqn") else given.seeds
        )
    ]
    for task, id, seed in sorted(wanted, key=lambda cell: cell[2]):  # a seed of all, then the next
        entry = entry_of(found, task, id)
        if fill(entry, task, id, seed):
            write(found, given.out)
            print(f"{task} {id} seed {seed}: {entry['shares'][str(seed)]:.4f}", flush=True)
    write(found, given.out)
    print_table(found)


if __name__ == "__main__":
    main()
