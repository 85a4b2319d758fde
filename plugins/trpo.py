"""Trust region policy optimization (TRPO): a natural gradient step of bounded divergence.

    maximise  S(theta) = mean r_t A_t    where  mean KL(old || theta) <= max_kl,   r_t = p / p_old
    F x = g by conjugate gradient,   theta = old + fraction * sqrt(2 max_kl / x'F x) x

Schulman et al. 2015, arXiv:1502.05477, section 6 and appendix C; A_t are generalised advantages
(arXiv:1506.02438). g is the gradient of S at the old policy and F the Hessian of the mean KL there,
which is the Fisher matrix; F v is a second backward pass, never a matrix. The KL is exact over the
vocabulary, a mean over tokens. The first fraction 1, backtrack, backtrack^2, ... is taken whose KL
is within max_kl and that improves S; if none does, the policy stays. Then the value head, whose
gradient stops at the trunk, takes vf_epochs passes of regression to the returns.

What differs from the paper: F + damping I takes the place of F, as in its published code; the
critic is a value head on the trunk. The policy has no learning rate, only max_kl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

import alignzoo as az
from alignzoo import kernels, objectives, options

if TYPE_CHECKING:
    from torch import Tensor

POLICY = 0  # the parameter group that the natural gradient moves
KL_TOKENS = 1024  # at a time, where logits of two policies are compared


class TRPOConfig(az.AlgorithmConfig):
    """Options of `trpo`."""

    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="of the value head where value_learning_rate is none; the policy's step is "
        "as long as max_kl allows",
    )
    num_epochs: int = Field(1, ge=1, le=1, description="one: a rollout gives one policy step")
    minibatch_size: int | None = Field(
        None, gt=0, description="sequences per step of the value head; default the whole batch"
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="the value head's gradient is scaled down to this L2 norm"
    )
    kl_coef: options.KLCoef = 0.025
    gamma: options.Gamma = 1.0
    gae_lambda: options.GAELambda = 1.0
    whiten_advantages: options.Whiten = "center"
    max_kl: float = Field(0.05, gt=0, description="mean KL(old || new) of a step, nats a token")
    cg_steps: int = Field(3, gt=0, description="steps of conjugate gradient, a product each")
    cg_tolerance: float = Field(
        1e-4, ge=0, description="conjugate gradient ends when |F x - g| is below this times |g|"
    )
    damping: float = Field(1.0, ge=0, description="added to the diagonal of the Fisher matrix")
    fisher_fraction: float = Field(
        0.25, gt=0, le=1, description="share of the responses that the Fisher matrix is taken over"
    )
    line_search_steps: int = Field(10, gt=0, description="step lengths that are tried")
    backtrack: float = Field(0.8, gt=0, lt=1, description="each length is this times the last")
    vf_epochs: int = Field(5, gt=0, description="passes of the value head over each rollout")
    value_learning_rate: options.ValueLearningRate = 1e-3
    ent_coef: options.EntCoef = 0.0
    bootstrap_truncated: options.BootstrapTruncated = False
    group_size: options.GroupSize = 1


class Solution(NamedTuple):
    """x of F x = g, x'F x, and |F x - g| / |g|."""

    x: Tensor
    curvature: float
    residual: float


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], g: Tensor, *, steps: int, tolerance: float
) -> Solution:
    """Returns x of F x = g from products F v alone; Hestenes and Stiefel 1952.

    At most `steps` products are taken, fewer where |F x - g| falls below `tolerance` |g|. Exact
    after as many steps as F has different eigenvalues.
    """
    x, residual, direction = g.new_zeros(g.shape), g.clone(), g.clone()
    squared = start = float(residual @ residual)
    for _ in range(steps):
        if squared <= tolerance**2 * start:
            break
        image = product(direction)
        along = float(direction @ image)
        if along <= 0:  # rounding, or no curvature: as far as this can be known
            break
        length = squared / along
        x += length * direction
        residual -= length * image
        previous, squared = squared, float(residual @ residual)
        direction = residual + (squared / previous) * direction
    share = (squared / start) ** 0.5 if start > 0 else 0.0
    return Solution(x, float(x @ (g - residual)), share)


