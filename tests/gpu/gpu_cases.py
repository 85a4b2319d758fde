"""Every kernel once or more on a CUDA device, in sizes that fill some blocks, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from kernel_cases import leaves

from alignzoo import kernels

ROWS, LENGTH, NUM_TOKENS, WIDTH = 33, 1031, 40_009, 16
FLOATS = (torch.float32, torch.float64)


class Case(NamedTuple):
    """A call of a kernel: `arrays` name its inputs, `wanted` those with a gradient."""

    name: str
    arrays: tuple[str, ...]
    options: dict[str, Any]
    wanted: tuple[str, ...] = ()


def case(name: str, arrays: str, wanted: str = "", **options: Any) -> Case:
    return Case(name, tuple(arrays.split()), options, tuple(wanted.split()))


GAE = {"gamma": 0.99, "gae_lambda": 0.95}
FLAGS = {"terminated": "is_end", "truncated": "is_cut", "next_values": "after"}
OFF_POLICY = "new old rewards values"
CLIPS = {"clip_range": 0.2, "clip_range_high": 0.3}
FLAT = {"cu_seqlens": "starts"}
# A string among the options that names an input stands for it.
CASES = {
    "gae": case("gae", "rewards values", **GAE),
    "gae masked": case("gae", "rewards values", mask="holes", **GAE, **FLAGS),
    "gae packed": case("gae", "flat_rewards flat_values", **GAE, **FLAT),
    "discounted_returns": case("discounted_returns", "rewards", gamma=0.9, mask="holes"),
    "td_lambda_returns": case("td_lambda_returns", "rewards values", gamma=0.9, td_lambda=0.9),
    "vtrace": case("vtrace", OFF_POLICY, gamma=0.99, mask="holes", clip_c=0.9, **FLAGS),
    "td_targets": case("td_targets", "rewards after", gamma=0.99, terminated="is_end", n_step=5),
    "masked_whiten": case("masked_whiten", "rewards", mask="holes"),
    "masked_whiten packed": case("masked_whiten", "flat_rewards", **FLAT),
    **{
        f"group_advantages {mode}": case("group_advantages", "scores group_ids", mode=mode)
        for mode in ("grpo", "dr_grpo", "rloo", "batch_std")
    },
    "token_log_probs": case("token_log_probs", "logits targets", "logits"),
    "token_log_probs entropy": case(
        "token_log_probs", "logits targets", "logits", entropy=True, temperature=0.7
    ),
    "linear_token_log_probs": case(
        "linear_token_log_probs", "hidden weight targets", "hidden weight", chunk_tokens=16
    ),
    "sample_tokens": case("sample_tokens", "logits", seed=1),
    "sample_tokens cut": case("sample_tokens", "logits", seed=1, top_k=100, top_p=0.9),
    "kl_divergence": case("kl_divergence", "logits other_logits", "logits other_logits"),
    "max_and_gather": case("max_and_gather", "logits targets", "logits"),
    "policy_loss": case("policy_loss", "new old advantages", "new", mask="holes", **CLIPS),
    "policy_loss sequence": case(
        "policy_loss",
        "new old advantages",
        "new",
        mask="holes",
        level="sequence",
        aggregate="sequence_mean",
        **CLIPS,
    ),
    "policy_loss packed": case(
        "policy_loss", "flat_new flat_old flat_advantages", "flat_new", **CLIPS, **FLAT
    ),
    "value_loss": case("value_loss", "values old rewards", "values", mask="holes", clip_range=0.2),
    **{
        f"kl_penalty {name}": case("kl_penalty", "new old", "new", estimator=name)
        for name in ("k1", "k2", "k3", "abs", "k3_plus")
    },
    "huber": case("huber", "values", "values", delta=0.5),
}
LOGIT_CASES = tuple(name for name in CASES if "logits" in CASES[name].arrays)


def make_inputs(dtype: torch.dtype, seed: int = 0, device: Any = "cuda") -> dict[str, torch.Tensor]:
    """The arrays that the cases name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (ROWS, LENGTH)
    floats = {x: normal(*shape) for x in ("rewards", "values", "advantages", "after", "new")}
    floats["old"] = floats["new"] + 0.3 * normal(*shape)
    floats |= {f"flat_{name}": x.ravel() for name, x in floats.items()}
    floats |= {
        "logits": 3 * normal(ROWS, NUM_TOKENS),
        "hidden": normal(ROWS, WIDTH),
        "weight": normal(NUM_TOKENS, WIDTH),
        "scores": normal(5000),
    }
    floats["other_logits"] = floats["logits"] + normal(ROWS, NUM_TOKENS)
    uniform = torch.rand(3, *shape, generator=generator)
    size = ROWS * LENGTH
    others = {
        "holes": uniform[0] < 0.7,
        "is_end": uniform[1] < 0.01,
        "is_cut": uniform[2] < 0.01,
        "starts": torch.tensor([0, 1, 17, 17, size // 3, size // 3 + 31, size]),
        "targets": torch.randint(NUM_TOKENS, (ROWS,), generator=generator),
        "group_ids": torch.randint(700, (5000,), generator=generator),
    }
    return {x: y.to(device, dtype) for x, y in floats.items()} | {
        x: y.to(device) for x, y in others.items()
    }


def forward(one: Case, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a call."""
    options = {k: inputs.get(v, v) if isinstance(v, str) else v for k, v in one.options.items()}
    function: Callable[..., Any] = getattr(kernels, one.name)
    return leaves(function(*(inputs[name] for name in one.arrays), **options))


def run(one: Case, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a call, and the gradients of the sum of those that have one."""
    held = inputs | {name: inputs[name].detach().requires_grad_() for name in one.wanted}
    outputs = forward(one, held)
    moved = [x for x in outputs if x.requires_grad]
    gradients: tuple[torch.Tensor, ...] = ()
    if moved:
        upstream = [torch.ones_like(x) for x in moved]
        gradients = torch.autograd.grad(moved, [held[name] for name in one.wanted], upstream)
    return [x.detach() for x in (*outputs, *gradients)]


def same_bits(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether all numbers are equal, NaN where there is NaN."""
    return len(one) == len(other) and all(
        x.shape == y.shape
        and torch.equal(x.isnan(), y.isnan())
        and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        for x, y in zip(one, other, strict=True)
    )
