"""Advantages and returns, step by step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alignzoo.kernels.reference.masks import (
    MAX_LOG_RATIO,
    Bools,
    Floats,
    live_tokens,
    zero_masked,
)

Moments = tuple[float, float, float]


def _rows(shape: tuple[int, ...], cu_seqlens: ArrayLike | None) -> list[slice]:
    """Where each row lies in the flattened array: [B, T] padded, or [N] packed."""
    if cu_seqlens is None:
        num_rows, length = shape
        return [slice(b * length, (b + 1) * length) for b in range(num_rows)]
    offsets = [int(n) for n in np.asarray(cu_seqlens)]
    return [slice(start, stop) for start, stop in itertools.pairwise(offsets)]


def _flags(flags: ArrayLike | None, live: Bools, rows: list[slice]) -> Bools:
    """Flags per token, flat; flags per row sit on the row's last unmasked step."""
    spread = np.zeros(live.size, bool)
    if flags is None:
        return spread
    given = np.asarray(flags).astype(bool)
    if given.size == live.size and given.ndim == live.ndim:
        return given.ravel() & live.ravel()
    for flag, row in zip(given, rows, strict=True):
        kept = np.flatnonzero(live.ravel()[row])
        if kept.size:
            spread[row.start + kept[-1]] = flag
    return spread


def _steps(live: Bools, row: slice, mask_mode: str) -> list[int]:
    """Flat indices of the steps a row's recursion visits, first to last."""
    kept = [row.start + int(t) for t in np.flatnonzero(live.ravel()[row])]
    if mask_mode == "prefix" and kept and kept[-1] - row.start != len(kept) - 1:
        raise ValueError("`mask` has a hole, which mask_mode='prefix' forbids")
    if mask_mode == "zero" and kept:
        return list(range(row.start, kept[-1] + 1))
    return kept


class _Step(NamedTuple):
    """One step of a row as a backward recursion sees it."""

    row: int
    at: int  # flat index
    after: int | None  # flat index of the next step; None where the episode or the row ends
    end_value: float  # value of the state after it where `after` is None


def _backward(
    live: Bools,
    mask_mode: str,
    *,
    cu_seqlens: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    bootstrap: ArrayLike | None = None,
    next_values: ArrayLike | None = None,
) -> Iterator[_Step]:
    """Every step of every row, last to first, with what follows it.

    The keywords are those that each recursion below takes as `ends`.
    """
    rows = _rows(live.shape, cu_seqlens)
    is_terminated = _flags(terminated, live, rows)
    is_truncated = _flags(truncated, live, rows)
    after_row = None if bootstrap is None else np.asarray(bootstrap, np.float64)
    after_step = None if next_values is None else np.asarray(next_values, np.float64).ravel()
    for b, row in enumerate(rows):
        steps = _steps(live, row, mask_mode)
        for i, t in reversed(list(enumerate(steps))):
            is_last = i == len(steps) - 1
            if is_terminated[t]:
                yield _Step(b, t, None, 0.0)
            elif is_truncated[t] and after_step is not None:
                yield _Step(b, t, None, float(after_step[t]))
            elif is_truncated[t] and not (is_last and after_row is not None):
                raise ValueError(f"row {b} is truncated, but no value of the state after is given")
            elif is_last:
                yield _Step(b, t, None, 0.0 if after_row is None else float(after_row[b]))
            else:
                yield _Step(b, t, steps[i + 1], 0.0)


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    *,
    gamma: float,
    gae_lambda: float,
    mask: ArrayLike | None = None,
    mask_mode: str = "carry",
    **ends: ArrayLike | None,
) -> tuple[Floats, Floats]:
    """Advantages and returns: d_t = r_t + gamma N_t - V_t, A_t = d_t + gamma lambda A_{t+1}, A + V.

    N_t is 0 after a terminated step, the given value after a truncated or last one, else the value
    of the next step; A_{t+1} is 0 where the episode ended at t.
    """
    live = live_tokens(mask, np.shape(rewards))
    r, v = zero_masked(rewards, live).ravel(), zero_masked(values, live).ravel()
    advantages = np.zeros(live.size)
    for step in _backward(live, mask_mode, **ends):
        t, after = step.at, step.after
        next_value = step.end_value if after is None else v[after]
        next_advantage = 0.0 if after is None else advantages[after]
        advantages[t] = r[t] + gamma * next_value - v[t] + gamma * gae_lambda * next_advantage
    advantages = np.where(live.ravel(), advantages, 0.0)
    return advantages.reshape(live.shape), (advantages + v).reshape(live.shape)


