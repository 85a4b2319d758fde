"""What ppo's defaults were chosen by: one option changed at a time, over seeds, on a real model.

    ALIGNZOO_DATA=path/to/data python bench/ppo_defaults.py --seeds 3
    ALIGNZOO_DATA=path/to/data python bench/ppo_defaults.py --seeds 8 --only value

A model of 260 thousand parameters that writes children's stories learns to put a dog and a park
into 20 to 45 words without sadness: 40 updates of 64 responses of at most 64 tokens. Reported are
the means of `score_mean` and `kl` over the last five updates, for each seed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import alignzoo as az

REWARD = {
    "include": ["dog", "park"],
    "avoid": ["sad", "scared", "cry"],
    "min_words": 20,
    "max_words": 45,
}
# Where the search began; the defaults came out different.
BASE: dict[str, Any] = {"kl_coef": 0.03, "value_learning_rate": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "kl_coef=0.01": {"kl_coef": 0.01},
    "kl_coef=0.1": {"kl_coef": 0.1},
    "gae_lambda=0.95": {"gae_lambda": 0.95},
    "whiten_advantages=full": {"whiten_advantages": "full"},
    "whiten_advantages=none": {"whiten_advantages": "none"},
    "value_learning_rate=1e-2": {"value_learning_rate": 1e-2},
    "detach_values=false": {"detach_values": False},
    "num_epochs=1": {"num_epochs": 1},
    "num_epochs=4 minibatch_size=16": {"num_epochs": 4, "minibatch_size": 16},
    "kl_coef=0.025 value_learning_rate=1e-3": {"kl_coef": 0.025},
    "kl_coef=0.025 value_learning_rate=auto": {"kl_coef": 0.025, "value_learning_rate": "auto"},
}


def run(options: dict[str, Any], seed: int, model: Path) -> tuple[float, float]:
    """Returns score and KL of one run, each a mean over its last five updates."""
    with tempfile.TemporaryDirectory() as folder:
        lines = az.Trainer(
            policy=str(model),
            algorithm=az.make("ppo", learning_rate=1e-3, **{**BASE, **options}),
            reward=az.make_reward("keywords", **REWARD),
            prompts=["Once upon a time, there was a"],
            out=Path(folder) / "run",
            seed=seed,
            checkpoint_every=1000,
        ).run(40)
    last = lines[-5:]
    return sum(x["score_mean"] for x in last) / 5, sum(x["kl"] for x in last) / 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/ppo_defaults.json"))
    given = parser.parse_args()
    model = Path(os.environ["ALIGNZOO_DATA"]) / "models" / "stories260K"
    results = {}
    print("| changed | score, each seed | KL in nats, each seed |\n|---|---|---|")
    chosen = {name: options for name, options in VARIANTS.items() if given.only in name}
    for name, options in chosen.items():
        pairs = [run(options, seed, model) for seed in range(given.seeds)]
        results[name] = pairs
        scores = ", ".join(f"{score:.3f}" for score, _ in pairs)
        print(f"| `{name}` | {scores} | {', '.join(f'{kl:.1f}' for _, kl in pairs)} |", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
