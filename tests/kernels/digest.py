"""Run as a script: prints a digest of every kernel's bits, each with several options.

With `errors` as its argument it prints how far each output and gradient is from the reference
instead, on fewer rows; with `forked`, the digests of a child that is forked after a first round.
`test_determinism.py` runs it under several thread counts and instruction sets. Sizes are above
those that run serially, so that the threads are really used; how many there are in the end is
printed too.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from kernel_cases import bits, leaves, to_numpy

from alignzoo import kernels
from alignzoo.kernels import reference

DTYPES = ("float32", "float64")
LENGTH, NUM_TOKENS, WIDTH, NUM_SCORES = 1031, 4099, 8, 5000
ROWS_FOR_DIGESTS, ROWS_FOR_ERRORS = 67, 9


class Case(NamedTuple):
    """One call. Strings that name an input stand for it."""

    name: str
    arrays: str
    options: dict[str, Any]


def case(name: str, arrays: str, **options: Any) -> Case:
    return Case(name, arrays, options)


GAE = {"gamma": 0.99, "gae_lambda": 0.95}
FLAGS = {"terminated": "is_end", "truncated": "is_cut", "next_values": "after"}
ROW_FLAGS = {"terminated": "row_ended", "bootstrap": "bootstrap"}
OFF_POLICY = "new old rewards values"
CLIPS = {"clip_range": 0.2, "clip_range_high": 0.3}
FLAT = {"cu_seqlens": "starts"}

CASES = [
    case("gae", "rewards values", **GAE),
    case("gae", "rewards values", mask="holes", **GAE, **FLAGS),
    case("gae", "rewards values", mask="holes", mask_mode="zero", **GAE, **ROW_FLAGS),
    case("gae", "rewards values", mask="padding", mask_mode="prefix", gamma=1.0, gae_lambda=1.0),
    case("gae", "flat_rewards flat_values", **GAE, **FLAT),
    case("discounted_returns", "rewards", gamma=0.99),
    case("discounted_returns", "rewards", gamma=0.9, mask="holes", **ROW_FLAGS),
    case("discounted_returns", "flat_rewards", gamma=1.0, **FLAT),
    case("td_lambda_returns", "rewards values", gamma=0.99, td_lambda=0.9),
    case("td_lambda_returns", "rewards values", gamma=0.99, td_lambda=1.0, mask="holes", **FLAGS),
    case("td_lambda_returns", "flat_rewards flat_values", gamma=0.9, td_lambda=0.5, **FLAT),
    case("vtrace", OFF_POLICY, gamma=0.99),
    case("vtrace", OFF_POLICY, gamma=0.99, mask="holes", clip_pg_rho=2.0, clip_c=0.9, **FLAGS),
    case("vtrace", OFF_POLICY, gamma=0.9, mask="holes", mask_mode="zero", **ROW_FLAGS),
    case("td_targets", "rewards after", gamma=0.99),
    case("td_targets", "rewards after", gamma=0.99, n_step=5, terminated="is_end"),
    case("masked_whiten", "rewards"),
    case("masked_whiten", "rewards", mask="holes", shift_mean=False, ddof=0),
    case("masked_whiten", "flat_rewards", **FLAT),
    *(
        case("group_advantages", "scores group_ids", mode=mode)
        for mode in ("grpo", "dr_grpo", "rloo", "batch_std")
    ),
    case("token_log_probs", "logits targets"),
    case("token_log_probs", "logits targets", entropy=True, temperature=0.7),
    case("linear_token_log_probs", "hidden weight targets", entropy=True, chunk_tokens=16),
    case("sample_tokens", "logits", seed=1),
    case("sample_tokens", "logits", seed=1, top_k=100, top_p=0.9, temperature=1.3),
    case("sample_tokens", "logits", seed=1, top_p=0.5),
    case("kl_divergence", "logits other_logits"),
    case("kl_divergence", "logits other_logits", direction="reverse", temperature=0.7),
    case("max_and_gather", "logits targets"),
    case("policy_loss", "new old advantages", **CLIPS),
    case("policy_loss", "new old advantages", mask="holes", dual_clip=3.0, **CLIPS),
    case("policy_loss", "new old advantages", mask="holes", level="sequence", **CLIPS),
    case("policy_loss", "new old advantages", kind="cispo", aggregate="sequence_mean", **CLIPS),
    case("policy_loss", "flat_new flat_old flat_advantages", **CLIPS, **FLAT),
    case("value_loss", "values old rewards"),
    case("value_loss", "values old rewards", mask="holes", clip_range=0.2),
    *(
        case("kl_penalty", "new old", estimator=estimator)
        for estimator in ("k1", "k2", "k3", "abs", "k3_plus")
    ),
    case("huber", "values", delta=0.5),
]


def make_inputs(dtype: str, num_rows: int) -> dict[str, np.ndarray]:
    """The arrays that the cases name."""
    rng = np.random.default_rng(0)
    shape = (num_rows, LENGTH)
    names = ("rewards", "values", "advantages", "after", "new")
    floats = dict(zip(names, rng.normal(size=(5, *shape)), strict=True))
    floats["old"] = floats["new"] + 0.3 * rng.normal(size=shape)
    floats |= {f"flat_{name}": x.ravel() for name, x in floats.items()}
    floats |= {
        "bootstrap": rng.normal(size=num_rows),
        "logits": 3 * rng.normal(size=(num_rows, NUM_TOKENS)),
        "hidden": rng.normal(size=(num_rows, WIDTH)),
        "weight": rng.normal(size=(NUM_TOKENS, WIDTH)),
        "scores": rng.normal(size=NUM_SCORES),
    }
    floats["other_logits"] = floats["logits"] + rng.normal(size=floats["logits"].shape)
    num_flat = num_rows * LENGTH
    return {name: x.astype(dtype) for name, x in floats.items()} | {
        "holes": rng.random(shape) < 0.7,
        "padding": np.arange(LENGTH) < rng.integers(0, LENGTH + 1, (num_rows, 1)),
        "is_end": rng.random(shape) < 0.01,
        "is_cut": rng.random(shape) < 0.01,
        "row_ended": rng.random(num_rows) < 0.5,
        "starts": np.array([0, 1, 17, 17, num_flat // 3, num_flat // 3 + 31, num_flat]),
        "targets": rng.integers(0, NUM_TOKENS, num_rows),
        "group_ids": rng.integers(0, 700, NUM_SCORES),
    }


def arguments(case: Case, inputs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arrays and options of a case, names replaced by what they stand for."""
    options = {k: inputs.get(v, v) if isinstance(v, str) else v for k, v in case.options.items()}
    return [inputs[name] for name in case.arrays.split()], options


