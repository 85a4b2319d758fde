"""Run as a script: prints a digest of every kernel's bits, and how far each is from the reference.

`test_determinism.py` runs it under several thread counts and instruction sets. Sizes are above
those that run serially, so that the threads are really used.
"""

import hashlib
import json
from typing import Any

import numpy as np
import torch

from alignzoo import kernels
from alignzoo.kernels import reference

DTYPES = ("float32", "float64")
ROWS, LENGTH, NUM_TOKENS = 33, 1031, 4099
CLIP = {"clip_range": 0.2, "dual_clip": 3.0}
DRAW = {"seed": 1, "top_k": 100, "top_p": 0.9}


def make_inputs(dtype: str) -> dict[str, np.ndarray]:
    """The arrays that every kernel is given, by name."""
    rng = np.random.default_rng(0)
    rewards, values, advantages = rng.normal(size=(3, ROWS, LENGTH))
    floats = {
        "rewards": rewards,
        "values": values,
        "advantages": advantages,
        "old": values + 0.3 * rng.normal(size=values.shape),
        "logits": 3 * rng.normal(size=(ROWS, NUM_TOKENS)),
        "g": rng.normal(size=ROWS),
        "h": rng.normal(size=ROWS),
        "scores": rng.normal(size=5000),
    }
    return {
        **{name: x.astype(dtype) for name, x in floats.items()},
        "mask": rng.random((ROWS, LENGTH)) < 0.7,
        "targets": rng.integers(0, NUM_TOKENS, ROWS),
        "group_ids": rng.integers(0, 700, 5000),
    }


def without_gradients(module: Any, x: dict[str, np.ndarray]) -> dict[str, list]:
    """The outputs of the kernels of `module` (ours or the reference) that need no autograd."""
    factors = {"gamma": 0.99, "mask": x["mask"]}
    pair = x["values"], x["old"]
    return {
        "gae": [*module.gae(x["rewards"], x["values"], gae_lambda=0.95, **factors)],
        "discounted_returns": [module.discounted_returns(x["rewards"], **factors)],
        "masked_whiten": [module.masked_whiten(x["rewards"], x["mask"])[0]],
        "group_advantages": [module.group_advantages(x["scores"], x["group_ids"], mode="grpo")],
        "value_loss": [module.value_loss(*pair, x["rewards"], x["mask"], clip_range=0.2)[0]],
        "kl_penalty": [module.kl_penalty(*pair, estimator="k3")],
        "huber": [module.huber(x["values"])],
        "sample_tokens": [*module.sample_tokens(x["logits"], **DRAW)],
    }


def with_gradients(x: dict[str, np.ndarray]) -> dict[str, list]:
    """Outputs and gradients of the kernels with a backward."""
    tensors = {name: torch.from_numpy(array) for name, array in x.items()}
    logits = tensors["logits"].clone().requires_grad_()
    statistics = kernels.token_log_probs(logits, tensors["targets"], entropy=True)
    torch.autograd.backward(statistics, (tensors["g"], tensors["h"]))
    new = tensors["values"].clone().requires_grad_()
    others = (tensors[name] for name in ("old", "advantages", "mask"))
    loss, stats = kernels.policy_loss(new, *others, **CLIP)
    loss.backward()
    found = {
        "token_log_probs": [*statistics, logits.grad],
        "policy_loss": [loss, *(stats[k] for k in sorted(stats)), new.grad],
    }
    return {name: [x.detach().numpy() for x in tensors] for name, tensors in found.items()}


def reference_gradients(x: dict[str, np.ndarray]) -> dict[str, list]:
    """What `with_gradients` should give."""
    picked = x["logits"], x["targets"]
    policy = x["values"], x["old"], x["advantages"], x["mask"]
    loss, stats = reference.policy_loss(*policy, **CLIP)
    return {
        "token_log_probs": [
            *reference.token_log_probs(*picked, entropy=True),
            reference.token_log_probs_grad(*picked, x["g"], x["h"]),
        ],
        "policy_loss": [
            loss,
            *(stats[k] for k in sorted(stats)),
            reference.policy_loss_grad(*policy, **CLIP),
        ],
    }


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected number."""
    expected = np.asarray(expected, np.float64)
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
    return float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0)) / scale


def main() -> None:
    digests, errors = {}, {}
    for dtype in DTYPES:
        x = make_inputs(dtype)
        found = without_gradients(kernels, x) | with_gradients(x)
        for name, outputs in found.items():
            data = b"".join(np.asarray(output).tobytes() for output in outputs)
            digests[f"{name}-{dtype}"] = hashlib.sha256(data).hexdigest()
        expected = without_gradients(reference, x) | reference_gradients(x)
        for name, outputs in found.items():
            arrays = [np.asarray(output) for output in outputs]
            errors[f"{name}-{dtype}"] = max(map(relative_error, arrays, expected[name]))
    print(json.dumps({"digests": digests, "errors": errors}))


if __name__ == "__main__":
    main()
