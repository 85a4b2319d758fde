"""Kernels on arrays far beyond any cache, for their share of bandwidth alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from time_scans import GAE, GAMMA, LAMBDA
from timing import Run
from workloads import Case, Tokens, case

from alignzoo import _core, kernels


def large(small: bool, *, holes: bool = False) -> Tokens:
    return Tokens(64, 64, holes=holes) if small else Tokens(8192, 1024, holes=holes)


def _large_case(kernel: str, x: Tokens, bytes_a_token: int, aim: float | None, run: Run) -> Case:
    masked = "with holes" if x.holes else "masked"
    workload = f"{x.size} tokens in rows of {x.length}, float32, {masked}"
    return Case(kernel, workload, run, num_bytes=bytes_a_token * x.size, share=aim)


def _large_gae(x: Tokens, aim: float | None) -> Case:
    n = x.copies
    return _large_case(
        "gae",
        x,
        17,
        aim,
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], mask=x.masks[i % n], **GAE),
    )


@case
def large_gae(small: bool) -> Case:
    return _large_gae(large(small), 0.85)


@case
def large_gae_with_holes(small: bool) -> Case:
    return _large_gae(large(small, holes=True), None)


@case
def large_discounted_returns(small: bool) -> Case:
    x = large(small)
    n = x.copies
    return _large_case(
        "discounted_returns",
        x,
        9,
        None,
        lambda i: kernels.discounted_returns(x.rewards[i % n], gamma=GAMMA, mask=x.masks[i % n]),
    )


@case
def large_td_lambda_returns(small: bool) -> Case:
    x = large(small)
    n = x.copies
    options = {"gamma": GAMMA, "td_lambda": LAMBDA}
    return _large_case(
        "td_lambda_returns",
        x,
        13,
        None,
        lambda i: kernels.td_lambda_returns(
            x.rewards[i % n], x.values[i % n], mask=x.masks[i % n], **options
        ),
    )


@case
def large_vtrace(small: bool) -> Case:
    x, y = large(small), large(small)
    n = x.copies
    return _large_case(
        "vtrace",
        x,
        25,
        None,
        lambda i: kernels.vtrace(
            y.rewards[i % n],
            y.values[i % n],
            x.rewards[i % n],
            x.values[i % n],
            gamma=GAMMA,
            mask=x.masks[i % n],
        ),
    )


@case
def large_masked_whiten(small: bool) -> Case:
    x = large(small)
    n = x.copies
    return _large_case(
        "masked_whiten (reads twice)",
        x,
        9,
        None,
        lambda i: kernels.masked_whiten(x.rewards[i % n], x.masks[i % n]),
    )


def _large_loss(name: str, run: Callable[..., Any], small: bool, *options: Any) -> Case:
    x, y = large(small), large(small)
    n = x.copies
    return _large_case(
        f"{name}, value and gradient",
        x,
        17,
        None,
        lambda i: run(x.rewards[i % n], x.values[i % n], y.values[i % n], x.masks[i % n], *options),
    )


@case
def large_policy_loss(small: bool) -> Case:
    options = (0.2, None, None, "token", "token_mean", None, None, "clip", None, True)
    return _large_loss("policy_loss", _core.policy_loss, small, *options)


@case
def large_value_loss(small: bool) -> Case:
    return _large_loss("value_loss", _core.value_loss, small, 0.2, None, None, True)


@case
def fresh_copy(small: bool) -> Case:
    """What a copy costs whose result is fresh: the limit of kernels that return large arrays."""
    x = Tokens(64, 64) if small else Tokens(8192, 1024)
    n = x.copies
    return Case(
        "(torch clone)",
        f"{x.size} elements, float32",
        lambda i: x.rewards[i % n].clone(),
        num_bytes=8 * x.size,
    )
