"""Algorithms as other people write them, in plain torch: five that are right, the others not quite.

Each wrong one is a right one with one change. `PLANTED` says which check must catch it.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

import alignzoo as az
from alignzoo.plugin_loader import Plugin
from alignzoo.plugin_registry import Entry

# -- right -----------------------------------------------------------------------------------------


class LooConfig(az.AlgorithmConfig):
    """Options of `Loo`."""

    group_size: int = Field(4, ge=2, description="responses per prompt")


class Loo(az.Algorithm):
    """REINFORCE against the mean of the other responses."""

    Config = LooConfig
    unbiased = True
    metrics: ClassVar = {"advantage_max": "largest advantage of the rollout"}
    examples = (
        {
            "options": {"group_size": 2},
            "rewards": [[0, 3], [1, 0]],
            "lengths": [2, 1],
            "advantages": [[2, 2], [-2, 0]],
            "log_probs": [[-1, -2], [-1, 0]],
            "loss": 2,
            "gradient": [[-1, -1], [1, 0]],
        },
    )

    @property
    def needs(self):
        return az.Needs(group_size=self.config.group_size)

    def prepare(self, batch):
        returns = (batch.rewards * batch.response_mask).sum(1)
        batch.advantages = self.compare(batch, returns)[:, None].expand(batch.rewards.shape)

    def compare(self, batch, returns):
        same = (batch.group_ids[:, None] == batch.group_ids).to(returns.dtype)
        others = (same @ returns - returns) / (same.sum(1) - 1)
        return returns - others

    def loss(self, batch, out):
        gain = (batch.advantages * out.log_probs * batch.response_mask).sum()
        return az.Loss(
            -gain / batch.num_sequences,
            {
                "policy_loss": (-gain.detach(), len(batch)),
                "advantage_max": az.Max(batch.advantages.max()),
            },
        )


class ClipConfig(az.AlgorithmConfig):
    """Options of `Clip`."""

    num_epochs: int = Field(2, ge=1, description="passes over each rollout")
    clip_range: float = Field(0.2, gt=0, le=1, description="how far the ratio is followed")
    gamma: float = Field(1.0, ge=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="decay of GAE")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    ent_coef: float = Field(0.01, ge=0, description="weight of the entropy bonus")


class Clip(az.Algorithm):
    """PPO with a critic."""

    Config = ClipConfig

    @property
    def needs(self):
        return az.Needs(values=True, ref_log_probs=True)

    def prepare(self, batch):
        advantages = self.gae(batch)
        batch.returns = advantages + batch.values
        batch.advantages = self.whiten(advantages, batch.response_mask)

    def gae(self, batch):
        import torch

        config, mask = self.config, batch.response_mask
        advantages = torch.zeros_like(batch.rewards)
        running = next_value = torch.zeros(len(batch))
        for t in reversed(range(mask.shape[1])):
            delta = batch.rewards[:, t] + config.gamma * next_value - batch.values[:, t]
            found = delta + config.gamma * config.gae_lambda * running
            running = torch.where(mask[:, t], found, running)
            next_value = torch.where(mask[:, t], batch.values[:, t], next_value)
            advantages[:, t] = torch.where(mask[:, t], running, 0.0)
        return advantages

    def whiten(self, advantages, mask):
        chosen = advantages[mask]
        return (advantages - chosen.mean()) / (chosen.std(unbiased=False) + 1e-4)

    def log_ratio(self, batch, out):
        return (out.log_probs - batch.old_log_probs).clamp(-20, 20)

    def loss(self, batch, out):
        import torch

        config, mask = self.config, batch.response_mask
        log_ratio = self.log_ratio(batch, out) * mask
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
        gains = torch.minimum(ratio * batch.advantages, clipped * batch.advantages) * mask
        errors = (out.values - batch.returns).square() * mask
        entropy = (out.entropy * mask).sum()
        total = config.vf_coef * errors.sum() / 2 - gains.sum() - config.ent_coef * entropy
        count = mask.sum()
        return az.Loss(
            total / batch.num_tokens,
            {
                "policy_loss": (-gains.detach().sum(), count),
                "value_loss": (errors.detach().sum() / 2, count),
                "entropy": (entropy.detach(), count),
                "approx_kl": (((ratio - 1 - log_ratio) * mask).detach().sum(), count),
                "clip_frac": (((ratio != clipped) & mask).sum(), count),
            },
        )


class Imitate(az.Algorithm):
    """Maximum likelihood of demonstrations."""

    @property
    def needs(self):
        return az.Needs(source="demonstrations")

    def loss(self, batch, out):
        total = -out.log_probs[batch.response_mask].sum()
        count = batch.response_mask.sum()
        return az.Loss(total / batch.num_tokens, {"loss": (total.detach(), count)})


class PreferConfig(az.AlgorithmConfig):
    """Options of `Prefer`."""

    beta: float = Field(0.1, gt=0, le=10, description="small strays further from the reference")


class Prefer(az.Algorithm):
    """Logistic regression of the label on the difference of log-ratios."""

    Config = PreferConfig

    @property
    def needs(self):
        return az.Needs(source="preferences", ref_log_probs=True)

    def totals(self, batch, out):
        return ((out.log_probs - batch.ref_log_probs) * batch.response_mask).sum(1)

    def loss(self, batch, out):
        totals = self.config.beta * self.totals(batch, out)
        margins = totals[batch.pair_labels == 1] - totals[batch.pair_labels == 0]
        losses = self.losses(margins)
        return az.Loss(
            losses.sum() / (batch.num_sequences // 2),
            {"loss": (losses.detach().sum(), len(losses)), "accuracy": (margins > 0).sum() / 1.0}
            | {"accuracy": ((margins > 0).sum(), len(margins))},
        )

    def losses(self, margins):
        from torch.nn.functional import logsigmoid

        return -logsigmoid(margins)


class Steady(Loo):
    """REINFORCE against a moving mean, which is measured in `update` and saved."""

    unbiased = False
    examples = ()
    metrics: ClassVar = {
        "advantage_max": "largest advantage of the rollout",
        "baseline": "moving mean",
    }
    saved = ("mean",)
    mean = 0.0

    def compare(self, batch, returns):
        return returns - self.mean

    def update(self, batch, learner):
        metrics = super().update(batch, learner)
        self.mean = 0.5 * self.mean + 0.5 * float(batch.scores.mean())
        return metrics.merge(az.Metrics({"baseline": self.mean}))


RIGHT = (Loo, Clip, Imitate, Prefer, Steady)

# -- not quite -------------------------------------------------------------------------------------


class MaskIgnored(Loo):
    def loss(self, batch, out):
        gain = (batch.advantages * out.log_probs).sum()
        return az.Loss(-gain / batch.num_sequences, {"policy_loss": (-gain.detach(), len(batch))})


class PaddingInTheMean(Loo):
    def loss(self, batch, out):
        gain = (batch.advantages * out.log_probs * batch.response_mask).mean()
        return az.Loss(-gain, {"policy_loss": (-gain.detach(), 1)})


class PaddingInTheLength(Prefer):
    def totals(self, batch, out):
        return super().totals(batch, out) / batch.response_mask.shape[1]


class SignFlipped(Loo):
    unbiased = False
    examples = ()

    def loss(self, batch, out):
        right = super().loss(batch, out)
        return az.Loss(-right.value, right.metrics)


class PairsSwapped(Prefer):
    def losses(self, margins):
        return super().losses(-margins)


class BaselineIncludesItself(Loo):
    examples = ()

    def compare(self, batch, returns):
        same = (batch.group_ids[:, None] == batch.group_ids).to(returns.dtype)
        return returns - same @ returns / same.sum(1)


class TokensWeighedByLength(Loo):
    examples = ()

    def loss(self, batch, out):
        gains = batch.advantages * out.log_probs * batch.response_mask
        weights = 1.0 / (1.0 + out.log_probs.detach().exp())
        return az.Loss(-(gains * weights).sum() / batch.num_sequences)


class BatchMutatedByLoss(Clip):
    def loss(self, batch, out):
        batch.advantages.mul_(0.9)
        return super().loss(batch, out)


class BatchMutatedByPrepare(Clip):
    def gae(self, batch):
        batch.rewards.clamp_(-0.5, 0.5)
        return super().gae(batch)


class BatchMutatedByUpdate(Loo):
    def update(self, batch, learner):
        batch.rewards.zero_()
        return super().update(batch, learner)


class OutputMutated(Clip):
    def loss(self, batch, out):
        out.entropy.detach().clamp_(max=1.0)
        return super().loss(batch, out)


class HiddenStateInLoss(Clip):
    past = None

    def loss(self, batch, out):
        right = super().loss(batch, out)
        past = self.past
        self.past = right.value.detach()
        return right if past is None else az.Loss(right.value / (1 + past.abs()), right.metrics)


class ZeroDeviation(Loo):
    unbiased = False
    examples = ()

    def compare(self, batch, returns):
        same = batch.group_ids[:, None] == batch.group_ids
        means = (same * returns).sum(1) / same.sum(1)
        squares = (same * (returns - means[:, None]).square()).sum(1)
        return (returns - means) / (squares / same.sum(1)).sqrt()


class SixConfig(az.AlgorithmConfig):
    """Options of `DeviationOfRounding`."""

    group_size: int = Field(6, ge=2, description="responses per prompt")


class DeviationOfRounding(Loo):
    Config = SixConfig
    unbiased = False
    examples = ()

    def compare(self, batch, returns):
        same = (batch.group_ids[:, None] == batch.group_ids).to(returns.dtype)
        centred = returns - (same / same.sum(1)) @ returns
        return centred / (((same @ centred.square()) / same.sum(1)).sqrt() + 1e-12)


class UndeclaredColumn(Loo):
    def compare(self, batch, returns):
        return super().compare(batch, returns) - batch.values.mean(1)


class UndeclaredReference(Loo):
    @property
    def kl_weight(self):
        return 0.1

    def loss(self, batch, out):
        right = super().loss(batch, out)
        gap = ((out.log_probs - batch.ref_log_probs) * batch.response_mask).square().sum()
        return az.Loss(right.value + self.kl_weight * gap / batch.num_tokens, right.metrics)


class LossIsANumber(Loo):
    def loss(self, batch, out):
        return super().loss(batch, out).value


class WhitenedOverPadding(Clip):
    def whiten(self, advantages, mask):
        return (advantages - advantages.mean()) / (advantages.std() + 1e-4)


class OldLogProbsAreNew(Clip):
    def log_ratio(self, batch, out):
        return (out.log_probs - out.log_probs.detach()).clamp(-20, 20)


class OldLogProbsAreTheReferences(Clip):
    def log_ratio(self, batch, out):
        return (out.log_probs - batch.ref_log_probs).clamp(-20, 20)


class Unreported(Clip):
    def loss(self, batch, out):
        right = super().loss(batch, out)
        names = [name for name in right.metrics if name != "approx_kl"]
        return az.Loss(right.value, {name: right.metrics[name] for name in names})


class NewLogProbsUnreported(Unreported):
    def log_ratio(self, batch, out):
        return out.log_probs - out.log_probs.detach()


class ReferenceUnreported(Unreported):
    def log_ratio(self, batch, out):
        return (out.log_probs - batch.ref_log_probs).clamp(-20, 20)


class DetachedLoss(Imitate):
    def loss(self, batch, out):
        right = super().loss(batch, out)
        return az.Loss(right.value.detach(), right.metrics)


class DetachedPolicy(Clip):
    @property
    def needs(self):
        return az.Needs(values=True, detach_values=True, ref_log_probs=True)

    def loss(self, batch, out):
        import dataclasses

        still = {"log_probs": out.log_probs.detach(), "entropy": out.entropy.detach()}
        return super().loss(batch, dataclasses.replace(out, **still))


class StaleAdvantages(Clip):
    kept = None

    def gae(self, batch):
        if self.kept is None:
            self.kept = super().gae(batch)
        return self.kept


class UnsavedState(Steady):
    saved = ()


class StateThatIsNoJson(Steady):
    def state_dict(self):
        import torch

        return {"mean": torch.tensor(self.mean)}


class StateOfTheClass(Steady):
    seen: ClassVar = [0]

    def compare(self, batch, returns):
        self.seen[0] += 1
        return super().compare(batch, returns) / self.seen[0]


class Unseeded(Loo):
    unbiased = False
    examples = ()

    def compare(self, batch, returns):
        import numpy as np
        import torch

        noise = np.random.default_rng().normal(size=len(returns))
        return super().compare(batch, returns) + torch.from_numpy(noise).float()


class UnclampedRatio(Clip):
    def log_ratio(self, batch, out):
        return out.log_probs - batch.old_log_probs


class LogOfSigmoid(Prefer):
    def losses(self, margins):
        return -(20 * margins).sigmoid().log()


class DividedByRowsAtHand(Clip):
    def loss(self, batch, out):
        right = super().loss(batch, out)
        return az.Loss(right.value * batch.num_tokens / batch.response_mask.sum(), right.metrics)


class CoupledRows(Imitate):
    def loss(self, batch, out):
        totals = (out.log_probs * batch.response_mask).sum(1)
        return az.Loss(-(totals * totals.detach().softmax(0)).sum() / 10)


class OrderedRows(Loo):
    unbiased = False
    examples = ()

    def compare(self, batch, returns):
        import torch

        return returns - returns.cumsum(0) / torch.arange(1, len(returns) + 1)


class LossInBfloat16(Imitate):
    def loss(self, batch, out):
        import torch

        right = super().loss(batch, out)
        return az.Loss(right.value.to(torch.bfloat16), right.metrics)


class LossThroughBfloat16(Imitate):
    def loss(self, batch, out):
        right = super().loss(batch, out)
        return az.Loss(right.value.bfloat16().float(), right.metrics)


class UnknownMetric(Loo):
    metrics: ClassVar = {}


class MetricIsNaN(Imitate):
    def loss(self, batch, out):
        right = super().loss(batch, out)
        return az.Loss(right.value, {**right.metrics, "entropy": out.entropy[:0].mean()})


class MaskedTokensAreSteps(Clip):
    def gae(self, batch):
        import torch

        config, mask = self.config, batch.response_mask
        following = torch.cat([batch.values[:, 1:], torch.zeros(len(batch), 1)], 1)
        deltas = batch.rewards + config.gamma * following - batch.values
        advantages, running = torch.zeros_like(deltas), torch.zeros(len(batch))
        for t in reversed(range(mask.shape[1])):
            running = deltas[:, t] + config.gamma * config.gae_lambda * running
            advantages[:, t] = running
        return advantages * mask


class LaterTokensAlone(Clip):
    def whiten(self, advantages, mask):
        return advantages - advantages[:, 1:][mask[:, 1:]].mean()


class TerminatedAlone(Loo):
    unbiased = False
    examples = ()

    def compare(self, batch, returns):
        return returns - returns[batch.terminated].mean()


class ExampleIsWrong(Loo):
    examples = ({**Loo.examples[0], "loss": 1.5},)


class ExampleIsMisspelt(Loo):
    examples = ({**Loo.examples[0], "log_prob": [[-1, -2], [-1, 0]]},)


# Each wrong algorithm: what was changed, and the checks that must catch it, the best one first.
PLANTED: dict[type, tuple[str, tuple[str, ...]]] = {
    MaskIgnored: (
        "the mask is left out of the loss",
        (
            "masked_tokens_change_nothing",
            "masked_tokens_have_no_gradient",
        ),
    ),
    MaskedTokensAreSteps: ("GAE counts masked tokens as steps", ("masked_tokens_change_nothing",)),
    PaddingInTheMean: ("a mean over all of [B, T]", ("padding_changes_nothing",)),
    PaddingInTheLength: (
        "responses divided by the width of the batch",
        ("padding_changes_nothing",),
    ),
    WhitenedOverPadding: ("advantages whitened over padding", ("padding_changes_nothing",)),
    SignFlipped: ("the sign of the loss flipped", ("improves_on_the_token_mdp",)),
    PairsSwapped: ("chosen and rejected swapped", ("improves_on_the_token_mdp",)),
    BaselineIncludesItself: (
        "the baseline includes the response itself",
        ("expected_gradient_is_exact",),
    ),
    TokensWeighedByLength: ("tokens weighed by their probability", ("expected_gradient_is_exact",)),
    BatchMutatedByLoss: ("the loss scales advantages in place", ("the_batch_is_not_changed",)),
    BatchMutatedByPrepare: ("prepare clips rewards in place", ("the_batch_is_not_changed",)),
    BatchMutatedByUpdate: ("update zeroes rewards in place", ("the_batch_is_not_changed",)),
    OutputMutated: ("the loss clips the entropy in place", ("the_batch_is_not_changed",)),
    HiddenStateInLoss: ("the loss divides by the last one", ("the_loss_is_repeatable",)),
    ZeroDeviation: ("divided by a deviation of 0", ("equal_scores_teach_nothing",)),
    DeviationOfRounding: (
        "divided by the deviation of rounding errors",
        ("equal_scores_teach_nothing",),
    ),
    UndeclaredColumn: ("reads `values` without declaring them", ("needs_are_complete",)),
    UndeclaredReference: ("reads `ref_log_probs` without declaring them", ("needs_are_complete",)),
    LossIsANumber: ("returns a tensor in place of az.Loss", ("needs_are_complete",)),
    OldLogProbsAreNew: (
        "the ratio is to the new log-probs, detached",
        (
            "approx_kl_is_of_the_sampling_policy",
            "the_ratio_is_to_the_sampling_policy",
        ),
    ),
    NewLogProbsUnreported: (
        "the new log-probs, detached, and approx_kl is not reported",
        ("the_ratio_is_to_the_sampling_policy",),
    ),
    OldLogProbsAreTheReferences: (
        "the ratio is to the reference's log-probs",
        (
            "approx_kl_is_of_the_sampling_policy",
            "the_ratio_is_to_the_sampling_policy",
        ),
    ),
    ReferenceUnreported: (
        "the reference's log-probs, and approx_kl is not reported",
        ("the_ratio_is_to_the_sampling_policy",),
    ),
    DetachedLoss: ("the loss is detached", ("the_loss_has_a_gradient",)),
    DetachedPolicy: (
        "the policy's output is detached, the critic's not",
        ("the_loss_has_a_gradient",),
    ),
    StaleAdvantages: (
        "advantages of the first rollout used for all",
        ("state_dict_holds_all_state",),
    ),
    UnsavedState: (
        "a moving mean that is not saved",
        (
            "state_dict_holds_all_state",
            "resume_equals_uninterrupted",
        ),
    ),
    StateThatIsNoJson: ("a tensor in state_dict", ("state_dict_holds_all_state",)),
    StateOfTheClass: ("a count kept in the class, over runs", ("seeded_runs_are_equal",)),
    Unseeded: ("noise from a generator without a seed", ("seeded_runs_are_equal",)),
    UnclampedRatio: ("exp of a log-ratio without a clamp", ("extreme_ratios_stay_finite",)),
    LogOfSigmoid: ("log of a sigmoid", ("extreme_ratios_stay_finite",)),
    DividedByRowsAtHand: ("divided by the tokens at hand", ("splitting_changes_nothing",)),
    CoupledRows: ("a softmax over the rows at hand", ("splitting_changes_nothing",)),
    OrderedRows: ("a baseline of the rows before", ("row_order_changes_nothing",)),
    LossInBfloat16: ("the loss is bfloat16", ("low_precision_keeps_a_float32_loss",)),
    LossThroughBfloat16: (
        "the loss went through bfloat16",
        ("low_precision_keeps_a_float32_loss",),
    ),
    UnknownMetric: ("a metric nobody knows", ("metrics_are_known_and_finite",)),
    MetricIsNaN: ("a metric that is NaN", ("metrics_are_known_and_finite",)),
    LaterTokensAlone: ("the mean over tokens after the first", ("one_token_responses_work",)),
    TerminatedAlone: ("the mean over responses that ended", ("full_length_responses_work",)),
    ExampleIsWrong: ("the code does not give its example's loss", ("examples_hold",)),
    ExampleIsMisspelt: ("an example with `log_prob`", ("examples_hold",)),
}


def entry_of(algorithm: type) -> Entry:
    """Returns an algorithm of this module as the registry would."""
    spec = az.AlgorithmSpec(
        id=algorithm.__name__.lower(),
        target=f"{__name__}:{algorithm.__name__}",
        summary="planted",
    )
    return Entry("algorithm", spec, Plugin("planted", __name__, state="loaded"))
