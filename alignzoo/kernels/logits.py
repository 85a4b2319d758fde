"""Log-probs, entropies, divergences, draws and maxima of rows of logits or action values."""

from __future__ import annotations

from typing import Any, Literal, overload

from alignzoo import _core
from alignzoo.kernels import linear
from alignzoo.kernels.arrays import Array, is_compiled, is_torch, native


@overload
def token_log_probs(
    logits: Array,
    targets: Array,
    *,
    temperature: float = 1.0,
    entropy: Literal[False] = False,
    ignore_index: int = -100,
) -> Array: ...
@overload
def token_log_probs(
    logits: Array,
    targets: Array,
    *,
    temperature: float = 1.0,
    entropy: Literal[True],
    ignore_index: int = -100,
) -> tuple[Array, Array]: ...
@overload
def token_log_probs(
    logits: Array,
    targets: Array,
    *,
    temperature: float = 1.0,
    entropy: bool,
    ignore_index: int = -100,
) -> Array | tuple[Array, Array]: ...
def token_log_probs(
    logits: Any,
    targets: Any,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    ignore_index: int = -100,
) -> Any:
    """Log-probs of the targets, [...], and with `entropy` the distributions' entropies, [...].

    x = logits / temperature, M = max x, S = sum e^{x-M}, W = sum e^{x-M} (x-M): log p = x_y - M -
    log S, entropy = log S - W/S, in nats, terms whose exponential is 0 left out, so that -inf
    logits (a masked vocabulary) are legal. One pass over the logits. Rows whose target is
    `ignore_index` give 0 and 0, have no gradient, and are not read. A row of -inf alone gives NaN.

    torch: differentiable in `logits`, through log-probs and entropies, once. Rows whose upstream
    gradient is 0 are not read.

    Args:
        logits: [..., V], float32, float64, bfloat16 or float16. Any strides; rows that are
            contiguous are not copied, so `logits[:, :-1]` costs nothing.
        targets: [...] integers in [0, V), or `ignore_index`.
        temperature: above 0.
        entropy: whether to return the entropies too.
        ignore_index: the target that leaves a row out.

    Returns:
        log_probs, or (log_probs, entropies): float64 for float64 logits, else float32.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, a target out of range, a temperature not above 0.
    """
    if is_torch(logits):
        from alignzoo.kernels import autograd

        return autograd.token_log_probs(logits, targets, temperature, entropy, ignore_index)
    log_probs, entropies, _ = _core.token_log_probs(
        "token_log_probs", logits, targets, temperature, entropy, ignore_index, False
    )
    return (log_probs, entropies) if entropy else log_probs


@overload
def linear_token_log_probs(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    temperature: float = 1.0,
    entropy: Literal[False] = False,
    ignore_index: int = -100,
    chunk_tokens: int | None = None,
) -> Array: ...
@overload
def linear_token_log_probs(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    temperature: float = 1.0,
    entropy: Literal[True],
    ignore_index: int = -100,
    chunk_tokens: int | None = None,
) -> tuple[Array, Array]: ...
@overload
def linear_token_log_probs(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    temperature: float = 1.0,
    entropy: bool,
    ignore_index: int = -100,
    chunk_tokens: int | None = None,
) -> Array | tuple[Array, Array]: ...
def linear_token_log_probs(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    bias: Any = None,
    temperature: float = 1.0,
    entropy: bool = False,
    ignore_index: int = -100,
    chunk_tokens: int | None = None,
) -> Any:
    """`token_log_probs` of the logits hidden @ weight.T + bias, which are never held as a whole.

    Rows are taken `chunk_tokens` at a time: one product into a reused buffer, and the row kernel on
    it. The backward pass makes each chunk's logits again and turns them into their gradient in
    place. Beyond inputs and outputs this needs one chunk of memory and, backward and for a weight
    below float32, its gradient's sum in float32. Rows whose target is `ignore_index` (and backward,
    rows whose upstream gradient is 0) add nothing, whatever their hidden states are; on the CPU
    they enter no product. On a CUDA device nothing waits for the device, so all rows do.

    torch: differentiable in `hidden`, `weight` and `bias`, once; the gradients of the last two are
    summed in float32 or wider. Logits have the dtype of `hidden`, as from a linear layer.

    Args:
        hidden: [..., D], float32 or float64; torch: bfloat16 or float16 too.
        weight: [V, D], same dtype.
        targets: [...] integers in [0, V), or `ignore_index`.
        bias: [V], same dtype.
        temperature: above 0.
        entropy: whether to return the entropies too.
        ignore_index: the target that leaves a row out.
        chunk_tokens: rows per chunk; default as many as make a chunk of 64 MB, on a CUDA device of
            1 GB.

    Returns:
        log_probs, or (log_probs, entropies), [...]: float64 for float64 input, else float32.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: shapes that disagree, a target out of range, an option out of range.
    """
    if not is_compiled():
        linear.check(
            hidden, weight, bias, targets, ignore_index, temperature, entropy, chunk_tokens
        )
    if is_torch(hidden):
        from alignzoo.kernels import autograd

        return autograd.linear_token_log_probs(
            hidden, weight, targets, bias, temperature, entropy, ignore_index, chunk_tokens
        )
    log_probs, entropies = linear.numpy_forward(
        hidden, weight, targets, bias, temperature, entropy, ignore_index, chunk_tokens
    )
    return (log_probs, entropies) if entropy else log_probs


