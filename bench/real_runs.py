"""Whole runs on real input, over seeds: what alignzoo's algorithms reach with their defaults.

    ALIGNZOO_DATA=path/to/data python bench/real_runs.py --seeds 3

- `one prompt`: a story model of 260 thousand parameters, one prompt, 40 updates of 64 responses;
  means over the last five updates.
- `200 prompts`: the same on 200 different beginnings, about a tenth held out; the last held-out
  evaluation.
- `Chinese`: a `tiny` model is taught Chinese sentences by sft, then asked for others by a reward;
  the held-out score before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import alignzoo as az

STORY_REWARD = {
    "include": ["dog", "park"],
    "avoid": ["sad", "scared", "cry"],
    "min_words": 20,
    "max_words": 45,
}
CHINESE_REWARD = {
    "include": ["公园", "高兴"],
    "avoid": ["难过", "害怕"],
    "min_words": 8,
    "max_words": 24,
    "unit": "characters",
}
WHO = ["小狗", "小猫", "小鸟", "女孩", "男孩", "老人", "兔子", "农夫"]
WHEN = ["早上", "中午", "下午", "晚上", "昨天", "今天"]
WHERE = ["公园", "河边", "家里", "花园", "海边", "山上"]
DID = ["散步", "唱歌", "休息", "跑步", "吃饭", "看书"]
MOOD = ["高兴", "难过", "平静", "害怕", "骄傲", "疲倦"]
ASK = ["请写一句关于{who}的话。", "{who}做了什么？", "说说{who}的事。"]


def last_five(lines: list[dict[str, Any]], key: str) -> float:
    return mean(line[key] for line in lines[-5:])


def one_prompt(algorithm: str, options: dict[str, Any]) -> Callable[[int, Path, Path], Any]:
    def run(seed: int, model: Path, out: Path) -> dict[str, float]:
        lines = az.Trainer(
            policy=str(model),
            algorithm=az.make(algorithm, learning_rate=1e-3, **options),
            reward=az.make_reward("keywords", **STORY_REWARD),
            prompts=["Once upon a time, there was a"],
            out=out,
            seed=seed,
        ).run(40)
        return {"score": last_five(lines, "score_mean"), "kl": last_five(lines, "kl")}

    return run


def story_prompts(count: int) -> list[str]:
    """Returns different beginnings of stories."""
    draw = random.Random(1)
    kinds = ["little", "big", "happy", "small", "kind", "old", "young", "brave", "funny", "shy"]
    who = ["girl", "boy", "cat", "dog", "bird", "bear", "rabbit", "mouse", "fox", "duck"]
    names = ["Lily", "Tom", "Max", "Sue", "Ben", "Anna", "Tim", "Mia", "Sam", "Lucy"]
    beginnings = [
        "Once upon a time, there was a {kind} {who}",
        "One day, a {kind} {who} named {name}",
        "There was once a {kind} {who} who",
        "{name} was a {kind} {who}. One day, {name}",
        "In a small town, a {kind} {who} named {name} lived",
    ]
    found: dict[str, None] = {}
    while len(found) < count:
        beginning = draw.choice(beginnings)
        words = {"kind": draw.choice(kinds), "who": draw.choice(who), "name": draw.choice(names)}
        found[beginning.format(**words)] = None
    return sorted(found)


def many_prompts(seed: int, model: Path, out: Path) -> dict[str, float]:
    lines = az.Trainer(
        policy=str(model),
        algorithm=az.make("ppo", learning_rate=1e-3),
        reward=az.make_reward("keywords", **STORY_REWARD),
        prompts=story_prompts(200),
        out=out,
        seed=seed,
    ).run(80)
    return {"score": lines[-1]["eval_score_mean"], "kl": lines[-1]["eval_kl"]}


def chinese(seed: int, model: Path, out: Path) -> dict[str, float]:
    draw = random.Random(seed)
    rows = []
    for _ in range(3000):
        who = draw.choice(WHO)
        sentence = f"{draw.choice(WHEN)}，{who}在{draw.choice(WHERE)}{draw.choice(DID)}"
        rows.append(
            {
                "instruction": draw.choice(ASK).format(who=who),
                "output": f"{sentence}，心里很{draw.choice(MOOD)}。",
            }
        )
    az.Trainer(
        policy=az.Policy.from_pretrained("tiny", seed=seed),
        algorithm=az.make("sft", learning_rate=3e-3, warmup_steps=10),
        data=rows,
        out=out / "sft",
        seed=seed,
        batch_size=32,
        eval_every=1000,
    ).run(150)
    trainer = az.Trainer(
        policy=str(out / "sft" / "final"),
        algorithm=az.make("ppo", learning_rate=5e-4),
        reward=az.make_reward("keywords", **CHINESE_REWARD),
        prompts=[[{"role": "user", "content": ask.format(who=who)}] for ask in ASK for who in WHO],
        eval_fraction=0.3,
        out=out / "ppo",
        seed=seed,
        max_new_tokens=96,
    )
    lines = trainer.run(30)
    before, after = trainer.baseline["eval_score_mean"], lines[-1]["eval_score_mean"]
    return {"before": before, "after": after, "rise": after - before, "kl": lines[-1]["eval_kl"]}


RUNS: dict[str, Callable[[int, Path, Path], dict[str, float]]] = {
    "ppo, one prompt": one_prompt("ppo", {}),
    "reinforce --baseline batch, one prompt": one_prompt("reinforce", {"baseline": "batch"}),
    "ppo, 200 prompts, held out": many_prompts,
    "sft then ppo, Chinese, held out": chinese,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a run's name")
    parser.add_argument("--out", type=Path, default=Path("bench/results/real_runs.json"))
    given = parser.parse_args()
    model = Path(os.environ["ALIGNZOO_DATA"]) / "models" / "stories260K"
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name, run in RUNS.items():
        if given.only not in name:
            continue
        found = []
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(seed, model, Path(folder) / "run"))
            print(name, "seed", seed, {k: round(v, 4) for k, v in found[-1].items()}, flush=True)
        results[name] = found
        for key in found[0]:
            values = [result[key] for result in found]
            spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
            print(f"  {key}: {mean(values):.3f}{spread} ({len(values)} seeds)", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
