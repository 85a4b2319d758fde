"""Statistics, losses and penalties, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers import compiled, module, openrlhf
from timing import Run, copies_of
from workloads import Case, Tensor, Tokens, Update, case, randn

from alignzoo import _core, kernels


@case
def masked_whiten(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(1024, 1024)
    n = x.copies
    made = Case(
        "masked_whiten",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.masked_whiten(x.rewards[i % n], x.masks[i % n]),
    )

    def verl() -> Run:
        run = module("verl", "verl.utils.torch_functional").masked_whiten
        return lambda i: run(x.rewards[i % n], x.floats[i % n])

    made.peer("verl", verl)
    return made


@case
def group_advantages(small: bool) -> Case:
    num_rows = 64 if small else 1024
    scores = torch.rand(num_rows)
    groups = torch.arange(num_rows) // 8
    names = groups.numpy()
    token_rewards, ones = scores[:, None], torch.ones(num_rows, 1)
    made = Case(
        "group_advantages",
        f"{num_rows} scores in groups of 8, GRPO",
        lambda _: kernels.group_advantages(scores, groups, mode="grpo"),
    )

    def verl(name: str) -> Run:
        run = getattr(module("verl", "verl.trainer.ppo.core_algos"), name)
        return lambda _: run(token_rewards, ones, names)

    def reshaped(_: int) -> Any:
        grouped = scores.view(-1, 8)
        centred = grouped - grouped.mean(1, keepdim=True)
        return (centred / (grouped.std(1, keepdim=True) + 1e-6)).view(-1)

    made.peer("torch, neighbours of one size", lambda: reshaped)
    made.peer("verl", lambda: verl("compute_grpo_outcome_advantage"))
    made.peer("verl, vectorised", lambda: verl("compute_grpo_vectorized_outcome_advantage"))
    return made


def torch_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Any:
    """The loss and the statistics that our kernel gives."""
    count = mask.sum()
    d = (new - old).clamp(-20, 20)
    ratio = d.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    fixed = ratio.detach()
    clipped = ((advantages > 0) & (fixed > 1.2)) | ((advantages < 0) & (fixed < 0.8))
    kept = fixed * mask
    stats = (
        (clipped & mask).sum() / count,
        ((fixed - 1 - d.detach()) * mask).sum() / count,
        kept.max(),
        kept.sum() ** 2 / (count * (kept * kept).sum()),
    )
    return (loss * mask).sum() / count, stats


def torch_policy_loss_and_k3(
    new: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor
) -> Any:
    loss, stats = torch_policy_loss(new, old, advantages, mask)
    q = (ref - new).clamp(-20, 20)
    return loss + 0.1 * ((q.exp() - 1 - q) * mask).sum() / mask.sum(), stats


@case
def policy_loss_and_k3(small: bool) -> Case:
    x = Update(64, 64) if small else Update(1024, 1024)
    n = x.copies

    def ours(i: int) -> Any:
        j = i % n
        loss, stats = kernels.policy_loss(
            x.new[j], x.old[j], x.advantages[j], x.mask, clip_range=0.2
        )
        kl = kernels.kl_penalty(x.new[j], x.ref[j], estimator="k3")
        total = loss + 0.1 * torch.where(x.mask, kl, 0.0).sum() / x.mask.sum()
        return torch.autograd.grad(total, x.new[j]), stats

    def through(run: Callable[..., Any]) -> Run:
        return x.through(run, "new", "old", "ref", "advantages")

    made = Case(
        "policy_loss and k3 through autograd",
        f"{x.size} tokens, float32, statistics",
        ours,
    )
    made.peer("torch", lambda: through(torch_policy_loss_and_k3))
    quick = compiled(torch_policy_loss_and_k3)
    made.peer("torch.compile", lambda: through(quick))

    def verl() -> Run:
        core = module("verl", "verl.trainer.ppo.core_algos")
        config = module("verl", "verl.workers.config").ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=8
        )

        def run(new: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, _: Tensor) -> Any:
            loss, metrics = core.compute_policy_loss_vanilla(
                old, new, advantages, x.kept, "token-mean", config
            )
            kl = core.kl_penalty(new, ref, "low_var_kl")
            return loss + 0.1 * core.agg_loss(kl, x.kept, "token-mean"), metrics

        return through(run)

    def openrlhf_loss() -> Run:
        mean = openrlhf("models/utils.py", "masked_mean")
        total = openrlhf("models/loss.py", "aggregate_loss", masked_mean=mean)
        policy = openrlhf("models/loss.py", "PolicyLoss", masked_mean=mean, aggregate_loss=total)()
        estimate = openrlhf("models/utils.py", "compute_approx_kl")

        def run(new: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, _: Tensor) -> Any:
            loss, *stats = policy(new, old, advantages, x.kept)
            kl = estimate(new, ref, kl_estimator="k3")
            return loss + 0.1 * mean(kl, x.kept), stats

        return through(run)

    made.peer("verl", verl)
    made.peer("OpenRLHF", openrlhf_loss)
    return made


@case
def policy_loss_and_k3_kernels(small: bool) -> Case:
    """Values and gradients alone, as the kernels give them: without autograd's own passes."""
    x = Update(64, 64) if small else Update(1024, 1024)
    n = x.copies
    fixed = [y.detach() for y in x.new]

    def ours(i: int) -> Any:
        j = i % n
        options = (
            0.2,
            None,
            None,
            "token",
            "token_mean",
            None,
            None,
            "clip",
            None,
            True,
        )
        loss = _core.policy_loss(fixed[j], x.old[j], x.advantages[j], x.mask, *options)
        return loss, _core.kl_penalty(fixed[j], x.ref[j], "k3", True)

    made = Case(
        "policy_loss and k3, value and gradient",
        f"{x.size} tokens, float32, statistics",
        ours,
        num_bytes=(17 + 16) * x.size,
    )
    through = x.through(torch_policy_loss_and_k3, "new", "old", "ref", "advantages")
    made.peer("torch", lambda: through, aim=50)
    return made


