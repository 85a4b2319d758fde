"""Supervised fine-tuning: the policy learns to write what the demonstrations say.

    loss = -1/N * sum_t log p(token_t | tokens before it)

over the N response tokens of the minibatch (Ouyang et al. 2022, arXiv:2203.02155, step 1). Prompt
tokens, and in a conversation the other side's turns, carry no loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

import alignzoo as az

if TYPE_CHECKING:
    from alignzoo import PolicyOutput, RolloutBatch


class SFTConfig(az.AlgorithmConfig):
    """Options of `sft`."""

    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of the policy")
    kl_coef: float = Field(0.0, ge=0, le=0, description="demonstrations have no KL penalty")
    kl_in: Literal["none"] = Field("none", description="demonstrations have no KL penalty")
    aggregate: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean",
        description="every token weighs the same, or every demonstration does",
    )


class SFT(az.Algorithm):
    """Maximum likelihood of demonstrations."""

    Config = SFTConfig
    examples = (  # (1 + 2 + 0.5 + 3) / 4
        {
            "lengths": [3, 1],
            "log_probs": [[-1, -2, -0.5], [-3, 0, 0]],
            "loss": 1.625,
            "gradient": [[-0.25, -0.25, -0.25], [-0.25, 0, 0]],
        },
    )

    @property
    def needs(self) -> az.Needs:
        return az.Needs(source="demonstrations")

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> az.Loss:
        mask = batch.response_mask
        log_probs, entropy = out.log_probs * mask, out.entropy.detach() * mask
        total, count = log_probs.sum(), mask.sum()
        if self.config.aggregate == "token_mean":
            value = -total / batch.num_tokens
        else:
            value = -(log_probs.sum(1) / mask.sum(1).clamp(min=1)).sum() / batch.num_sequences
        return az.Loss(
            value,
            {
                "loss": (-total.detach(), count),
                "entropy": (entropy.sum(), count),
            },
        )


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="sft",
            target="alignzoo.plugins.sft:SFT",
            summary="supervised fine-tuning on demonstrations (instruction tuning)",
            paper="arXiv:2203.02155",
        )
    ]
