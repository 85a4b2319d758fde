"""Our side of `bench/rounds.py`: `ppo` through `alignzoo.Trainer`, a round at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from shared import (
    CLIP_RANGE,
    GROUP_SIZE,
    KL_COEF,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    PROMPT,
    Device,
    Gate,
    Stopwatch,
    Workload,
    keyword_score,
    workload_named,
)

NEVER = 10**6


def algorithm_settings(workload: Workload, extra: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of `ppo`."""
    return {
        "num_epochs": workload.num_updates,
        "minibatch_size": None,
        "group_size": GROUP_SIZE,
        "kl_coef": KL_COEF,
        "clip_range": CLIP_RANGE,
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": MAX_GRAD_NORM,
        **extra,
    }


def trainer_settings(workload: Workload) -> dict[str, Any]:
    """Returns the options of `Trainer`."""
    return {
        "batch_size": workload.num_samples,
        "max_new_tokens": workload.max_new_tokens,
        "eval_every": NEVER,
        "checkpoint_every": NEVER,
        "seed": 0,
    }


def main(name: str, model_folder: str, out: str, num_threads: int, extra: dict[str, Any]) -> None:
    """Runs rounds until the other side says stop."""
    workload = workload_named(name)
    stopwatch = Stopwatch(Device(workload.device))
    gate = Gate(stopwatch)
    import alignzoo as az
    from alignzoo.learner import Learner
    from alignzoo.scoring import RewardSum

    torch.set_num_threads(num_threads)
    stopwatch.wrap(az.Policy, "generate", "generation")
    stopwatch.wrap(az.Policy, "decode", "generation")
    stopwatch.wrap(RewardSum, "score", "scoring")
    for passes in ("bootstrap_values", "reference_log_probs", "evaluate"):
        stopwatch.wrap(Learner, passes, "passes")

    options = {**trainer_settings(workload), "ppo": algorithm_settings(workload, extra)}
    facts = {
        "framework": "alignzoo",
        "settings": options,
        "versions": {p: version(p) for p in ("alignzoo", "torch", "transformers")},
    }
    counted = 0

    def between_rounds(step: int, metrics: Mapping[str, Any]) -> bool:
        nonlocal counted
        num_tokens, counted = metrics["tokens"] - counted, metrics["tokens"]
        return gate.turn(num_tokens)

    trainer = az.Trainer(
        policy=az.Policy.from_pretrained(
            model_folder, device=workload.device, autocast=workload.autocast, seed=0
        ),
        algorithm=az.make("ppo", **options["ppo"]),
        reward=keyword_score,
        prompts=[{"prompt": PROMPT}],
        out=out,
        observers=[between_rounds],
        **trainer_settings(workload),
    )
    gate.open(**facts)
    trainer.run(steps=NEVER)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
