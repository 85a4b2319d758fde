"""Log-probs, entropy, divergences, maxima and draws, from logits in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alignzoo.kernels.reference.masks import Bools, Floats, Ints


def _log_softmax(logits: ArrayLike, temperature: float) -> Floats:
    """log p of every token of every row: x - M - log S, in float64."""
    x = np.asarray(logits, np.float64) / temperature
    with np.errstate(invalid="ignore"):  # a row of -inf alone is NaN
        x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def _entropy(log_p: Floats) -> Floats:
    """-sum p log p over the tokens whose probability is not 0."""
    p = np.exp(log_p)
    return np.asarray(-np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0).sum(axis=-1))


def _check_targets(targets: Ints, num_tokens: int, ignore_index: int) -> Bools:
    """Which targets count; ValueError for one that is no token and not the ignored one."""
    counted = targets != ignore_index
    if np.any(counted & ((targets < 0) | (targets >= num_tokens))):
        raise ValueError(f"a target is outside [0, {num_tokens})")
    return np.asarray(counted)


def token_log_probs(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    ignore_index: int = -100,
) -> Any:
    """log p of each target under softmax(logits / temperature), and the entropy if asked for."""
    y = np.asarray(targets, np.int64)
    counted = _check_targets(y, np.shape(logits)[-1], ignore_index)
    log_p = _log_softmax(logits, temperature)
    chosen = np.take_along_axis(log_p, np.where(counted, y, 0)[..., None], axis=-1)[..., 0]
    log_probs = np.where(counted, chosen, 0.0)
    return (log_probs, np.where(counted, _entropy(log_p), 0.0)) if entropy else log_probs


def token_log_probs_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    grad_log_probs: ArrayLike,
    grad_entropy: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> Floats:
    """Gradient in the logits: (g (1[j = y] - p_j) - h p_j (log p_j + H)) / temperature.

    g and h are the gradients that arrive at the log-prob and at the entropy H. Ignored targets,
    and rows where both are 0, give 0 whatever their logits.
    """
    y = np.asarray(targets, np.int64)
    counted = _check_targets(y, np.shape(logits)[-1], ignore_index)
    log_p = _log_softmax(logits, temperature)
    p = np.exp(log_p)
    g = np.where(counted, np.asarray(grad_log_probs, np.float64), 0.0)[..., None]
    h = np.where(counted, np.asarray(0.0 if grad_entropy is None else grad_entropy), 0.0)[..., None]
    is_target = np.arange(p.shape[-1]) == y[..., None]
    finite_log_p = np.where(p > 0, log_p, 0.0)
    grad = g * (is_target - p) - h * p * (finite_log_p + _entropy(log_p)[..., None])
    return np.where((g == 0) & (h == 0), 0.0, grad / temperature)


def _linear(hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> Floats:
    """hidden @ weight.T + bias."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(weight, np.float64).T
    return np.asarray(logits if bias is None else logits + np.asarray(bias, np.float64))


def linear_token_log_probs(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    ignore_index: int = -100,
    chunk_tokens: int | None = None,
) -> Any:
    """`token_log_probs` of hidden @ weight.T + bias; `chunk_tokens` changes memory only."""
    del chunk_tokens
    return token_log_probs(
        _linear(hidden, weight, bias),
        targets,
        temperature=temperature,
        entropy=entropy,
        ignore_index=ignore_index,
    )


def linear_token_log_probs_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    grad_log_probs: ArrayLike,
    grad_entropy: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> tuple[Floats, Floats, Floats]:
    """Gradients in hidden [..., D], weight [V, D] and bias [V]."""
    h, w = np.asarray(hidden, np.float64), np.asarray(weight, np.float64)
    grad = token_log_probs_grad(
        _linear(h, w, bias),
        targets,
        grad_log_probs,
        grad_entropy,
        temperature=temperature,
        ignore_index=ignore_index,
    )
    rows = grad.reshape(-1, w.shape[0])
    return grad @ w, rows.T @ h.reshape(-1, w.shape[1]), rows.sum(axis=0)


def _log_ratios(log_p: Floats, log_q: Floats) -> Floats:
    """log p - log q: 0 at tokens that p does not have, inf at those that q alone lacks."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(log_p), 0.0, log_p - log_q)


def _expected(log_p: Floats, x: Floats) -> Floats:
    """sum p x. An infinite x counts even where p is too small for a float."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isposinf(x), x, np.exp(log_p) * x).sum(axis=-1))


def kl_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    *,
    direction: str = "forward",
    temperature: float = 1.0,
) -> Floats:
    """KL(p || q) = sum p (log p - log q), or KL(q || p), of softmax(logits / temperature)."""
    first, second = _log_softmax(logits_p, temperature), _log_softmax(logits_q, temperature)
    if direction == "reverse":
        first, second = second, first
    return np.maximum(_expected(first, _log_ratios(first, second)), 0.0)


