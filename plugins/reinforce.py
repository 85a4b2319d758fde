"""REINFORCE: raise the log-probability of a response in proportion to what it returned.

    gradient = E[ sum_t (G_t - b) * grad log p(token_t) ],   G_t = sum of rewards from t on

Williams 1992 (doi:10.1007/BF00992696). The baseline b does not change the expectation where it
does not depend on the response: `moving` is an average over past updates, `batch` the mean of this
one. The batch mean holds the response's own return: with one score at the end and B responses of
one length the expected gradient is (B-1)/B of the exact one. `aggregate` says what the sum is
divided by; `token_mean` keeps the gradient's direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import kernels

if TYPE_CHECKING:
    from alignzoo import PolicyOutput, RolloutBatch


class ReinforceConfig(az.AlgorithmConfig):
    """Options of `reinforce`."""

    kl_coef: float = Field(0.02, ge=0, description="weight of the KL penalty to the reference")
    gamma: float = Field(1.0, ge=0, le=1, description="discount per token")
    baseline: Literal["none", "moving", "batch"] = Field(
        "moving", description="what is taken from the returns"
    )
    baseline_decay: float = Field(
        0.9, ge=0, lt=1, description="share of the old value the moving baseline keeps"
    )
    aggregate: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean", description="every token weighs the same, or every response does"
    )
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    group_size: int = Field(1, gt=0, description="responses per prompt")


class Reinforce(az.Algorithm):
    """Monte Carlo policy gradient."""

    Config = ReinforceConfig

    def __init__(self, config: ReinforceConfig) -> None:
        super().__init__(config)
        self.moving_mean: float | None = None

    @property
    def needs(self) -> az.Needs:
        return az.Needs(
            group_size=self.config.group_size, ref_log_probs=self.config.kl_in == "loss"
        )

    def prepare(self, batch: RolloutBatch) -> None:
        mask = batch.response_mask
        returns = kernels.discounted_returns(batch.rewards, gamma=self.config.gamma, mask=mask)
        mean = float(returns.sum() / mask.sum())
        baseline = 0.0
        if self.config.baseline == "batch":
            baseline = mean
        elif self.config.baseline == "moving":
            baseline = self._moving(mean)
        batch.returns = returns
        batch.advantages = returns - baseline

    def _moving(self, mean: float) -> float:
        """Returns the average of past updates (this one's mean at the first) and takes this in."""
        past = mean if self.moving_mean is None else self.moving_mean
        decay = self.config.baseline_decay
        self.moving_mean = decay * past + (1 - decay) * mean
        return past

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> az.Loss:
        config, mask = self.config, batch.response_mask
        surrogate = (batch.advantages * out.log_probs).sum(1)  # [B]
        if config.aggregate == "token_mean":
            whole, count = batch.num_tokens, mask.sum()
        else:
            surrogate = surrogate / mask.sum(1).clamp(min=1)
            whole, count = batch.num_sequences, len(batch)
        policy_loss = -surrogate.sum() / whole
        value = policy_loss
        if config.ent_coef:
            value = value - config.ent_coef * out.entropy.sum() / batch.num_tokens
        if config.kl_in == "loss" and config.kl_coef:
            kl = kernels.kl_penalty(out.log_probs, batch.ref_log_probs, estimator="k2")
            value = value + config.kl_coef * kl[mask].sum() / batch.num_tokens
        return az.Loss(
            value,
            {
                "policy_loss": (policy_loss.detach() * whole, count),
                "entropy": (out.entropy.detach().sum(), mask.sum()),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        return {"moving_mean": self.moving_mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moving_mean = state["moving_mean"]


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="reinforce",
            target="alignzoo.plugins.reinforce:Reinforce",
            summary="Monte Carlo policy gradient with no, a moving or a batch baseline",
            paper="doi:10.1007/BF00992696",
        )
    ]