@case
def policy_loss(small: bool) -> Case:
    x = Update(64, 64) if small else Update(1024, 1024)

    def through(run: Callable[..., Any]) -> Run:
        return x.through(run, "new", "old", "advantages")

    made = Case(
        "policy_loss through autograd",
        f"{x.size} tokens, float32, statistics",
        through(lambda *y: kernels.policy_loss(*y, clip_range=0.2)),
    )
    made.peer("torch", lambda: through(torch_policy_loss))
    return made


def torch_value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor) -> Any:
    clipped = old + (values - old).clamp(-0.2, 0.2)
    first, second = (values - returns) ** 2, (clipped - returns) ** 2
    count = mask.sum()
    share = ((second > first) & mask).sum() / count
    return 0.5 * (torch.maximum(first, second) * mask).sum() / count, share


@case
def value_loss(small: bool) -> Case:
    x = Update(64, 64) if small else Update(1024, 1024)

    def through(run: Callable[..., Any]) -> Run:
        return x.through(run, "new", "old", "advantages")

    made = Case(
        "value_loss through autograd",
        f"{x.size} tokens, float32, clipped",
        through(lambda *y: kernels.value_loss(*y, clip_range=0.2)),
    )
    made.peer("torch", lambda: through(torch_value_loss))
    quick = compiled(torch_value_loss)
    made.peer("torch.compile", lambda: through(quick))

    def verl() -> Run:
        core = module("verl", "verl.trainer.ppo.core_algos")

        def run(values: Tensor, old: Tensor, returns: Tensor, _: Tensor) -> Any:
            return core.compute_value_loss(values, returns, old, x.kept, 0.2)

        return through(run)

    made.peer("verl", verl)
    return made


def torch_k3(new: Tensor, ref: Tensor) -> Tensor:
    q = (ref - new).clamp(-20, 20)
    return q.exp() - 1 - q


@case
def kl_penalty(small: bool) -> Case:
    x = Update(64, 64) if small else Update(1024, 1024)
    n = x.copies
    fixed = [y.detach() for y in x.new]
    made = Case(
        "kl_penalty",
        f"{x.size} tokens, float32, k3, no gradient",
        lambda i: kernels.kl_penalty(fixed[i % n], x.ref[i % n], estimator="k3"),
        num_bytes=12 * x.size,
        share=0.85,
    )
    made.peer("torch", lambda: lambda i: torch_k3(fixed[i % n], x.ref[i % n]))
    quick = compiled(torch_k3)
    made.peer("torch.compile", lambda: lambda i: quick(fixed[i % n], x.ref[i % n]))

    def verl() -> Run:
        run = module("verl", "verl.trainer.ppo.core_algos").kl_penalty
        return lambda i: run(fixed[i % n], x.ref[i % n], "low_var_kl")

    def openrlhf_kl() -> Run:
        run = openrlhf("models/utils.py", "compute_approx_kl")
        return lambda i: run(fixed[i % n], x.ref[i % n], kl_estimator="k3")

    made.peer("verl", verl)
    made.peer("OpenRLHF", openrlhf_kl)
    return made


@case
def huber(small: bool) -> Case:
    size = 4096 if small else 1 << 20
    n = copies_of(8 * size)
    errors, zeros = randn(n, size), torch.zeros(size)
    made = Case(
        "huber",
        f"{size} elements, float32, no gradient",
        lambda i: kernels.huber(errors[i % n]),
        num_bytes=8 * size,
        share=0.85,
    )
    loss = torch.nn.functional.huber_loss
    made.peer("torch", lambda: lambda i: loss(errors[i % n], zeros, reduction="none"))
    return made
