"""What is timed: each kernel on a workload, beside the functions that others have for it.

Every case makes its own random inputs, several sets of them where one would stay in a cache, and a
call takes the next set. Outputs are fresh on both sides unless the workload says "reused".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peers import AbsentError, compiled, module, openrlhf
from timing import Run, copies_of

from alignzoo import _core, kernels

Tensor = torch.Tensor


@dataclass
class Case:
    """One kernel on one workload.

    Args:
        kernel: the function's name.
        workload: sizes and type, in words.
        ours: calls the kernel.
        peers: label -> what makes the peer's call, or raises `AbsentError`.
        aims: label -> how many times as fast as that peer the kernel should be.
        num_bytes: what has to be read and written, once each; None: no share of bandwidth.
        bandwidth: "copy" or "read", what `num_bytes` over time is compared with.
        share: the share of that bandwidth it should reach.
        threads: where the workload names a number of its own.
    """

    kernel: str
    workload: str
    ours: Run
    peers: dict[str, Callable[[], Run]] = field(default_factory=dict)
    aims: dict[str, float] = field(default_factory=dict)
    num_bytes: int | None = None
    bandwidth: str = "copy"
    share: float | None = None
    threads: int | None = None

    @property
    def writes(self) -> bool:
        """Whether a call makes new arrays as large as its inputs."""
        return self.bandwidth == "copy" and "reused" not in self.workload

    def peer(self, label: str, make: Callable[[], Run], *, aim: float | None = None) -> None:
        """Adds a peer; its package is imported when its call is made."""
        self.peers[label] = make
        if aim is not None:
            self.aims[label] = aim


CASES: dict[str, Callable[[bool], Case]] = {}


def case(make: Callable[[bool], Case]) -> Callable[[bool], Case]:
    """Registers a case under its function's name; it takes whether to be small."""
    CASES[make.__name__] = make
    return make


def randn(copies: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype) for _ in range(copies)]


def uniform(copies: int, *shape: int) -> list[Tensor]:
    """Logits of spread about 3, cheaper to make than normal ones."""
    return [torch.rand(shape).mul_(10) for _ in range(copies)]


