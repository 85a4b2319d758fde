"""Advantages and returns. None is differentiable: they are constants to a loss."""

from __future__ import annotations

from alignzoo.kernels.arrays import Array, Moments, native


def gae(
    rewards: Array,
    values: Array,
    *,
    gamma: float,
    gae_lambda: float,
    mask: Array | None = None,
    terminated: Array | None = None,
    truncated: Array | None = None,
    bootstrap: Array | None = None,
    next_values: Array | None = None,
    cu_seqlens: Array | None = None,
    mask_mode: str = "carry",
) -> tuple[Array, Array]:
    """Generalised advantage estimates and returns, each [B, T] (packed: [N]).

    A_t = d_t + gamma * gae_lambda * A_{t+1},  d_t = r_t + gamma * N_t - V_t,  returns = A + V.
    Schulman et al. 2016, arXiv:1506.02438, eq. 16. N_t is 0 where the step terminated the episode;
    where it was truncated, `next_values`_t, or without those `bootstrap` at the row's last unmasked
    step; else V of the next unmasked step, and after the last `bootstrap`, or 0 without one. The
    sum over later steps is cut at both; a step that is flagged as both counts as terminated.

    Args:
        rewards: [B, T] or packed [N], reward received after token t; float32 or float64.
        values: same shape, V of the state before token t.
        gamma: discount per token, in [0, 1].
        gae_lambda: in [0, 1]; 0 trusts the values alone, 1 the rewards.
        mask: same shape, bool or integers 0 and 1; 0 is left out, see `mask_mode`.
        terminated: bool, same shape; or [B], for each row's last unmasked step. Where packed and
            N == B, it is read per token.
        truncated: like `terminated`, for episodes that were cut short.
        bootstrap: [B], V after each row's last unmasked step.
        next_values: same shape as `values`, V after the step; read where `truncated` alone.
        cu_seqlens: [B + 1] integers, where the packed rows start and end: 0, ..., N.
        mask_mode: "carry" deletes masked tokens from the sequence; "zero" treats those before the
            row's last unmasked step as steps with reward and value 0; "prefix" wants ones, then
            zeros, and raises otherwise.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: arrays whose shapes disagree, an option out of range, a truncated step without a
            value to follow it, a hole where `mask_mode` is "prefix".
    """
    result: tuple[Array, Array] = native().gae(
        rewards,
        values,
        gamma,
        gae_lambda,
        mask,
        terminated,
        truncated,
        bootstrap,
        next_values,
        cu_seqlens,
        mask_mode,
    )
    return result


def discounted_returns(
    rewards: Array,
    *,
    gamma: float,
    mask: Array | None = None,
    terminated: Array | None = None,
    truncated: Array | None = None,
    bootstrap: Array | None = None,
    cu_seqlens: Array | None = None,
    mask_mode: str = "carry",
) -> Array:
    """Discounted sums of the rewards to come, [B, T] (packed: [N]).

    G_t = r_t + gamma * G_{t+1}. After a row's last unmasked step stands `bootstrap`, or 0; the sum
    is cut at terminated steps, and a truncated one is continued by `bootstrap`. Sutton and Barto
    2018, eq. 3.9.

    Args:
        rewards: [B, T] or packed [N], reward received after token t; float32 or float64.
        gamma: discount per token, in [0, 1].
        mask: same shape, bool or integers 0 and 1; 0 is left out, see `gae`.
        terminated: bool, same shape; or [B], for each row's last unmasked step.
        truncated: like `terminated`; only a row's last unmasked step can be.
        bootstrap: [B], expected return after each row's last unmasked step.
        cu_seqlens: [B + 1] integers, where the packed rows start and end: 0, ..., N.
        mask_mode: "carry", "zero" or "prefix", as in `gae`.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: arrays whose shapes disagree, an option out of range, a truncated step that is
            not the row's last or has no `bootstrap`, a hole where `mask_mode` is "prefix".
    """
    result: Array = native().discounted_returns(
        rewards, gamma, mask, terminated, truncated, bootstrap, cu_seqlens, mask_mode
    )
    return result


def masked_whiten(
    x: Array,
    mask: Array | None = None,
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    eps: float = 1e-8,
    moments: Moments[Array] | None = None,
    cu_seqlens: Array | None = None,
) -> tuple[Array, Moments[Array]]:
    """The unmasked elements brought to mean 0 and variance 1, and their moments (n, mean, m2).

    (x - mean) / sqrt(var + eps),  var = m2 / (n - ddof),  m2 = sum (x - mean)^2, in two passes.
    With n <= ddof the result is 0. The moments are 0-d float64 arrays; those of several workers
    merge by Chan et al. 1979 and come back in as `moments`.

    Args:
        x: any shape, float32 or float64.
        mask: same shape, bool or integers 0 and 1; 0 where masked.
        shift_mean: False adds the mean again, so that only the scale changes.
        ddof: what is subtracted from n in the variance.
        eps: added to the variance.
        moments: (n, mean, m2) to use in place of x's own.
        cu_seqlens: [B + 1] integers; x is then packed [N] and summed row by row, with the same bits
            as [B, T] padded at the right.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an option out of range.
    """
    result: tuple[Array, Moments[Array]] = native().masked_whiten(
        x, mask, shift_mean, ddof, eps, moments, cu_seqlens
    )
    return result


def group_advantages(
    scores: Array, group_ids: Array, *, mode: str, eps: float = 1e-6, ddof: int = 1
) -> Array:
    """Each response's score against those of its group, [B].

    "grpo": (s - mean) / (std + eps), Shao et al. 2024, arXiv:2402.03300. "dr_grpo": s - mean, Liu
    et al. 2025, arXiv:2503.20783. "rloo": s - mean of the others, Ahmadian et al. 2024,
    arXiv:2402.14740. "batch_std": (s - group mean) / (std over the batch + eps), Hu et al. 2025,
    arXiv:2501.03262. A group of one, and a group whose scores are all equal, gives exactly 0. A NaN
    score gets 0 and counts in no mean.

    Args:
        scores: [B], float32 or float64.
        group_ids: [B] integers; rows of one group need not be neighbours.
        mode: "grpo", "dr_grpo", "rloo" or "batch_std".
        eps: added to the standard deviation, in units of the score.
        ddof: what is subtracted from the count in the variance; without freedom the result is 0.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an option out of range.
    """
    result: Array = native().group_advantages(scores, group_ids, mode, eps, ddof)
    return result
