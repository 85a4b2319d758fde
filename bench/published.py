"""The table of docs/benchmark.md: the whole zoo on the CPU tasks, made by one command.

    python bench/published.py --out DIR --jobs 2 --write-docs

runs `alignzoo bench` on every registered algorithm that is ours (or those of `--only`) and writes
the table into docs/benchmark.md, every row into bench/results/benchmark.jsonl.gz, and what was run
and how long it took into bench/results/benchmark.json. A second run goes on in DIR; its minutes are
added.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import alignzoo as az
from alignzoo.benchmark import load_rows, markdown, summarise

TASKS = ("chain", "tree", "noisy_max", "bandit", "reverse", "keywords")
# One of each family that samples, and two that do not: what the time aim is stated for.
EIGHT = ("reinforce", "rloo", "a2c", "ppo", "trpo", "grpo", "dpo", "sft")
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "benchmark.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="algorithms; 'eight' for those of the time aim")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    ids = list(EIGHT) if given.only == ["eight"] else given.only or ours()
    tasks = [word for task in TASKS for word in ("--task", task)]
    words = ["bench", *ids, *tasks, "--seeds", given.seeds, "--jobs", given.jobs]
    start = time.perf_counter()
    code = subprocess.run(
        [sys.executable, "-m", "alignzoo", *map(str, words), "--out", str(given.out)]
    ).returncode
    minutes = note_minutes(given.out, ids, given.jobs, (time.perf_counter() - start) / 60)
    if given.write_docs:
        publish(given.out, minutes)
    sys.exit(code)


def ours() -> list[str]:
    """Returns the ids of the algorithms that come with alignzoo."""
    entries = az.registry().algorithms
    return sorted(entry.id for entry in entries if entry.plugin.distribution == "alignzoo")


def note_minutes(out: Path, ids: list[str], jobs: int, minutes: float) -> list[dict[str, object]]:
    """Adds one run's time to those of the folder, and returns them all."""
    path = out / "minutes.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    runs.append({"algorithms": ids, "jobs": jobs, "minutes": round(minutes, 1)})
    path.write_text(json.dumps(runs, indent=1) + "\n")
    return runs


def publish(out: Path, minutes: list[dict[str, object]]) -> None:
    """Writes rows, figures of the run and the table to where they are read."""
    rows = load_rows(out)
    summary = summarise(rows, tasks=[t for t in TASKS if any(r["task"] == t for r in rows)])
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # No time in the file's head, so that the same rows are the same bytes.
    (RESULTS / "benchmark.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    facts = {
        "runs": minutes,
        "rows": len(rows),
        "failed": sum(row["status"] != "ok" for row in rows),
        "seeds": sorted({row["seed"] for row in rows}),
        "versions": rows[0]["versions"],
        "cpu": rows[0]["cpu"],
        "load": os.getloadavg(),
    }
    (RESULTS / "benchmark.json").write_text(json.dumps(facts, indent=1) + "\n")
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- table -->\n", "<!-- end of table -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    table = begin + markdown(summary).rstrip() + "\n" + end
    DOCS.write_text(re.sub(pattern, lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