def random_mask(num_rows: int, length: int, *, holes: bool = False) -> Tensor:
    if holes:
        return torch.rand(num_rows, length) < 0.9
    lengths = torch.randint(length * 9 // 10, length + 1, (num_rows, 1))
    return torch.arange(length) < lengths


@dataclass
class Tokens:
    """Sets of per-token arrays [B, T] with a mask.

    It is padded at the right, rows being between nine tenths and all of T long; or, with holes,
    keeps any nine tokens of ten.
    """

    num_rows: int
    length: int
    copies: int = 0
    holes: bool = False

    def __post_init__(self) -> None:
        shape = self.num_rows, self.length
        self.copies = self.copies or copies_of(17 * self.num_rows * self.length)
        self.rewards, self.values = randn(self.copies, *shape), randn(self.copies, *shape)
        self.masks = [random_mask(*shape, holes=self.holes) for _ in range(self.copies)]
        self.floats = [mask.float() for mask in self.masks]

    @property
    def size(self) -> int:
        return self.num_rows * self.length


GAMMA, LAMBDA = 0.99, 0.95
GAE = {"gamma": GAMMA, "gae_lambda": LAMBDA}


def torch_gae(rewards: Tensor, values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The loop over time that trainers have, on all rows at once."""
    out = torch.empty_like(rewards)
    next_value = advantage = torch.zeros(len(rewards))
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
    done = torch.zeros(x.num_rows, x.length, 1, dtype=torch.bool)
    done[:, -1] = True
    rewards, values = ([y[..., None] for y in ys] for ys in (x.rewards, x.values))
    after = [torch.roll(v, -1, dims=1) for v in values]
    made = Case(
        "gae",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], **GAE),
    )

    def torchrl(name: str) -> Run:
        run = getattr(module("torchrl", "torchrl.objectives.value.functional"), name)
        return lambda i: run(GAMMA, LAMBDA, values[i % n], after[i % n], rewards[i % n], done, done)

    def stable_baselines() -> Run:
        buffers = module("stable-baselines3", "stable_baselines3.common.buffers")
        box = module("gymnasium", "gymnasium.spaces").Box(-1, 1, (1,))
        made = []
        for i in range(n):
            buffer = buffers.RolloutBuffer(
                x.length, box, box, gamma=GAMMA, gae_lambda=LAMBDA, n_envs=x.num_rows
            )
            buffer.rewards[:], buffer.values[:] = x.rewards[i].numpy().T, x.values[i].numpy().T
            made.append(buffer)
        last, ends = torch.zeros(x.num_rows), np.ones(x.num_rows, bool)
        return lambda i: made[i % n].compute_returns_and_advantage(last, ends)

    made.peer("torchrl, vectorised", lambda: torchrl("vec_generalized_advantage_estimate"), aim=300)
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
    done = torch.zeros(x.num_rows, x.length, 1, dtype=torch.bool)
    done[:, -1] = True
    rewards = [y[..., None] for y in x.rewards]
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
        return lambda i: run(rewards[i % n], done, GAMMA)

    made.peer("OpenRLHF", openrlhf_returns)
    made.peer("torchrl reward2go (no mask)", torchrl)
    return made


@case
def td_lambda_returns(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    done = torch.zeros(x.num_rows, x.length, 1, dtype=torch.bool)
    done[:, -1] = True
    rewards, values = ([y[..., None] for y in ys] for ys in (x.rewards, x.values))
    after = [torch.roll(v, -1, dims=1) for v in values]
    made = Case(
        "td_lambda_returns",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.td_lambda_returns(
            x.rewards[i % n], x.values[i % n], gamma=GAMMA, td_lambda=LAMBDA
        ),
    )

    def torchrl(name: str) -> Run:
        run = getattr(module("torchrl", "torchrl.objectives.value.functional"), name)
        return lambda i: run(GAMMA, LAMBDA, after[i % n], rewards[i % n], done, done)

    made.peer("torchrl, vectorised", lambda: torchrl("vec_td_lambda_return_estimate"))
    made.peer("torchrl, loop", lambda: torchrl("td_lambda_return_estimate"))
    return made


@case
def vtrace(small: bool) -> Case:
    x = Tokens(64, 64) if small else Tokens(512, 512)
    n = x.copies
    new = [-y.abs() for y in randn(n, x.num_rows, x.length)]
    old = [y + 0.1 * torch.randn_like(y) for y in new]
    done = torch.zeros(x.num_rows, x.length, 1, dtype=torch.bool)
    done[:, -1] = True
    rewards, values, new_3d, old_3d = (
        [y[..., None] for y in ys] for ys in (x.rewards, x.values, new, old)
    )
    after = [torch.roll(v, -1, dims=1) for v in values]
    made = Case(
        "vtrace",
        f"{x.num_rows} rows of {x.length}, float32",
        lambda i: kernels.vtrace(
            new[i % n], old[i % n], x.rewards[i % n], x.values[i % n], gamma=GAMMA
        ),
    )

    def torchrl() -> Run:
        run = module("torchrl", "torchrl.objectives.value.functional").vtrace_advantage_estimate

        def call(i: int) -> Any:
            j = i % n
            return run(GAMMA, new_3d[j], old_3d[j], values[j], after[j], rewards[j], done, done)

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


@dataclass
class Rows:
    """Sets of logits [N, V] and targets [N]."""

    num_rows: int
    vocabulary: int
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.num_bytes = self.num_rows * self.vocabulary * self.dtype.itemsize
        self.copies = copies_of(self.num_bytes)
        made = uniform(self.copies, self.num_rows, self.vocabulary)
        self.logits = [x.to(self.dtype) for x in made]
        self.targets = torch.randint(self.vocabulary, (self.num_rows,))

    @property
    def words(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{self.num_rows} rows of {self.vocabulary}, {name}"


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
    made.peer("torch", lambda: lambda i: torch_log_probs_and_entropy(x.logits[i % n], y), aim=aim)
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


@dataclass
class Update:
    """What a policy update reads: sets of log-probs, old ones, advantages, and a mask."""

    num_rows: int
    length: int

    def __post_init__(self) -> None:
        shape = self.num_rows, self.length
        self.copies = copies_of(17 * self.num_rows * self.length)
        self.new = [-x.abs() for x in randn(self.copies, *shape)]
        self.old = [x + 0.1 * torch.randn_like(x) for x in self.new]
        self.ref = [x + 0.1 * torch.randn_like(x) for x in self.new]
        self.advantages = randn(self.copies, *shape)
        self.mask = random_mask(*shape)
        self.kept = self.mask.float()
        for x in self.new:
            x.requires_grad_()

    @property
    def size(self) -> int:
        return self.num_rows * self.length


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
        def call(i: int) -> Any:
            j = i % n
            loss, stats = run(x.new[j], x.old[j], x.ref[j], x.advantages[j], x.mask)
            return torch.autograd.grad(loss, x.new[j]), stats

        return call

    made = Case(
        "policy_loss and k3 through autograd", f"{x.size} tokens, float32, statistics", ours
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
        options = (0.2, None, None, "token", "token_mean", None, None, "clip", None, True)
        loss = _core.policy_loss(fixed[j], x.old[j], x.advantages[j], x.mask, *options)
        return loss, _core.kl_penalty(fixed[j], x.ref[j], "k3", True)

    def theirs(i: int) -> Any:
        j = i % n
        loss, stats = torch_policy_loss_and_k3(
            x.new[j], x.old[j], x.ref[j], x.advantages[j], x.mask
        )
        return torch.autograd.grad(loss, x.new[j]), stats

    made = Case(
        "policy_loss and k3, value and gradient",
        f"{x.size} tokens, float32, statistics",
        ours,
        num_bytes=(17 + 16) * x.size,
    )
    made.peer("torch", lambda: theirs, aim=50)
    return made


@case
def policy_loss(small: bool) -> Case:
    x = Update(64, 64) if small else Update(1024, 1024)
    n = x.copies
    arrays = x.new, x.old, x.advantages

    def through(run: Callable[..., Any]) -> Run:
        def call(i: int) -> Any:
            loss, stats = run(*(y[i % n] for y in arrays), x.mask)
            return torch.autograd.grad(loss, x.new[i % n]), stats

        return call

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
    n = x.copies
    arrays = x.new, x.old, x.advantages

    def through(run: Callable[..., Any]) -> Run:
        def call(i: int) -> Any:
            loss, stats = run(*(y[i % n] for y in arrays), x.mask)
            return torch.autograd.grad(loss, x.new[i % n]), stats

        return call

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


def large(small: bool, *, holes: bool = False) -> Tokens:
    return Tokens(64, 64, holes=holes) if small else Tokens(8192, 1024, holes=holes)


def _large_case(kernel: str, x: Tokens, bytes_a_token: int, aim: float | None, run: Run) -> Case:
    masked = "with holes" if x.holes else "masked"
    workload = f"{x.size} tokens in rows of {x.length}, float32, {masked}"
    return Case(kernel, workload, run, num_bytes=bytes_a_token * x.size, share=aim)


@case
def large_gae(small: bool) -> Case:
    x = large(small)
    n = x.copies
    return _large_case(
        "gae",
        x,
        17,
        0.85,
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], mask=x.masks[i % n], **GAE),
    )


@case
def large_gae_with_holes(small: bool) -> Case:
    x = large(small, holes=True)
    n = x.copies
    return _large_case(
        "gae",
        x,
        17,
        None,
        lambda i: kernels.gae(x.rewards[i % n], x.values[i % n], mask=x.masks[i % n], **GAE),
    )


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


@case
def large_policy_loss(small: bool) -> Case:
    x, y = large(small), large(small)
    n = x.copies
    options = (0.2, None, None, "token", "token_mean", None, None, "clip", None, True)
    return _large_case(
        "policy_loss, value and gradient",
        x,
        17,
        None,
        lambda i: _core.policy_loss(
            x.rewards[i % n], x.values[i % n], y.values[i % n], x.masks[i % n], *options
        ),
    )


@case
def large_value_loss(small: bool) -> Case:
    x, y = large(small), large(small)
    n = x.copies
    return _large_case(
        "value_loss, value and gradient",
        x,
        17,
        None,
        lambda i: _core.value_loss(
            x.rewards[i % n],
            x.values[i % n],
            y.values[i % n],
            x.masks[i % n],
            0.2,
            None,
            None,
            True,
        ),
    )


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
