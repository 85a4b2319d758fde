"""Scans over time beside the loops and filters that others have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peers import compiled, module, openrlhf
from timing import Run
from workloads import Case, Tensor, Tokens, case, randn

from alignzoo import kernels

GAMMA, LAMBDA = 0.99, 0.95
GAE = {"gamma": GAMMA, "gae_lambda": LAMBDA}


def torch_gae(rewards: Tensor, values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The loop over time that trainers have, on all rows at once."""
    out = torch.empty_like(rewards)
    next_value = advantage = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        on, value = kept[:, t], values[:, t]
        delta = rewards[:, t] + GAMMA * next_value - value
        advantage = on * (delta + GAMMA * LAMBDA * advantage) + (1 - on) * advantage
        next_value = on * value + (1 - on) * next_value
        out[:, t] = on * advantage
    return out, out + values * kept


def numpy_gae(rewards: Any, values: Any) -> tuple[Any, Any]:
    """The same as a loop over one row in plain NumPy."""
    out = np.empty_like(rewards)
    next_value = advantage = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        advantage = rewards[t] + GAMMA * next_value - values[t] + GAMMA * LAMBDA * advantage
        next_value = values[t]
        out[t] = advantage
    return out, out + values


@case
def gae(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    made = Case(
        "gae",
        f"{x.num_rows} rows of {x.length}, float32, masked",
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], mask=x.masks[i % n], **GAE),
    )
    made.peer(
        "torch loop over time",
        lambda: lambda i: torch_gae(x.rewards[i % n], x.values[i % n], x.floats[i % n]),
        aim=50,
    )

    def verl() -> Run:
        run = module("verl", "verl.trainer.ppo.core_algos").compute_gae_advantage_return
        return lambda i: run(x.rewards[i % n], x.values[i % n], x.floats[i % n], GAMMA, LAMBDA)

    def openrlhf_gae() -> Run:
        file = "trainer/ppo_utils/experience_maker.py"
        run = openrlhf(file, "get_advantages_and_returns")
        return lambda i: run(
            None, x.values[i % n], x.rewards[i % n], x.floats[i % n], GAMMA, LAMBDA
        )

    made.peer("verl (whitens too)", verl)
    made.peer("OpenRLHF", openrlhf_gae)
    return made


@case
def gae_without_mask(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    c = x.columns()
    made = Case(
        "gae",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], **GAE),
    )

    def torchrl(name: str) -> Run:
        run = getattr(module("torchrl", "torchrl.objectives.value.functional"), name)
        return lambda i: run(GAMMA, LAMBDA, *c.at(i, "values", "after", "rewards"), c.done, c.done)

    def stable_baselines() -> Run:
        buffers = module("stable-baselines3", "stable_baselines3.common.buffers")
        box = module("gymnasium", "gymnasium.spaces").Box(-1, 1, (1,))
        made = []
        for i in range(n):
            buffer = buffers.RolloutBuffer(
                x.length, box, box, gamma=GAMMA, gae_lambda=LAMBDA, n_envs=x.num_rows
            )
            buffer.rewards[:], buffer.values[:] = (
                x.rewards[i].numpy().T,
                x.values[i].numpy().T,
            )
            made.append(buffer)
        last, ends = torch.zeros(x.num_rows), np.ones(x.num_rows, bool)
        return lambda i: made[i % n].compute_returns_and_advantage(last, ends)

    made.peer(
        "torchrl, vectorised",
        lambda: torchrl("vec_generalized_advantage_estimate"),
        aim=300,
    )
    made.peer("torchrl, loop", lambda: torchrl("generalized_advantage_estimate"))
    made.peer("Stable-Baselines3, time first", stable_baselines)
    return made


@case
def gae_one_row(small: bool) -> Case:
    length = 1024 if small else 8192
    rewards, values = np.random.default_rng(0).standard_normal((2, 1, length), dtype=np.float32)
    made = Case(
        "gae",
        f"one row of {length}, float32, in cache, NumPy",
        lambda _: kernels.gae(rewards, values, **GAE),
    )
    made.peer("NumPy loop", lambda: lambda _: numpy_gae(rewards[0], values[0]))
    return made


