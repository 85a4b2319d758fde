"""Every algorithm of the zoo on one task, over seeds: samples to a score of 0.9, KL, seconds.

    ALIGNZOO_DATA=path/to/data python bench/zoo.py --seeds 3 --jobs 2 --write-docs

The task: a story model of 260 thousand parameters goes on from one prompt, and a reward asks for
a dog and a park, in 20 to 45 words, without sadness. Scores are of samples that nothing was learned
from.

- Algorithms that sample take 64 responses an update, for 20 updates at least and 10,000 responses
  at most, until 128 fresh samples score 0.9 in the mean.
- Algorithms that learn from judgements get pairs of the model's own responses, labelled by the
  reward, and never see the reward again.
- The result of a run is then measured on 512 fresh samples; its gain is over as many of the model
  it started from, with a 95 % bootstrap interval over all seeds' samples.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import alignzoo as az

PROMPT = "Once upon a time, there was a"
REWARD = {
    "include": ["dog", "park"],
    "avoid": ["sad", "scared", "cry"],
    "min_words": 20,
    "max_words": 45,
}
TARGET = 0.9
BATCH = 64
NEW_TOKENS = 64
MIN_UPDATES = 20
MAX_SAMPLES = 10_000
FINAL_SAMPLES = 512
NUM_PAIRED = 3072  # responses that preference pairs are made of
DOCS = Path(__file__).parents[1] / "docs" / "algorithms" / "README.md"


@dataclass(frozen=True)
class Case:
    """One line of the table: an algorithm, its options, and for how long it learns from pairs.

    `learning_rate` is this small model's; every other option not named here is the default.
    """

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    pair_steps: int = 0

    @property
    def name(self) -> str:
        given = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in self.options.items())
        return f"{self.id} {given}".strip()


CASES = [
    Case("reinforce", {"baseline": "moving"}),
    Case("reinforce", {"baseline": "batch"}),
    Case("reinforce", {"baseline": "leave_one_out"}),
    Case("reinforce_pp"),
    Case("reinforce_pp", {"variant": "baseline"}),
    Case("rloo"),
    Case("a2c"),
    Case("ppo"),
    Case("trpo"),
    Case("ppg"),
    Case("ppg", {"networks": "separate"}),
    Case("grpo"),
    Case("dr_grpo"),
    Case("dapo"),
    Case("gspo"),
    Case("cispo"),
    Case("best_of_n", learning_rate=3e-4),
    Case("reward_weighted", {"kl_coef": 0.01}, learning_rate=3e-4),
    Case("dqn"),
    Case("ddqn"),
    Case("dpo", learning_rate=2e-4, pair_steps=40),
    Case("ipo", learning_rate=2e-4, pair_steps=40),
    Case("cdpo", learning_rate=2e-4, pair_steps=40),
    Case("kto", learning_rate=2e-4, pair_steps=40),
    Case("orpo", learning_rate=1e-3, pair_steps=40),
    Case("simpo", learning_rate=2e-4, pair_steps=40),
]


@dataclass(frozen=True)
class Responses:
    """Responses to the prompt: texts, scores [n], and the log-ratio to the first model [n]."""

    texts: list[str]
    scores: np.ndarray[Any, Any]
    log_ratios: np.ndarray[Any, Any]


def sample(policy: Any, base: Any, count: int, seed: int) -> Responses:
    """Returns fresh responses of a policy; the mean log-ratio is its KL to `base`, in nats."""
    prompt = policy.tokenizer.encode(PROMPT)
    generation = policy.generate([prompt] * count, max_new_tokens=NEW_TOKENS, seed=seed)
    texts = policy.decode(generation.token_ids)
    buffer = az.RolloutBuffer()
    buffer.append([prompt] * count, generation.token_ids, policy_version=0)
    reference = np.concatenate(
        [
            base.evaluate(part).log_probs.sum(1).detach().double().numpy()
            for part in buffer.batch().micro_batches(max_rows=64)
        ]
    )
    own = np.array([float(row.astype(np.float64).sum()) for row in generation.log_probs])
    scores = az.make_reward("keywords", **REWARD).score(prompts=[PROMPT] * count, responses=texts)
    return Responses(texts, np.array(scores), own - reference)


@functools.cache
def scores_before(model: str, seed: int) -> dict[str, int]:
    """Returns how often fresh responses of the first model got each score."""
    base = az.Policy.from_pretrained(model)
    return counted(sample(base, base, FINAL_SAMPLES, seed=2000 + seed).scores)


def make_pairs(base: Any, seed: int) -> list[dict[str, str]]:
    """Returns the better and the worse of two responses each; ties are left out."""
    drawn = sample(base, base, NUM_PAIRED, seed=1000 + seed)
    pairs = []
    for first in range(0, NUM_PAIRED, 2):
        order = sorted((first, first + 1), key=lambda row: -drawn.scores[row])
        if drawn.scores[order[0]] > drawn.scores[order[1]]:
            better, worse = (drawn.texts[row] for row in order)
            pairs.append({"prompt": PROMPT, "chosen": better, "rejected": worse})
    return pairs


def run(case: Case, seed: int, model: str) -> dict[str, Any]:
    """Trains once and returns what came of it."""
    import torch

    torch.set_num_threads(1)
    base = az.Policy.from_pretrained(model)
    algorithm = az.make(case.id, learning_rate=case.learning_rate, **case.options)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        learn = learn_from_pairs if case.pair_steps else learn_from_samples
        policy, found = learn(case, seed, model, algorithm, Path(folder) / "run", base)
    seconds = time.perf_counter() - began
    end = sample(policy, base, FINAL_SAMPLES, seed=3000 + seed)
    return {
        **found,
        "case": case.name,
        "seed": seed,
        "seconds": seconds,
        "kl": float(end.log_ratios.mean()),
        "score": float(end.scores.mean()),
        "scores_before": scores_before(model, seed),
        "scores_after": counted(end.scores),
    }


def learn_from_samples(
    case: Case, seed: int, model: str, algorithm: Any, out: Path, base: Any
) -> tuple[Any, dict[str, Any]]:
    """Trains by sampling; returns the policy and the samples it took to the target."""
    reached: list[int] = []

    def observe(step: int, metrics: Mapping[str, Any]) -> bool:
        if metrics.get("eval_score_mean", 0.0) >= TARGET and not reached:
            reached.append(int(metrics["samples"]))
        return bool(reached and step >= MIN_UPDATES) or metrics["samples"] + BATCH > MAX_SAMPLES

    trainer = az.Trainer(
        policy=model,
        algorithm=algorithm,
        reward=az.make_reward("keywords", **REWARD),
        prompts=[PROMPT],
        eval_prompts=[PROMPT] * 128,
        eval_every=4,
        batch_size=BATCH,
        max_new_tokens=NEW_TOKENS,
        checkpoint_every=10**6,
        out=out,
        seed=seed,
        observers=[observe],
    )
    lines = trainer.run(MAX_SAMPLES // BATCH)
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    return trainer.policy, {
        "samples": lines[-1]["samples"],
        "samples_to_target": reached[0] if reached else None,
        "seconds_per_update": float(np.median([t["collect"] + t["learn"] for t in timings])),
    }


def learn_from_pairs(
    case: Case, seed: int, model: str, algorithm: Any, out: Path, base: Any
) -> tuple[Any, dict[str, Any]]:
    """Trains on pairs of the first model's responses; returns the policy."""
    pairs = make_pairs(base, seed)
    trainer = az.Trainer(
        policy=model,
        algorithm=algorithm,
        data=pairs,
        eval_fraction=0.0,
        batch_size=BATCH,
        checkpoint_every=10**6,
        out=out,
        seed=seed,
    )
    lines = trainer.run(case.pair_steps)
    return trainer.policy, {"pairs": len(pairs), "samples": lines[-1]["samples"]}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one line of the table from the runs of all seeds."""
    before, after = (
        np.concatenate([uncounted(run[name]) for run in runs])
        for name in ("scores_before", "scores_after")
    )
    low, high = gain_interval(before, after)
    return {
        "case": runs[0]["case"],
        "samples_to_target": [describe_samples(run) for run in runs],
        "score": [run["score"] for run in runs],
        "kl": [run["kl"] for run in runs],
        "gain": float(after.mean() - before.mean()),
        "gain_interval": [low, high],
        "seconds": [run["seconds"] for run in runs],
    }


def describe_samples(run: Mapping[str, Any]) -> str:
    """Returns how many samples a run took to the target, or how many pairs it had instead."""
    if "pairs" in run:
        return f"{run['pairs']:,} pairs"
    return f"{run['samples_to_target']:,}" if run["samples_to_target"] else "not reached"


def counted(scores: np.ndarray[Any, Any]) -> dict[str, int]:
    """Returns how often each score came."""
    values, counts = np.unique(scores.round(6), return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def uncounted(counts: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Returns the scores that `counted` counted, in ascending order."""
    return np.repeat([float(value) for value in counts], list(counts.values()))


