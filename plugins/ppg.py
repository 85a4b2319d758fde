"""Phasic policy gradient (PPG): PPO, and now and then a phase that teaches the trunk to value.

    policy phase, every update:   PPO; no gradient of the value loss reaches the policy's trunk
    auxiliary phase, after policy_phases updates, aux_epochs passes over all their rollouts:
        L_joint = 1/2 mean (V_aux - R)^2 + beta_clone * mean KL(old || policy)

Cobbe et al. 2020, arXiv:2009.04416. R are the returns of the policy phases, old is the policy as
the auxiliary phase begins, and the KL is exact over the vocabulary, a mean over tokens.

networks "shared" is the paper's single-network variant: V_aux is the value head of the policy,
whose gradient stops at the trunk in the policy phase and reaches it in the auxiliary phase.
"separate" is its main one: V is a network of its own, a trained copy of the model, and V_aux a head
on the policy that learns in the auxiliary phase alone, where V goes on learning from R too.

What differs from the paper: policy and value take the same epochs in the policy phase, one
optimiser serves both phases, and the auxiliary phase comes after fewer updates (paper: 32). With
aux_epochs 0 and shared networks it is `ppo`, to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor, nn

CRITIC_TOKENS = 16_384  # at a time, where a separate critic values a rollout


class PPGConfig(az.AlgorithmConfig):
    """Options of `ppg`."""

    num_epochs: options.NumEpochs = 2
    kl_coef: options.KLCoef = 0.025
    gamma: options.Gamma = 1.0
    gae_lambda: options.GAELambda = 1.0
    clip_range: options.ClipRange = 0.2
    clip_range_high: options.ClipRangeHigh = None
    whiten_advantages: options.Whiten = "center"
    aggregate: options.Aggregate = "token_mean"
    vf_coef: options.VfCoef = 0.5
    value_learning_rate: options.ValueLearningRate = "auto"
    ent_coef: options.EntCoef = 0.0
    target_kl: options.TargetKL = None
    bootstrap_truncated: options.BootstrapTruncated = False
    group_size: options.GroupSize = 1
    networks: Literal["shared", "separate"] = Field(
        "shared", description="the critic is a head on the policy, or a network of its own"
    )
    policy_phases: int = Field(
        8, gt=0, description="updates before an auxiliary phase; their rollouts are kept for it"
    )
    aux_epochs: int = Field(6, ge=0, description="passes of an auxiliary phase; 0 has none")
    aux_minibatch_size: int | None = Field(
        None, gt=0, description="sequences per auxiliary step; default as many as one update has"
    )
    beta_clone: float = Field(
        1.0, ge=0, description="weight of KL(old || policy) in the auxiliary phase"
    )


class PPG(az.Algorithm):
    """Clipped policy gradient with phases of distillation from the value function."""

    Config = PPGConfig
    saved = ("num_phases",)

    def __init__(self, config: PPGConfig) -> None:
        super().__init__(config)
        self.num_phases = 0  # policy phases since the last auxiliary one
        self.critic: az.Policy | None = None

    @property
    def needs(self) -> az.Needs:
        config = self.config
        is_separate = config.networks == "separate"
        return az.Needs(
            values=True,
            detach_values=True,
            ref_log_probs=self.loss_kl_coef > 0,
            bootstrap_values=config.bootstrap_truncated,
            group_size=config.group_size,
            replay=config.policy_phases - 1 if config.aux_epochs else 0,
            columns={"critic_values": az.Column("token")} if is_separate else {},
        )

    def build(self, policy: az.Policy) -> nn.Module | None:
        """Returns the separate critic, which starts as the policy with a value head."""
        if self.config.networks == "shared":
            return None
        from torch import nn

        self.critic = policy.snapshot()
        its_own, theirs = self.critic.model.parameters(), policy.model.parameters()
        for parameter, other in zip(its_own, theirs, strict=True):
            parameter.requires_grad_(other.requires_grad)
        head = self.critic.value_head.requires_grad_()
        return nn.ModuleDict({"model": self.critic.model, "value_head": head})

    def parameter_groups(self, policy: az.Policy, extra: Any) -> list[dict[str, Any]]:
        rate = self.config.value_learning_rate
        critics = [] if self.critic is None else [self.critic]
        return [
            group
            for network in (policy, *critics)
            for group in network.parameter_groups(value_learning_rate=rate)
        ]

    def prepare(self, batch: az.RolloutBatch) -> None:
        config, mask = self.config, batch.response_mask
        values = after = None  # the batch's own
        if self.critic is not None:
            values, after = self._judge(batch, self.critic)
            batch.critic_values = values
        advantages, batch.returns = objectives.gae(
            batch,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            bootstrap_truncated=config.bootstrap_truncated,
            values=values,
            after=after,
        )
        batch.advantages = objectives.whiten(advantages, mask, config.whiten_advantages)

    def _judge(self, batch: az.RolloutBatch, critic: az.Policy) -> tuple[Tensor, Tensor]:
        """Returns the separate critic's V before each token [B, T], and after the last [B]."""
        values = batch.rewards.new_zeros(batch.rewards.shape)
        after, start = batch.rewards.new_zeros(len(batch)), 0
        for part in batch.micro_batches(max_tokens=CRITIC_TOKENS):
            rows = slice(start, start + len(part))
            found = critic.evaluate(part, values=True).values
            values[rows, : found.shape[1]] = found
            if self.config.bootstrap_truncated:
                after[rows] = critic.final_values(part)
            start += len(part)
        return values, after

    def _with_critic(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.PolicyOutput:
        """Returns `out` with the values of the network that estimates advantages."""
        if self.critic is None:
            return out
        return replace(out, values=self.critic.evaluate(batch, values=True).values)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        """Returns PPO's loss, of the policy phase."""
        config = self.config
        policy = objectives.policy(
            batch,
            out,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            aggregate=config.aggregate,
        )
        value = objectives.value(batch, self._with_critic(batch, out))
        coefs = {"ent_coef": config.ent_coef, "kl_coef": self.loss_kl_coef}
        return policy + config.vf_coef * value + objectives.regularisation(batch, out, **coefs)

    def update(self, batch: az.RolloutBatch, learner: az.Learner) -> az.Metrics:
        config = self.config
        values = batch.values if self.critic is None else batch.critic_values
        metrics = az.Metrics(objectives.explained_variance(batch, values))
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.num_epochs):
            gradient = learner.gradient(minibatch, self.loss)
            if config.target_kl is not None and gradient.approx_kl > 1.5 * config.target_kl:
                break
            result = learner.apply(gradient)
            metrics.merge(result.metrics)
            if result.stop:
                break
        self.num_phases += 1
        if config.aux_epochs and self.num_phases >= config.policy_phases:
            self.num_phases = 0
            metrics.merge(self._auxiliary_phase(batch, learner))
        return metrics

    def _auxiliary_phase(self, batch: az.RolloutBatch, learner: az.Learner) -> az.Metrics:
        """Distils the returns of all rollouts kept into the trunk; the policy is held by its KL."""
        config, metrics, teacher = self.config, az.Metrics(), learner.snapshot()
        needs = replace(self.needs, detach_values=False, logits=True)

        def joint(part: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
            old = learner.evaluate(part, teacher, needs=needs)
            return self.joint_loss(part, out, old, temperature=learner.temperature)

        rollouts = learner.buffer.batch(device=batch.device)
        size = config.aux_minibatch_size or len(batch)
        for minibatch in learner.minibatches(rollouts, size, config.aux_epochs):
            result = learner.step(minibatch, joint, needs=needs)
            metrics.merge(result.metrics)
            if result.stop:
                break
        if "grad_norm" in metrics.sums:
            metrics.sums["aux_grad_norm"] = metrics.sums.pop("grad_norm")
        return metrics

    def joint_loss(
        self,
        batch: az.RolloutBatch,
        out: az.PolicyOutput,
        old: az.PolicyOutput,
        *,
        temperature: float,
    ) -> az.Loss:
        """Returns the auxiliary phase's loss; `out` and `old` hold logits."""
        kl = kernels.kl_divergence(old.logits, out.logits, temperature=temperature)
        clone = objectives.mean(batch, kl)
        auxiliary = objectives.value(batch, out)
        count = batch.response_mask.sum()
        metrics = {
            "aux_value_loss": auxiliary.metrics["value_loss"],
            "aux_kl": (clone.detach() * batch.num_tokens, count),
        }
        total = az.Loss(auxiliary.value + self.config.beta_clone * clone, metrics)
        if self.critic is None:
            return total
        critic = objectives.value(batch, self._with_critic(batch, out))
        return total + az.Loss(critic.value, {"aux_critic_loss": critic.metrics["value_loss"]})


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="ppg",
            target="alignzoo.plugins.ppg:PPG",
            summary="PPO with auxiliary phases that distil the value function into the policy",
            paper="arXiv:2009.04416",
            revision=2,
        )
    ]
