"""The terms that objectives are made of: each takes a batch and a policy's output, and is a `Loss`.

    loss = objectives.policy(batch, out, clip_range=0.2) + 0.5 * objectives.value(batch, out)

Every term is a sum over the rows at hand divided by a count of the whole minibatch (`num_tokens` or
`num_sequences`), so it does not matter how that is split; its metrics are (sum, count) pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from alignzoo import kernels
from alignzoo.algorithm import Loss, Max, MetricValue

if TYPE_CHECKING:
    from torch import Tensor

    from alignzoo.policy import PolicyOutput
    from alignzoo.rollout import RolloutBatch

Aggregate = Literal["token_mean", "sequence_mean", "sequence_sum", "sequence_sum_norm"]


def mean(
    batch: RolloutBatch,
    x: Tensor,
    aggregate: Aggregate = "token_mean",
    *,
    max_length: int | None = None,
) -> Tensor:
    """Returns the mean of `x` [B, T] over unmasked tokens, 0-d.

    "token_mean": the sum over the number of tokens. "sequence_mean": the mean over rows of each
    row's mean. "sequence_sum": the mean over rows of each row's sum. "sequence_sum_norm": that over
    `max_length`, Liu et al. 2025, arXiv:2503.20783. What lies under the mask is not looked at.

    Raises:
        ValueError: "sequence_sum_norm" without `max_length`.
    """
    mask = batch.response_mask
    x = x.where(mask, 0.0)
    if aggregate == "sequence_mean":
        x = x / mask.sum(1, keepdim=True).clamp(min=1)
    return x.sum() / _count(batch, aggregate, max_length)


def _count(batch: RolloutBatch, aggregate: Aggregate, max_length: int | None) -> float:
    """Returns what a sum is divided by: a count of the whole minibatch."""
    if aggregate == "token_mean":
        return batch.num_tokens
    if aggregate in ("sequence_mean", "sequence_sum"):
        return batch.num_sequences
    if max_length is None:
        raise ValueError("sequence_sum_norm divides by max_length, which was not given")
    return float(batch.num_sequences * max_length)


def _share(batch: RolloutBatch, aggregate: Aggregate) -> tuple[float, Any]:
    """Returns (whole, part): a mean times `whole` over `part`, summed over parts, is the mean."""
    if aggregate == "token_mean":
        return batch.num_tokens, batch.response_mask.sum()
    return batch.num_sequences, len(batch)


def policy(
    batch: RolloutBatch,
    out: PolicyOutput,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    kind: Literal["clip", "plain", "cispo"] = "clip",
    level: Literal["token", "sequence"] = "token",
    aggregate: Aggregate = "token_mean",
    max_length: int | None = None,
    advantages: Tensor | None = None,
    behaviour_weights: Tensor | None = None,
) -> Loss:
    """Returns the surrogate of `batch.advantages` under the ratio to `batch.old_log_probs`.

    See `kernels.policy_loss` for `kind`, `level` and the clips, and `mean` for `aggregate`.
    Metrics: policy_loss, approx_kl, clip_frac, ratio_max.
    """
    mask = batch.response_mask
    loss, stats = kernels.policy_loss(
        out.log_probs,
        batch.old_log_probs,
        batch.advantages if advantages is None else advantages,
        mask,
        clip_range=clip_range,
        clip_range_high=clip_range_high,
        dual_clip=dual_clip,
        kind=kind,
        level=level,
        aggregate="token_sum" if aggregate.startswith("sequence_sum") else aggregate,
        denominator=_count(batch, aggregate, max_length),
        behaviour_weights=behaviour_weights,
    )
    (whole, part), count = _share(batch, aggregate), mask.sum()
    metrics: dict[str, MetricValue] = {
        "policy_loss": (loss.detach() * whole, part),
        "approx_kl": (stats["approx_kl"] * count, count),
        "clip_frac": (stats["clip_frac"] * count, count),
        "ratio_max": Max(stats["ratio_max"]),
    }
    return Loss(loss, metrics)


def policy_gradient(
    batch: RolloutBatch,
    out: PolicyOutput,
    *,
    aggregate: Aggregate = "token_mean",
    max_length: int | None = None,
) -> Loss:
    """Returns -mean(A log p): its gradient is the policy gradient's estimate. Metric: policy_loss.

    Unlike `policy` it has no ratio, so it is right only for the policy that sampled.
    """
    loss = -mean(batch, batch.advantages * out.log_probs, aggregate, max_length=max_length)
    whole, part = _share(batch, aggregate)
    return Loss(loss, {"policy_loss": (loss.detach() * whole, part)})


def value(batch: RolloutBatch, out: PolicyOutput, *, clip_range: float | None = None) -> Loss:
    """Returns half the mean squared error of `out.values` to `batch.returns`.

    With `clip_range` the values move no further than that from `batch.values`; see
    `kernels.value_loss`. Metric: value_loss.
    """
    mask, whole = batch.response_mask, batch.num_tokens
    assert out.values is not None
    loss, _ = kernels.value_loss(
        out.values,
        None if clip_range is None else batch.values,
        batch.returns,
        mask,
        clip_range=clip_range,
        denominator=whole,
    )
    return Loss(loss, {"value_loss": (loss.detach() * whole, mask.sum())})


def regularisation(
    batch: RolloutBatch,
    out: PolicyOutput,
    *,
    ent_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: Literal["k1", "k2", "k3", "k3_plus", "abs"] = "k2",
    aggregate: Aggregate = "token_mean",
    max_length: int | None = None,
) -> Loss:
    """Returns -ent_coef * mean entropy + kl_coef * mean KL to the reference; metric: entropy.

    The KL is `kernels.kl_penalty` of `out.log_probs` and `batch.ref_log_probs` per token; k2 has
    the gradient of KL(policy || reference) at the visited states.
    """
    total = (out.entropy * batch.response_mask).sum()
    loss = total.new_zeros(())
    if ent_coef:
        loss = loss - ent_coef * total / batch.num_tokens
    if kl_coef:
        kl = kernels.kl_penalty(out.log_probs, batch.ref_log_probs, estimator=kl_estimator)
        loss = loss + kl_coef * mean(batch, kl, aggregate, max_length=max_length)
    return Loss(loss, {"entropy": (total.detach(), batch.response_mask.sum())})


def gae(
    batch: RolloutBatch,
    *,
    gamma: float,
    gae_lambda: float,
    bootstrap_truncated: bool = False,
    values: Tensor | None = None,
    after: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns generalised advantages and returns of `batch.rewards`, [B, T] each.

    See `kernels.gae`. A response ends with its last token; with `bootstrap_truncated` one that was
    cut goes on in the value after it. `values` [B, T] and `after` [B] are by default the batch's
    own `values` and `bootstrap_values`.
    """
    bootstrap = None
    if bootstrap_truncated:
        bootstrap = (batch.bootstrap_values if after is None else after) * batch.truncated
    return kernels.gae(
        batch.rewards,
        batch.values if values is None else values,
        gamma=gamma,
        gae_lambda=gae_lambda,
        mask=batch.response_mask,
        bootstrap=bootstrap,
    )


