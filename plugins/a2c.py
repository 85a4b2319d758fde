"""Advantage actor-critic (A2C): the policy gradient with a learned critic's advantages.

    L = -mean(A_t log p(token_t)) + vf_coef * 1/2 mean (V_t - R_t)^2 - ent_coef * mean entropy
    n_step:  R_t = sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n},   A_t = R_t - V_t
    gae:     A_t = d_t + gamma * gae_lambda * A_{t+1},  d_t = r_t + gamma V_{t+1} - V_t,  R = A + V

Mnih et al. 2016, arXiv:1602.01783, section 4 and algorithm S3, by one synchronous learner; GAE is
Schulman et al. 2016, arXiv:1506.02438. There is no ratio to the policy that sampled, so a rollout
is passed over once.

What differs from the paper: every token looks n_step ahead, where the paper cuts an episode into
segments of t_max and looks as far as the segment's end; AdamW in place of RMSProp; the value head
has a rate of its own and its gradient stops at the trunk; n_step None looks to the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor


class A2CConfig(az.AlgorithmConfig):
    """Options of `a2c`."""

    num_epochs: int = Field(1, ge=1, le=1, description="one: without a ratio there is no second")
    kl_coef: options.KLCoef = 0.025
    gamma: options.Gamma = 1.0
    advantages: Literal["n_step", "gae"] = Field(
        "n_step", description="how the critic is used: after n_step tokens, or mixed by gae_lambda"
    )
    n_step: int | None = Field(
        None, gt=0, description="tokens before the critic takes over; default to the end"
    )
    gae_lambda: options.GAELambda = 0.95
    whiten_advantages: options.Whiten = "center"
    aggregate: options.Aggregate = "token_mean"
    vf_coef: options.VfCoef = 0.5
    value_learning_rate: options.ValueLearningRate = 1e-3
    detach_values: options.DetachValues = True
    ent_coef: options.EntCoef = 0.0
    bootstrap_truncated: options.BootstrapTruncated = False
    group_size: options.GroupSize = 1


class A2C(az.Algorithm):
    """Policy gradient with n-step or generalised advantages."""

    Config = A2CConfig
    # R = 0 + 0.25 * 0.4, 0.5 * 1 and 1; A = R - V; the loss 0.5 / 3 + 0.5 * 0.45 / 6.
    examples = (
        {
            "options": {"gamma": 0.5, "n_step": 2, "vf_coef": 0.5, "whiten_advantages": "none"},
            "rewards": [[0, 0, 1]],
            "values": [[0.5, 0.2, 0.4]],
            "returns": [[0.1, 0.5, 1]],
            "advantages": [[-0.4, 0.3, 0.6]],
            "log_probs": [[-1, -2, -0.5]],
            "new_values": [[0.6, 0.1, 0.8]],
            "loss": 0.2041667,
            "gradient": [[0.4 / 3, -0.1, -0.2]],
            "value_gradient": [[0.25 / 3, -0.2 / 3, -0.1 / 3]],
        },
    )

    @property
    def needs(self) -> az.Needs:
        return az.Needs(
            values=True,
            detach_values=self.config.detach_values,
            ref_log_probs=self.loss_kl_coef > 0,
            bootstrap_values=self.config.bootstrap_truncated,
            group_size=self.config.group_size,
        )

    def parameter_groups(self, policy: az.Policy, extra: Any) -> list[dict[str, Any]]:
        return policy.parameter_groups(value_learning_rate=self.config.value_learning_rate)

    def prepare(self, batch: az.RolloutBatch) -> None:
        config, mask = self.config, batch.response_mask
        if config.advantages == "n_step" and config.n_step is not None:
            batch.returns = self._n_step_returns(batch)
            advantages = batch.returns - batch.values
        else:  # to the end is lambda 1
            advantages, batch.returns = objectives.gae(
                batch,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda if config.advantages == "gae" else 1.0,
                bootstrap_truncated=config.bootstrap_truncated,
            )
        batch.advantages = objectives.whiten(advantages, mask, config.whiten_advantages)

    def _n_step_returns(self, batch: az.RolloutBatch) -> Tensor:
        """Returns R_t, [B, T]: `n_step` tokens of rewards, then V of what follows.

        Unmasked tokens are moved to the right end in their order, so that none is counted that the
        policy did not choose, and a row's end is the end of its response.
        """
        order = batch.response_mask.int().argsort(dim=1, stable=True)
        rewards, values = batch.rewards.gather(1, order), batch.values.gather(1, order)
        next_values = values.roll(-1, dims=1)
        cut = self.config.bootstrap_truncated
        next_values[:, -1] = batch.bootstrap_values * batch.truncated if cut else 0.0
        targets = kernels.td_targets(
            rewards, next_values, gamma=self.config.gamma, n_step=self.config.n_step
        )
        return targets.new_zeros(targets.shape).scatter(1, order, targets)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        policy = objectives.policy_gradient(batch, out, aggregate=config.aggregate)
        value = objectives.value(batch, out)
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + config.vf_coef * value + objectives.regularisation(batch, out, **coefs)

    def update(self, batch: az.RolloutBatch, learner: az.Learner) -> az.Metrics:
        metrics = az.Metrics(objectives.explained_variance(batch))
        return metrics.merge(super().update(batch, learner))


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="a2c",
            target="alignzoo.plugins.a2c:A2C",
            summary="advantage actor-critic with n-step or generalised advantages",
            paper="arXiv:1602.01783",
        )
    ]
