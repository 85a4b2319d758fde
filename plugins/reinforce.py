"""REINFORCE: raise the log-probability of a response in proportion to what it returned.

    gradient = E[ sum_t (G_t - b) * grad log p(token_t) ],   G_t = sum of rewards from t on

Williams 1992 (doi:10.1007/BF00992696). The baseline b changes nothing in expectation where it does
not depend on the response; the `batch` mean does, and takes 1/B of the gradient of B responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor


class ReinforceConfig(az.AlgorithmConfig):
    """Options of `reinforce`."""

    kl_coef: options.KLCoef = 0.02
    gamma: options.Gamma = 1.0
    baseline: Literal["none", "moving", "batch", "leave_one_out"] = Field(
        "moving", description="what is taken from the returns"
    )
    baseline_decay: float = Field(0.9, ge=0, lt=1, description="share a moving baseline keeps")
    aggregate: options.Aggregate = "token_mean"
    ent_coef: options.EntCoef = 0.0
    group_size: options.GroupSize = 1


class Reinforce(az.Algorithm):
    """Monte Carlo policy gradient."""

    Config = ReinforceConfig
    saved = ("moving_mean",)
    moving_mean: float | None = None

    @property
    def needs(self) -> az.Needs:
        return az.Needs(group_size=self.config.group_size, ref_log_probs=self.loss_kl_coef > 0)

    def prepare(self, batch: az.RolloutBatch) -> None:
        mask = batch.response_mask
        returns = kernels.discounted_returns(batch.rewards, gamma=self.config.gamma, mask=mask)
        batch.returns, batch.advantages = returns, returns - self.baseline(batch, returns)

    def baseline(self, batch: az.RolloutBatch, returns: Tensor) -> Tensor | float:
        """Returns b: a number, or of each row (its group's others; at group size 1 the batch's)."""
        config, mean = self.config, float(returns.sum() / batch.num_tokens)
        if config.baseline == "leave_one_out":
            whole = batch.rewards.sum(1)
            peers = batch.group_ids if config.group_size > 1 else batch.group_ids * 0
            return (whole - kernels.group_advantages(whole, peers, mode="rloo"))[:, None]
        if config.baseline == "moving":
            past = mean if self.moving_mean is None else self.moving_mean
            self.moving_mean = config.baseline_decay * past + (1 - config.baseline_decay) * mean
            return past
        return mean if config.baseline == "batch" else 0.0

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        policy = objectives.policy_gradient(batch, out, aggregate=self.config.aggregate)
        coefs = {"ent_coef": self.config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + objectives.regularisation(batch, out, **coefs)


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="reinforce",
            target="alignzoo.plugins.reinforce:Reinforce",
            summary="Monte Carlo policy gradient with a choice of baselines",
            paper="doi:10.1007/BF00992696",
        )
    ]
