"""Direct preference optimisation and its kin: raise the chosen response above the rejected one.

Each gives a response y an implicit reward r(y), and each pair (y_w chosen, y_l rejected) a loss of
r_w = r(y_w) and r_l = r(y_l); losses are averaged over pairs. With s(y) = sum_t log p(token_t),
h(y) = s(y) - s_ref(y) and |y| tokens:

    dpo    r = beta h         -log sigmoid(r_w - r_l)                       arXiv:2305.18290, eq. 7
    cdpo   r = beta h         dpo, where a share e of the labels is wrong:
                              (1 - e) * L(y_w, y_l) + e * L(y_l, y_w)       Mitchell 2023
    ipo    r = beta h         (h(y_w) - h(y_l) - 1 / (2 beta))^2            arXiv:2310.12036, eq. 17
    simpo  r = beta s / |y|   -log sigmoid(r_w - r_l - target_margin)       arXiv:2405.14734, eq. 6
    orpo   r = log(p / (1 - p)), log p = s / |y|:
                              -log p_w - beta * log sigmoid(r_w - r_l)      arXiv:2403.07691, eq. 6

simpo and orpo keep no reference. What differs: ipo's beta is the paper's tau, orpo's the paper's
lambda, simpo's target_margin its gamma; a response that ends with the end token has the log-prob of
that token too. `ipo --per-token` takes the mean of h over tokens, as TRL does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import objectives, options

if TYPE_CHECKING:
    from torch import Tensor


class DPOConfig(az.AlgorithmConfig):
    """Options of `dpo`."""

    learning_rate: options.LearningRate = 1e-6
    kl_coef: float = Field(0.0, ge=0, le=0, description="preferences have no KL penalty but beta")
    kl_in: Literal["none"] = Field("none", description="preferences have no KL penalty but beta")
    beta: float = Field(
        0.1, gt=0, description="nats of reward per nat from the reference; small strays further"
    )


class CDPOConfig(DPOConfig):
    """Options of `cdpo`."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, description="share of the pairs that are taken to be labelled wrongly"
    )


class IPOConfig(DPOConfig):
    """Options of `ipo`."""

    per_token: bool = Field(False, description="log-ratios are means over tokens, not sums")


class SimPOConfig(DPOConfig):
    """Options of `simpo`."""

    beta: float = Field(2.0, gt=0, description="scale of the mean log-prob of a token")
    target_margin: float = Field(
        1.0, ge=0, description="how far the chosen reward should lie above the rejected one"
    )


class ORPOConfig(DPOConfig):
    """Options of `orpo`."""

    learning_rate: options.LearningRate = 8e-6
    beta: float = Field(0.1, gt=0, description="weight of the odds ratio beside the likelihood")


# Worked by hand. The first pair: log-ratios to the reference 0.2 + 0.3 and -0.5, log-probs -1.5 (a
# mean of -0.75) and -2. The second is a tie: 0.25 and 0.25, -1 and -1.
PAIRS: Mapping[str, Any] = {
    "lengths": [2, 1, 1, 1],
    "log_probs": [[-1, -0.5], [-2, 0], [-1, 0], [-1, 0]],
    "ref_log_probs": [[-1.2, -0.8], [-1.5, 0], [-1.25, 0], [-1.25, 0]],
}