def gain_interval(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the difference of two means (percentiles)."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (before, after),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def table(summaries: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of the table in docs/algorithms."""
    heads = ("algorithm and options", "samples to 0.9, or pairs", "score", "KL, nats")
    yield f"| {' | '.join(heads)} | gain, 95 % | seconds |"
    yield "|---|---|---|---|---|---|"
    for line in summaries:
        low, high = line["gain_interval"]
        cells = [
            f"`{line['case']}`",
            ", ".join(line["samples_to_target"]),
            ", ".join(f"{x:.3f}" for x in line["score"]),
            ", ".join(f"{x:.1f}" for x in line["kl"]),
            f"{line['gain']:.3f} ({low:.3f} to {high:.3f})",
            ", ".join(f"{x:.0f}" for x in line["seconds"]),
        ]
        yield f"| {' | '.join(cells)} |"


def write_docs(lines: list[str]) -> None:
    """Puts the table between its marks in docs/algorithms/README.md."""
    text = DOCS.read_text(encoding="utf-8")
    marks = ("<!-- table: zoo -->\n", "<!-- end: zoo -->")
    found = re.subn(
        f"({re.escape(marks[0])}).*?({re.escape(marks[1])})",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    assert found[1] == 1, f"{DOCS} has no place for the table"
    DOCS.write_text(found[0], encoding="utf-8")


def measure(
    cases: list[Case], seeds: int, jobs: int, model: str
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """Yields (name, seed) and result of each run, `jobs` at a time, one thread each."""
    os.environ |= {"ALIGNZOO_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for the runs
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        made = {
            (case.name, seed): pool.submit(run, case, seed, model)
            for case in cases
            for seed in range(seeds)
        }
        for key, future in made.items():
            yield key, future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument(
        "--only", nargs="*", help="ids; other lines keep their last result; none measures nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/zoo.json"))
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    unknown = set(given.only or ()) - {case.id for case in CASES}
    if unknown:
        parser.error(f"--only names {', '.join(sorted(unknown))}, which this bench does not run")
    if "ALIGNZOO_DATA" not in os.environ:
        parser.error("ALIGNZOO_DATA names no folder with the model models/stories260K")
    model = str(Path(os.environ["ALIGNZOO_DATA"]) / "models" / "stories260K")
    chosen = [case for case in CASES if given.only is None or case.id in given.only]
    known = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    results = {(result["case"], result["seed"]): result for result in known}
    for key, result in measure(chosen, given.seeds, given.jobs, model):
        results[key] = result
        print(
            f"{key[0]}, seed {key[1]}: score {result['score']:.3f}, KL {result['kl']:.1f}, "
            f"{describe_samples(result)} to 0.9, {result['seconds']:.0f} s",
            flush=True,
        )
    names = [case.name for case in CASES]
    runs = [result for name in names for key, result in sorted(results.items()) if key[0] == name]
    summaries = [
        summarise([result for result in runs if result["case"] == name])
        for name in names
        if any(result["case"] == name for result in runs)
    ]
    versions = {"python": platform.python_version(), "torch": version("torch")}
    facts = {"machine": platform.processor() or platform.machine(), **versions}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"facts": facts, "summary": summaries, "runs": runs}) + "\n")
    lines = list(table(summaries))
    print("\n".join(lines))
    if given.write_docs:
        write_docs(lines)


def version(distribution: str) -> str:
    from importlib.metadata import version as installed

    return installed(distribution)


if __name__ == "__main__":
    main()
