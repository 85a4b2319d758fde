"""Run as a script: prints a digest of every kernel's bits, and how far each is from the reference.

`test_determinism.py` runs it under several thread counts and instruction sets. Sizes are above
those that run serially, so that the threads are really used.
"""

import hashlib
import json

import numpy as np
import torch

from alignzoo import kernels
from alignzoo.kernels import reference

DTYPES = ("float32", "float64")


def results(dtype: str) -> dict[str, tuple[list, list]]:
    """For each kernel, its outputs and the reference's."""
    rng = np.random.default_rng(0)
    rows, length, num_tokens = 67, 4099, 5003
    rewards, values, advantages = rng.normal(size=(3, rows, length)).astype(dtype)
    mask = rng.random((rows, length)) < 0.7
    old = (values + 0.3 * rng.normal(size=values.shape)).astype(dtype)
    logits = (3 * rng.normal(size=(rows, num_tokens))).astype(dtype)
    targets = rng.integers(0, num_tokens, rows)
    g, h = rng.normal(size=(2, rows)).astype(dtype)
    scores, group_ids = rng.normal(size=5000).astype(dtype), rng.integers(0, 700, 5000)

    factors = {"gamma": 0.99, "gae_lambda": 0.95, "mask": mask}
    clip = {"clip_range": 0.2, "dual_clip": 3.0}
    held = torch.tensor(logits, requires_grad=True)
    statistics = kernels.token_log_probs(held, torch.from_numpy(targets), entropy=True)
    torch.autograd.backward(statistics, (torch.from_numpy(g), torch.from_numpy(h)))
    new = torch.tensor(values, requires_grad=True)
    others = [torch.from_numpy(x) for x in (old, advantages, mask)]
    loss, stats = kernels.policy_loss(new, *others, **clip)
    loss.backward()
    found = {
        "gae": kernels.gae(rewards, values, **factors),
        "discounted_returns": [kernels.discounted_returns(rewards, gamma=0.99, mask=mask)],
        "masked_whiten": [kernels.masked_whiten(rewards, mask)[0]],
        "group_advantages": [kernels.group_advantages(scores, group_ids, mode="grpo")],
        "token_log_probs": [*(x.detach() for x in statistics), held.grad],
        "policy_loss": [loss.detach(), *(stats[k] for k in sorted(stats)), new.grad],
        "value_loss": [kernels.value_loss(values, old, rewards, mask, clip_range=0.2)[0]],
        "kl_penalty": [kernels.kl_penalty(values, old, estimator="k3")],
        "huber": [kernels.huber(values)],
        "sample_tokens": list(kernels.sample_tokens(logits, seed=1, top_k=100, top_p=0.9)),
    }
    loss, stats = reference.policy_loss(values, old, advantages, mask, **clip)
    grad = reference.policy_loss_grad(values, old, advantages, mask, **clip)
    expected = {
        "discounted_returns": [reference.discounted_returns(rewards, gamma=0.99, mask=mask)],
        "gae": reference.gae(rewards, values, **factors),
        "masked_whiten": [reference.masked_whiten(rewards, mask)[0]],
        "group_advantages": [reference.group_advantages(scores, group_ids, mode="grpo")],
        "token_log_probs": [
            *reference.token_log_probs(logits, targets, entropy=True),
            reference.token_log_probs_grad(logits, targets, g, h),
        ],
        "policy_loss": [loss, *(stats[k] for k in sorted(stats)), grad],
        "value_loss": [reference.value_loss(values, old, rewards, mask, clip_range=0.2)[0]],
        "kl_penalty": [reference.kl_penalty(values, old, estimator="k3")],
        "huber": [reference.huber(values)],
        "sample_tokens": list(reference.sample_tokens(logits, seed=1, top_k=100, top_p=0.9)),
    }
    return {name: (list(found[name]), list(expected[name])) for name in found}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected number."""
    expected = np.asarray(expected, np.float64)
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
    return float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0)) / scale


def main() -> None:
    digests, errors = {}, {}
    for dtype in DTYPES:
        for name, (found, expected) in results(dtype).items():
            arrays = [np.asarray(x) for x in found]
            key = f"{name}-{dtype}"
            digests[key] = hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()
            errors[key] = max(map(relative_error, arrays, expected))
    print(json.dumps({"digests": digests, "errors": errors}))


if __name__ == "__main__":
    main()
