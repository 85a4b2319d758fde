"""Backward scans over the steps of each row. Not differentiable: constants to a loss."""

from __future__ import annotations

from alignzoo.kernels.arrays import Array, native


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


def td_lambda_returns(
    rewards: Array,
    values: Array,
    *,
    gamma: float,
    td_lambda: float,
    mask: Array | None = None,
    terminated: Array | None = None,
    truncated: Array | None = None,
    bootstrap: Array | None = None,
    next_values: Array | None = None,
    cu_seqlens: Array | None = None,
    mask_mode: str = "carry",
) -> Array:
    """Lambda-returns, [B, T] (packed: [N]).

    G_t = r_t + gamma * ((1 - td_lambda) * N_t + td_lambda * G_{t+1}), and r_t + gamma * N_t where
    the step ended the episode, N_t being the value after the step as in `gae`. Sutton and Barto
    2018, eq. 12.18. They equal `gae`'s returns, and add up without a detour over advantages.

    Args:
        rewards: [B, T] or packed [N], reward received after token t; float32 or float64.
        values: same shape, V of the state before token t.
        gamma: discount per token, in [0, 1].
        td_lambda: in [0, 1]; 0 gives r_t + gamma * N_t, 1 the discounted return.
        mask: same shape, bool or integers 0 and 1; 0 is left out, see `mask_mode`.
        terminated: bool, same shape; or [B], for each row's last unmasked step. Where packed and
            N == B, it is read per token.
        truncated: like `terminated`, for episodes that were cut short.
        bootstrap: [B], V after each row's last unmasked step.
        next_values: same shape as `values`, V after the step; read where `truncated` alone.
        cu_seqlens: [B + 1] integers, where the packed rows start and end: 0, ..., N.
        mask_mode: "carry", "zero" or "prefix", as in `gae`.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: arrays whose shapes disagree, an option out of range, a truncated step without a
            value to follow it, a hole where `mask_mode` is "prefix".
    """
    result: Array = native().td_lambda_returns(
        rewards,
        values,
        gamma,
        td_lambda,
        mask,
        terminated,
        truncated,
        bootstrap,
        next_values,
        cu_seqlens,
        mask_mode,
    )
    return result


def vtrace(
    log_probs: Array,
    old_log_probs: Array,
    rewards: Array,
    values: Array,
    *,
    gamma: float,
    vtrace_lambda: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    mask: Array | None = None,
    terminated: Array | None = None,
    truncated: Array | None = None,
    bootstrap: Array | None = None,
    next_values: Array | None = None,
    cu_seqlens: Array | None = None,
    mask_mode: str = "carry",
) -> tuple[Array, Array]:
    """Value targets and policy-gradient advantages corrected for old samples, each [B, T].

    With ratio_t = e^(log_probs - old_log_probs), rho_t = min(clip_rho, ratio_t), c_t =
    vtrace_lambda * min(clip_c, ratio_t):
    vs_t = V_t + rho_t * (r_t + gamma * N_t - V_t) + gamma * c_t * (vs_{t+1} - V_{t+1}),
    advantages_t = min(clip_pg_rho, ratio_t) * (r_t + gamma * vs_{t+1} - V_t), where after a step
    that ended the episode vs_{t+1} is N_t, `gae`'s value of the state after it. Espeholt et al.
    2018, arXiv:1802.01561, eq. 1. At ratio 1 the targets are `td_lambda_returns`.

    Args:
        log_probs: [B, T] or packed [N], of the tokens under the policy that learns.
        old_log_probs: same shape, under the policy that drew them. Differences are clamped to
            +-20.
        rewards: same shape, reward received after token t; float32 or float64.
        values: same shape, V of the state before token t.
        gamma: discount per token, in [0, 1].
        vtrace_lambda: in [0, 1].
        clip_rho: above 0; bounds the weight of a step's own error, and so the fixed point.
        clip_c: above 0; bounds how far later errors reach back.
        clip_pg_rho: above 0; bounds the weight of the advantages. Infinity clips nothing.
        mask: same shape, bool or integers 0 and 1; 0 is left out, see `mask_mode`.
        terminated: bool, same shape; or [B], for each row's last unmasked step. Where packed and
            N == B, it is read per token.
        truncated: like `terminated`, for episodes that were cut short.
        bootstrap: [B], V after each row's last unmasked step.
        next_values: same shape as `values`, V after the step; read where `truncated` alone.
        cu_seqlens: [B + 1] integers, where the packed rows start and end: 0, ..., N.
        mask_mode: "carry", "zero" or "prefix", as in `gae`.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: arrays whose shapes disagree, an option out of range, a truncated step without a
            value to follow it, a hole where `mask_mode` is "prefix".
    """
    result: tuple[Array, Array] = native().vtrace(
        log_probs,
        old_log_probs,
        rewards,
        values,
        gamma,
        vtrace_lambda,
        clip_rho,
        clip_c,
        clip_pg_rho,
        mask,
        terminated,
        truncated,
        bootstrap,
        next_values,
        cu_seqlens,
        mask_mode,
    )
    return result


def td_targets(
    rewards: Array,
    next_values: Array,
    *,
    gamma: float,
    terminated: Array | None = None,
    n_step: int = 1,
) -> Array:
    """Targets for values or Q values, in the shape of `rewards`.

    r + gamma * next_values, without the latter where terminated. With `n_step` n the last dimension
    is time: target_t = sum_{k<m} gamma^k r_{t+k} + gamma^m next_values_{t+m-1}, m being n, or fewer
    where the row or the episode ends before. Sutton and Barto 2018, eq. 7.1.

    Args:
        rewards: any shape, or [..., T] where `n_step` is above 1; float32 or float64.
        next_values: same shape, value of the state after the step, such as max_a Q.
        gamma: discount per step, in [0, 1].
        terminated: same shape, bool or integers 0 and 1; the value after such a step is 0.
        n_step: steps that are summed before the value takes over, at least 1.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: arrays whose shapes disagree, an option out of range.
    """
    result: Array = native().td_targets(rewards, next_values, gamma, terminated, n_step)
    return result