def whiten(x: Tensor, mask: Tensor, how: Literal["none", "center", "full"]) -> Tensor:
    """Returns `x` [B, T] as it is, less its masked mean ("center"), or whitened ("full")."""
    if how == "full":
        return kernels.masked_whiten(x, mask)[0]
    return x - x[mask].mean() if how == "center" else x


def pair_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, MetricValue]:
    """Returns accuracy and margin of P pairs, from the rewards of their responses, [P] each.

    A pair counts where the chosen response has the higher reward, a tie one half.
    """
    margins = (chosen - rejected).detach()
    wins = (margins > 0).sum() + 0.5 * (margins == 0).sum()
    return {"accuracy": (wins, len(margins)), "margin": (margins.sum(), len(margins))}


def explained_variance(batch: RolloutBatch, values: Tensor | None = None) -> dict[str, float]:
    """Returns 1 - Var(returns - values) / Var(returns); nothing where the returns are all equal.

    0 is a critic as good as a constant; 1 is a perfect one. `values` [B, T] is by default the
    batch's own.
    """
    mask = batch.response_mask
    values = (batch.values if values is None else values)[mask].double()
    returns = batch.returns[mask].double()
    variance = float(returns.var(unbiased=False))
    if variance == 0:
        return {}
    error = float((returns - values).var(unbiased=False))
    return {"explained_variance": 1.0 - error / variance}
