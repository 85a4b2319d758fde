"""Proximal Policy Optimization with a learned critic.

    L = -E[min(r_t A_t, clip(r_t, 1 - e, 1 + e_high) A_t)] + vf_coef * L_V - ent_coef * H,
    r_t = p_new(token_t) / p_old(token_t)

Schulman et al. 2017, arXiv:1707.06347, on tokens as in Ziegler et al. 2019, arXiv:1909.08593:
rewards are -kl_coef * (log p_old - log p_ref) per token plus the score at the last action, A_t are
generalised advantage estimates (arXiv:1506.02438), and kl_coef may follow a target KL.

What differs from the papers (`docs/algorithms/ppo.md` has the experiments): gamma = gae_lambda = 1
and advantages centred but not divided by their deviation; the value head has a rate of its own, by
the model's width, and its gradient stops at the trunk, so a poor critic cannot spoil the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import objectives, options


class PPOConfig(az.AlgorithmConfig):
    """Options of `ppo`."""

    num_epochs: options.NumEpochs = 2
    kl_coef: options.KLCoef = 0.025
    kl_target: float | None = Field(
        None, gt=0, description="KL in nats a response that kl_coef is steered to; default fixed"
    )
    kl_horizon: float = Field(
        1000.0, gt=0, description="responses over which kl_coef follows kl_target"
    )
    gamma: options.Gamma = 1.0
    gae_lambda: options.GAELambda = 1.0
    clip_range: options.ClipRange = 0.2
    clip_range_high: options.ClipRangeHigh = None
    clip_range_vf: options.ClipRangeVF = None
    whiten_advantages: options.Whiten = "center"
    aggregate: options.Aggregate = "token_mean"
    vf_coef: options.VfCoef = 0.5
    value_learning_rate: options.ValueLearningRate = "auto"
    detach_values: options.DetachValues = True
    ent_coef: options.EntCoef = 0.0
    target_kl: options.TargetKL = None
    bootstrap_truncated: options.BootstrapTruncated = False
    group_size: options.GroupSize = 1

    @model_validator(mode="after")
    def _has_a_penalty_to_steer(self) -> PPOConfig:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target steers kl_coef, which must start above 0")
        return self


class PPO(az.Algorithm):
    """Clipped policy gradient with generalised advantage estimation."""

    Config = PPOConfig
    saved = ("adaptive_kl_coef",)

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        self.adaptive_kl_coef = config.kl_coef
        self.num_responses = 0

    @property
    def needs(self) -> az.Needs:
        return az.Needs(
            values=True,
            detach_values=self.config.detach_values,
            ref_log_probs=self.loss_kl_coef > 0,
            bootstrap_values=self.config.bootstrap_truncated,
            group_size=self.config.group_size,
        )

    @property
    def kl_coef(self) -> float:
        return self.adaptive_kl_coef if self.config.kl_in != "none" else 0.0

    def parameter_groups(self, policy: az.Policy, extra: Any) -> list[dict[str, Any]]:
        return policy.parameter_groups(value_learning_rate=self.config.value_learning_rate)

    def prepare(self, batch: az.RolloutBatch) -> None:
        config, mask = self.config, batch.response_mask
        advantages, batch.returns = objectives.gae(
            batch,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            bootstrap_truncated=config.bootstrap_truncated,
        )
        batch.advantages = objectives.whiten(advantages, mask, config.whiten_advantages)
        self.num_responses = len(batch)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config = self.config
        policy = objectives.policy(
            batch,
            out,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            aggregate=config.aggregate,
        )
        value = objectives.value(batch, out, clip_range=config.clip_range_vf)
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + config.vf_coef * value + objectives.regularisation(batch, out, **coefs)

    def update(self, batch: az.RolloutBatch, learner: az.Learner) -> az.Metrics:
        config, metrics = self.config, az.Metrics(objectives.explained_variance(batch))
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.num_epochs):
            gradient = learner.gradient(minibatch, self.loss)
            if config.target_kl is not None and gradient.approx_kl > 1.5 * config.target_kl:
                break
            result = learner.apply(gradient)
            metrics.merge(result.metrics)
            if result.stop:
                break
        return metrics

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Steers kl_coef to kl_target: the proportional controller of arXiv:1909.08593, 2.2."""
        config = self.config
        if config.kl_target is None or "kl" not in metrics:
            return
        error = min(0.2, max(-0.2, metrics["kl"] / config.kl_target - 1.0))
        self.adaptive_kl_coef *= 1.0 + error * min(1.0, self.num_responses / config.kl_horizon)


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="ppo",
            target="alignzoo.plugins.ppo:PPO",
            summary="proximal policy optimization with a learned critic",
            paper="arXiv:1707.06347",
            revision=2,
        )
    ]
