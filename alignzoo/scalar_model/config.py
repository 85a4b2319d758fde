"""Options of training a language model with a scalar head."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignzoo import options
from alignzoo.config import RewardConfig


class ScalarConfig(RewardConfig):
    """Options of a reward that can train a language model with a scalar head."""

    policy: str | None = Field(
        None,
        description="language model to train: model folder, hub id or 'tiny'; none learns on "
        "classical features",
    )
    learning_rate: options.LearningRate = 1e-5
    head_learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of the scalar head; none is learning_rate"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, gt=0, description="gradients of model and head are each scaled down to this L2 norm"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="how the learning rate falls from the end of warm-up to the last step"
    )
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linear warm-up from 0")
    num_epochs: int = Field(1, gt=0, description="passes over the data")
    minibatch_size: int = Field(
        64, gt=0, description="responses per optimiser step; a pair or ranking is never cut"
    )
    micro_batch_size: int | None = Field(
        None, gt=0, description="responses per forward pass; default by tokens"
    )
    max_length: int | None = Field(
        None,
        gt=1,
        description="longest prompt and response in tokens; default the model's context. What is "
        "over goes from the beginning of the prompt, then from the end of the response",
    )
    device: str = Field("cpu", description="where the model lives: cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the model's weights; the head is float32"
    )
    lora_rank: int = Field(0, ge=0, description="train LoRA adapters of this rank; 0 trains all")
    lora_alpha: float | None = Field(None, gt=0, description="LoRA scale; default 2 * lora_rank")
    lora_targets: str = Field(
        "all-linear", description="module names with commas between, or all-linear"
    )