def sample_tokens(
    logits: Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int,
    offset: int = 0,
    row_ids: Array | None = None,
) -> tuple[Array, Array]:
    """One drawn token per row, ids [B] (int64), and their log-probs [B].

    The token is the smallest index whose cumulative probability exceeds u, where u in [0, 1) is
    Philox4x32-10 (Salmon et al. 2011) of key `seed` and counter (`row_ids`_b, `offset`). So a draw
    depends on (seed, offset, row id) and the row's logits only: a row that leaves the batch changes
    nothing for the others. The log-prob is that of the distribution drawn from, after temperature,
    and renormalised after a cut; without one it equals `token_log_probs` of the token.

    Args:
        logits: [B, V], float32, float64, bfloat16 or float16; -inf excludes a token.
        temperature: 0 takes the largest logit (the first of equals) with log-prob 0.
        top_k: only the k largest logits stay; 0 keeps all. Of equals at the cut the lower index
            stays.
        top_p: after top_k: the smallest set of likeliest tokens whose probability reaches it, in
            (0, 1]; 1 keeps all.
        seed: integer in [0, 2**64).
        offset: integer in [0, 2**64), such as the number of the decoding step.
        row_ids: [B] integers from 0, the samples' numbers in the run; default 0 to B - 1.

    Returns:
        (ids, log_probs); log_probs float64 for float64 logits, else float32.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an option out of range, a row with NaN or +inf or with
            nothing but -inf.
    """
    drawn: tuple[Array, Array] = native().sample_tokens(
        logits, temperature, top_k, top_p, seed, offset, row_ids
    )
    return drawn


def kl_divergence(
    logits_p: Array,
    logits_q: Array,
    *,
    direction: Literal["forward", "reverse"] = "forward",
    temperature: float = 1.0,
) -> Array:
    """Divergences, [...], between the distributions of two rows of logits, in nats.

    "forward": KL(p || q) = sum_j p_j (log p_j - log q_j); "reverse": KL(q || p), where p and q are
    softmax(logits / temperature). One pass over both. With x and y the logits over the temperature,
    each from its row's maximum, and S_p, S_q the sums of their exponentials, KL(p || q) = sum_j
    e^{x_j} (x_j - y_j) / S_p - log S_p + log S_q. Exact over the whole vocabulary, unlike the
    estimators of `kl_penalty`.

    A logit of -inf has probability 0: such terms of the first distribution count 0, and the
    divergence is inf where only the second has one. It is never negative. A row with NaN or +inf,
    or with nothing but -inf, gives NaN.

    torch: differentiable in both, once: by logits_p, where t is the temperature, p_j (log p_j -
    log q_j - KL) / t, and by logits_q (q_j - p_j) / t. A pass back reads both once and writes what
    is needed. Rows whose upstream gradient is 0 are not read. Where KL is inf the first is NaN.

    Args:
        logits_p: [..., V], float32, float64, bfloat16 or float16, any strides.
        logits_q: same shape and dtype.
        direction: "forward" or "reverse".
        temperature: above 0, of both.

    Returns:
        [...]: float64 for float64 logits, else float32.

    Raises:
        TypeError: an argument of the wrong type, or arrays of different dtypes.
        ValueError: shapes that disagree, an option out of range.
    """
    if is_torch(logits_p):
        from alignzoo.kernels import autograd

        of_torch: Array = autograd.kl_divergence(logits_p, logits_q, direction, temperature)
        return of_torch
    divergences: Array = _core.kl_divergence(logits_p, logits_q, direction, temperature, False)[0]
    return divergences


def max_and_gather(q: Array, actions: Array) -> tuple[Array, Array, Array]:
    """The largest value of each row, [...], its index, [...], and the action's value, [...].

    (max_a q_a, argmax_a q_a, q_action) in one read of the rows: what a Q-learning target and its
    loss need. Of equal values the lowest index wins. NaN spreads: the maximum is then NaN, and its
    index that of the first NaN. -inf (a forbidden action) is legal.

    torch: differentiable in `q`, once; the gradient of the maximum goes to its index, that of the
    chosen value to the action.

    Args:
        q: [..., V], float32, float64, bfloat16 or float16, any strides.
        actions: [...] integers in [0, V).

    Returns:
        (max, argmax, chosen): argmax int64, the values float64 for float64 `q`, else float32.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an action out of range.
    """
    if is_torch(q):
        from alignzoo.kernels import autograd

        of_torch: tuple[Array, Array, Array] = autograd.max_and_gather(q, actions)
        return of_torch
    found: tuple[Array, Array, Array] = _core.max_and_gather(q, actions)
    return found
