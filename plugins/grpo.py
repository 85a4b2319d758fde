"""Group relative policy optimization and its kin: grpo, dr_grpo, dapo, gspo and cispo.

    A_i = (S_i - mean S) / (std S + eps),   S_1 .. S_G: what the G responses to one prompt scored
    L   = -mean min(r_t A_i, clip(r_t, 1 - e, 1 + e_high) A_i) + kl_coef * mean KL_t
    r_t = p_new(token_t) / p_old(token_t),  KL_t estimates KL(policy || reference)

- grpo, Shao et al. 2024, arXiv:2402.03300: a mean over responses of means over tokens; KL is k3.
- dr_grpo, Liu et al. 2025, arXiv:2503.20783: no std; sums over tokens, divided by a constant.
- dapo, Yu et al. 2025, arXiv:2503.14476: e_high > e, a mean over tokens; groups whose scores are
  all equal are sampled again, and overlong responses may score less.
- gspo, Zheng et al. 2025, arXiv:2507.18071: r is (p_new / p_old)^(1 / length) of the response.
- cispo, MiniMax 2025, arXiv:2506.13585: -stop(clip(r_t)) A_i log p_new: no token is left out.

What differs from the papers: each rollout is learned from in one step unless told otherwise; where
a paper names no number, its page says where ours is from. `dialect` is grpo as others spell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor

Scale = Annotated[
    Literal["group", "batch", "leave_one_out", "none"],
    Field(description="whose standard deviation divides: of the group, of all, of the others"),
]
Aggregate = Annotated[
    Literal["token_mean", "sequence_mean", "sequence_sum_norm"],
    Field(description="mean over tokens, over responses' means, or of scaled sums"),
]
Kind = Annotated[
    Literal["clip", "cispo"], Field(description="the surrogate is clipped, or its weights are")
]
Level = Annotated[
    Literal["token", "sequence"], Field(description="whose ratio: each token's, or the response's")
]


class GroupConfig(az.AlgorithmConfig):
    """Options of every algorithm here."""

    group_size: options.Groups = 8
    scale: Scale = "group"
    ddof: Literal[0, 1] = Field(0, description="taken from the count in the standard deviation")
    eps: float = Field(0.0, ge=0, description="added to the standard deviation, in score units")
    kl_coef: options.KLCoef = 0.0
    kl_in: options.KLIn = "loss"
    kl_estimator: options.KLEstimator = "k3"
    kind: Kind = "clip"
    level: Level = "token"
    clip_range: options.ClipRange = 0.2
    clip_range_high: options.ClipRangeHigh = None
    dual_clip: float | None = Field(None, gt=1, description="bound on the ratio where A < 0")
    aggregate: Aggregate = "sequence_mean"
    max_response_length: int = Field(
        64, gt=0, description="the run's --max-new-tokens, which sequence_sum_norm divides by"
    )
    ent_coef: options.EntCoef = 0.0

    @model_validator(mode="after")
    def _clips_what_there_is(self) -> GroupConfig:
        if self.kind == "cispo" and self.dual_clip is not None:
            raise ValueError("dual_clip bounds the surrogate of kind 'clip'; leave it out of cispo")
        return self


class GRPOConfig(GroupConfig):
    """Options of `grpo`."""

    kl_coef: options.KLCoef = 0.04
    dialect: Literal["paper", "trl", "verl", "openrlhf"] = Field(
        "paper", description="whose defaults hold where an option is not given"
    )
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"ddof": 0, "eps": 0.0, "kl_coef": 0.04, "aggregate": "sequence_mean"},
        "trl": {"ddof": 1, "eps": 1e-4, "kl_coef": 0.0, "aggregate": "token_mean"},
        "verl": {"ddof": 1, "eps": 1e-6, "kl_coef": 1e-3, "aggregate": "token_mean"}
        | {"dual_clip": 3.0},
        "openrlhf": {"ddof": 1, "eps": 1e-9, "kl_coef": 0.01, "aggregate": "token_mean"},
    }


class DrGRPOConfig(GroupConfig):
    """Options of `dr_grpo`."""

    scale: Scale = "none"
    aggregate: Aggregate = "sequence_sum_norm"


class DAPOConfig(GroupConfig):
    """Options of `dapo`."""

    aggregate: Aggregate = "token_mean"
    clip_range_high: options.ClipRangeHigh = 0.28
    dynamic_sampling: bool = Field(
        True, description="groups whose scores are all equal are sampled again"
    )
    overlong_buffer: int | None = Field(
        None, gt=0, description="last tokens before max_response_length that cost score"
    )
    overlong_penalty: float = Field(1.0, gt=0, description="what a response of that length loses")
    overlong_filter: bool = Field(False, description="truncated responses teach nothing")

    @model_validator(mode="after")
    def _has_room_for_the_buffer(self) -> DAPOConfig:
        buffer, length = self.overlong_buffer, self.max_response_length
        if buffer is not None and buffer > length:
            raise ValueError(f"overlong_buffer {buffer} is more than max_response_length, {length}")
        return self


class GSPOConfig(GroupConfig):
    """Options of `gspo`."""

    level: Level = "sequence"
    clip_range: options.ClipRange = 3e-4
    clip_range_high: options.ClipRangeHigh = 4e-4


class CISPOConfig(GroupConfig):
    """Options of `cispo`."""

    aggregate: Aggregate = "token_mean"
    kind: Kind = "cispo"
    clip_range: options.ClipRange = 1.0
    clip_range_high: options.ClipRangeHigh = 4.0


class GRPO(az.Algorithm):
    """Policy gradient with advantages from the scores of a group."""

    Config: ClassVar[type[az.AlgorithmConfig]] = GRPOConfig

    @property
    def needs(self) -> az.Needs:
        return az.Needs(group_size=self.config.group_size, ref_log_probs=self.loss_kl_coef > 0)

    def prepare(self, batch: az.RolloutBatch) -> None:
        config, scores = self.config, self.group_scores(batch)
        spread = {"eps": config.eps, "ddof": config.ddof}
        if config.scale == "leave_one_out":
            advantages = compare_to_others(scores, batch.group_ids, **spread)
        else:
            mode = {"group": "grpo", "batch": "batch_std", "none": "dr_grpo"}[config.scale]
            advantages = kernels.group_advantages(scores, batch.group_ids, mode=mode, **spread)
        batch.advantages = advantages[:, None].expand(batch.response_mask.shape)

    def group_scores(self, batch: az.RolloutBatch) -> Tensor:
        """Returns S [B]: the score, less the KL penalty where that is in the reward."""
        return batch.rewards.sum(1)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        names = ("kind", "level", "clip_range", "clip_range_high", "dual_clip")
        averaging = {"aggregate": config.aggregate, "max_length": config.max_response_length}
        clipped = {name: getattr(config, name) for name in names}
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        regularisation = objectives.regularisation(
            batch, out, **coefs, kl_estimator=config.kl_estimator, **averaging
        )
        return objectives.policy(batch, out, **clipped, **averaging) + regularisation


class DrGRPO(GRPO):
    """GRPO without the division by a standard deviation or a response's length."""

    Config = DrGRPOConfig


