"""Times the kernels against eager torch: interleaved runs, medians, and paired ratios.

    OMP_WAIT_POLICY=PASSIVE python bench/kernels.py [--threads N] [--rounds N] [NAME...]

Each round runs both sides once, in random order, on inputs that rotate so that the cache does not
flatter. A ratio is torch's time over ours, the median over rounds with the quartiles beside it: on
a shared machine only such ratios mean something. Outputs are fresh on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from alignzoo import _core, kernels

Case = tuple[Callable[[int], Any], Callable[[int], Any]]
COPIES = 4


def log_probs(num_rows: int, vocabulary: int, dtype: torch.dtype, backward: bool) -> Case:
    logits = [torch.randn(num_rows, vocabulary).to(dtype) for _ in range(COPIES)]
    targets = torch.randint(0, vocabulary, (num_rows,))

    def ours(i: int) -> Any:
        z = logits[i].requires_grad_(backward)
        chosen, entropy = kernels.token_log_probs(z, targets, entropy=True)
        return torch.autograd.grad(chosen.sum() + entropy.sum(), z) if backward else chosen

    def theirs(i: int) -> Any:
        z = logits[i].requires_grad_(backward)
        log_p = torch.log_softmax(z.float(), -1)
        chosen = log_p.gather(-1, targets[:, None])
        entropy = -(log_p.exp() * log_p).sum(-1)
        return torch.autograd.grad(chosen.sum() + entropy.sum(), z) if backward else chosen

    return ours, theirs


def gae(num_rows: int, length: int) -> Case:
    rewards = [torch.randn(num_rows, length) for _ in range(COPIES)]
    values = [torch.randn(num_rows, length) for _ in range(COPIES)]
    mask = torch.rand(num_rows, length) < 0.9

    def ours(i: int) -> Any:
        return kernels.gae(rewards[i], values[i], gamma=0.99, gae_lambda=0.95, mask=mask)

    def theirs(i: int) -> Any:
        kept, out = mask.float(), torch.empty_like(rewards[i])
        next_value = advantage = torch.zeros(num_rows)
        for t in reversed(range(length)):
            delta = rewards[i][:, t] + 0.99 * next_value - values[i][:, t]
            on = kept[:, t]
            advantage = on * (delta + 0.99 * 0.95 * advantage) + (1 - on) * advantage
            next_value = on * values[i][:, t] + (1 - on) * next_value
            out[:, t] = on * advantage
        return out, out + values[i] * kept

    return ours, theirs


def policy_loss(num_rows: int, length: int) -> Case:
    shape = num_rows, length
    new = [torch.randn(shape).requires_grad_() for _ in range(COPIES)]
    old = [x.detach() + 0.1 * torch.randn(shape) for x in new]
    advantages, mask = torch.randn(shape), torch.rand(shape) < 0.9

    def ours(i: int) -> Any:
        loss, stats = kernels.policy_loss(new[i], old[i], advantages, mask, clip_range=0.2)
        kl = kernels.kl_penalty(new[i], old[i], estimator="k3")
        return torch.autograd.grad(loss + 0.1 * kl.mean(), new[i]), stats

    def theirs(i: int) -> Any:
        count, d = mask.sum(), new[i] - old[i]
        ratio = d.clamp(-20, 20).exp()
        loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        loss = (loss * mask).sum() / count
        kl = (-d).exp() - 1 + d
        stats = ((ratio - 1 - d) * mask).sum() / count, ((ratio - 1).abs() > 0.2).float().mean()
        return torch.autograd.grad(loss + 0.1 * kl.mean(), new[i]), stats

    return ours, theirs


def sample(num_rows: int, vocabulary: int) -> Case:
    logits = [torch.randn(num_rows, vocabulary) for _ in range(COPIES)]

    def ours(i: int) -> Any:
        return kernels.sample_tokens(logits[i], seed=1, offset=i)

    def theirs(i: int) -> Any:
        ids = torch.multinomial(torch.softmax(logits[i], -1), 1)
        return ids, torch.log_softmax(logits[i], -1).gather(-1, ids)

    return ours, theirs


CASES: dict[str, Callable[[], Case]] = {
    "token_log_probs": lambda: log_probs(256, 50257, torch.float32, False),
    "token_log_probs_backward": lambda: log_probs(256, 50257, torch.float32, True),
    "token_log_probs_bfloat16": lambda: log_probs(128, 128256, torch.bfloat16, False),
    "token_log_probs_small": lambda: log_probs(2048, 512, torch.float32, True),
    "gae": lambda: gae(512, 512),
    "policy_loss_k3": lambda: policy_loss(256, 1024),
    "policy_loss_k3_small": lambda: policy_loss(64, 64),
    "sample_tokens": lambda: sample(64, 512),
    "sample_tokens_wide": lambda: sample(32, 32000),
}


def seconds(run: Callable[[int], Any], i: int, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run(i)
    return (time.perf_counter() - start) / repeats


def measure(case: Case, rounds: int) -> dict[str, float]:
    ours, theirs = case
    repeats = [max(1, int(2e-3 / max(1e-7, min(seconds(f, 0, 1) for _ in range(3))))) for f in case]
    mine, peer = [], []
    for i in range(rounds):
        both = [(ours, mine, repeats[0]), (theirs, peer, repeats[1])]
        random.shuffle(both)
        for run, times, n in both:
            times.append(seconds(run, i % COPIES, n))
    low, middle, high = statistics.quantiles([b / a for a, b in zip(mine, peer, strict=True)])
    return {
        "ours_us": round(statistics.median(mine) * 1e6, 2),
        "torch_us": round(statistics.median(peer) * 1e6, 2),
        "ratio": round(middle, 2),
        "ratio_low": round(low, 2),
        "ratio_high": round(high, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    torch.set_num_threads(arguments.threads)
    random.seed(0)
    torch.manual_seed(0)
    print(json.dumps({"torch": torch.__version__, **_core.build_info()}), file=sys.stderr)
    for name in arguments.names or CASES:
        print(json.dumps({"case": name, **measure(CASES[name](), arguments.rounds)}), flush=True)


if __name__ == "__main__":
    main()
