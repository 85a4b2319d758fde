"""OPO: on-policy RL with optimal reward baseline.

    gradient = E[ mean_i A_i grad log p(response_i) ],   A_i = R_i - b
    b = sum_j l_j R_j / sum_j l_j      R = score - kl_coef * log(p(response) / p_reference)

The baseline that makes the gradient's variance least weighs each return R by the squared norm of
grad log p(response), which is about proportional to the response's length l in tokens. Hao et al.
2025, arXiv:2505.23585, equations for b* and its approximation by lengths.

In the paper j runs over the whole group, the judged response i included, and b depends on what it
is taken from: a bias that vanishes as the group grows. With `baseline` "others" j leaves i out, and
the gradient is that of E[R] at any group size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

import alignzoo as az
from alignzoo import objectives, options


class OpoConfig(az.AlgorithmConfig):
    """Options of `opo`, beside those that every algorithm has."""

    group_size: options.Groups = 8
    baseline: Literal["group", "others"] = Field(
        "group",
        description="whose returns it is made of: the whole group's, as in the paper, or those of "
        "the other responses, which makes the gradient exact",
    )


class Opo(az.Algorithm):
    """Raises the log-probability of responses that did better than the length-weighted mean."""

    Config = OpoConfig

    # Two responses to one prompt, worked by hand: of three tokens, worth 4, and of one, worth 0.
    examples = (
        {
            "options": {"group_size": 2},
            "group_ids": [0, 0],
            "lengths": [3, 1],
            "rewards": [[0, 0, 4], [0, 0, 0]],
            "advantages": [[1, 1, 1], [-3, 0, 0]],  # b = (3 * 4 + 1 * 0) / 4 = 3
            "log_probs": [[-1, -1, -1], [-2, 0, 0]],
            "loss": -1.5,  # minus the mean of 1 * -3 and -3 * -2
            "gradient": [[-0.5, -0.5, -0.5], [1.5, 0, 0]],  # -A / 2
        },
        {
            "options": {"group_size": 2, "baseline": "others"},
            "group_ids": [0, 0],
            "lengths": [3, 1],
            "rewards": [[0, 0, 4], [0, 0, 0]],
            "advantages": [[4, 4, 4], [-4, 0, 0]],  # b = 0 and b = 4
            "log_probs": [[-1, -1, -1], [-2, 0, 0]],
            "loss": 2,  # minus the mean of 4 * -3 and -4 * -2
            "gradient": [[-2, -2, -2], [2, 0, 0]],
        },
    )

    @property
    def unbiased(self) -> bool:
        """Whether the expected gradient is exact; `alignzoo check` then holds it to that."""
        return bool(self.config.baseline == "others")

    @property
    def needs(self) -> az.Needs:
        """What a batch must hold; columns that are not asked for here are withheld."""
        return az.Needs(
            group_size=self.config.group_size,
            ref_log_probs=self.loss_kl_coef > 0,
        )

    def prepare(self, batch: az.RolloutBatch) -> None:
        """Writes the advantages [B, T]: once per batch, before any step is taken."""
        returns = batch.rewards.sum(1)  # [B], the KL penalty already taken away
        lengths = batch.response_mask.sum(1)  # [B], tokens that the policy chose
        counts = batch.group_ids[:, None] == batch.group_ids  # [B, B], who counts for whom
        if self.config.baseline == "others":
            counts.fill_diagonal_(False)
        weights = (counts * lengths).to(returns.dtype)
        baselines = weights @ returns / weights.sum(1).clamp(min=1)  # of one alone it is 0
        batch.advantages = (returns - baselines)[:, None].expand_as(batch.rewards)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        """Returns -mean_i A_i log p(response_i), and the KL where `kl_in` is loss."""
        policy = objectives.policy_gradient(batch, out, aggregate="sequence_sum")
        return policy + objectives.regularisation(
            batch, out, kl_coef=self.loss_kl_coef, aggregate="sequence_sum"
        )


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    """Tells alignzoo what this module provides."""
    return [
        az.AlgorithmSpec(
            id="opo",
            target="alignzoo_opo:Opo",
            summary="On-policy policy gradient with a length-weighted baseline",
            paper="arXiv:2505.23585",
            revision=1,  # raise it when the same options may give other results
        )
    ]