def kl_divergence_grad(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    grad_kl: ArrayLike,
    *,
    direction: str = "forward",
    temperature: float = 1.0,
) -> tuple[Floats, Floats]:
    """Gradients in both logits: of KL(p || q), p (log p - log q - KL) in p's and q - p in q's.

    Rows where `grad_kl` is 0 give 0 whatever their logits.
    """
    g = np.asarray(grad_kl, np.float64)[..., None]
    if direction == "reverse":
        of_q, of_p = kl_divergence_grad(logits_q, logits_p, grad_kl, temperature=temperature)
        return of_p, of_q
    log_p, log_q = _log_softmax(logits_p, temperature), _log_softmax(logits_q, temperature)
    ratios = _log_ratios(log_p, log_q)
    with np.errstate(invalid="ignore"):  # the gradient of an infinite divergence
        of_p = np.exp(log_p) * (ratios - _expected(log_p, ratios)[..., None])
    of_q = np.exp(log_q) - np.exp(log_p)
    return (
        np.where(g == 0, 0.0, g * of_p / temperature),
        np.where(g == 0, 0.0, g * of_q / temperature),
    )


def max_and_gather(q: ArrayLike, actions: ArrayLike) -> tuple[Floats, Ints, Floats]:
    """Along the last axis: the largest, the first place it stands at, and the number chosen.

    NaN counts as larger than any number.
    """
    x, chosen = np.asarray(q, np.float64), np.asarray(actions, np.int64)
    if np.any((chosen < 0) | (chosen >= x.shape[-1])):
        raise ValueError(f"an action is outside [0, {x.shape[-1]})")
    argmax = np.argmax(x, axis=-1)
    picked = [np.take_along_axis(x, i[..., None], axis=-1)[..., 0] for i in (argmax, chosen)]
    return picked[0], np.asarray(argmax, np.int64), picked[1]


def max_and_gather_grad(
    q: ArrayLike, actions: ArrayLike, grad_max: ArrayLike, grad_chosen: ArrayLike
) -> Floats:
    """The gradient of the maximum goes to its place, that of the chosen to the action's."""
    places = np.arange(np.shape(q)[-1])
    is_largest = places == max_and_gather(q, actions)[1][..., None]
    is_chosen = places == np.asarray(actions)[..., None]
    of_max, of_chosen = np.asarray(grad_max)[..., None], np.asarray(grad_chosen)[..., None]
    return np.where(is_largest, of_max, 0.0) + np.where(is_chosen, of_chosen, 0.0)


def sample_distribution(
    logits: ArrayLike, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Floats:
    """The probabilities [B, V] that `sample_tokens` draws from.

    Tokens are ordered by falling logit, equal logits by rising index. Top-k keeps the first k. Of
    these, renormalised, top-p keeps each before which there is less mass than `top_p`. Temperature
    0 leaves the first token alone.
    """
    z = np.asarray(logits, np.float64)
    probs = np.zeros(z.shape)
    for row, out in zip(z, probs, strict=True):
        order = np.argsort(-row, kind="stable")
        if temperature == 0:
            out[order[0]] = 1.0
            continue
        order = order[: top_k or None]
        p = np.exp(_log_softmax(row[order], temperature))
        if top_p < 1:
            p = p[: int(np.sum(np.cumsum(p) - p < top_p))]
        out[order[: p.size]] = p / p.sum()
    return probs


def philox(counter: int, key: int) -> tuple[int, int, int, int]:
    """Four random 32-bit words from a 128-bit counter and a 64-bit key: Philox4x32-10.

    Salmon et al. 2011, doi:10.1145/2063384.2063405.
    """
    low = 2**32 - 1
    c = [counter >> shift & low for shift in (0, 32, 64, 96)]
    k = [key & low, key >> 32 & low]
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second & low, first >> 32 ^ c[3] ^ k[1], first & low]
        k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
    return c[0], c[1], c[2], c[3]


def uniform(seed: int, offset: int, row_id: int) -> float:
    """The uniform number in [0, 1) of one draw: 53 bits of the first two words."""
    words = philox(row_id | offset << 64, seed)
    return ((words[0] << 32 | words[1]) >> 11) * 2.0**-53


def sample_tokens(
    logits: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int,
    offset: int = 0,
    row_ids: ArrayLike | None = None,
) -> tuple[Ints, Floats]:
    """One token id a row, and its log-prob under the distribution drawn from.

    The token is the first, in index order, up to which there is more mass than the row's uniform.
    """
    probs = sample_distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    numbers = range(len(probs)) if row_ids is None else np.asarray(row_ids).tolist()
    ids = np.zeros(len(probs), np.int64)
    for b, (p, number) in enumerate(zip(probs, numbers, strict=True)):
        ids[b] = np.argmax(np.cumsum(p) > uniform(seed, offset, number) * p.sum())
    return ids, np.log(np.take_along_axis(probs, ids[:, None], axis=-1)[:, 0])
