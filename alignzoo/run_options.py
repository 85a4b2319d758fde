"""The options of a run, apart from the algorithm's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignzoo.config import Config


class TrainerOptions(Config):
    """What the trainer's loop can be told."""

    batch_size: int = Field(64, gt=0, description="responses per update; a preference is two")
    max_new_tokens: int = Field(64, gt=0, description="longest response, in tokens")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature; every log-prob is taken at it"
    )
    seed: int = Field(0, ge=0, description="all randomness of the run comes from it")
    eval_every: int = Field(10, gt=0, description="updates between held-out evaluations")
    eval_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the prompts or data held out where no evaluation file is given",
    )
    max_eval_rows: int = Field(128, gt=0, description="most rows one evaluation looks at")
    max_length: int | None = Field(
        None, gt=1, description="longest row of --data in tokens; default the model's context"
    )
    old_log_probs: Literal["auto", "sampler", "recompute"] = Field(
        "auto",
        description="where old log-probs come from: the sampler, or one pass of the training "
        "forward; auto is sampler in float32, else recompute",
    )
    micro_batch_size: int | None = Field(
        None, gt=0, description="sequences per forward pass; default by tokens"
    )
    reward_scale: Literal["none", "batch", "running"] = Field(
        "none",
        description="scores are learned from as they are, or less their mean and divided by their "
        "standard deviation, of the round or of the run so far",
    )
    reward_clip: float | None = Field(
        None, gt=0, description="scores are limited to [-reward_clip, reward_clip], once scaled"
    )
    max_refills: int = Field(
        3, ge=0, description="times an update samples again for rows an algorithm dropped"
    )
    max_skipped: int = Field(5, ge=0, description="skipped updates in a row before the run fails")
    checkpoint_every: int = Field(10, gt=0, description="updates between checkpoints")
    keep_checkpoints: int = Field(2, gt=0, description="checkpoints kept")


class RunOptions(TrainerOptions):
    """What `alignzoo train` can be told, apart from the algorithm's options."""

    policy: str = Field(..., description="model folder, hub id, or 'tiny'")
    steering: bool = Field(
        True, description="false trains the model below the critic that lies beside it"
    )
    out: str = Field(..., description="folder of the run; must not hold another")
    prompts: str | None = Field(None, description="file or hub id with a 'prompt' column")
    data: str | None = Field(
        None, description="file or hub id with demonstrations, preferences or ratings"
    )
    reward: list[str] = Field(
        default_factory=list,
        description="id, id:{json options}, file.py:function or folder; several are summed",
    )
    steps: int = Field(100, gt=0, description="updates")
    eval_prompts: str | None = Field(None, description="held-out prompts")
    eval_data: str | None = Field(None, description="held-out rows of the kind of --data")
    threads: int | None = Field(None, gt=0, description="CPU threads; default torch's own choice")
    device: str = Field("cpu", description="where the policy lives: cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the policy's weights"
    )
    autocast: bool = Field(
        False, description="take matrix products in bfloat16, over float32 weights"
    )
    decoding: Literal["auto", "eager", "static", "graph"] = Field(
        "auto",
        description="how a token is sampled: kernel by kernel, the same at fixed shapes, or by "
        "CUDA graphs; auto is graph on a CUDA device for 32 tokens or more, else eager",
    )
    lora_rank: int = Field(0, ge=0, description="train LoRA adapters of this rank; 0 trains all")
    lora_alpha: float | None = Field(None, gt=0, description="LoRA scale; default 2 * lora_rank")
    lora_targets: str = Field(
        "all-linear", description="module names with commas between, or all-linear"
    )


class TrainRewardOptions(Config):
    """What `alignzoo train-reward` can be told, apart from the reward's options."""

    data: str = Field(..., description="file or hub id with human judgements")
    out: str = Field(..., description="folder of the reward; must not hold another")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description='what the file calls our columns, as JSON: {"completion": "text"}',
    )
    seed: int = Field(0, ge=0, description="all randomness of the fit and its report")
    eval_data: str | None = Field(None, description="held-out rows of the kind of --data")
    eval_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the prompts held out where no --eval-data is given"
    )
    threads: int | None = Field(None, gt=0, description="CPU threads; default torch's own choice")
    overoptimise: bool = Field(
        False,
        description="add the curve of true against proxy score under best-of-n to the report; "
        "needs --true-reward and --sampler",
    )
    true_reward: list[str] = Field(
        default_factory=list,
        description="what the proxy stands for, written as --reward of `alignzoo train`",
    )
    sampler: str | None = Field(
        None, description="policy whose responses the curve is drawn from; default the --policy"
    )
    prompts: str | None = Field(
        None, description="prompts of the curve; default those held out of --data"
    )
    best_of: int = Field(64, ge=2, description="largest n of the curve")
    max_new_tokens: int = Field(64, gt=0, description="longest response of the curve, in tokens")