class DAPO(GRPO):
    """GRPO with a higher upper clip, dynamic sampling and care for overlong responses."""

    Config = DAPOConfig

    def keep(self, batch: az.RolloutBatch) -> Tensor | None:
        """Drops groups whose scores are all equal: their advantages are 0."""
        if not self.config.dynamic_sampling:
            return None
        same_group = batch.group_ids[:, None] == batch.group_ids
        return (same_group & (batch.scores[:, None] != batch.scores)).any(1)

    def prepare(self, batch: az.RolloutBatch) -> None:
        super().prepare(batch)
        if self.config.overlong_filter:
            batch.advantages = batch.advantages * ~batch.truncated[:, None]

    def group_scores(self, batch: az.RolloutBatch) -> Tensor:
        """Returns S [B] with the soft overlong punishment, eq. 13 of the paper."""
        config, scores = self.config, super().group_scores(batch)
        if config.overlong_buffer is None:
            return scores
        start = config.max_response_length - config.overlong_buffer
        excess = (batch.response_lengths - start) / config.overlong_buffer
        return scores - config.overlong_penalty * excess.clamp(0, 1).to(scores.dtype)


class GSPO(GRPO):
    """GRPO with the ratio of whole responses."""

    Config = GSPOConfig


class CISPO(GRPO):
    """GRPO with clipped weights instead of a clipped surrogate."""

    Config = CISPOConfig


def compare_to_others(scores: Tensor, group_ids: Tensor, *, eps: float, ddof: int) -> Tensor:
    """Returns (s - mean) / (std + eps) of the group's others, [B].

    Where the others' scores are all equal, s - mean; alone in a group, 0.
    """
    import torch

    s = scores.double()
    others = (group_ids[:, None] == group_ids).fill_diagonal_(False)  # [B, B]
    count = others.sum(1)
    highest = torch.where(others, s, -torch.inf).amax(1)
    flat = ~(others & (s < highest[:, None])).any(1)
    mean = torch.where(flat, highest, (others * s).sum(1) / count.clamp(min=1))
    squares = torch.where(others, s - mean[:, None], 0.0).square().sum(1)
    std = (squares / (count - ddof).clamp(min=1)).sqrt()
    centred = torch.where(count > 0, s - mean, 0.0)
    return torch.where(flat, centred, centred / (std + eps)).to(scores.dtype)


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    where = "alignzoo.plugins.grpo:"
    found = [
        ("grpo", "GRPO", "group relative policy optimization", "2402.03300"),
        ("dr_grpo", "DrGRPO", "GRPO without its biases of length and difficulty", "2503.20783"),
        ("dapo", "DAPO", "GRPO with decoupled clips and dynamic sampling", "2503.14476"),
        ("gspo", "GSPO", "GRPO with the ratio of whole responses", "2507.18071"),
        ("cispo", "CISPO", "GRPO with clipped importance weights", "2506.13585"),
    ]
    return [
        az.AlgorithmSpec(id=id, target=where + name, summary=summary, paper="arXiv:" + paper)
        for id, name, summary, paper in found
    ]
