"""Good arguments for every parameter of every kernel, in padded and in packed layout.

`KERNELS` has an entry for each function that `alignzoo.kernels` promises, and in it one for each
parameter: `test_refusals.py` fails where a new one has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from bad_values import Array, Bad, Choice, Moments, Number, Switch
from kernel_cases import given_as
from kernel_device import ON_CUDA

NUM_ROWS, LENGTH, NUM_TOKENS = 3, 5, 7
PADDED, ROWS, LOGITS = (NUM_ROWS, LENGTH), (NUM_ROWS,), (NUM_ROWS, NUM_TOKENS)
# The same tokens packed, one row empty; and where no rows can start and end.
CU_SEQLENS = np.array([0, 5, 5, 15])
STARTS = ([0, 5, 14], [0, 5, 16], [1, 5, 15], [0, 6, 5, 15], [0], [], [-1, 15], [0, 2**62, 15])


@dataclass(frozen=True)
class RowStarts:
    """cu_seqlens: None where padded, and where packed 0, ..., N, never falling."""

    good: Any = None

    def bad(self, library: str) -> Iterator[Bad]:
        for value in (CU_SEQLENS.astype(np.float64), CU_SEQLENS.tolist(), "text", 15):
            yield given_as(library, value) if isinstance(value, np.ndarray) else value, TypeError
        yield given_as("torch" if library == "numpy" else "numpy", CU_SEQLENS), TypeError
        # Where rows start is in the data, which a device's call does not wait for: test_faults.py.
        for value in ([], CU_SEQLENS[None]) if ON_CUDA else (*STARTS, CU_SEQLENS[None]):
            yield given_as(library, np.array(value, np.int64)), ValueError


Parameter = Array | Number | Choice | Switch | Moments | RowStarts


@dataclass(frozen=True)
class Kernel:
    """The parameters of one function, in the order of its signature."""

    parameters: dict[str, Parameter]

    def good(self, library: str = "numpy", is_packed: bool = False) -> dict[str, Any]:
        """A good value for every parameter, by name."""
        arguments: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            arguments[name] = parameter.good
            if isinstance(parameter, RowStarts) and is_packed:
                arguments[name] = given_as(library, CU_SEQLENS.copy())
            elif isinstance(parameter, Array):
                good = parameter.good.copy()
                is_flattened = is_packed and good.shape == PADDED
                arguments[name] = given_as(library, good.ravel() if is_flattened else good)
        return arguments


_rng = np.random.default_rng(0)


def _floats(shape: tuple[int, ...], **rest: Any) -> Array:
    return Array(_rng.normal(size=shape), **rest)


# Legal for other targets, which are then refused.
OTHER_LOGITS = ((NUM_ROWS, NUM_TOKENS + 1), (NUM_ROWS, 1))


def _logits(**rest: Any) -> Array:
    return _floats(LOGITS, takes_halves=True, **rest)


def _tokens(limit: int = NUM_TOKENS) -> Array:
    return Array(_rng.integers(0, limit, ROWS), out_of_range=(-1, limit, 2**40))


def _flags(good: np.ndarray, *other_shapes: tuple[int, ...]) -> Array:
    return Array(good, is_optional=True, out_of_range=(2, -1), other_shapes=other_shapes)


_fraction = Number(0.9, 0, 1)
_positive = Number(1.1, 0, closed="]")
_size = Number(0.2, 0)
_temperature = Number(0.8, 0, closed="")
_last = np.zeros(PADDED, bool)
_last[0, -1] = True  # the last step of a row in both layouts
_mask = {"mask": _flags(np.arange(LENGTH) < np.array([[5], [3], [4]]))}
_rows = {"cu_seqlens": RowStarts()}
_row_flags = {
    "terminated": _flags(_rng.random(PADDED) < 0.3, ROWS),
    "truncated": _flags(_last, ROWS),
    "bootstrap": _floats(ROWS, is_optional=True),
}
_next_values = {"next_values": _floats(PADDED, is_optional=True)}
_mask_mode = {"mask_mode": Choice("carry")}
_ends = _mask | _row_flags | _next_values | _rows | _mask_mode
_per_token = {name: _floats(PADDED) for name in ("log_probs", "old_log_probs", "advantages")}
_denominator = Number(7.0, 0, closed="]", is_optional=True)

KERNELS: dict[str, Kernel] = {
    name: Kernel(parameters)
    for name, parameters in {
        "gae": {
            "rewards": _floats(PADDED),
            "values": _floats(PADDED),
            "gamma": _fraction,
            "gae_lambda": _fraction,
            **_ends,
        },
        "discounted_returns": {
            "rewards": _floats(PADDED),
            "gamma": _fraction,
            **_mask,
            **_row_flags,
            **_rows,
            **_mask_mode,
        },
        "td_lambda_returns": {
            "rewards": _floats(PADDED),
            "values": _floats(PADDED),
            "gamma": _fraction,
            "td_lambda": _fraction,
            **_ends,
        },
        "vtrace": {
            "log_probs": _floats(PADDED),
            "old_log_probs": _floats(PADDED),
            "rewards": _floats(PADDED),
            "values": _floats(PADDED),
            "gamma": _fraction,
            "vtrace_lambda": _fraction,
            "clip_rho": _positive,
            "clip_c": _positive,
            "clip_pg_rho": _positive,
            **_ends,
        },
        "masked_whiten": {
            "x": _floats(PADDED, is_alone=True),
            **_mask,
            "shift_mean": Switch(True),
            "ddof": Number(1, 0, is_whole=True),
            "eps": Number(1e-8, 0),
            "moments": Moments(),
            **_rows,
        },
        "group_advantages": {
            "scores": _floats(ROWS, is_alone=True),
            "group_ids": Array(np.array([4, -2, 4])),
            "mode": Choice("grpo"),
            "eps": Number(1e-6, 0),
            "ddof": Number(1, 0, is_whole=True),
        },
        "td_targets": {
            "rewards": _floats(PADDED),
            "next_values": _floats(PADDED),
            "gamma": _fraction,
            "terminated": _flags(_rng.random(PADDED) < 0.3),
            "n_step": Number(2, 1, is_whole=True),
        },
        "token_log_probs": {
            "logits": _logits(is_alone=True, other_shapes=OTHER_LOGITS),
            "targets": _tokens(),
            "temperature": _temperature,
            "entropy": Switch(True),
            "ignore_index": Number(-100, is_whole=True),
        },
        "linear_token_log_probs": {
            "hidden": _floats((NUM_ROWS, 4)),
            "weight": _floats((NUM_TOKENS, 4)),
            "targets": _tokens(),
            "bias": _floats((NUM_TOKENS,), is_optional=True),
            "temperature": _temperature,
            "entropy": Switch(True),
            "ignore_index": Number(-100, is_whole=True),
            "chunk_tokens": Number(2, 1, is_whole=True, is_optional=True, takes_any_size=True),
        },
        "sample_tokens": {
            "logits": _logits(
                is_alone=True, other_shapes=OTHER_LOGITS, out_of_range=(math.nan, math.inf)
            ),
            "temperature": Number(0.8, 0, closed="["),
            "top_k": Number(3, 0, is_whole=True),
            "top_p": Number(0.9, 0, 1, closed="]"),
            "seed": Number(3, 0, 2**64 - 1, is_whole=True),
            "offset": Number(5, 0, 2**64 - 1, is_whole=True),
            "row_ids": Array(np.array([9, 0, 4]), is_optional=True, out_of_range=(-1,)),
        },
        "kl_divergence": {
            "logits_p": _logits(),
            "logits_q": _logits(),
            "direction": Choice("forward"),
            "temperature": _temperature,
        },
        "max_and_gather": {
            "q": _logits(is_alone=True, other_shapes=OTHER_LOGITS),
            "actions": _tokens(),
        },
        "policy_loss": {
            **_per_token,
            **_mask,
            "clip_range": _size,
            "clip_range_high": Number(0.3, 0, is_optional=True),
            "dual_clip": Number(3.0, 1, closed="]", is_optional=True),
            "level": Choice("token"),
            "aggregate": Choice("token_mean"),
            "denominator": _denominator,
            "behaviour_weights": _floats(PADDED, is_optional=True),
            "kind": Choice("clip"),
            **_rows,
        },
        "value_loss": {
            "values": _floats(PADDED),
            "old_values": _floats(PADDED),
            "returns": _floats(PADDED),
            **_mask,
            "clip_range": Number(0.2, 0, is_optional=True),
            "denominator": _denominator,
            **_rows,
        },
        "kl_penalty": {
            "log_probs": _floats(PADDED),
            "ref_log_probs": _floats(PADDED),
            "estimator": Choice("k3"),
        },
        "huber": {"x": _floats(PADDED, is_alone=True, takes_any_shape=True), "delta": _positive},
    }.items()
}
