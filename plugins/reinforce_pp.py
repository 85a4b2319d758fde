"""REINFORCE++: a clipped policy gradient whose advantages are normalised over the whole batch.

    A_t  = S - kl_coef * sum_{i >= t} log(p_old / p_ref)(token_i),     S the response's score
    A'_t = (A_t - mean A) / std A,     over every token of the batch
    L    = -mean min(r_t A'_t, clip(r_t, 1 - e, 1 + e_high) A'_t)

Hu et al. 2025, arXiv:2501.03262. `variant` "baseline" is for several responses to a prompt: A_t is
S less the group's mean, and the KL penalty is k2 in the loss.

What differs from the paper: the mean of the loss is over tokens, as in its authors' OpenRLHF, not
over responses' means; `aggregate` is an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import kernels, objectives, options


class ReinforcePPConfig(az.AlgorithmConfig):
    """Options of `reinforce_pp`."""

    variant: Literal["plain", "baseline"] = Field(
        "plain", description="baseline: less the group's mean; group_size 8, kl_in loss by default"
    )
    group_size: options.GroupSize = 1
    kl_coef: options.KLCoef = 0.01
    kl_estimator: options.KLEstimator = "k2"
    gamma: options.Gamma = 1.0
    clip_range: options.ClipRange = 0.2
    clip_range_high: options.ClipRangeHigh = None
    aggregate: options.Aggregate = "token_mean"
    ent_coef: options.EntCoef = 0.0

    @model_validator(mode="before")
    @classmethod
    def _with_the_variants_defaults(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("variant") == "baseline":
            return {"group_size": 8, "kl_in": "loss", **given}
        return given

    @model_validator(mode="after")
    def _has_what_the_baseline_needs(self) -> ReinforcePPConfig:
        if self.variant == "baseline" and self.group_size < 2:
            raise ValueError(
                f"group_size is {self.group_size}; the mean of variant 'baseline' needs 2 or more"
            )
        if self.variant == "baseline" and self.gamma != 1:
            raise ValueError(
                f"gamma is {self.gamma}; variant 'baseline' compares whole responses: leave it at 1"
            )
        return self


class ReinforcePP(az.Algorithm):
    """REINFORCE with PPO's clip and the batch for a critic."""

    Config = ReinforcePPConfig
    # Returns 1, 2 and 3, whose deviation is sqrt(2/3). Ratios 1.3, 1 and 1.5, the last clipped to
    # 1.2: the loss is -(-1.3 + 0 + 1.2) * 1.224745 / 3.
    examples = (
        {
            "rewards": [[-1, 2], [3, 0]],
            "lengths": [2, 1],
            "returns": [[1, 2], [3, 0]],
            "advantages": [[-1.224745, 0], [1.224745, 0]],
            "old_log_probs": [[-1, -2], [-3, 0]],
            "log_probs": [[-0.737636, -2], [-2.594535, 0]],
            "loss": 0.0408248,
            "gradient": [[0.530723, 0], [0, 0]],
        },
    )

    @property
    def needs(self) -> az.Needs:
        return az.Needs(group_size=self.config.group_size, ref_log_probs=self.loss_kl_coef > 0)

    def prepare(self, batch: az.RolloutBatch) -> None:
        mask = batch.response_mask
        if self.config.variant == "baseline":
            scores = batch.rewards.sum(1)
            centred = kernels.group_advantages(scores, batch.group_ids, mode="dr_grpo")
            returns = centred[:, None] * mask
        else:
            gamma = self.config.gamma
            returns = kernels.discounted_returns(batch.rewards, gamma=gamma, mask=mask)
        batch.returns = returns
        batch.advantages, _ = kernels.masked_whiten(returns, mask, ddof=0)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        policy = objectives.policy(
            batch,
            out,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            aggregate=config.aggregate,
        )
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + objectives.regularisation(
            batch, out, **coefs, kl_estimator=config.kl_estimator, aggregate=config.aggregate
        )


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="reinforce_pp",
            target="alignzoo.plugins.reinforce_pp:ReinforcePP",
            summary="REINFORCE with advantages normalised over the batch and PPO's clip",
            paper="arXiv:2501.03262",
        )
    ]
