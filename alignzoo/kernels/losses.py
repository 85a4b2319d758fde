"""Losses and penalties, each computed with its gradient in one pass."""

from __future__ import annotations

from typing import Any

from alignzoo.kernels.arrays import Array, Stats, is_torch, native


def _wants_gradient(x: Any) -> bool:
    if not is_torch(x):
        return False
    from alignzoo.kernels import autograd

    return autograd.needs_gradient(x)


def _with_gradient(x: Any, value: Any, gradient: Any) -> Any:
    if gradient is None:
        return value
    from alignzoo.kernels import autograd

    return autograd.attach(x, value, gradient)


def policy_loss(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    mask: Array | None = None,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    level: str = "token",
    aggregate: str = "token_mean",
    denominator: float | Array | None = None,
    behaviour_weights: Array | None = None,
    kind: str = "clip",
    cu_seqlens: Array | None = None,
) -> tuple[Array, Stats[Array]]:
    """The clipped surrogate loss, 0-d, and statistics of the update, 0-d each.

    d = log_probs - old_log_probs, clamped to +-20 (no gradient beyond), r = e^d. Per token, by
    `kind`: "clip": -min(r A, clip(r, 1 - clip_range, 1 + clip_range_high) A), Schulman et al. 2017,
    arXiv:1707.06347, eq. 7; where A < 0 and `dual_clip` = c: min(that, -c A), Ye et al. 2020,
    arXiv:1912.09729. "plain": -r A. "cispo": -stop(clip(r)) A log_probs, MiniMax 2025,
    arXiv:2506.13585. At `level` "sequence" every token of a row has r = exp(mean_t d) of its
    unmasked tokens, Zheng et al. 2025, arXiv:2507.18071.

    torch: differentiable in `log_probs`, once. The other arrays are constants.

    Args:
        log_probs: [B, T], of the policy being trained; float32 or float64. [N] is one row, or
            several with `cu_seqlens`.
        old_log_probs: same shape, of the policy before this update.
        advantages: same shape.
        mask: same shape, bool or integers 0 and 1.
        clip_range: how far r may fall below 1.
        clip_range_high: how far it may rise above 1; default `clip_range`.
        dual_clip: above 1; bound on r where the advantage is negative. For kind "clip".
        level: "token" or "sequence".
        aggregate: "token_mean": sum over tokens / number of unmasked tokens. "sequence_mean": sum
            of the rows' means / number of rows with an unmasked token. "sequence_sum_norm": sum
            over tokens / `denominator`, Liu et al. 2025, arXiv:2503.20783. "token_sum": sum over
            tokens.
        denominator: what the sum is divided by in place of the batch's own count: the global count
            when a minibatch is split, the length for "sequence_sum_norm". A batch without an
            unmasked token is then a loss of 0.
        behaviour_weights: same shape, factors of the tokens' losses (importance weights).
        kind: "clip", "plain" or "cispo".
        cu_seqlens: [B + 1] integers, where packed rows start and end: 0, ..., N.

    Returns:
        (loss, stats). stats, over unmasked tokens: `clip_frac`, the share whose gradient the clip
        made 0; `approx_kl`, the mean of e^d - 1 - d; `ratio_max`; `ess`, (sum r)^2 / (n sum r^2).

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: shapes that disagree, an option out of range, no unmasked token and no
            `denominator`.
    """
    loss, gradient, stats = native().policy_loss(
        log_probs,
        old_log_probs,
        advantages,
        mask,
        clip_range,
        clip_range_high,
        dual_clip,
        level,
        aggregate,
        denominator,
        behaviour_weights,
        kind,
        cu_seqlens,
        _wants_gradient(log_probs),
    )
    return _with_gradient(log_probs, loss, gradient), stats


def value_loss(
    values: Array,
    old_values: Array | None,
    returns: Array,
    mask: Array | None = None,
    *,
    clip_range: float | None = None,
    denominator: float | Array | None = None,
    cu_seqlens: Array | None = None,
) -> tuple[Array, Stats[Array]]:
    """Half the mean squared error of the values, 0-d, and `clip_frac`, 0-d.

    Per token 0.5 (V - R)^2; with `clip_range` = c 0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c)
    - R)^2), as in the code of arXiv:1707.06347.

    torch: differentiable in `values`, once. The other arrays are constants.

    Args:
        values: [B, T], float32 or float64. [N] is one row, or several with `cu_seqlens`.
        old_values: same shape, before this update; None is legal without `clip_range`.
        returns: same shape.
        mask: same shape, bool or integers 0 and 1.
        clip_range: how far a value may move from its old one before it is clipped; None: any.
        denominator: what the sum is divided by; default the number of unmasked tokens.
        cu_seqlens: [B + 1] integers, where packed rows start and end: 0, ..., N.

    Returns:
        (loss, stats). stats: `clip_frac`, the share of unmasked tokens whose gradient the clip made
        0.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: shapes that disagree, an option out of range, no unmasked token and no
            `denominator`.
    """
    loss, gradient, stats = native().value_loss(
        values,
        old_values,
        returns,
        mask,
        clip_range,
        denominator,
        cu_seqlens,
        _wants_gradient(values),
    )
    return _with_gradient(values, loss, gradient), stats


def kl_penalty(log_probs: Array, ref_log_probs: Array, *, estimator: str) -> Array:
    """Per-token estimates of the divergence from the reference, in the shape of `log_probs`.

    q = ref_log_probs - log_probs: "k1": -q; "k2": q^2 / 2; "k3": e^q - 1 - q, without the
    cancellation of that formula near 0, q clamped to +-20 (no gradient beyond); "abs": |q|;
    "k3_plus": the value of k3 with the gradient of k2. Schulman 2020,
    http://joschu.net/blog/kl-approx.html.

    As a loss, in expectation on-policy at each visited state: k1's gradient is 0, k2's is that of
    KL(pi || ref), k3's that of KL(ref || pi). The gradient of the whole sequence's KL needs k1 in
    the reward, or the estimator on the summed log-ratio.

    torch: differentiable in `log_probs`, once; the reference is a constant.

    Args:
        log_probs: any shape, of the policy, for tokens it sampled; float32 or float64, nats.
        ref_log_probs: same shape, of the reference.
        estimator: "k1", "k2", "k3", "abs" or "k3_plus".

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: shapes that disagree, an unknown estimator.
    """
    value, gradient = native().kl_penalty(
        log_probs, ref_log_probs, estimator, _wants_gradient(log_probs)
    )
    result: Array = _with_gradient(log_probs, value, gradient)
    return result


def huber(x: Array, *, delta: float = 1.0) -> Array:
    """x^2 / 2 where |x| <= delta, delta (|x| - delta / 2) beyond, in the shape of x. Huber 1964.

    torch: differentiable in `x`, once.

    Args:
        x: any shape, float32 or float64, such as errors of values.
        delta: where the square becomes a line; above 0.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a delta not above 0.
    """
    value, gradient = native().huber(x, delta, _wants_gradient(x))
    result: Array = _with_gradient(x, value, gradient)
    return result
