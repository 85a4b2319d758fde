"""Losses and penalties, each with its gradient written out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alignzoo.kernels.reference.masks import (
    MAX_LOG_RATIO,
    Bools,
    Floats,
    Ints,
    live_tokens,
    row_numbers,
    zero_masked,
)


def _exp_minus_1_minus(x: Floats) -> Floats:
    """e^x - 1 - x with all its digits: its series x^2/2! + x^3/3! + ... where x is small."""
    series = np.zeros(x.shape)
    for k in range(24, 1, -1):
        series = series * x + 1 / math.factorial(k)
    return np.where(np.abs(x) < 1, series * x * x, np.expm1(x) - x)


class _Surrogate(NamedTuple):
    """Per-token loss [B, T], its slope in the log-ratio, and where a clip made that slope 0."""

    loss: Floats
    slope: Floats
    is_cut: Bools


def _surrogate(
    d: Floats, advantages: Floats, low: float, high: float, dual_clip: float | None
) -> _Surrogate:
    """-min(r A, clip(r) A), bounded by -c A where A < 0."""
    ratio = np.exp(np.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    slope = np.where(np.abs(d) > MAX_LOG_RATIO, 0.0, -ratio * advantages)
    plain, clipped = -ratio * advantages, -np.clip(ratio, low, high) * advantages
    is_cut, loss = clipped > plain, np.maximum(plain, clipped)
    if dual_clip is not None:
        bound = -dual_clip * advantages
        is_bounded = (advantages < 0) & (loss > bound)
        is_cut, loss = is_cut | is_bounded, np.where(is_bounded, bound, loss)
    return _Surrogate(loss, np.where(is_cut, 0.0, slope), is_cut)


def _policy_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    level: str = "token",
    aggregate: str = "token_mean",
    denominator: ArrayLike | None = None,
    behaviour_weights: ArrayLike | None = None,
    kind: str = "clip",
    cu_seqlens: ArrayLike | None = None,
) -> tuple[float, Floats, dict[str, float]]:
    """Value, gradient in `log_probs` and statistics of one policy loss."""
    live = live_tokens(mask, np.shape(log_probs))
    rows = row_numbers(live.shape, cu_seqlens)
    new, adv = zero_masked(log_probs, live), zero_masked(advantages, live)
    weights = _token_weights(live, rows, aggregate, denominator)
    if behaviour_weights is not None:
        weights = weights * zero_masked(behaviour_weights, live)

    token_d = new - zero_masked(old_log_probs, live)
    is_sequence = level == "sequence"
    d = _row_means(token_d, live, rows) if is_sequence else token_d

    low, high = 1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high)
    ratio = np.exp(np.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    if kind == "cispo":
        factor = -np.clip(ratio, low, high) * adv  # a constant
        loss, grad, is_cut = factor * new, weights * factor, np.zeros(live.shape, bool)
    else:
        limits = (low, high, dual_clip) if kind == "clip" else (-np.inf, np.inf, None)
        loss, slope, is_cut = _surrogate(d, adv, *limits)
        grad = weights * slope
        if is_sequence:  # every token of a row moves the row's one ratio by 1 / length
            grad = _row_means(grad, live, rows)
    value = math.fsum((weights * loss)[live])
    return value, grad, _ratio_stats(live, token_d, ratio, is_cut)


def _row_means(x: Floats, live: Bools, rows: Ints) -> Floats:
    """The mean of x over the unmasked tokens of a row, at each of them; 0 elsewhere."""
    means = np.zeros(x.shape)
    for row in np.unique(rows[live]):
        members = live & (rows == row)
        means[members] = math.fsum(x[members]) / members.sum()
    return means


def _ratio_stats(live: Bools, d: Floats, ratio: Floats, is_cut: Bools) -> dict[str, float]:
    """Statistics over the unmasked tokens; all 0 where there are none."""
    n = int(live.sum())
    if n == 0:
        return {"clip_frac": 0.0, "approx_kl": 0.0, "ratio_max": 0.0, "ess": 0.0}
    clamped = np.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    r = ratio[live]
    return {
        "clip_frac": float(is_cut[live].sum()) / n,
        "approx_kl": math.fsum(_exp_minus_1_minus(clamped)[live]) / n,
        "ratio_max": float(r.max()),
        "ess": math.fsum(r) ** 2 / (n * math.fsum(r * r)),
    }


def _token_weights(
    live: Bools, rows: Ints, aggregate: str, denominator: ArrayLike | None
) -> Floats:
    """What each token's loss is multiplied by before everything is summed."""
    present = np.unique(rows[live])
    own_count = {"token_mean": live.sum(), "sequence_mean": present.size, "token_sum": 1}
    if denominator is None and not live.any():
        raise ValueError("every token of every row is masked")
    if denominator is None and aggregate not in own_count:
        raise ValueError(f"aggregate='{aggregate}' needs a denominator")
    divisor = own_count[aggregate] if denominator is None else float(np.asarray(denominator))
    weights = np.where(live, 1.0 / divisor, 0.0)
    if aggregate == "sequence_mean":
        for row in present:
            weights[live & (rows == row)] /= (live & (rows == row)).sum()
    return weights


