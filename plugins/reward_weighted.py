"""Reward-weighted regression: imitate every response as much as it is worth.

    loss = -1/N sum_i w_i sum_t log p(token_{i,t}),   w_i = B exp(A_i / T) / sum_j exp(A_j / T)

over N tokens of B responses, T the advantage_temperature: Peters & Schaal 2007
(doi:10.1145/1273496.1273590), whose weights are normalised over the batch; with a baseline in A it
is advantage-weighted regression, Peng et al. 2019, arXiv:1910.00177. On data of a distribution mu
the loss has its least value at mu(y) exp(A(y) / T) / Z.

A is what a response was paid in all: the score (minus kl_coef * log(p / p_ref) with
`kl_in=reward`), less its group's mean where groups are compared, over the batch's deviation where
it is standardised. What differs from the papers: a response is one action, so there is no critic;
AWR's bound of weights at 20 is the option max_weight, off by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor


class RewardWeightedConfig(az.AlgorithmConfig):
    """Options of `reward_weighted`."""

    source: Literal["rollouts", "ratings"] = Field(
        "rollouts", description="sampled and scored responses, or responses with ratings"
    )
    advantage_temperature: float = Field(
        0.5, gt=0, description="small imitates the best alone, large all alike"
    )
    standardise: bool = Field(True, description="advantages are in deviations of the batch")
    max_weight: float | None = Field(
        None, gt=1, description="bound of a weight, whose mean is 1; default none"
    )
    group_size: options.GroupSize = 1
    ent_coef: options.EntCoef = 0.0

    @model_validator(mode="after")
    def _fits_its_source(self) -> RewardWeightedConfig:
        if self.source == "ratings" and self.group_size > 1:
            raise ValueError(
                f"source 'ratings' has no groups, and group_size is {self.group_size}; leave it 1"
            )
        if self.source == "ratings" and self.kl_coef > 0 and self.kl_in == "reward":
            raise ValueError("source 'ratings' has no KL penalty in its rewards; use kl_in 'loss'")
        return self


class RewardWeighted(az.Algorithm):
    """Maximum likelihood weighted by the exponential of the advantage."""

    Config = RewardWeightedConfig
    # e^0, e^(log 3) and e^(log 2) are 1, 3 and 2 of 6, times 3; the loss is (0.5 + 3 + 3) / 3.
    examples = (
        {
            "options": {"advantage_temperature": 1.0, "standardise": False},
            "rewards": [[0], [1.098612], [0.693147]],
            "weights": [0.5, 1.5, 1],
            "log_probs": [[-1], [-2], [-3]],
            "loss": 6.5 / 3,
            "gradient": [[-0.5 / 3], [-0.5], [-1 / 3]],
        },
    )

    @property
    def needs(self) -> az.Needs:
        config = self.config
        return az.Needs(
            source=config.source,
            group_size=config.group_size,
            ref_log_probs=config.kl_in == "loss",
        )

    def advantages(self, batch: az.RolloutBatch) -> Tensor:
        """Returns A / T, [B]; a constant added to all of them changes no weight."""
        config = self.config
        totals = (batch.rewards.sum(1) if config.source == "rollouts" else batch.scores).double()
        if config.group_size > 1:
            totals = kernels.group_advantages(totals, batch.group_ids, mode="dr_grpo")
        if config.standardise:
            totals = totals / totals.std(correction=0).clamp(min=1e-6)
        return totals / config.advantage_temperature

    def prepare(self, batch: az.RolloutBatch) -> None:
        weights = self.advantages(batch).softmax(0) * len(batch)
        limit = self.config.max_weight
        batch.weights = weights if limit is None else weights.clamp(max=limit)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        mask = batch.response_mask
        weighted = -(batch.weights[:, None] * out.log_probs * mask).sum()
        metrics = {
            "loss": (weighted.detach(), mask.sum()),
            "weight_max": az.Max(batch.weights.max()),
        }
        return az.Loss(weighted / batch.num_tokens, metrics) + objectives.regularisation(
            batch, out, ent_coef=self.config.ent_coef, kl_coef=self.loss_kl_coef
        )


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="reward_weighted",
            target="alignzoo.plugins.reward_weighted:RewardWeighted",
            summary="regression on responses weighted by the exponential of their advantage",
            paper="arXiv:1910.00177",
        )
    ]
