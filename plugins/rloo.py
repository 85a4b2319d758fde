"""RLOO: REINFORCE with a leave-one-out baseline.

    gradient = E[ mean_i A_i grad log p(response_i) ],   A_i = S_i - mean of the other responses' S
    S = score - kl_coef * log(p_old(response) / p_ref(response))

Ahmadian et al. 2024, arXiv:2402.14740. The baseline does not depend on the response, so this is the
gradient of E[score] - kl_coef * KL(policy || reference), without bias. `dialect` speaks of rloo as
other frameworks do: with a clipped ratio, of each token or of the whole response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor


class RLOOConfig(az.AlgorithmConfig):
    """Options of `rloo`."""

    dialect: Literal["paper", "trl", "verl", "openrlhf"] = Field(
        "paper", description="whose defaults hold where an option is not given"
    )
    group_size: options.Groups = 4
    kl_coef: options.KLCoef = 0.03
    kl_level: Literal["response", "token"] = Field(
        "response",
        description="a KL penalty in the reward is compared within the group as a part of the "
        "score, or each token's penalties to come join the advantage",
    )
    kl_estimator: options.KLEstimator = "k2"
    ratio: Literal["none", "token", "response"] = Field(
        "none", description="no ratio to the old policy, or a clipped one of token or response"
    )
    clip_range: options.ClipRange = 0.2
    clip_range_high: options.ClipRangeHigh = None
    dual_clip: float | None = Field(
        None, gt=1, description="bound on a token's ratio where the advantage is negative"
    )
    aggregate: Literal["sequence_sum", "sequence_mean", "token_mean"] = Field(
        "sequence_sum", description="mean over responses of their sums or means, or over tokens"
    )
    ent_coef: options.EntCoef = 0.0

    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"ratio": "none", "aggregate": "sequence_sum", "kl_coef": 0.03},
        "trl": {"ratio": "response", "aggregate": "sequence_sum", "kl_coef": 0.05},
        "verl": {"ratio": "token", "aggregate": "token_mean", "kl_coef": 1e-3, "dual_clip": 3.0},
        "openrlhf": {"ratio": "token", "aggregate": "token_mean", "kl_coef": 0.01}
        | {"kl_level": "token"},
    }

    @model_validator(mode="after")
    def _has_one_advantage_for_one_ratio(self) -> RLOOConfig:
        if self.ratio == "response" and self.kl_level == "token" and self.kl_in == "reward":
            raise ValueError("ratio 'response' takes one advantage a response: kl_level 'response'")
        if self.ratio == "response" and self.aggregate != "sequence_sum":
            raise ValueError("ratio 'response' has no tokens to average: aggregate 'sequence_sum'")
        if self.dual_clip is not None and self.ratio != "token":
            raise ValueError("dual_clip bounds the ratio of a token: ratio 'token'")
        return self


class RLOO(az.Algorithm):
    """Policy gradient against the mean of the other responses."""

    Config = RLOOConfig
    # S is -0.5 + 3.25 = 2.75 and 0, and each is the other's baseline; the gradient is -A / 2.
    examples = (
        {
            "options": {"group_size": 2},
            "lengths": [2, 1],
            "rewards": [[-0.5, 3.25], [0, 0]],
            "advantages": [[2.75, 2.75], [-2.75, 0]],
            "log_probs": [[-1, -2], [-3, 0]],
            "loss": 0,
            "gradient": [[-1.375, -1.375], [1.375, 0]],
        },
    )

    @property
    def needs(self) -> az.Needs:
        return az.Needs(group_size=self.config.group_size, ref_log_probs=self.loss_kl_coef > 0)

    @property
    def unbiased(self) -> bool:
        config = self.config
        return bool(config.aggregate == "sequence_sum" and config.ratio == "none")

    def prepare(self, batch: az.RolloutBatch) -> None:
        mask, by_token = batch.response_mask, self.config.kl_level == "token"
        scores = batch.scores if by_token else batch.rewards.sum(1)
        advantages = kernels.group_advantages(scores, batch.group_ids, mode="rloo")[:, None]
        if by_token:
            to_come = kernels.discounted_returns(batch.rewards, gamma=1.0, mask=mask)
            advantages = advantages + to_come - scores[:, None]
        batch.advantages = advantages.expand(mask.shape)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        if config.ratio == "none":
            policy = objectives.policy_gradient(batch, out, aggregate=config.aggregate)
        elif config.ratio == "token":
            policy = objectives.policy(
                batch,
                out,
                clip_range=config.clip_range,
                clip_range_high=config.clip_range_high,
                dual_clip=config.dual_clip,
                aggregate=config.aggregate,
            )
        else:
            policy = self.response_loss(batch, out)
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + objectives.regularisation(
            batch, out, **coefs, kl_estimator=config.kl_estimator, aggregate=config.aggregate
        )

    def response_loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        """Returns -mean_i min(r_i A_i, clip(r_i) A_i), r_i = p_new(response) / p_old(response)."""
        mask, whole = batch.response_mask, batch.num_sequences
        first = mask.int().argmax(1, keepdim=True)  # one advantage a response, at its first token

        def total(log_probs: Tensor) -> Tensor:
            return log_probs.where(mask, 0.0).sum(1, keepdim=True)

        loss, stats = kernels.policy_loss(
            total(out.log_probs),
            total(batch.old_log_probs),
            batch.advantages.gather(1, first),
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
            denominator=whole,
        )
        count = len(batch)
        metrics: dict[str, Any] = {"policy_loss": (loss.detach() * whole, count)}
        metrics |= {name: (stats[name] * count, count) for name in ("approx_kl", "clip_frac")}
        return az.Loss(loss, {**metrics, "ratio_max": az.Max(stats["ratio_max"])})


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="rloo",
            target="alignzoo.plugins.rloo:RLOO",
            summary="REINFORCE with a leave-one-out baseline",
            paper="arXiv:2402.14740",
        )
    ]