def discounted_returns(
    rewards: ArrayLike,
    *,
    gamma: float,
    mask: ArrayLike | None = None,
    mask_mode: str = "carry",
    **ends: ArrayLike | None,
) -> Floats:
    """G_t = r_t + gamma G_{t+1}, where the return after an episode's end is 0 or the bootstrap."""
    live = live_tokens(mask, np.shape(rewards))
    r = zero_masked(rewards, live).ravel()
    returns = np.zeros(live.size)
    for step in _backward(live, mask_mode, **ends):
        following = step.end_value if step.after is None else returns[step.after]
        returns[step.at] = r[step.at] + gamma * following
    return np.where(live.ravel(), returns, 0.0).reshape(live.shape)


def td_lambda_returns(
    rewards: ArrayLike,
    values: ArrayLike,
    *,
    gamma: float,
    td_lambda: float,
    mask: ArrayLike | None = None,
    mask_mode: str = "carry",
    **ends: ArrayLike | None,
) -> Floats:
    """G_t = r_t + gamma ((1 - lambda) N_t + lambda G_{t+1}), or r_t + gamma N_t where that ends."""
    live = live_tokens(mask, np.shape(rewards))
    r, v = zero_masked(rewards, live).ravel(), zero_masked(values, live).ravel()
    returns = np.zeros(live.size)
    for step in _backward(live, mask_mode, **ends):
        following = step.end_value
        if step.after is not None:
            following = (1 - td_lambda) * v[step.after] + td_lambda * returns[step.after]
        returns[step.at] = r[step.at] + gamma * following
    return np.where(live.ravel(), returns, 0.0).reshape(live.shape)