def upstream(x: Any) -> np.ndarray:
    """A gradient that arrives at an output: no two numbers alike, none 0."""
    return np.cos(np.arange(to_numpy(x).size)).reshape(to_numpy(x).shape)


def _elementwise(gradient: Callable[..., Any]) -> Callable[..., list[Any]]:
    """The gradient of a kernel whose first array alone has one, times what arrives."""
    return lambda arrays, options, arriving: [arriving[0] * gradient(*arrays, **options)]


# From a case's arrays, options and arriving gradients: the gradients of its first arrays.
GRADIENTS: dict[str, Callable[..., Any]] = {
    "token_log_probs": lambda arrays, options, arriving: [
        reference.token_log_probs_grad(*arrays, *arriving, **options)
    ],
    "linear_token_log_probs": lambda arrays, options, arriving: (
        reference.linear_token_log_probs_grad(*arrays, *arriving, **options)[:2]
    ),
    "kl_divergence": lambda arrays, options, arriving: reference.kl_divergence_grad(
        *arrays, *arriving, **options
    ),
    "max_and_gather": lambda arrays, options, arriving: [
        reference.max_and_gather_grad(*arrays, *arriving)
    ],
    "policy_loss": _elementwise(reference.policy_loss_grad),
    "value_loss": _elementwise(reference.value_loss_grad),
    "kl_penalty": _elementwise(reference.kl_penalty_grad),
    "huber": _elementwise(reference.huber_grad),
}
NUM_LEAVES = dict.fromkeys(GRADIENTS, 1) | {"linear_token_log_probs": 2, "kl_divergence": 2}
FORWARD_ONLY = ("entropy", "chunk_tokens")