def policy_loss(*arrays: ArrayLike, **options: Any) -> tuple[float, dict[str, float]]:
    """-min(r A, clip(r) A), or -r A, or -clip(r) A log_probs, summed as `aggregate` says."""
    value, _, stats = _policy_loss(*arrays, **options)
    return value, stats


def policy_loss_grad(*arrays: ArrayLike, **options: Any) -> Floats:
    """Gradient of `policy_loss` in `log_probs`; takes the same arguments."""
    return _policy_loss(*arrays, **options)[1]


def _value_loss(
    values: ArrayLike,
    old_values: ArrayLike | None,
    returns: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    clip_range: float | None = None,
    denominator: ArrayLike | None = None,
    cu_seqlens: ArrayLike | None = None,
) -> tuple[float, Floats, dict[str, float]]:
    """Value, gradient in `values` and statistics of the value loss. Rows do not matter to it."""
    del cu_seqlens
    live = live_tokens(mask, np.shape(values))
    if denominator is None and not live.any():
        raise ValueError("every token of every row is masked")
    divisor = float(live.sum()) if denominator is None else float(np.asarray(denominator))
    v, target = zero_masked(values, live), zero_masked(returns, live)
    squares = (v - target) ** 2
    is_cut = np.zeros(live.shape, bool)
    if clip_range is not None and old_values is not None:
        old = zero_masked(old_values, live)
        clipped_squares = (np.clip(v, old - clip_range, old + clip_range) - target) ** 2
        is_cut = clipped_squares > squares
        squares = np.maximum(squares, clipped_squares)
    grad = np.where(is_cut, 0.0, v - target) / divisor
    clip_frac = float(is_cut[live].mean()) if live.any() else 0.0
    return 0.5 * math.fsum(squares[live]) / divisor, grad, {"clip_frac": clip_frac}


def value_loss(*arrays: Any, **options: Any) -> tuple[float, dict[str, float]]:
    """Half the larger of (V - R)^2 and (clip(V, V_old +- clip_range) - R)^2, averaged."""
    value, _, stats = _value_loss(*arrays, **options)
    return value, stats


def value_loss_grad(*arrays: ArrayLike, **options: Any) -> Floats:
    """Gradient of `value_loss` in `values`; takes the same arguments."""
    return _value_loss(*arrays, **options)[1]


def kl_penalty(log_probs: ArrayLike, ref_log_probs: ArrayLike, *, estimator: str) -> Floats:
    """With q = ref - log_probs: `k1` -q, `k2` q^2/2, `k3` and `k3_plus` e^q - 1 - q, `abs` |q|."""
    q = np.asarray(ref_log_probs, np.float64) - np.asarray(log_probs, np.float64)
    if estimator == "k1":
        return np.asarray(-q)
    if estimator == "k2":
        return np.asarray(q * q / 2)
    if estimator == "abs":
        return np.asarray(np.abs(q))
    return _exp_minus_1_minus(np.clip(q, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def kl_penalty_grad(log_probs: ArrayLike, ref_log_probs: ArrayLike, *, estimator: str) -> Floats:
    """d kl_penalty / d log_probs; `k3_plus` has the gradient of `k2`."""
    q = np.asarray(ref_log_probs, np.float64) - np.asarray(log_probs, np.float64)
    if estimator == "k1":
        return np.ones(q.shape)
    if estimator == "abs":
        return np.asarray(-np.sign(q))
    if estimator == "k3":
        return np.where(np.abs(q) > MAX_LOG_RATIO, 0.0, -np.expm1(np.minimum(q, MAX_LOG_RATIO)))
    return np.asarray(-q)


def huber(x: ArrayLike, *, delta: float = 1.0) -> Floats:
    """x^2 / 2 within `delta` of 0, delta (|x| - delta / 2) beyond."""
    size = np.abs(np.asarray(x, np.float64))
    return np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def huber_grad(x: ArrayLike, *, delta: float = 1.0) -> Floats:
    """d huber / dx: x, cut to +-delta."""
    return np.clip(np.asarray(x, np.float64), -delta, delta)
