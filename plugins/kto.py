"""Kahneman-Tversky optimisation: learn from responses that are good or bad, pairs or not.

    loss = 1/B sum_i lambda_i (1 - sigmoid(+-beta (h_i - z))),   h = log p(y | x) - log p_ref(y | x)
    z    = max(0, 1/B sum_i h(y_{i+1} | x_i))

with + and lambda_i = desirable_weight for a desirable response, - and undesirable_weight for
another: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8. z estimates the KL of policy and reference
from responses joined to the prompts of others; no gradient flows through it.

z belongs to the whole minibatch, so `update` measures it before the step. A response that is longer
with its new prompt than the longest row is cut there, so that it fits whatever context the batch
does. Held-out rows are measured at the z of the last step. What differs from the paper: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import objectives, options

if TYPE_CHECKING:
    from torch import Tensor

    from alignzoo.algorithm import Learner


class KTOConfig(az.AlgorithmConfig):
    """Options of `kto`."""

    learning_rate: options.LearningRate = 1e-6
    kl_coef: float = Field(0.0, ge=0, le=0, description="kto has no KL penalty but beta")
    kl_in: Literal["none"] = Field("none", description="kto has no KL penalty but beta")
    source: Literal["preferences", "ratings"] = Field(
        "preferences", description="pairs, each a desirable and an undesirable response, or ratings"
    )
    threshold: float = Field(
        0.5, ge=-1e6, le=1e6, description="least rating of a desirable response"
    )
    beta: float = Field(0.1, gt=0, description="small strays further from the reference")
    desirable_weight: float = Field(1.0, gt=0, description="of desirable responses, lambda_D")
    undesirable_weight: float = Field(1.0, gt=0, description="of the others, lambda_U")


class KTO(az.Algorithm):
    """Prospect theory's value of each response, beside a reference point."""

    Config = KTOConfig
    # h is 0.5 and -0.5, z is 0: both values are 2 * 0.5, and 1 - sigmoid(1) is 0.268941.
    examples = (
        {
            "options": {"beta": 2.0, "desirable_weight": 1.5, "undesirable_weight": 0.5},
            "lengths": [2, 1],
            "log_probs": [[-1, -0.5], [-2, 0]],
            "ref_log_probs": [[-1.2, -0.8], [-1.5, 0]],
            "loss": (1.5 + 0.5) / 2 * 0.268941,
            "metrics": {"chosen_rewards": 1.0, "rejected_rewards": -1.0, "margin": 2.0},
        },
    )
    saved = ("kl_point",)
    kl_point = 0.0  # z, in nats; the policy starts as its reference

    @property
    def needs(self) -> az.Needs:
        return az.Needs(source=self.config.source, ref_log_probs=True)

    def is_desirable(self, batch: az.RolloutBatch) -> Tensor:
        """Returns which responses are desirable, bool [B]."""
        if self.config.source == "preferences":
            return batch.pair_labels == 1
        return batch.scores >= self.config.threshold

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        config, good = self.config, self.is_desirable(batch)
        weights = config.desirable_weight * good + config.undesirable_weight * ~good
        mask = batch.response_mask
        rewards = config.beta * ((out.log_probs - batch.ref_log_probs) * mask).sum(1)
        values = (rewards - config.beta * self.kl_point) * (2.0 * good - 1)
        losses = weights * (1 - values.sigmoid())
        metrics = {"loss": (losses.detach().sum(), len(batch))}
        log_probs = (out.log_probs.detach() * mask).sum(1)
        for name, rows in (("chosen", good), ("rejected", ~good)):
            metrics[f"{name}_log_probs"] = (log_probs[rows].sum(), rows.sum())
            metrics[f"{name}_rewards"] = (rewards.detach()[rows].sum(), rows.sum())
        if config.source == "preferences":
            metrics |= objectives.pair_metrics(rewards[good], rewards[~good])
        return az.Loss(losses.sum() / batch.num_sequences, metrics)

    def update(self, batch: az.RolloutBatch, learner: Learner) -> az.Metrics:
        config, metrics = self.config, az.Metrics()
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.num_epochs):
            self.kl_point = self.measure_kl(minibatch, learner)
            result = learner.step(minibatch, self.loss)
            metrics.merge(result.metrics).merge(az.Metrics({"kl_point": self.kl_point}))
            if result.stop:
                break
        return metrics

    def measure_kl(self, batch: az.RolloutBatch, learner: Learner) -> float:
        """Returns z: each prompt is joined to the response of the next pair, or of the next row."""
        step = 2 if self.config.source == "preferences" else 1
        starts, lengths = batch.prompt_lengths.tolist(), batch.response_lengths.tolist()
        longest = max(map(sum, zip(starts, lengths, strict=True)))
        prompts, responses, masks = [], [], []
        for row, start in enumerate(starts):
            other = (row + step) % len(batch)
            length = min(lengths[other], longest - start)
            prompts.append(batch.token_ids[row, :start])
            responses.append(batch.response_ids[other, :length])
            masks.append(batch.response_mask[other, :length])
        buffer = az.RolloutBuffer()
        buffer.append(prompts, responses, response_masks=masks, policy_version=0)
        mismatched = buffer.batch(device=batch.device)
        ref_log_probs = learner.reference_log_probs(mismatched)
        log_ratios = (learner.evaluate(mismatched).log_probs - ref_log_probs).double().sum(1)
        return max(0.0, float(log_ratios.mean()))


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="kto",
            target="alignzoo.plugins.kto:KTO",
            summary="Kahneman-Tversky optimisation, from pairs or from good and bad responses",
            paper="arXiv:2402.01306",
        )
    ]