def computed(case: Case, inputs: dict[str, np.ndarray]) -> tuple[list[Any], list[Any]]:
    """The outputs of a kernel for tensors, and the gradients it gives back."""
    held = {name: torch.from_numpy(x) for name, x in inputs.items()}
    arrays, options = arguments(case, held)
    wanted = [x.requires_grad_() for x in arrays[: NUM_LEAVES.get(case.name, 0)]]
    outputs = leaves(getattr(kernels, case.name)(*arrays, **options))
    if not wanted:
        return outputs, []
    moved = [x for x in outputs if x.requires_grad]
    arriving = [torch.from_numpy(upstream(x)).to(x.dtype) for x in moved]
    return outputs, [*torch.autograd.grad(moved, wanted, arriving)]


def expected(case: Case, inputs: dict[str, np.ndarray]) -> tuple[list[Any], list[Any]]:
    """What the reference says about the same."""
    arrays, options = arguments(case, inputs)
    outputs = leaves(getattr(reference, case.name)(*arrays, **options))
    if case.name not in GRADIENTS:
        return outputs, []
    backward = {name: x for name, x in options.items() if name not in FORWARD_ONLY}
    if case.name == "max_and_gather":
        arriving = [upstream(outputs[0]), upstream(outputs[2])]
    elif case.name.endswith("token_log_probs"):
        arriving = [upstream(x) for x in outputs]
    else:
        arriving = [upstream(outputs[0])]
    return outputs, list(GRADIENTS[case.name](arrays, backward, arriving))


def relative_error(actual: Any, truth: Any) -> float:
    """Largest difference over the largest expected number."""
    truth = np.asarray(truth, np.float64)
    scale = max(float(np.abs(truth).max(initial=0.0)), 1e-30)
    return float(np.abs(to_numpy(actual).astype(np.float64) - truth).max(initial=0.0)) / scale


def digest(case: Case, inputs: dict[str, np.ndarray]) -> str:
    """One hash over every output and gradient."""
    outputs, gradients = computed(case, inputs)
    return hashlib.sha256(b"".join(bits(x) for x in (*outputs, *gradients))).hexdigest()


def largest_relative_error(case: Case, inputs: dict[str, np.ndarray]) -> float:
    """Over every output and gradient."""
    ours, truth = computed(case, inputs), expected(case, inputs)
    pairs = zip((*ours[0], *ours[1]), (*truth[0], *truth[1]), strict=True)
    return max(relative_error(*pair) for pair in pairs)


def measured(measure: Callable[..., Any], num_rows: int) -> dict[str, Any]:
    """The measure of every case in both dtypes."""
    found = {}
    for dtype in DTYPES:
        inputs = make_inputs(dtype, num_rows)
        for i, one in enumerate(CASES):
            found[f"{i} {one.name} {dtype}"] = measure(one, inputs)
    return found


def main() -> None:
    if sys.argv[1:] == ["errors"]:
        print(json.dumps(measured(largest_relative_error, ROWS_FOR_ERRORS)))
        return
    found = measured(digest, ROWS_FOR_DIGESTS)
    if sys.argv[1:] == ["forked"]:
        if os.fork() != 0:
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
        signal.alarm(60)  # ends a child that waits for its parent's threads
        torch.set_num_threads(1)  # as in a data loader's worker: torch's own products would wait
        found = measured(digest, ROWS_FOR_DIGESTS)
    tasks = Path("/proc/self/task")
    found["threads"] = len([*tasks.iterdir()]) if tasks.exists() else None
    print(json.dumps(found))


if __name__ == "__main__":
    main()
