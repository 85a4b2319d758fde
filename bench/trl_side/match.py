"""What TRL is told so that it does what our `grpo` and `rloo` do with given options.

Matched, option by option; what has no counterpart is refused rather than left out:

    alignzoo                           TRL 1.16
    group_size                         num_generations
    batch_size of the task             per_device_train_batch_size, one generation a batch
    num_epochs, minibatch_size none    num_iterations; one optimiser step on the whole batch each
    aggregate                          loss_type: token_mean is dapo, sequence_mean is grpo,
                                       sequence_sum_norm is dr_grpo
    scale, ddof 1, eps 1e-4            scale_rewards; its count and its 1e-4 are fixed
    clip_range, clip_range_high        epsilon, epsilon_high
    dual_clip                          delta
    kl_coef, kl_in, kl_estimator       beta: k3 in the loss of grpo (use_bias_correction_kl off: on,
                                       its default, k3 is times the ratio), k1 in the reward of rloo
    learning_rate, weight_decay        the same; AdamW, betas 0.9 and 0.999, eps 1e-8, on both sides
    schedule constant                  lr_scheduler_type constant, no warm-up
    max_grad_norm                      max_grad_norm
    temperature, max_new_tokens        temperature, max_completion_length; no top_k, top_p, min_p
    micro-batches by tokens            none: the whole batch in one pass

On both sides: float32; no dropout; an end token that was drawn is learned from, padding is not;
responses cut by the limit are learned from like others (mask_truncated_completions is off);
prompts in the same order, which is ours for that seed (shuffle_dataset is off); a response ends
with an end token of the generation config or the tokenizer; texts are decoded without special
tokens.

What cannot be made equal: the sampler (TRL draws by `transformers`' generate, with torch's
generator; a check puts our draws in its place), the order of rows within a batch (TRL shuffles
them, which changes rounding), and AdamW's kernel (fused, faster, there).

The rest is TRL's fastest on a CPU that we found: no gradient checkpointing (its default is on),
float32 (its default is bfloat16), fused AdamW, the whole batch in one pass, no logging or saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALGORITHMS = {"grpo": "trl_grpo", "rloo": "trl_rloo"}
CHECKED = "_our_draws"  # ends the name of TRL's algorithm where our sampler draws
LOSSES = {"token_mean": "dapo", "sequence_mean": "grpo", "sequence_sum_norm": "dr_grpo"}
REVISION = 1  # of the match; another one makes the rows anew

# Options that must have this value, since TRL has no counterpart of others.
FIXED: Mapping[str, Mapping[str, Any]] = {
    "both": {"schedule": "constant", "warmup_steps": 0, "ent_coef": 0.0},
    "grpo": {"kind": "clip", "level": "token", "kl_estimator": "k3"},
    "rloo": {"ratio": "response", "kl_level": "response", "aggregate": "sequence_sum"},
}
FASTEST: Mapping[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "steps_per_generation": 1,
    "gradient_accumulation_steps": 1,
    "optim": "adamw_torch_fused",
    "logging_strategy": "no",
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


class NoMatchError(ValueError):
    """TRL cannot do what an option says."""


def our_options(kl_coef: float) -> dict[str, Any]:
    """Returns the options of ours that make it TRL's algorithm.

    Args:
        kl_coef: what the task, or TRL's own default, says; without a penalty TRL keeps no
            reference, and ours is told to keep none either.
    """
    return {"dialect": "trl", **({} if kl_coef else {"kl_in": "none"})}


def trl_options(algorithm: str, options: Any, settings: Any, seed: int) -> dict[str, Any]:
    """Returns the options of TRL's GRPOConfig or RLOOConfig, JSON-able.

    Args:
        algorithm: "grpo" or "rloo".
        options: its configuration, all options.
        settings: the trainer's, such as batch_size.
    Raises:
        NoMatchError: an option has no counterpart.
    """
    _check(algorithm, options, settings)
    shared = {
        "num_generations": options.group_size,
        "per_device_train_batch_size": settings.batch_size,
        "num_iterations": options.num_epochs,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "mask_truncated_completions": False,
        "disable_dropout": True,
        "shuffle_dataset": False,
        "beta": options.kl_coef if options.kl_in != "none" else 0.0,
        "epsilon": options.clip_range,
        "epsilon_high": options.clip_range_high,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": options.max_grad_norm,
        "seed": seed,
    }
    if algorithm == "rloo":
        own = {"normalize_advantages": False, "reward_clip_range": None}
    else:
        own = {
            "scale_rewards": options.scale,
            "loss_type": LOSSES[options.aggregate],
            "delta": options.dual_clip,
            "importance_sampling_level": "token",
            "use_bias_correction_kl": False,
        }
    return {**FASTEST, **shared, **own}


def _check(algorithm: str, options: Any, settings: Any) -> None:
    for name, value in {**FIXED["both"], **FIXED[algorithm]}.items():
        _expect(algorithm, name, getattr(options, name), value)
    if options.minibatch_size not in (None, settings.batch_size):
        _expect(algorithm, "minibatch_size", options.minibatch_size, None)
    if options.kl_coef and options.kl_in != "none":
        _expect(algorithm, "kl_in", options.kl_in, {"grpo": "loss", "rloo": "reward"}[algorithm])
    if algorithm == "grpo":
        if options.scale not in ("group", "batch", "none"):
            _expect(algorithm, "scale", options.scale, "group")
        if options.scale != "none":
            _expect(algorithm, "ddof", options.ddof, 1)
            _expect(algorithm, "eps", options.eps, 1e-4)
        if options.aggregate == "sequence_sum_norm":
            length = settings.max_new_tokens
            _expect(algorithm, "max_response_length", options.max_response_length, length)
    _expect("the task", "reward_scale", settings.reward_scale, "none")
    _expect("the task", "reward_clip", settings.reward_clip, None)


def _expect(whose: str, name: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise NoMatchError(f"{whose} has {name} {value!r}, and TRL knows {expected!r} alone")