class TRPO(az.Algorithm):
    """Natural gradient within a trust region, by conjugate gradient and a line search."""

    Config = TRPOConfig

    @property
    def needs(self) -> az.Needs:
        return az.Needs(
            values=True,
            detach_values=True,
            ref_log_probs=self.loss_kl_coef > 0,
            bootstrap_values=self.config.bootstrap_truncated,
            group_size=self.config.group_size,
        )

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

    def loss(self, batch: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
        """Returns minus the surrogate, with the penalties that are in the loss."""
        surrogate = objectives.policy(batch, out, kind="plain")
        coefs = {"ent_coef": self.config.ent_coef, "kl_coef": self.loss_kl_coef}
        return surrogate + objectives.regularisation(batch, out, **coefs)

    def update(self, batch: az.RolloutBatch, learner: az.Learner) -> az.Metrics:
        config = self.config
        metrics = az.Metrics(objectives.explained_variance(batch))
        gradient = learner.gradient(batch, self.loss)
        if not gradient.finite:
            return metrics.merge(learner.apply(gradient).metrics)
        metrics.merge(gradient.metrics)
        ascent = -learner.gradient_vector(gradient, POLICY)
        rows = self._fisher_rows(batch)
        solution = conjugate_gradient(
            lambda vector: self.fisher_vector(rows, learner, vector),
            ascent,
            steps=config.cg_steps,
            tolerance=config.cg_tolerance,
        )
        metrics.merge(az.Metrics({"cg_residual": solution.residual}))
        metrics.merge(az.Metrics(self._search(batch, learner, solution)))
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.vf_epochs):
            metrics.merge(learner.step(minibatch, objectives.value).metrics)
        return metrics

    def _fisher_rows(self, batch: az.RolloutBatch) -> az.RolloutBatch:
        """Returns the responses, evenly spread, that the Fisher matrix is taken over."""
        count = max(1, round(self.config.fisher_fraction * len(batch)))
        return batch.select([row * len(batch) // count for row in range(count)])

    def fisher_vector(self, batch: az.RolloutBatch, learner: az.Learner, vector: Tensor) -> Tensor:
        """Returns (F + damping I) v: the Hessian of mean KL(old || .) at the old policy itself."""
        needs = replace(self.needs, values=False, logits=True)

        def divergence(micro: az.RolloutBatch, out: az.PolicyOutput) -> az.Loss:
            log_probs = (out.logits.float() / learner.temperature).log_softmax(-1)  # [B, T, V]
            old = log_probs.detach()
            kl = (old.exp() * (old - log_probs)).sum(-1)
            return az.Loss(objectives.mean(micro, kl))

        product = learner.hessian_vector(batch, divergence, vector, group=POLICY, needs=needs)
        return product + self.config.damping * vector

    def _search(
        self, batch: az.RolloutBatch, learner: az.Learner, solution: Solution
    ) -> dict[str, float]:
        """Moves the policy by the longest step tried that is allowed; returns what it did."""
        config, old, start = self.config, learner.snapshot(), learner.get_vector(POLICY)
        before, _ = self._measure(batch, learner, old)
        found = {"surrogate_before": before, "surrogate_after": before, "mean_kl": 0.0}
        found |= {"step_fraction": 0.0, "line_search_steps": 0.0}
        if solution.curvature <= 0:  # no gradient, so nowhere to go
            return found
        step = (2.0 * config.max_kl / solution.curvature) ** 0.5 * solution.x
        for tried in range(config.line_search_steps):
            fraction = config.backtrack**tried
            learner.set_vector(start + fraction * step, POLICY)
            after, kl = self._measure(batch, learner, old)
            found["line_search_steps"] = tried + 1.0
            if kl <= config.max_kl and after > before:
                return found | {"surrogate_after": after, "mean_kl": kl, "step_fraction": fraction}
        learner.set_vector(start, POLICY)
        return found

    def _measure(
        self, batch: az.RolloutBatch, learner: az.Learner, old: az.Policy
    ) -> tuple[float, float]:
        """Returns what is maximised, and KL(old || now) in nats a token; few logits at a time."""
        needs = replace(self.needs, values=False, logits=True)
        surrogate = divergence = 0.0
        for part in batch.micro_batches(max_tokens=KL_TOKENS):
            out, was = learner.evaluate(part, needs=needs), learner.evaluate(part, old, needs=needs)
            kl = kernels.kl_divergence(was.logits, out.logits, temperature=learner.temperature)
            surrogate -= float(self.loss(part, out).value)
            divergence += float(objectives.mean(part, kl))
        return surrogate, divergence


@az.hookimpl
def alignzoo_algorithms() -> list[az.AlgorithmSpec]:
    return [
        az.AlgorithmSpec(
            id="trpo",
            target="alignzoo.plugins.trpo:TRPO",
            summary="trust region policy optimization by conjugate gradient and line search",
            paper="arXiv:1502.05477",
        )
    ]
