"""The kernels as torch operators, for torch.compile and torch.export.

Plain calls go to the native core directly, which costs less. Here each function of the core that
tensors reach is an operator of the library `alignzoo`, with a fake kernel that gives the shapes,
and a wrapper with the core's own signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alignzoo import _core
from alignzoo.kernels import linear_torch

Tensor = torch.Tensor

_library = torch.library.Library("alignzoo", "FRAGMENT")


def _operator(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema.split("(")[0]
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"alignzoo::{name}", fake, lib=_library)
    operator = getattr(torch.ops.alignzoo, name)

    def call(*arguments: Any) -> Any:
        # The operators have no derivative of their own: autograd.py attaches it.
        return operator(*(x.detach() if isinstance(x, Tensor) else x for x in arguments))

    return call


def _present(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _wide(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))


_EPISODE_OPTIONS = "Tensor? mask, Tensor? terminated, Tensor? truncated, Tensor? bootstrap"

_gae = _operator(
    f"gae(Tensor rewards, Tensor values, float gamma, float gae_lambda, {_EPISODE_OPTIONS}, "
    "Tensor? next_values, Tensor? cu_seqlens, str mask_mode) -> (Tensor, Tensor)",
    _core.gae,
    lambda rewards, *_: (rewards.new_empty(rewards.shape), rewards.new_empty(rewards.shape)),
)
_discounted_returns = _operator(
    f"discounted_returns(Tensor rewards, float gamma, {_EPISODE_OPTIONS}, Tensor? cu_seqlens, "
    "str mask_mode) -> Tensor",
    _core.discounted_returns,
    lambda rewards, *_: rewards.new_empty(rewards.shape),
)
_td_lambda_returns = _operator(
    f"td_lambda_returns(Tensor rewards, Tensor values, float gamma, float td_lambda, "
    f"{_EPISODE_OPTIONS}, Tensor? next_values, Tensor? cu_seqlens, str mask_mode) -> Tensor",
    _core.td_lambda_returns,
    lambda rewards, *_: rewards.new_empty(rewards.shape),
)
_vtrace = _operator(
    "vtrace(Tensor log_probs, Tensor old_log_probs, Tensor rewards, Tensor values, float gamma, "
    f"float vtrace_lambda, float clip_rho, float clip_c, float clip_pg_rho, {_EPISODE_OPTIONS}, "
    "Tensor? next_values, Tensor? cu_seqlens, str mask_mode) -> (Tensor, Tensor)",
    _core.vtrace,
    lambda log_probs, *_: (
        log_probs.new_empty(log_probs.shape),
        log_probs.new_empty(log_probs.shape),
    ),
)
_td_targets = _operator(
    "td_targets(Tensor rewards, Tensor next_values, float gamma, Tensor? terminated, int n_step) "
    "-> Tensor",
    _core.td_targets,
    lambda rewards, *_: rewards.new_empty(rewards.shape),
)
_masked_whiten = _operator(
    "masked_whiten(Tensor x, Tensor? mask, bool shift_mean, int ddof, float eps, "
    "Tensor[]? moments, Tensor? cu_seqlens) -> Tensor[]",
    # On a device the moments share memory, which an operator's results may not.
    lambda *arguments: (lambda out: [out[0], *(x.clone() for x in out[1])])(
        _core.masked_whiten(*arguments)
    ),
    lambda x, *_: [
        x.new_empty(x.shape),
        *(x.new_empty((), dtype=torch.float64) for _ in range(3)),
    ],
)
_group_advantages = _operator(
    "group_advantages(Tensor scores, Tensor group_ids, str mode, float eps, int ddof) -> Tensor",
    _core.group_advantages,
    lambda scores, *_: scores.new_empty(scores.shape),
)


def _fake_token_log_probs(
    logits: Tensor,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    ignore_index: int,
    save: bool,
) -> list[Tensor]:
    saved = logits.new_empty((*targets.shape, 3), dtype=torch.float64)
    statistics = [_wide(logits, targets.shape) for _ in range(1 + entropy)]
    return statistics + [saved] * save


_token_log_probs = _operator(
    "token_log_probs(Tensor logits, Tensor targets, float temperature, bool entropy, "
    "int ignore_index, bool save) -> Tensor[]",
    lambda *arguments: _present(*_core.token_log_probs("token_log_probs", *arguments)),
    _fake_token_log_probs,
)


_token_log_probs_backward = _operator(
    "token_log_probs_backward(Tensor logits, Tensor targets, float temperature, int ignore_index, "
    "Tensor saved, Tensor? up_log_probs, Tensor? up_entropy) -> Tensor",
    lambda *arguments: _core.token_log_probs_backward(*arguments, None),
    lambda logits, *_: logits.new_empty(logits.shape),
)
_kl_divergence = _operator(
    "kl_divergence(Tensor logits_p, Tensor logits_q, str direction, float temperature, bool save)"
    " -> Tensor[]",
    lambda *arguments: _present(*_core.kl_divergence(*arguments)),
    lambda logits_p, logits_q, direction, temperature, save: [
        _wide(logits_p, logits_p.shape[:-1]),
        *([logits_p.new_empty((*logits_p.shape[:-1], 5), dtype=torch.float64)] * save),
    ],
)


_kl_divergence_backward = _operator(
    "kl_divergence_backward(Tensor logits_p, Tensor logits_q, str direction, float temperature, "
    "Tensor saved, Tensor upstream, bool needs_p, bool needs_q) -> Tensor[]",
    lambda *arguments: _present(*_core.kl_divergence_backward(*arguments)),
    lambda logits_p, logits_q, *arguments: [
        z.new_empty(z.shape)
        for z, need in zip((logits_p, logits_q), arguments[-2:], strict=True)
        if need
    ],
)
_max_and_gather = _operator(
    "max_and_gather(Tensor q, Tensor actions) -> (Tensor, Tensor, Tensor)",
    _core.max_and_gather,
    lambda q, actions: (
        _wide(q, q.shape[:-1]),
        q.new_empty(q.shape[:-1], dtype=torch.int64),
        _wide(q, q.shape[:-1]),
    ),
)
_linear_forward = _operator(
    "linear_token_log_probs(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, "
    "bool entropy, float temperature, int ignore_index, int? chunk_tokens) -> Tensor[]",
    lambda *arguments: _present(*linear_torch.forward(*arguments, checked=False)),
    lambda hidden, weight, bias, targets, entropy, *_: [
        _wide(hidden, targets.shape) for _ in range(1 + entropy)
    ],
)
_linear_backward = _operator(
    "linear_token_log_probs_backward(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, "
    "Tensor? up_log_probs, Tensor? up_entropy, bool[] needs, float temperature, "
    "int ignore_index, int? chunk_tokens) -> Tensor[]",
    lambda *arguments: _present(*linear_torch.backward(*arguments)),
    lambda hidden, weight, bias, targets, up_log_probs, up_entropy, needs, *_: [
        x.new_empty(x.shape) for x, need in zip((hidden, weight, bias), needs, strict=True) if need
    ],
)
_sample_tokens = _operator(
    "sample_tokens(Tensor logits, float temperature, int top_k, float top_p, int seed, int offset, "
    "Tensor? row_ids) -> (Tensor, Tensor)",
    lambda logits, temperature, top_k, top_p, seed, offset, row_ids: _core.sample_tokens(
        logits, temperature, top_k, top_p, seed % 2**64, offset % 2**64, row_ids
    ),
    lambda logits, *_: (
        logits.new_empty(logits.shape[:1], dtype=torch.int64),
        _wide(logits, logits.shape[:1]),
    ),
)

_POLICY_STATS = ("clip_frac", "approx_kl", "ratio_max", "ess")


def _flat(result: tuple[Tensor, Tensor | None, dict[str, Tensor]]) -> list[Tensor]:
    loss, gradient, stats = result
    return [loss, *stats.values(), *_present(gradient)]


def _fake_loss(x: Tensor, num_stats: int, want_gradient: bool) -> list[Tensor]:
    scalars = [x.new_empty(()) for _ in range(1 + num_stats)]
    return scalars + [x.new_empty(x.shape)] * want_gradient


_policy_loss = _operator(
    "policy_loss(Tensor log_probs, Tensor old_log_probs, Tensor advantages, Tensor? mask, "
    "float clip_range, float? clip_range_high, float? dual_clip, str level, str aggregate, "
    "Tensor? denominator, Tensor? behaviour_weights, str kind, Tensor? cu_seqlens, "
    "bool want_gradient) -> Tensor[]",
    lambda *arguments: _flat(_core.policy_loss(*arguments)),
    lambda x, *arguments: _fake_loss(x, len(_POLICY_STATS), arguments[-1]),
)
_value_loss = _operator(
    "value_loss(Tensor values, Tensor? old_values, Tensor returns, Tensor? mask, "
    "float? clip_range, Tensor? denominator, Tensor? cu_seqlens, bool want_gradient) -> Tensor[]",
    lambda *arguments: _flat(_core.value_loss(*arguments)),
    lambda x, *arguments: _fake_loss(x, 1, arguments[-1]),
)


def _fake_elementwise(x: Tensor, *arguments: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for _ in range(1 + arguments[-1])]


_kl_penalty = _operator(
    "kl_penalty(Tensor log_probs, Tensor ref_log_probs, str estimator, bool want_gradient)"
    " -> Tensor[]",
    lambda *arguments: _present(*_core.kl_penalty(*arguments)),
    _fake_elementwise,
)
_huber = _operator(
    "huber(Tensor x, float delta, bool want_gradient) -> Tensor[]",
    lambda *arguments: _present(*_core.huber(*arguments)),
    _fake_elementwise,
)


# From here on: the core's signatures.

gae = _gae
discounted_returns = _discounted_returns
td_lambda_returns = _td_lambda_returns
vtrace = _vtrace
td_targets = _td_targets
group_advantages = _group_advantages
max_and_gather = _max_and_gather


def _as_tensor(number: Any) -> Any:
    """Numbers that may also be 0-d tensors enter the graph as the latter."""
    return number if number is None or isinstance(number, Tensor) else torch.tensor(float(number))


def _spread(found: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """What was asked for, in its place."""
    rest = iter(found)
    return tuple(next(rest) if need else None for need in needs)


def masked_whiten(
    x: Tensor,
    mask: Any,
    shift_mean: bool,
    ddof: int,
    eps: float,
    moments: Any,
    cu_seqlens: Any,
) -> Any:
    given = None if moments is None else [_as_tensor(number) for number in moments]
    whitened, *found = _masked_whiten(x, mask, shift_mean, ddof, eps, given, cu_seqlens)
    return whitened, tuple(found)


def sample_tokens(
    logits: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    offset: int,
    row_ids: Any,
) -> Any:
    for name, number in (("seed", seed), ("offset", offset)):
        if not 0 <= number < 2**64:
            raise ValueError(
                f"sample_tokens: `{name}` is {number}; expected an integer from 0 to 2**64 - 1"
            )
    # An operator's integers have a sign.
    seed, offset = (n if n < 2**63 else n - 2**64 for n in (seed, offset))
    return _sample_tokens(logits, temperature, top_k, top_p, seed, offset, row_ids)


def token_log_probs(
    name: str,
    logits: Tensor,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    ignore_index: int,
    save: bool,
) -> Any:
    found = _token_log_probs(logits, targets, temperature, entropy, ignore_index, save)
    return found[0], found[1] if entropy else None, found[-1] if save else None


token_log_probs_gradient = _token_log_probs_backward


def kl_divergence(*arguments: Any) -> Any:
    found = _kl_divergence(*arguments)
    return found[0], found[1] if arguments[-1] else None


def kl_divergence_backward(*arguments: Any) -> Any:
    return _spread(_kl_divergence_backward(*arguments), arguments[-2:])


def linear_forward(*arguments: Any) -> Any:
    found = _linear_forward(*arguments)
    return found if len(found) == 2 else (found[0], None)


def linear_backward(*arguments: Any) -> Any:
    return _spread(_linear_backward(*arguments), arguments[6])


def policy_loss(*arguments: Any) -> Any:
    arguments = (*arguments[:9], _as_tensor(arguments[9]), *arguments[10:])
    loss, *rest = _policy_loss(*arguments)
    return loss, rest[4] if arguments[-1] else None, dict(zip(_POLICY_STATS, rest, strict=False))


def value_loss(*arguments: Any) -> Any:
    arguments = (*arguments[:5], _as_tensor(arguments[5]), *arguments[6:])
    loss, clip_frac, *rest = _value_loss(*arguments)
    return loss, rest[0] if arguments[-1] else None, {"clip_frac": clip_frac}


def kl_penalty(*arguments: Any) -> Any:
    value, *gradient = _kl_penalty(*arguments)
    return value, gradient[0] if arguments[-1] else None


def huber(*arguments: Any) -> Any:
    value, *gradient = _huber(*arguments)
    return value, gradient[0] if arguments[-1] else None