def vtrace(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    rewards: ArrayLike,
    values: ArrayLike,
    *,
    gamma: float,
    vtrace_lambda: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    mask: ArrayLike | None = None,
    mask_mode: str = "carry",
    **ends: ArrayLike | None,
) -> tuple[Floats, Floats]:
    """Targets V + a and advantages, with the ratio w = e^(log_probs - old_log_probs).

    a_t = min(clip_rho, w) (r_t + gamma N_t - V_t) + gamma lambda min(clip_c, w) a_{t+1}; the
    advantage is min(clip_pg_rho, w) (r_t + gamma N'_t - V_t), where N'_t is the next step's target,
    or N_t where the episode ended.
    """
    live = live_tokens(mask, np.shape(rewards))
    r, v = zero_masked(rewards, live).ravel(), zero_masked(values, live).ravel()
    d = zero_masked(log_probs, live).ravel() - zero_masked(old_log_probs, live).ravel()
    ratio = np.exp(np.clip(d, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    corrections, advantages = np.zeros(live.size), np.zeros(live.size)
    for step in _backward(live, mask_mode, **ends):
        t, after = step.at, step.after
        next_value = step.end_value if after is None else v[after]
        next_correction = 0.0 if after is None else corrections[after]
        error = r[t] + gamma * next_value - v[t]
        c = vtrace_lambda * min(clip_c, ratio[t])
        corrections[t] = min(clip_rho, ratio[t]) * error + gamma * c * next_correction
        error = r[t] + gamma * (next_value + next_correction) - v[t]
        advantages[t] = min(clip_pg_rho, ratio[t]) * error
    targets = np.where(live.ravel(), v + corrections, 0.0)
    advantages = np.where(live.ravel(), advantages, 0.0)
    return targets.reshape(live.shape), advantages.reshape(live.shape)


def td_targets(
    rewards: ArrayLike,
    next_values: ArrayLike,
    *,
    gamma: float,
    terminated: ArrayLike | None = None,
    n_step: int = 1,
) -> Floats:
    """r_t + gamma r_{t+1} + ... of up to `n_step` steps, and the discounted value after them.

    Fewer steps where the row (the last axis) ends, or a terminated step does, after which the value
    is 0.
    """
    shape = np.shape(rewards)
    length = shape[-1] if n_step > 1 else 1  # single steps need no axis of time
    r, after = np.asarray(rewards, np.float64), np.asarray(next_values, np.float64)
    ends = np.zeros(shape, bool) if terminated is None else np.asarray(terminated).astype(bool)
    targets = np.zeros((r.size // max(length, 1), length))
    rows = zip(targets, *(x.reshape(targets.shape) for x in (r, after, ends)), strict=True)
    for target, row_r, row_after, row_ends in rows:
        for t in range(length):
            for k in range(min(n_step, length - t)):
                target[t] += gamma**k * row_r[t + k]
                if row_ends[t + k]:
                    break
            else:
                target[t] += gamma ** (k + 1) * row_after[t + k]
    return targets.reshape(shape)


def masked_whiten(
    x: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    eps: float = 1e-8,
    moments: tuple[Any, Any, Any] | None = None,
    cu_seqlens: ArrayLike | None = None,
) -> tuple[Floats, Moments]:
    """(x - mean) / sqrt(m2 / (n - ddof) + eps), plus the mean again without `shift_mean`.

    The moments are the count, the mean and the sum of squared deviations from it. Where rows start
    does not matter to it.
    """
    del cu_seqlens
    live = live_tokens(mask, np.shape(x))
    kept = np.asarray(x, np.float64)[live]
    if moments is None:
        mean = math.fsum(kept) / kept.size if kept.size else 0.0
        n, m2 = float(kept.size), math.fsum((kept - mean) ** 2)
    else:
        n, mean, m2 = (float(moment) for moment in moments)
    whitened = np.zeros(live.shape)
    if n > ddof:
        whitened[live] = (kept - mean) / math.sqrt(m2 / (n - ddof) + eps)
        whitened[live] += 0.0 if shift_mean else mean
    return whitened, (n, mean, m2)


def _std(x: Floats, ddof: int) -> float:
    """Standard deviation in two passes."""
    mean = math.fsum(x) / x.size
    return math.sqrt(math.fsum((x - mean) ** 2) / (x.size - ddof))


def group_advantages(
    scores: ArrayLike, group_ids: ArrayLike, *, mode: str, eps: float = 1e-6, ddof: int = 1
) -> Floats:
    """Advantage of each score [B] over its group, in one of four dialects.

    `grpo`: (s - mean) / (std + eps); `dr_grpo`: s - mean; `rloo`: s - mean of the others;
    `batch_std`: (s - mean) / (std of all scores + eps). A group of one, or of equal scores, has
    exactly 0. A NaN score has 0 and belongs to no group.
    """
    s, ids = np.asarray(scores, np.float64), np.asarray(group_ids)
    valid = ~np.isnan(s)
    advantages = np.zeros(s.shape)
    for group in np.unique(ids[valid]):
        members = np.flatnonzero(valid & (ids == group))
        own = s[members]
        if own.min() == own.max():
            continue
        spread_of = s[valid] if mode == "batch_std" else own
        if mode in ("grpo", "batch_std") and spread_of.size <= ddof:
            continue
        centred = own - math.fsum(own) / own.size
        if mode == "rloo":
            centred *= own.size / (own.size - 1)
        elif mode in ("grpo", "batch_std"):
            centred /= _std(spread_of, ddof) + eps
        advantages[members] = centred
    return advantages
