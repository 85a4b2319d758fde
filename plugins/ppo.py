"""Proximal Policy Optimization with a learned critic.

    L = -E[min(r_t A_t, clip(r_t, 1 - e, 1 + e_high) A_t)] + vf_coef * L_V - ent_coef * H,
    r_t = p_new(token_t) / p_old(token_t)

Schulman et al. 2017, arXiv:1707.06347, on tokens as in Ziegler et al. 2019, arXiv:1909.08593:
rewards are -kl_coef * (log p_old - log p_ref) per token plus the score at the last action, A_t are
generalised advantage estimates (arXiv:1506.02438), and kl_coef may follow a target KL.

What differs from the papers (`docs/algorithms/ppo.md` has the experiments): gamma = gae_lambda = 1
and advantages centred but not divided by their deviation; the value head has a rate of its own and
its gradient stops at the trunk, so a poor critic cannot spoil the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import kernels

if TYPE_CHECKING:
    from alignzoo import Metrics, Policy, PolicyOutput, RolloutBatch
    from alignzoo.algorithm import Learner


class PPOConfig(az.AlgorithmConfig):
    """Options of `ppo`."""

    num_epochs: int = Field(2, gt=0, description="passes over each rollout")
    kl_coef: float = Field(0.025, ge=0, description="weight of the KL penalty to the reference")
    kl_target: float | None = Field(
        None, gt=0, description="KL in nats a response that kl_coef is steered to; default fixed"
    )
    kl_horizon: float = Field(
        1000.0, gt=0, description="responses over which kl_coef follows kl_target"
    )
    gamma: float = Field(1.0, ge=0, le=1, description="discount per token")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="decay of GAE; 1 is Monte Carlo")
    clip_range: float = Field(0.2, gt=0, description="how far below 1 the ratio is followed")
    clip_range_high: float | None = Field(
        None, gt=0, description="how far above 1; default clip_range"
    )
    clip_range_vf: float | None = Field(
        None, gt=0, description="how far the value may move in one update; default unbounded"
    )
    whiten_advantages: Literal["none", "center", "full"] = Field(
        "center", description="over the batch: nothing, subtract the mean, or also divide"
    )
    aggregate: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean", description="every token weighs the same, or every response does"
    )
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    value_learning_rate: float | None = Field(
        1e-3, gt=0, description="peak learning rate of the value head; none is learning_rate"
    )
    detach_values: bool = Field(True, description="the value loss stops at the hidden states")
    ent_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    target_kl: float | None = Field(
        None, gt=0, description="an update ends before a step where approx_kl exceeds 1.5 times it"
    )
    bootstrap_truncated: bool = Field(
        False, description="responses cut by the limit go on in V instead of ending"
    )
    group_size: int = Field(1, gt=0, description="responses per prompt")

    @model_validator(mode="after")
    def _has_a_penalty_to_steer(self) -> PPOConfig:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target steers kl_coef, which must start above 0")
        return self


class PPO(az.Algorithm):
    """Clipped policy gradient with generalised advantage estimation."""

    Config = PPOConfig

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        self.adaptive_kl_coef = config.kl_coef
        self.num_responses = 0

    @property
    def needs(self) -> az.Needs:
        return az.Needs(
            values=True,
            detach_values=self.config.detach_values,
            ref_log_probs=self.config.kl_in == "loss",
            bootstrap_values=self.config.bootstrap_truncated,
            group_size=self.config.group_size,
        )

    @property
    def kl_coef(self) -> float:
        return self.adaptive_kl_coef if self.config.kl_in != "none" else 0.0

    def parameter_groups(self, policy: Policy, extra: Any) -> list[dict[str, Any]]:
        config = self.config
        value_rate = config.value_learning_rate or config.learning_rate
        return [
            {"params": list(policy.model.parameters()), "lr": config.learning_rate},
            {"params": list(policy.value_head.parameters()), "lr": value_rate},
        ]

    def prepare(self, batch: RolloutBatch) -> None:
        config, mask = self.config, batch.response_mask
        cut = config.bootstrap_truncated
        advantages, returns = kernels.gae(
            batch.rewards,
            batch.values,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            mask=mask,
            bootstrap=batch.bootstrap_values * batch.truncated if cut else None,
        )
        if config.whiten_advantages == "full":
            advantages, _ = kernels.masked_whiten(advantages, mask)
        elif config.whiten_advantages == "center":
            advantages = advantages - advantages[mask].mean()
        batch.advantages, batch.returns = advantages, returns
        self.num_responses = len(batch)

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> az.Loss:
        config, mask = self.config, batch.response_mask
        by_token = config.aggregate == "token_mean"
        policy_loss, stats = kernels.policy_loss(
            out.log_probs,
            batch.old_log_probs,
            batch.advantages,
            mask,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            aggregate=config.aggregate,
            denominator=batch.num_tokens if by_token else batch.num_sequences,
        )
        value_loss, _ = kernels.value_loss(
            out.values,
            batch.values,
            batch.returns,
            mask,
            clip_range=config.clip_range_vf,
            denominator=batch.num_tokens,
        )
        entropy = out.entropy.sum()
        value = policy_loss + config.vf_coef * value_loss
        if config.ent_coef:
            value = value - config.ent_coef * entropy / batch.num_tokens
        if config.kl_in == "loss" and self.kl_coef:
            kl = kernels.kl_penalty(out.log_probs, batch.ref_log_probs, estimator="k2")
            value = value + self.kl_coef * kl[mask].sum() / batch.num_tokens
        count, whole = mask.sum(), batch.num_tokens
        weighed = (whole, count) if by_token else (batch.num_sequences, len(batch))
        return az.Loss(
            value,
            {
                "policy_loss": (policy_loss.detach() * weighed[0], weighed[1]),
                "value_loss": (value_loss.detach() * whole, count),
                "entropy": (entropy.detach(), count),
                "approx_kl": (stats["approx_kl"] * count, count),
                "clip_frac": (stats["clip_frac"] * count, count),
                "ratio_max": az.Max(stats["ratio_max"]),
            },
        )

    def update(self, batch: RolloutBatch, learner: Learner) -> Metrics:
        config, metrics = self.config, az.Metrics(self._explained_variance(batch))
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.num_epochs):
            gradient = learner.gradient(minibatch, self.loss)
            approx_kl = gradient.metrics.result().get("approx_kl", 0.0)
            if config.target_kl is not None and approx_kl > 1.5 * config.target_kl:
                break
            result = learner.apply(gradient)
            metrics.merge(result.metrics)
            if result.stop:
                break
        return metrics

    def _explained_variance(self, batch: RolloutBatch) -> dict[str, float]:
        """Returns 1 - Var(returns - values) / Var(returns), of the values before the update."""
        returns, values = batch.returns[batch.response_mask], batch.values[batch.response_mask]
        variance = float(returns.double().var(unbiased=False))
        error = float((returns - values).double().var(unbiased=False))
        return {"explained_variance": 1.0 - error / variance} if variance > 0 else {}

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Steers kl_coef to kl_target: the proportional controller of arXiv:1909.08593, 2.2."""
        config = self.config
        if config.kl_target is None or "kl" not in metrics:
            return
        error = min(0.2, max(-0.2, metrics["kl"] / config.kl_target - 1.0))
        self.adaptive_kl_coef *= 1.0 + error * min(1.0, self.num_responses / config.kl_horizon)

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self.adaptive_kl_coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adaptive_kl_coef = state["kl_coef"]


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="ppo",
            target="alignzoo.plugins.ppo:PPO",
            summary="proximal policy optimization with a learned critic",
            paper="arXiv:1707.06347",
        )
    ]
