"""What instruction tuning gains on tasks that were held out, against no tuning.

    ALIGNZOO_DATA=path/to/data python bench/instruction.py --seeds 3

A story model of 260 thousand parameters is tuned on instances of NLP tasks, each under one of
two templates, and measured on instances of tasks it never saw: loss per answer token, and
ROUGE-L of the greedy answer with the nearest of the reference answers. Beside it stands the same
tuning on the same rows with their answers shuffled, which learns what answers look like and not
what is asked. A seed draws the held-out tasks, the templates, and the order of the rows; the
interval is a paired bootstrap over held-out tasks, and over rows within them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import alignzoo as az
from alignzoo import data
from alignzoo.data.splits import content_key, key_share
from alignzoo.offline import append_examples

TEMPLATES = ("short", "last")  # the others begin with the definition, often over the limit
MAX_TOKENS = 224  # of prompt and completion together; longer rows are left out on all sides
MAX_ROWS = 40  # measured of a held-out task
NEW_TOKENS = 32
HELD_OUT = 0.2  # of the tasks
RESAMPLES = 2000


def make_rows(folder: Path, tokenizer: Any, seed: int) -> list[dict[str, Any]]:
    """Returns the rows that the templates make of all instances, but those too long."""
    chosen = [t for t in data.read_templates("tasks").templates if t.name in TEMPLATES]
    options = data.BuildOptions(seed=seed, keep=["task", "outputs", "split"])
    rows = data.build_rows(
        str(folder / "ni_instances.jsonl"),
        data.Templates(chosen, "tasks"),
        options,
        data.BuildReport(),
        tasks=str(folder / "ni_tasks.jsonl"),
    )
    return [row for row in rows if _num_tokens(row, tokenizer) <= MAX_TOKENS]


def _num_tokens(row: dict[str, Any], tokenizer: Any) -> int:
    """Returns about how many tokens a row has, those of a chat's turns included."""
    said = (row["prompt"][0]["content"], row["completion"][0]["content"])
    return len(tokenizer.encode("User:\n{}\nAssistant:\n{}".format(*said)))