class DPO(az.Algorithm):
    """Logistic regression of which response was chosen on the difference of implicit rewards."""

    Config = DPOConfig
    # Margins 1 and 0: log(1 + 1/e) and log 2.
    examples = ({**PAIRS, "options": {"beta": 1.0}, "loss": (0.313262 + 0.693147) / 2},)
    has_reference: ClassVar[bool] = True

    @property
    def needs(self) -> az.Needs:
        return az.Needs(source="preferences", ref_log_probs=self.has_reference)

    def rewards(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> Tensor:
        """Returns the implicit reward of each response, [B]."""
        log_ratios = (out.log_probs - batch.ref_log_probs) * batch.response_mask
        rewards: Tensor = self.config.beta * log_ratios.sum(1)
        return rewards

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Returns the loss of each pair from the rewards of its responses, [P] from two [P]."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(chosen - rejected)

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        rewards, log_probs = self.rewards(batch, out), response_log_probs(batch, out).detach()
        is_chosen, is_rejected = batch.pair_labels == 1, batch.pair_labels == 0
        losses = self.losses(rewards[is_chosen], rewards[is_rejected])
        count = len(losses)
        metrics = {
            "loss": (losses.detach().sum(), count),
            **objectives.pair_metrics(rewards[is_chosen], rewards[is_rejected]),
            "chosen_log_probs": (log_probs[is_chosen].sum(), count),
            "rejected_log_probs": (log_probs[is_rejected].sum(), count),
        }
        return az.Loss(losses.sum() / (batch.num_sequences // 2), metrics)


class CDPO(DPO):
    """DPO that allows for wrong labels, so that no margin is ever large enough to be certain."""

    Config = CDPOConfig
    # One in five is wrong: 0.313262 + 0.2 * 1, and log 2 either way.
    examples = (
        {
            **PAIRS,
            "options": {"beta": 1.0, "label_smoothing": 0.2},
            "loss": (0.513262 + 0.693147) / 2,
        },
    )

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        share = self.config.label_smoothing
        return (1 - share) * super().losses(chosen, rejected) + share * super().losses(
            rejected, chosen
        )


class IPO(DPO):
    """Least squares towards a fixed gap of log-ratios, which no certain label can push further."""

    Config = IPOConfig
    # The gap should be 1 / (2 beta) = 2, and is 1 and 0: squares 1 and 4.
    examples = ({**PAIRS, "options": {"beta": 0.25, "per_token": False}, "loss": 2.5},)

    def rewards(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> Tensor:
        rewards = super().rewards(batch, out)
        return rewards / batch.response_mask.sum(1) if self.config.per_token else rewards

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        beta = self.config.beta
        return ((chosen - rejected) / beta - 1 / (2 * beta)).square()


class SimPO(DPO):
    """DPO on mean log-probs, without a reference."""

    Config = SimPOConfig
    # Rewards -1.5 and -4: log(1 + e^-(2.5 - 0.5)) = 0.126928. The tie: log(1 + e^0.5) = 0.974077.
    examples = (
        {
            **PAIRS,
            "options": {"beta": 2.0, "target_margin": 0.5},
            "loss": (0.126928 + 0.974077) / 2,
        },
    )
    has_reference = False

    def rewards(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> Tensor:
        mean = response_log_probs(batch, out) / batch.response_mask.sum(1)
        rewards: Tensor = self.config.beta * mean
        return rewards

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return super().losses(chosen, rejected + self.config.target_margin)


class ORPO(DPO):
    """Maximum likelihood of the chosen response, and odds above those of the rejected one."""

    Config = ORPOConfig
    # Odds of e^-0.75 and e^-2 are 0.895256 and 0.156518: 0.75 + 0.5 * log(1 + 0.156518 / 0.895256).
    # The tie: 1 + 0.5 * log 2.
    examples = ({**PAIRS, "options": {"beta": 0.5}, "loss": (0.830546 + 1.346574) / 2},)
    has_reference = False

    def rewards(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> Tensor:
        log_p = response_log_probs(batch, out) / batch.response_mask.sum(1)
        log_p = log_p.clamp(max=-1e-6)  # certainty has no finite odds
        rewards: Tensor = log_p - (-log_p.expm1()).log()
        return rewards

    def losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        from torch.nn.functional import logsigmoid

        log_p = logsigmoid(chosen)  # of the chosen response: the inverse of its log odds
        return -log_p + self.config.beta * super().losses(chosen, rejected)


def response_log_probs(batch: az.RolloutBatch, out: az.PolicyOutput) -> Tensor:
    """Returns the log-prob of each response, [B]: of the tokens that the policy chose."""
    return (out.log_probs * batch.response_mask).sum(1)


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(id=id, target=f"alignzoo.plugins.dpo:{name}", summary=summary, paper=paper)
        for id, name, summary, paper in (
            ("dpo", "DPO", "direct preference optimisation", "arXiv:2305.18290"),
            ("cdpo", "CDPO", "dpo that allows for wrong labels", "arXiv:2305.18290"),
            ("ipo", "IPO", "identity preference optimisation", "arXiv:2310.12036"),
            ("simpo", "SimPO", "preferences by mean log-probs, no reference", "arXiv:2405.14734"),
            ("orpo", "ORPO", "fine-tuning with an odds ratio, no reference", "arXiv:2403.07691"),
        )
    ]
