"""TRL's side of `bench/rounds.py`: GRPO, a round at a time. Runs in an environment that has `trl`.

Its fastest settings for a CPU that we found: the whole batch in one forward pass
(`per_device_train_batch_size`), no gradient checkpointing (its default is on), float32 instead of
bfloat16, fused AdamW, no logging, saving or progress bar.
"""

from __future__ import annotations

import json
import sys
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
from transformers import AutoTokenizer, TrainerCallback

NUM_ROWS = 4096  # of the data set, all one prompt; the data loader starts anew after each pass


def settings(workload: Workload, extra: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of `GRPOConfig`."""
    return {
        "model_init_kwargs": {"dtype": "float32"},
        "use_cpu": workload.device == "cpu",
        "bf16": workload.autocast,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": workload.num_samples,
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "num_iterations": workload.num_updates,
        "num_generations": GROUP_SIZE,
        "max_completion_length": workload.max_new_tokens,
        "beta": KL_COEF,
        "epsilon": CLIP_RANGE,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": MAX_GRAD_NORM,
        "optim": "adamw_torch_fused",
        "max_steps": 10**6,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "dataloader_pin_memory": False,
        "seed": 0,
        **extra,
    }


class Rounds(TrainerCallback):
    """Stops the trainer between rounds."""

    def __init__(self, gate: Gate, num_updates: int, facts: dict[str, Any]) -> None:
        self.gate = gate
        self.num_updates = num_updates
        self.facts = facts
        self.num_tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.gate.open(**self.facts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.num_updates == 0 and self.gate.turn(self.num_tokens):
            control.should_training_stop = True


def main(name: str, model_folder: str, out: str, num_threads: int, extra: dict[str, Any]) -> None:
    """Runs rounds until the other side says stop."""
    workload = workload_named(name)
    stopwatch = Stopwatch(Device(workload.device))
    gate = Gate(stopwatch)
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(num_threads)
    options = settings(workload, extra)
    facts = {
        "framework": "trl",
        "settings": options,
        "versions": {p: version(p) for p in ("trl", "torch", "transformers", "accelerate")},
    }
    rounds = Rounds(gate, workload.num_updates, facts)
    trainer = GRPOTrainer(
        model=model_folder,
        reward_funcs=keyword_score,
        args=GRPOConfig(output_dir=out, **options),
        train_dataset=Dataset.from_dict({"prompt": [PROMPT] * NUM_ROWS}),
        processing_class=AutoTokenizer.from_pretrained(model_folder),
        callbacks=[rounds],
    )
    generate = trainer._generate

    def counted(prompts: list[Any]) -> Any:
        generated = generate(prompts)
        rounds.num_tokens = sum(map(len, generated[1]))
        return generated

    trainer._generate = counted
    stopwatch.wrap(trainer, "_generate", "generation")
    stopwatch.wrap(trainer, "_calculate_rewards", "scoring")
    stopwatch.wrap(
        trainer,
        "_get_per_token_logps_and_entropies",
        "passes",
        when=lambda: not torch.is_grad_enabled(),
    )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