def split_tasks(
    rows: Sequence[dict[str, Any]], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows of the tasks to train on, and those of the tasks held out.

    Held out is what the column `split` does not call "train"; where it calls all so, the seed
    draws a fifth of the tasks.
    """
    tasks = sorted({row["task"] for row in rows}, key=lambda task: _share(task, seed))
    held_out = sorted({row["task"] for row in rows if row.get("split", "train") != "train"})
    held_out = held_out or tasks[: round(HELD_OUT * len(tasks))]
    train = [row for row in rows if row["task"] not in held_out]
    measured = [[row for row in rows if row["task"] == task][:MAX_ROWS] for task in held_out]
    return train, [row for part in measured for row in part]


def _share(task: str, seed: int) -> float:
    return key_share(content_key(task, f"bench {seed}"))


def shuffle_answers(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Returns the rows, each with the answer of some other."""
    answers = [row["completion"] for row in rows]
    random.Random(seed).shuffle(answers)
    return [{**row, "completion": answer} for row, answer in zip(rows, answers, strict=True)]


class Held:
    """Rows held out, encoded once."""

    def __init__(self, policy: Any, rows: Sequence[dict[str, Any]]) -> None:
        demonstrations = data.read_demonstrations(list(rows))
        end_ids = [policy.end_token_id, *policy.end_token_ids]
        self.examples, _ = data.encode_demonstrations(
            policy.tokenizer, demonstrations, end_ids=end_ids
        )
        self.rows = rows
        self.tasks = np.array([row["task"] for row in rows])

    def losses(self, policy: Any) -> tuple[Any, Any]:
        """Returns the summed loss of each row's answer, in nats, and its tokens."""
        import torch

        buffer, sums, counts = az.RolloutBuffer(), [], []
        append_examples(buffer, self.examples, version=0)
        with torch.no_grad():
            for part in buffer.batch().micro_batches(max_rows=32):
                sums.append(-policy.evaluate(part).log_probs.sum(1).double().numpy())
                counts.append(part.response_mask.sum(1).numpy())
        return np.concatenate(sums), np.concatenate(counts)

    def rouge(self, policy: Any) -> Any:
        """Returns ROUGE-L of each row's greedy answer with its nearest reference."""
        prompts = [example.prompt_ids for example in self.examples]
        found = policy.generate(prompts, max_new_tokens=NEW_TOKENS, temperature=0)
        answers = policy.decode(found.token_ids)
        return np.array(
            [
                max(rouge_l(answer, str(reference)) for reference in row["outputs"])
                for answer, row in zip(answers, self.rows, strict=True)
            ]
        )


def rouge_l(answer: str, reference: str) -> float:
    """Returns the F1 of the longest common subsequence of words (Lin 2004), in [0, 1]."""
    left, right = _words(answer), _words(reference)
    if not left or not right:
        return float(left == right)
    lengths = [0] * (len(right) + 1)
    for word in left:
        before = 0
        for i, other in enumerate(right, start=1):
            above = lengths[i]
            lengths[i] = before + 1 if word == other else max(above, lengths[i - 1])
            before = above
    return 2 * lengths[-1] / (len(left) + len(right))


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def tune(
    model: Path, rows: Sequence[dict[str, Any]], seed: int, given: argparse.Namespace, out: Path
) -> Any:
    """Returns the policy tuned on the rows."""
    columns = ("prompt", "completion")
    trainer = az.Trainer(
        policy=az.Policy.from_pretrained(str(model), seed=seed),
        algorithm=az.make("sft", learning_rate=given.learning_rate, warmup_steps=20),
        data=[{column: row[column] for column in columns} for row in rows],
        out=out,
        seed=seed,
        batch_size=given.batch_size,
        eval_every=given.steps,
        eval_fraction=0,
        checkpoint_every=given.steps,
    )
    trainer.run(given.steps)
    return trainer.policy


def run_seed(seed: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Returns what each arm reaches on the rows of the held-out tasks, row by row."""
    model = folder / "models" / "stories260K"
    base = az.Policy.from_pretrained(str(model))
    train, held_out = split_tasks(make_rows(folder, base.tokenizer, seed), seed)
    held = Held(base, held_out)
    arms = {"no tuning": lambda out: base}
    arms["tuned"] = lambda out: tune(model, train, seed, given, out)
    arms["shuffled answers"] = lambda out: tune(
        model, shuffle_answers(train, seed), seed, given, out
    )
    found: dict[str, Any] = {"tasks": held.tasks, "tokens": held.losses(base)[1]}
    for name, make in arms.items():
        with tempfile.TemporaryDirectory() as out:
            policy = make(Path(out) / "run")
        found[name] = {"loss": held.losses(policy)[0], "rouge": held.rouge(policy)}
        loss, rouge = found[name]["loss"].sum() / found["tokens"].sum(), found[name]["rouge"].mean()
        print(f"seed {seed}, {name}: loss {loss:.3f}, ROUGE-L {rouge:.3f}", flush=True)
    return found


def compare(seeds: Sequence[dict[str, Any]], arm: str, other: str) -> dict[str, Any]:
    """Returns by how much `arm` beats `other`, in loss and ROUGE-L, with paired 95 % intervals.

    Each resample draws held-out tasks of each seed, and rows of each task drawn.
    """
    draw = np.random.default_rng(0)
    gains = {"loss": [], "rouge": []}
    for _ in range(RESAMPLES):
        rows = [_resample(seed["tasks"], draw) for seed in seeds]
        for name in gains:
            gains[name].append(_gain(seeds, rows, arm, other, name))
    whole = [np.arange(len(seed["tasks"])) for seed in seeds]
    return {
        name: {
            "gain": _gain(seeds, whole, arm, other, name),
            "low": float(np.quantile(values, 0.025)),
            "high": float(np.quantile(values, 0.975)),
        }
        for name, values in gains.items()
    }


def _resample(tasks: Any, draw: np.random.Generator) -> Any:
    names = np.unique(tasks)
    rows = [np.flatnonzero(tasks == name) for name in draw.choice(names, len(names))]
    return np.concatenate([draw.choice(part, len(part)) for part in rows])


def _gain(
    seeds: Sequence[dict[str, Any]], rows: Sequence[Any], arm: str, other: str, name: str
) -> float:
    """Returns the mean gain over seeds: nats per token of the loss, or ROUGE-L."""
    gains = []
    for seed, part in zip(seeds, rows, strict=True):
        better, worse = seed[arm][name][part], seed[other][name][part]
        if name == "loss":
            gains.append((worse - better).sum() / seed["tokens"][part].sum())
        else:
            gains.append((better - worse).mean())
    return float(np.mean(gains))


def summarise(seeds: Sequence[dict[str, Any]], given: argparse.Namespace) -> dict[str, Any]:
    """Returns what is written: means of each arm, gains with intervals, settings and versions."""
    import torch
    import transformers

    arms = {}
    for arm in ("no tuning", "tuned", "shuffled answers"):
        losses = [seed[arm]["loss"].sum() / seed["tokens"].sum() for seed in seeds]
        rouges = [seed[arm]["rouge"].mean() for seed in seeds]
        arms[arm] = {"loss": list(map(float, losses)), "rouge": list(map(float, rouges))}
    return {
        "arms": arms,
        "tuned against no tuning": compare(seeds, "tuned", "no tuning"),
        "tuned against shuffled answers": compare(seeds, "tuned", "shuffled answers"),
        "held-out tasks": [sorted(set(seed["tasks"].tolist())) for seed in seeds],
        "held-out rows": [len(seed["tasks"]) for seed in seeds],
        "settings": {k: v for k, v in vars(given).items() if k not in ("out", "data_dir")},
        "versions": {
            "alignzoo": az.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ALIGNZOO_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/instruction.json"))
    given = parser.parse_args()
    if given.data_dir is None:
        parser.error("give --data-dir, or set ALIGNZOO_DATA")
    seeds = []
    for seed in range(given.seeds):
        seeds.append(run_seed(seed, Path(given.data_dir), given))
        found = summarise(seeds, given)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    for name in ("tuned against no tuning", "tuned against shuffled answers"):
        for measure, gain in found[name].items():
            interval = f"({gain['low']:.3f} to {gain['high']:.3f})"
            print(f"{name}: {measure} better by {gain['gain']:.3f} {interval}")


if __name__ == "__main__":
    main()
