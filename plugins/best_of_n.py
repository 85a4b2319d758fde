"""Best of n, or rejection sampling fine-tuning: imitate the best responses of each group.

    loss = -1/N sum_i sum_t log p(token_{i,t}),   i over the num_best of each group's n responses

over the N tokens of those responses: RAFT, Dong et al. 2023, arXiv:2304.06767, algorithm 1. With
`kl_coef` and `kl_in=reward` the best are those of highest score minus kl_coef * log(p / p_ref).
Equal ones rank as they were sampled.

What differs from the paper: a rollout is learned from as soon as it is ranked, `num_epochs` times,
where RAFT collects a large set for each stage. Prompts are not compared with each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import objectives, options

if TYPE_CHECKING:
    from alignzoo.algorithm import Learner


class BestOfNConfig(az.AlgorithmConfig):
    """Options of `best_of_n`."""

    kl_coef: options.KLCoef = 0.01
    group_size: options.Groups = 8
    num_best: int = Field(1, gt=0, description="responses of each group that are imitated")
    aggregate: options.Aggregate = "token_mean"
    ent_coef: options.EntCoef = 0.0

    @model_validator(mode="after")
    def _leaves_some_out(self) -> BestOfNConfig:
        if self.num_best >= self.group_size:
            raise ValueError(
                f"num_best is {self.num_best} of groups of group_size {self.group_size}; "
                "imitate fewer than were sampled"
            )
        return self


class BestOfN(az.Algorithm):
    """Maximum likelihood of each group's best responses."""

    Config = BestOfNConfig
    examples = (
        {"options": {"group_size": 2}, "scores": [0.1, 0.9, 3, 1], "weights": [0, 1, 1, 0]},
    )

    @property
    def needs(self) -> az.Needs:
        config = self.config
        return az.Needs(group_size=config.group_size, ref_log_probs=config.kl_in == "loss")

    def prepare(self, batch: az.RolloutBatch) -> None:
        """Writes weight 1 for responses that fewer than num_best of their group go before."""
        totals, rows = batch.rewards.sum(1), batch.rows
        is_rival = batch.group_ids[:, None] == batch.group_ids[None]
        is_equal = totals[:, None] == totals[None]
        is_better = (totals[None] > totals[:, None]) | (is_equal & (rows[None] < rows[:, None]))
        num_better = (is_rival & is_better).sum(1)  # [B]
        batch.weights = num_better < self.config.num_best

    def update(self, batch: az.RolloutBatch, learner: Learner) -> az.Metrics:
        winners = batch.select(batch.weights > 0)
        metrics = az.Metrics({"best_score_mean": (winners.scores.sum(), len(winners))})
        return metrics.merge(super().update(winners, learner))

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        likelihood = -objectives.mean(batch, out.log_probs, config.aggregate)
        mask = batch.response_mask
        metrics = {"loss": (-(out.log_probs.detach() * mask).sum(), mask.sum())}
        return az.Loss(likelihood, metrics) + objectives.regularisation(
            batch, out, ent_coef=config.ent_coef, kl_coef=self.loss_kl_coef
        )


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="best_of_n",
            target="alignzoo.plugins.best_of_n:BestOfN",
            summary="rejection sampling: imitate the best of each group of responses",
            paper="arXiv:2304.06767",
        )
    ]