@case
def gae_eight_rows(small: bool) -> Case:
    x = Tokens(8, 512 if small else 8192, copies=1)
    made = Case(
        "gae",
        f"8 rows of {x.length}, float32, masked, in cache",
        lambda _: kernels.gae(x.rewards[0], x.values[0], mask=x.masks[0], **GAE),
    )

    def verl() -> Run:
        run = module("verl", "verl.trainer.ppo.core_algos").compute_gae_advantage_return
        return lambda _: run(x.rewards[0], x.values[0], x.floats[0], GAMMA, LAMBDA)

    made.peer("verl (whitens too)", verl)
    return made


@case
def discounted_returns(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    c = x.columns()
    made = Case(
        "discounted_returns",
        f"{x.num_rows} rows of {x.length}, float32, masked",
        lambda i: kernels.discounted_returns(x.rewards[i % n], gamma=GAMMA, mask=x.masks[i % n]),
    )

    def openrlhf_returns() -> Run:
        run = openrlhf("trainer/ppo_utils/experience_maker.py", "get_cumulative_returns")
        return lambda i: run(None, x.rewards[i % n], x.floats[i % n], GAMMA)

    def torchrl() -> Run:
        run = module("torchrl", "torchrl.objectives.value.functional").reward2go
        return lambda i: run(*c.at(i, "rewards"), c.done, GAMMA)

    made.peer("OpenRLHF", openrlhf_returns)
    made.peer("torchrl reward2go (no mask)", torchrl)
    return made


@case
def td_lambda_returns(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    c = x.columns()
    made = Case(
        "td_lambda_returns",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.td_lambda_returns(
            x.rewards[i % n], x.values[i % n], gamma=GAMMA, td_lambda=LAMBDA
        ),
    )

    def torchrl(name: str) -> Run:
        run = getattr(module("torchrl", "torchrl.objectives.value.functional"), name)
        return lambda i: run(GAMMA, LAMBDA, *c.at(i, "after", "rewards"), c.done, c.done)

    made.peer("torchrl, vectorised", lambda: torchrl("vec_td_lambda_return_estimate"))
    made.peer("torchrl, loop", lambda: torchrl("td_lambda_return_estimate"))
    return made


@case
def vtrace(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    new = [-y.abs() for y in randn(n, x.num_rows, x.length)]
    old = [y + 0.1 * torch.randn_like(y) for y in new]
    c = x.columns()
    made = Case(
        "vtrace",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.vtrace(
            new[i % n], old[i % n], x.rewards[i % n], x.values[i % n], gamma=GAMMA
        ),
    )

    def torchrl() -> Run:
        run = module("torchrl", "torchrl.objectives.value.functional").vtrace_advantage_estimate

        new_3d, old_3d = ([y[..., None] for y in ys] for ys in (new, old))

        def call(i: int) -> Any:
            j = i % n
            state = c.at(i, "values", "after", "rewards")
            return run(GAMMA, new_3d[j], old_3d[j], *state, c.done, c.done)

        return call

    made.peer("torchrl, loop", torchrl)
    return made


def torch_td_targets(rewards: Tensor, after: Tensor, ends: Tensor) -> Tensor:
    return rewards + GAMMA * torch.where(ends, 0.0, after)


@case
def td_targets(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(1024, 1024)
    n = x.copies
    made = Case(
        "td_targets",
        f"{x.size} steps, float32",
        lambda i: kernels.td_targets(
            x.rewards[i % n], x.values[i % n], gamma=GAMMA, terminated=x.masks[i % n]
        ),
        num_bytes=13 * x.size,
        share=0.85,
    )
    arrays = x.rewards, x.values, x.masks
    made.peer("torch", lambda: lambda i: torch_td_targets(*(y[i % n] for y in arrays)))
    quick = compiled(torch_td_targets)
    made.peer("torch.compile", lambda: lambda i: quick(*(y[i % n] for y in arrays)))
    return made
