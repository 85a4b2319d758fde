"""Kernels over rows of logits: log-probs, draws, divergences, Q values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers import AbsentError, compiled, module, openrlhf
from timing import Run
from workloads import Case, Rows, Tensor, case

from alignzoo import _core, kernels


def torch_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]


def torch_log_probs_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def _log_probs_case(x: Rows, aim: float | None) -> Case:
    n, y = x.copies, x.targets
    made = Case(
        "token_log_probs",
        x.words,
        lambda i: kernels.token_log_probs(x.logits[i % n], y),
        num_bytes=x.num_bytes,
        bandwidth="read",
        share=0.85,
    )
    made.peer("torch", lambda: lambda i: torch_log_probs(x.logits[i % n], y), aim=aim)
    quick = compiled(torch_log_probs)
    made.peer("torch.compile", lambda: lambda i: quick(x.logits[i % n], y))

    def trl() -> Run:
        run = module("trl", "trl.trainer.utils").selective_log_softmax
        return lambda i: run(x.logits[i % n], y)

    def verl() -> Run:
        run = module("verl", "verl.utils.torch_functional").logprobs_from_logits
        return lambda i: run(x.logits[i % n], y)

    def openrlhf_log_probs() -> Run:
        chunked = openrlhf("models/utils.py", "_logsumexp_by_chunk")
        run = openrlhf("models/utils.py", "log_probs_from_logits", _logsumexp_by_chunk=chunked)
        return lambda i: run(x.logits[i % n], y)

    made.peer("TRL selective_log_softmax", trl)
    made.peer("verl logprobs_from_logits", verl)
    made.peer("OpenRLHF log_probs_from_logits", openrlhf_log_probs)
    return made


def _entropy_case(x: Rows, aim: float | None, share: float | None) -> Case:
    n, y = x.copies, x.targets
    made = Case(
        "token_log_probs with entropy",
        x.words,
        lambda i: kernels.token_log_probs(x.logits[i % n], y, entropy=True),
        num_bytes=x.num_bytes,
        bandwidth="read",
        share=share,
    )
    made.peer(
        "torch",
        lambda: lambda i: torch_log_probs_and_entropy(x.logits[i % n], y),
        aim=aim,
    )
    quick = compiled(torch_log_probs_and_entropy)
    made.peer("torch.compile", lambda: lambda i: quick(x.logits[i % n], y))

    def trl() -> Run:
        run = module("trl", "trl.trainer.utils").selective_log_softmax_and_entropy
        return lambda i: run(x.logits[i % n], y)

    def verl() -> Run:
        functional = module("verl", "verl.utils.torch_functional")
        first, second = functional.logprobs_from_logits, functional.entropy_from_logits
        return lambda i: (first(x.logits[i % n], y), second(x.logits[i % n]))

    made.peer("TRL, both kernels", trl)
    made.peer("verl, both functions", verl)
    return made


@case
def token_log_probs(small: bool) -> Case:
    return _log_probs_case(Rows(64, 5025) if small else Rows(1024, 50257), aim=10)


@case
def token_log_probs_entropy(small: bool) -> Case:
    return _entropy_case(Rows(64, 5025) if small else Rows(1024, 50257), aim=30, share=0.85)


@case
def token_log_probs_entropy_bfloat16(small: bool) -> Case:
    x = Rows(16, 12800, torch.bfloat16) if small else Rows(256, 128000, torch.bfloat16)
    made = _entropy_case(x, aim=20, share=None)
    made.workload += ", one thread"
    made.threads = 1
    return made


@case
def token_log_probs_backward(small: bool) -> Case:
    """Forward and backward through autograd, the gradient fresh on both sides."""
    x = Rows(64, 5025) if small else Rows(1024, 50257)
    n, y = x.copies, x.targets
    leaves = [z.requires_grad_() for z in x.logits]

    def through(run: Callable[..., Any]) -> Run:
        def call(i: int) -> Any:
            log_probs, entropy = run(leaves[i % n], y)
            return torch.autograd.grad(log_probs.sum() + 0.1 * entropy.sum(), leaves[i % n])

        return call

    made = Case(
        "token_log_probs with entropy, forward and backward",
        x.words + ", fresh gradient",
        through(lambda z, t: kernels.token_log_probs(z, t, entropy=True)),
    )
    made.peer("torch", lambda: through(torch_log_probs_and_entropy), aim=3)
    quick = compiled(torch_log_probs_and_entropy)
    made.peer("torch.compile", lambda: through(quick))

    def trl() -> Run:
        return through(module("trl", "trl.trainer.utils").selective_log_softmax_and_entropy)

    made.peer("TRL, both kernels", trl)
    return made


@case
def token_log_probs_backward_reused(small: bool) -> Case:
    """The backward kernel alone, into memory that exists."""
    x = Rows(64, 5025) if small else Rows(1024, 50257)
    n, y = x.copies, x.targets
    gradient = torch.zeros_like(x.logits[0])
    upstream = torch.randn(x.num_rows)
    saved = [
        _core.token_log_probs("token_log_probs", z, y, 1.0, True, -100, True)[2] for z in x.logits
    ]

    def run(i: int) -> Any:
        j = i % n
        return _core.token_log_probs_backward(
            x.logits[j], y, 1.0, -100, saved[j], upstream, upstream, gradient
        )

    return Case(
        "token_log_probs, backward kernel",
        x.words + ", reused gradient",
        run,
        num_bytes=2 * x.num_bytes,
        share=0.9,
    )


@case
def linear_token_log_probs(small: bool) -> Case:
    num_rows, width, vocabulary = (64, 64, 3200) if small else (1024, 512, 32000)
    hidden = torch.randn(num_rows, width).requires_grad_()
    weight = (torch.randn(vocabulary, width) * width**-0.5).requires_grad_()
    y = torch.randint(vocabulary, (num_rows,))

    def through(run: Callable[[], Any]) -> Run:
        def call(_: int) -> Any:
            log_probs, entropy = run()
            return torch.autograd.grad(log_probs.sum() + 0.1 * entropy.sum(), (hidden, weight))

        return call

    made = Case(
        "linear_token_log_probs, forward and backward",
        f"{num_rows} rows, width {width}, vocabulary {vocabulary}, float32, with entropy",
        through(lambda: kernels.linear_token_log_probs(hidden, weight, y, entropy=True)),
    )
    made.peer(
        "torch, all logits at once",
        lambda: through(lambda: torch_log_probs_and_entropy(hidden @ weight.T, y)),
    )

    def trl() -> Run:
        run = module("trl", "trl.kernels.chunked_logprob").ChunkedLogProbFunction.apply
        chunk = 32768  # the size its trainers use
        options = (None, 1.0, ("entropy",))
        return through(lambda: run(hidden, weight, None, y, 1.0, chunk, *options)[:2])

    made.peer("TRL ChunkedLogProbFunction", trl)

    def liger() -> Run:
        module("liger-kernel", "liger_kernel.ops.fused_linear_cross_entropy")
        raise AbsentError("Triton kernels, which need a GPU")

    made.peer("Liger fused linear cross entropy", liger)
    return made


def torch_sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    ids = torch.multinomial(torch.softmax(logits, -1), 1)
    return ids[:, 0], torch.log_softmax(logits, -1).gather(-1, ids)[:, 0]


@case
def sample_tokens(small: bool) -> Case:
    x = Rows(32, 3200 if small else 32000)
    n = x.copies
    made = Case(
        "sample_tokens",
        x.words + ", with log-probs",
        lambda i: kernels.sample_tokens(x.logits[i % n], seed=1, offset=i),
        num_bytes=x.num_bytes,
        bandwidth="read",
    )
    made.peer("torch softmax, multinomial", lambda: lambda i: torch_sample(x.logits[i % n]))
    return made


@case
def sample_tokens_top_p(small: bool) -> Case:
    x = Rows(32, 3200 if small else 32000)
    n = x.copies
    made = Case(
        "sample_tokens",
        x.words + ", top_k 50, top_p 0.9",
        lambda i: kernels.sample_tokens(x.logits[i % n], seed=1, offset=i, top_k=50, top_p=0.9),
    )

    def transformers() -> Run:
        process = module("transformers", "transformers.generation.logits_process")
        top_k, top_p = process.TopKLogitsWarper(50), process.TopPLogitsWarper(0.9)
        return lambda i: torch_sample(top_p(None, top_k(None, x.logits[i % n])))

    made.peer("transformers' warpers, torch multinomial", transformers)
    return made


def torch_kl(p: Tensor, q: Tensor) -> Tensor:
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


@case
def kl_divergence(small: bool) -> Case:
    x = Rows(64, 5025) if small else Rows(512, 50257)
    n, others = x.copies, [torch.rand_like(z).mul_(10) for z in x.logits]
    made = Case(
        "kl_divergence",
        x.words + ", forward pass",
        lambda i: kernels.kl_divergence(x.logits[i % n], others[i % n]),
        num_bytes=2 * x.num_bytes,
        bandwidth="read",
        share=0.85,
    )
    made.peer("torch", lambda: lambda i: torch_kl(x.logits[i % n], others[i % n]))
    quick = compiled(torch_kl)
    made.peer("torch.compile", lambda: lambda i: quick(x.logits[i % n], others[i % n]))
    return made


def torch_max_and_gather(q: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best, argmax = q.max(-1)
    return best, argmax, q.gather(-1, actions[:, None])[:, 0]


@case
def max_and_gather(small: bool) -> Case:
    x = Rows(64, 5025) if small else Rows(1024, 50257)
    n, y = x.copies, x.targets
    made = Case(
        "max_and_gather",
        x.words,
        lambda i: kernels.max_and_gather(x.logits[i % n], y),
        num_bytes=x.num_bytes,
        bandwidth="read",
        share=0.85,
    )
    made.peer("torch", lambda: lambda i: torch_max_and_gather(x.logits[i % n], y))
    return made


@case
def kl_divergence_backward(small: bool) -> Case:
    x = Rows(64, 5025) if small else Rows(512, 50257)
    n, others = x.copies, [torch.rand_like(z).mul_(10) for z in x.logits]
    leaves = [z.requires_grad_() for z in others]

    def through(run: Callable[..., Tensor]) -> Run:
        return lambda i: torch.autograd.grad(
            run(x.logits[i % n], leaves[i % n]).sum(), leaves[i % n]
        )

    made = Case(
        "kl_divergence, forward and backward",
        x.words + ", gradient by the second, fresh",
        through(kernels.kl_divergence),
    )
    made.peer("torch", lambda: through(torch_kl))
    return made
