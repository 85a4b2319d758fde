"""What `bench/gpu.py` times: each kernel on one workload, with the bytes it has to move.

A plan says what is compulsory before anything is allocated. `num_bytes` is every input read once
and every result written once, the inputs once more where a backward pass follows; targets and
statistics beside rows of logits are left out. `flops` is what the products of a linear head
compute. `make` allocates random inputs on a device, in as many sets as no cache holds, and gives
the calls. A call returns a tuple; a peer's has None where it gives no counterpart of ours, and the
rest are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from peers import AbsentError, module
from time_logits import (
    torch_kl,
    torch_log_probs,
    torch_log_probs_and_entropy,
    torch_max_and_gather,
    torch_sample,
)
from time_losses import torch_k3, torch_policy_loss, torch_value_loss
from time_scans import GAE, GAMMA, LAMBDA, torch_gae, torch_td_targets
from torch.nn import functional

from alignzoo import _core, kernels

Tensor = torch.Tensor
Call = Callable[[int], tuple[Any, ...]]  # gets the number of the call, to rotate its inputs by

ROTATED_BYTES = 512 << 20  # an H200's second-level cache holds 60 MB
COMPILED = "torch.compile"


@dataclass(frozen=True)
class Sizes:
    """How large the workloads are."""

    scan: tuple[int, int]  # rows, tokens
    logits: tuple[int, int]  # rows, vocabulary
    linear: tuple[int, int, int]  # rows, width, vocabulary
    divergence: tuple[int, int]
    draw: tuple[int, int]
    values: tuple[int, int]  # states, actions
    scores: int
    rotated_bytes: int = ROTATED_BYTES


FULL = Sizes(
    scan=(1024, 8192),
    logits=(8192, 128_256),
    linear=(4096, 4096, 128_256),
    divergence=(4096, 128_256),
    draw=(32, 128_256),
    values=(8192, 32_000),
    scores=8192,
)
TINY = Sizes(
    scan=(5, 37),
    logits=(7, 1031),
    linear=(19, 16, 257),
    divergence=(6, 257),
    draw=(4, 97),
    values=(9, 67),
    scores=24,
    rotated_bytes=4096,
)


@dataclass(frozen=True)
class Side:
    """A call to time; `before` runs ahead of each one, outside the clock."""

    call: Call
    before: Callable[[int], None] | None = None


@dataclass
class Made:
    """One plan's calls on inputs that exist.

    Args:
        ours: the kernel.
        peers: label -> what makes the peer's side, or raises `AbsentError`.
        truth: our results again by plain torch operations, where a peer's say nothing (draws).
        products: the matrix products inside, by torch alone.
    """

    ours: Side
    peers: dict[str, Callable[[], Side]] = field(default_factory=dict)
    truth: Callable[[int, tuple[Any, ...]], tuple[Any, ...]] | None = None
    products: Side | None = None


@dataclass(frozen=True)
class Plan:
    """One kernel on one workload, before anything is allocated.

    Args:
        name: what options and results call it.
        kernel: the function and how it is called.
        workload: sizes and types, in words.
        num_bytes: compulsory bytes.
        make: allocates inputs on a device.
        peers: labels of `Made.peers`.
        flops: of the products inside.
        aim: seconds it should take on an H200.
        aim_over_products: how many times its products it may take.
        graph: what is timed in a replayed graph, so that no launch is waited for: "" nothing,
            "ours" our kernel beside the floor, "all" the peers too.
        tolerance: largest norm of a difference over the norm, between ours and a peer's.
    """

    name: str
    kernel: str
    workload: str
    num_bytes: int
    make: Callable[[torch.device], Made]
    peers: tuple[str, ...] = ("torch", COMPILED)
    flops: float = 0.0
    aim: float | None = None
    aim_over_products: float | None = None
    graph: str = ""
    tolerance: float = 1e-3


def plans(sizes: Sizes) -> list[Plan]:
    """Every plan, those with an aim first."""
    found = [
        *_scans(sizes),
        *_token_log_probs(sizes),
        *_linear(sizes),
        *_losses(sizes),
        *_draws(sizes),
        *_others(sizes),
    ]
    return sorted(found, key=lambda plan: plan.aim is None and plan.aim_over_products is None)


def compiled(run: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`run` under torch.compile for its very shapes; on the CPU only traced, which is quick."""
    backend = "inductor" if device.type == "cuda" else "aot_eager"

    @cache
    def made() -> Callable[..., Any]:  # to import the compiler takes seconds
        return torch.compile(run, dynamic=False, fullgraph=True, backend=backend)

    return lambda *arguments: made()(*arguments)


def with_gradient(run: Callable[..., Tensor], *inputs: Tensor) -> tuple[Any, ...]:
    """A scalar and its gradients by `inputs`."""
    value = run()
    return (value.detach(), *torch.autograd.grad(value, inputs))


def needs_gpu(device: torch.device, what: str) -> None:
    if device.type != "cuda":
        raise AbsentError(f"{what}, which need a GPU")


@dataclass
class Tokens:
    """Sets of arrays [B, T], rows filled from the left to between nine tenths and all of T."""

    shape: tuple[int, int]
    device: torch.device
    bytes_a_token: int
    rotated_bytes: int

    def __post_init__(self) -> None:
        num_bytes = self.bytes_a_token * math.prod(self.shape)
        self.copies = max(1, min(64, -(-self.rotated_bytes // num_bytes)))
        rows, length = self.shape
        lengths = torch.randint(length * 9 // 10, length + 1, (rows, 1), device=self.device)
        self.mask = torch.arange(length, device=self.device) < lengths
        self.kept = self.mask.float()

    def randn(self, scale: float = 1.0) -> list[Tensor]:
        return [torch.randn(self.shape, device=self.device).mul_(scale) for _ in range(self.copies)]

    def near(self, arrays: list[Tensor], scale: float = 0.1) -> list[Tensor]:
        return [x.detach() + scale * torch.randn_like(x) for x in arrays]


def _words(shape: tuple[int, ...], rest: str) -> str:
    return " x ".join(f"{n:,}" for n in shape) + ", " + rest


# Scans over time


def scan_gae(rewards: Tensor, values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """GAE as torch's associative scan over time; right only where masks have no holes."""
    from torch._higher_order_ops.associative_scan import associative_scan

    here = values * kept
    after = functional.pad(here[:, 1:], (0, 1))
    deltas = (rewards + GAMMA * after - here) * kept
    decay = torch.full_like(deltas, GAMMA * LAMBDA)

    def combine(one: Any, two: Any) -> Any:
        return one[0] * two[0], two[0] * one[1] + two[1]

    mode = "pointwise" if rewards.is_cuda else "generic"
    _, advantages = associative_scan(combine, (decay, deltas), 1, reverse=True, combine_mode=mode)
    advantages = advantages * kept
    return advantages, advantages + here


def torch_returns(rewards: Tensor, kept: Tensor) -> Tensor:
    out, total = torch.empty_like(rewards), rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        total = kept[:, t] * (rewards[:, t] + GAMMA * total)
        out[:, t] = total
    return out


def torch_vtrace(
    new: Tensor, old: Tensor, rewards: Tensor, values: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """The loop over time, everything else at once; right only where masks have no holes."""
    rho = (new - old).exp().clamp(max=1.0)
    here = values * kept
    deltas = rho * (rewards + GAMMA * functional.pad(here[:, 1:], (0, 1)) - here) * kept
    out, total = torch.empty_like(rewards), rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        total = deltas[:, t] + GAMMA * rho[:, t] * total
        out[:, t] = total
    targets = here + out
    advantages = rho * (rewards + GAMMA * functional.pad(targets[:, 1:], (0, 1)) - here) * kept
    return targets, advantages


SCAN = "torch.compile, associative scan"


def _scans(sizes: Sizes) -> list[Plan]:
    shape, rotated = sizes.scan, sizes.rotated_bytes
    tokens = math.prod(shape)
    words = _words(shape, "float32, masked")

    def gae(device: torch.device) -> Made:
        x = Tokens(shape, device, 17, rotated)
        rewards, values, n = x.randn(), x.randn(), x.copies

        def ours(i: int) -> tuple[Any, ...]:
            return kernels.gae(rewards[i % n], values[i % n], mask=x.mask, **GAE)

        made = Made(Side(ours))
        made.peers["torch"] = lambda: Side(
            lambda i: torch_gae(rewards[i % n], values[i % n], x.kept)
        )
        quick = compiled(scan_gae, device)
        made.peers[SCAN] = lambda: Side(lambda i: quick(rewards[i % n], values[i % n], x.kept))
        return made

    def discounted_returns(device: torch.device) -> Made:
        x = Tokens(shape, device, 9, rotated)
        rewards, n = x.randn(), x.copies
        made = Made(
            Side(lambda i: (kernels.discounted_returns(rewards[i % n], gamma=GAMMA, mask=x.mask),))
        )
        made.peers["torch"] = lambda: Side(lambda i: (torch_returns(rewards[i % n], x.kept),))
        return made

    def td_lambda_returns(device: torch.device) -> Made:
        x = Tokens(shape, device, 13, rotated)
        rewards, values, n = x.randn(), x.randn(), x.copies
        options = {"gamma": GAMMA, "td_lambda": LAMBDA, "mask": x.mask}
        made = Made(
            Side(lambda i: (kernels.td_lambda_returns(rewards[i % n], values[i % n], **options),))
        )
        made.peers["torch"] = lambda: Side(
            lambda i: torch_gae(rewards[i % n], values[i % n], x.kept)[1:]
        )
        return made

    def vtrace(device: torch.device) -> Made:
        x = Tokens(shape, device, 25, rotated)
        rewards, values, n = x.randn(), x.randn(), x.copies
        new = [-y.abs() for y in x.randn()]
        old = x.near(new)
        sets = list(zip(new, old, rewards, values, strict=True))
        made = Made(Side(lambda i: kernels.vtrace(*sets[i % n], gamma=GAMMA, mask=x.mask)))
        made.peers["torch"] = lambda: Side(lambda i: torch_vtrace(*sets[i % n], x.kept))
        return made

    def td_targets(device: torch.device) -> Made:
        x = Tokens(shape, device, 13, rotated)
        rewards, after, n = x.randn(), x.randn(), x.copies
        made = Made(
            Side(
                lambda i: (
                    kernels.td_targets(
                        rewards[i % n], after[i % n], gamma=GAMMA, terminated=x.mask
                    ),
                )
            )
        )

        def side(run: Callable[..., Any]) -> Side:
            return Side(lambda i: (run(rewards[i % n], after[i % n], x.mask),))

        quick = compiled(torch_td_targets, device)
        made.peers["torch"] = lambda: side(torch_td_targets)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def plan(make: Callable[[torch.device], Made], bytes_a_token: int, *peers: str) -> Plan:
        aim = 40e-6 if make is gae else None
        name = make.__name__
        num_bytes, labels = bytes_a_token * tokens, ("torch", *peers)
        return Plan(name, name, words, num_bytes, make, labels, aim=aim, graph="ours")

    return [
        plan(gae, 17, SCAN),
        plan(discounted_returns, 9),
        plan(td_lambda_returns, 13),
        plan(vtrace, 25),
        plan(td_targets, 13, COMPILED),
    ]


# Log-probs from logits


@dataclass
class Logits:
    """Sets of logits [N, V], targets [N], and copies for functions that overwrite them."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    rotated_bytes: int

    def __post_init__(self) -> None:
        rows, vocabulary = self.shape
        num_bytes = rows * vocabulary * self.dtype.itemsize
        self.copies = max(1, min(64, -(-self.rotated_bytes // num_bytes)))
        self.logits = [self.draw() for _ in range(self.copies)]
        self.targets = torch.randint(vocabulary, (rows,), device=self.device)

    def draw(self) -> Tensor:
        """Logits of spread 3."""
        return torch.randn(self.shape, dtype=self.dtype, device=self.device).mul_(3)

    def at(self, i: int) -> Tensor:
        return self.logits[i % self.copies]

    def leaves(self) -> list[Tensor]:
        return [x.detach().requires_grad_() for x in self.logits]

    def overwritten(self, run: Callable[[Tensor], tuple[Any, ...]]) -> Side:
        """A side whose function writes over its logits: they are set anew before each call."""
        held = self.logits[0].detach().clone().requires_grad_()

        def before(i: int) -> None:
            with torch.no_grad():
                held.copy_(self.at(i))

        return Side(lambda _: run(held), before)


def liger(name: str, device: torch.device) -> Any:
    found = module("liger-kernel", "liger_kernel.transformers.functional")
    needs_gpu(device, "Triton kernels")
    return getattr(found, name)


def flash_cross_entropy(device: torch.device) -> Any:
    found = module("flash-attn", "flash_attn.ops.triton.cross_entropy")
    needs_gpu(device, "Triton kernels")
    return found.cross_entropy_loss


LIGER, FLASH = "Liger cross entropy", "flash-attention cross entropy"


def _token_log_probs(sizes: Sizes) -> list[Plan]:
    shape, rotated = sizes.logits, sizes.rotated_bytes
    dtype = torch.bfloat16
    one_pass = math.prod(shape) * dtype.itemsize
    words = _words(shape, "bfloat16")

    def forward(device: torch.device) -> Made:
        x = Logits(shape, dtype, device, rotated)
        made = Made(Side(lambda i: (kernels.token_log_probs(x.at(i), x.targets),)))

        def side(run: Callable[..., Tensor]) -> Side:
            return Side(lambda i: (run(x.at(i), x.targets),))

        quick = compiled(torch_log_probs, device)
        made.peers["torch"] = lambda: side(torch_log_probs)
        made.peers[COMPILED] = lambda: side(quick)

        def with_liger() -> Side:
            run = liger("liger_cross_entropy", device)
            return side(lambda z, y: -run(z, y, reduction="none"))

        def with_flash() -> Side:
            run = flash_cross_entropy(device)
            return side(lambda z, y: -run(z, y)[0])

        made.peers[LIGER], made.peers[FLASH] = with_liger, with_flash
        return made

    def forward_entropy(device: torch.device) -> Made:
        x = Logits(shape, dtype, device, rotated)
        made = Made(Side(lambda i: kernels.token_log_probs(x.at(i), x.targets, entropy=True)))
        quick = compiled(torch_log_probs_and_entropy, device)
        made.peers["torch"] = lambda: Side(
            lambda i: torch_log_probs_and_entropy(x.at(i), x.targets)
        )
        made.peers[COMPILED] = lambda: Side(lambda i: quick(x.at(i), x.targets))
        return made

    def backward_entropy(device: torch.device) -> Made:
        x = Logits(shape, dtype, device, rotated)
        leaves = x.leaves()

        def side(run: Callable[..., Any]) -> Side:
            def call(i: int) -> tuple[Any, ...]:
                z = leaves[i % x.copies]

                def loss() -> Tensor:
                    log_probs, entropy = run(z, x.targets)
                    return -log_probs.sum() - 0.1 * entropy.sum()

                return with_gradient(loss, z)

            return Side(call)

        made = Made(side(lambda z, y: kernels.token_log_probs(z, y, entropy=True)))
        quick = compiled(torch_log_probs_and_entropy, device)
        made.peers["torch"] = lambda: side(torch_log_probs_and_entropy)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def backward(device: torch.device) -> Made:
        x = Logits(shape, dtype, device, rotated)
        leaves = x.leaves()

        def side(run: Callable[..., Tensor]) -> Side:
            def call(i: int) -> tuple[Any, ...]:
                z = leaves[i % x.copies]
                return with_gradient(lambda: run(z, x.targets), z)

            return Side(call)

        def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(z.float(), y, reduction="sum")

        made = Made(side(lambda z, y: -kernels.token_log_probs(z, y).sum()))
        quick = compiled(cross_entropy, device)
        made.peers["torch"] = lambda: side(cross_entropy)
        made.peers[COMPILED] = lambda: side(quick)

        def with_liger() -> Side:
            run = liger("liger_cross_entropy", device)  # its forward pass writes over the logits
            return x.overwritten(
                lambda z: with_gradient(lambda: run(z, x.targets, reduction="sum"), z)
            )

        def with_flash() -> Side:
            run = flash_cross_entropy(device)
            return side(lambda z, y: run(z, y)[0].sum())

        made.peers[LIGER], made.peers[FLASH] = with_liger, with_flash
        return made

    others = ("torch", COMPILED, LIGER, FLASH)
    kernel = "token_log_probs"
    return [
        Plan(
            "token_log_probs_entropy",
            f"{kernel} with entropy",
            words,
            one_pass,
            forward_entropy,
            aim=0.54e-3,
        ),
        Plan(
            "token_log_probs_entropy_backward",
            f"{kernel} with entropy, forward and backward",
            words,
            3 * one_pass,
            backward_entropy,
            aim=1.6e-3,
            tolerance=1e-2,
        ),
        Plan("token_log_probs", kernel, words, one_pass, forward, others),
        Plan(
            "token_log_probs_backward",
            f"{kernel}, forward and backward",
            words,
            3 * one_pass,
            backward,
            others,
            tolerance=1e-2,
        ),
    ]


# Log-probs from hidden states


def _linear(sizes: Sizes) -> list[Plan]:
    rows, width, vocabulary = sizes.linear
    dtype = torch.bfloat16
    words = f"{rows:,} rows, width {width:,}, vocabulary {vocabulary:,}, bfloat16"
    inputs = (rows + vocabulary) * width * dtype.itemsize
    product = 2.0 * rows * width * vocabulary
    chunk = 32_768  # of the vocabulary, the size that TRL's trainers use

    def arrays(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.randn(rows, width, dtype=dtype, device=device)
        weight = torch.randn(vocabulary, width, dtype=dtype, device=device).mul_(width**-0.5)
        return hidden, weight, torch.randint(vocabulary, (rows,), device=device)

    def trl_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        run = module("trl", "trl.kernels.chunked_logprob").ChunkedLogProbFunction.apply
        log_probs: Tensor = run(hidden, weight, None, targets, 1.0, chunk, None, 1.0, ())[0]
        return log_probs

    def at_once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return torch_log_probs(hidden @ weight.T, targets)

    def forward(device: torch.device) -> Made:
        hidden, weight, targets = arrays(device)
        logits = torch.empty(rows, vocabulary, dtype=dtype, device=device)

        def side(run: Callable[..., Tensor]) -> Side:
            return Side(lambda _: (run(hidden, weight, targets),))

        made = Made(side(kernels.linear_token_log_probs))
        made.products = Side(lambda _: (torch.mm(hidden, weight.T, out=logits),))
        quick = compiled(at_once, device)
        made.peers["torch, all logits at once"] = lambda: side(at_once)
        made.peers[COMPILED] = lambda: side(quick)

        def trl() -> Side:
            trl_log_probs(hidden[:1], weight, targets[:1])  # absent or broken: say so here
            return side(trl_log_probs)

        made.peers["TRL, in chunks"] = trl
        return made

    def backward(device: torch.device) -> Made:
        hidden, weight, targets = arrays(device)
        hidden.requires_grad_()
        weight.requires_grad_()

        def side(run: Callable[..., Tensor]) -> Side:
            return Side(
                lambda _: with_gradient(lambda: run(hidden, weight, targets), hidden, weight)
            )

        def loss(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda h, w, y: -run(h, w, y).sum()

        made = Made(side(loss(kernels.linear_token_log_probs)))
        made.products = four_products(hidden.detach(), weight.detach())
        quick = compiled(at_once, device)
        made.peers["torch, all logits at once"] = lambda: side(loss(at_once))
        made.peers[COMPILED] = lambda: side(loss(quick))

        def with_liger() -> Side:
            run = liger("liger_fused_linear_cross_entropy", device)
            return side(lambda h, w, y: run(h, w, y, reduction="sum"))

        def trl() -> Side:
            trl_log_probs(hidden[:1], weight, targets[:1])
            return side(loss(trl_log_probs))

        made.peers["Liger fused linear cross entropy"] = with_liger
        made.peers["TRL, in chunks"] = trl
        return made

    at_once_label = "torch, all logits at once"
    return [
        Plan(
            "linear_backward",
            "linear_token_log_probs, forward and backward",
            words,
            3 * inputs,  # read in each pass, the gradients written
            backward,
            (at_once_label, COMPILED, "Liger fused linear cross entropy", "TRL, in chunks"),
            flops=4 * product,
            aim_over_products=1.1,
            tolerance=2e-2,
        ),
        Plan(
            "linear",
            "linear_token_log_probs",
            words,
            inputs,
            forward,
            (at_once_label, COMPILED, "TRL, in chunks"),
            flops=product,
            aim_over_products=1.1,
            tolerance=2e-2,
        ),
    ]


def four_products(hidden: Tensor, weight: Tensor) -> Side:
    """The products of a linear head that makes its logits twice, into memory that exists."""
    logits = hidden.new_empty(len(hidden), len(weight))
    by_hidden, by_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def call(_: int) -> tuple[Any, ...]:
        for _again in range(2):
            torch.mm(hidden, weight.T, out=logits)
        torch.mm(logits, weight, out=by_hidden)
        torch.mm(logits.T, hidden, out=by_weight)
        return by_hidden, by_weight

    return Side(call)


# Losses, value and gradient


def _losses(sizes: Sizes) -> list[Plan]:
    shape, rotated = sizes.scan, sizes.rotated_bytes
    tokens = math.prod(shape)
    masked, plain = _words(shape, "float32, masked"), _words(shape, "float32")

    def sets(device: torch.device, bytes_a_token: int) -> tuple[Tokens, list[tuple[Tensor, ...]]]:
        x = Tokens(shape, device, bytes_a_token, rotated)
        new = [-y.abs() for y in x.randn()]
        return x, list(zip(new, x.near(new), x.randn(), strict=True))

    def through(
        x: Tokens, held: list[tuple[Tensor, ...]], run: Callable[..., tuple[Tensor, Any]]
    ) -> Side:
        """The loss and its gradient by autograd."""
        leaves = [new.detach().requires_grad_() for new, *_ in held]

        def call(i: int) -> tuple[Any, ...]:
            j = i % x.copies
            return with_gradient(lambda: run(leaves[j], *held[j][1:], x.mask)[0], leaves[j])

        return Side(call)

    def with_peers(
        made: Made, device: torch.device, x: Tokens, held: Any, run: Callable[..., Any]
    ) -> Made:
        quick = compiled(run, device)
        made.peers["torch"] = lambda: through(x, held, run)
        made.peers[COMPILED] = lambda: through(x, held, quick)
        return made

    def policy_loss(device: torch.device) -> Made:
        x, held = sets(device, 17)
        options = (0.2, None, None, "token", "token_mean", None, None, "clip", None, True)

        def ours(i: int) -> tuple[Any, ...]:
            return _core.policy_loss(*held[i % x.copies], x.mask, *options)[:2]

        return with_peers(Made(Side(ours)), device, x, held, torch_policy_loss)

    def policy_loss_autograd(device: torch.device) -> Made:
        x, held = sets(device, 17)
        made = Made(through(x, held, lambda *y: kernels.policy_loss(*y, clip_range=0.2)))
        return with_peers(made, device, x, held, torch_policy_loss)

    def value_loss(device: torch.device) -> Made:
        x, held = sets(device, 17)

        def ours(i: int) -> tuple[Any, ...]:
            return _core.value_loss(*held[i % x.copies], x.mask, 0.2, None, None, True)[:2]

        return with_peers(Made(Side(ours)), device, x, held, torch_value_loss)

    def kl_penalty(device: torch.device) -> Made:
        x, held = sets(device, 16)
        n = x.copies
        made = Made(Side(lambda i: _core.kl_penalty(*held[i % n][:2], "k3", True)))

        def side(run: Callable[..., Tensor]) -> Side:
            leaves = [new.detach().requires_grad_() for new, *_ in held]

            def call(i: int) -> tuple[Any, ...]:
                value = run(leaves[i % n], held[i % n][1])
                return value.detach(), *torch.autograd.grad(value.sum(), leaves[i % n])

            return Side(call)

        quick = compiled(torch_k3, device)
        made.peers["torch"] = lambda: side(torch_k3)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def huber(device: torch.device) -> Made:
        x = Tokens(shape, device, 12, rotated)
        errors, n = x.randn(), x.copies
        made = Made(Side(lambda i: _core.huber(errors[i % n], 1.0, True)))

        def torch_huber(z: Tensor) -> Tensor:
            return functional.huber_loss(z, torch.zeros_like(z), reduction="none")

        def side(run: Callable[..., Tensor]) -> Side:
            leaves = [z.detach().requires_grad_() for z in errors]

            def call(i: int) -> tuple[Any, ...]:
                value = run(leaves[i % n])
                return value.detach(), *torch.autograd.grad(value.sum(), leaves[i % n])

            return Side(call)

        quick = compiled(torch_huber, device)
        made.peers["torch"] = lambda: side(torch_huber)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def plan(
        make: Callable[[torch.device], Made],
        kernel: str,
        words: str,
        bytes_a_token: int,
        aim: float | None = None,
        graph: str = "ours",
    ) -> Plan:
        return Plan(
            make.__name__, kernel, words, bytes_a_token * tokens, make, aim=aim, graph=graph
        )

    both = "value and gradient"
    return [
        plan(policy_loss, f"policy_loss, {both}", masked, 17, aim=50e-6),
        plan(policy_loss_autograd, "policy_loss through autograd", masked, 17, graph=""),
        plan(value_loss, f"value_loss, {both}", masked, 17),
        plan(kl_penalty, f"kl_penalty k3, {both}", plain, 16),
        plan(huber, f"huber, {both}", plain, 12),
    ]


# Draws


TOP_K, TOP_P = 50, 0.9


def torch_cut(logits: Tensor) -> Tensor:
    """Top-k, then the smallest set of likeliest tokens that reaches top-p."""
    largest, order = logits.topk(min(TOP_K, logits.shape[-1]), -1)
    before = largest.softmax(-1).cumsum(-1) - largest.softmax(-1)
    largest = largest.masked_fill(before >= TOP_P, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, order, largest)


def torch_cut_sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    return torch_sample(torch_cut(logits))


def _draws(sizes: Sizes) -> list[Plan]:
    shape, rotated = sizes.draw, sizes.rotated_bytes
    rows, vocabulary = shape
    num_bytes = rows * (vocabulary * 4 + 8 + 4)
    words = _words(shape, "float32, with log-probs")

    def made_by(cut: bool) -> Callable[[torch.device], Made]:
        options = {"top_k": TOP_K, "top_p": TOP_P} if cut else {}
        plain = torch_cut_sample if cut else torch_sample

        def make(device: torch.device) -> Made:
            x = Logits(shape, torch.float32, device, rotated)
            made = Made(Side(lambda i: kernels.sample_tokens(x.at(i), seed=1, offset=i, **options)))

            def truth(i: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
                logits = torch_cut(x.at(i)) if cut else x.at(i)
                return None, torch_log_probs(logits.double(), found[0])

            made.truth = truth

            def side(run: Callable[..., Any]) -> Side:
                def call(i: int) -> tuple[Any, ...]:
                    run(x.at(i))
                    return None, None

                return Side(call)

            quick = compiled(plain, device)
            made.peers["torch"] = lambda: side(plain)
            made.peers[COMPILED] = lambda: side(quick)
            return made

        return make

    cuts = f"{words}, top_k {TOP_K}, top_p {TOP_P}"
    return [
        Plan("sample_tokens", "sample_tokens", words, num_bytes, made_by(False), graph="all"),
        Plan("sample_tokens_cut", "sample_tokens", cuts, num_bytes, made_by(True), graph="all"),
    ]


# Divergences, Q values, statistics


def torch_whiten(x: Tensor, kept: Tensor) -> Tensor:
    count = kept.sum()
    mean = (x * kept).sum() / count
    centred = (x - mean) * kept
    variance = (centred * centred).sum() / (count - 1)
    return centred * torch.rsqrt(variance + 1e-8)


def torch_groups_of_8(scores: Tensor) -> Tensor:
    grouped = scores.view(-1, 8)
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (grouped.std(1, keepdim=True) + 1e-6)).view(-1)


def _others(sizes: Sizes) -> list[Plan]:
    rotated, dtype = sizes.rotated_bytes, torch.bfloat16
    shape = sizes.divergence
    one_pass = math.prod(shape) * dtype.itemsize
    words = _words(shape, "bfloat16")

    def upcast_kl(p: Tensor, q: Tensor) -> Tensor:
        return torch_kl(p.float(), q.float())

    def kl_divergence(device: torch.device) -> Made:
        p, q = (Logits(shape, dtype, device, rotated) for _ in range(2))
        made = Made(Side(lambda i: (kernels.kl_divergence(p.at(i), q.at(i)),)))
        quick = compiled(upcast_kl, device)
        made.peers["torch"] = lambda: Side(lambda i: (upcast_kl(p.at(i), q.at(i)),))
        made.peers[COMPILED] = lambda: Side(lambda i: (quick(p.at(i), q.at(i)),))
        return made

    def kl_divergence_backward(device: torch.device) -> Made:
        p, q = (Logits(shape, dtype, device, rotated) for _ in range(2))
        leaves = q.leaves()

        def side(run: Callable[..., Tensor]) -> Side:
            def call(i: int) -> tuple[Any, ...]:
                z = leaves[i % q.copies]
                return with_gradient(lambda: run(p.at(i), z).sum(), z)

            return Side(call)

        made = Made(side(kernels.kl_divergence))
        quick = compiled(upcast_kl, device)
        made.peers["torch"] = lambda: side(upcast_kl)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def max_and_gather(device: torch.device) -> Made:
        x = Logits(sizes.values, torch.float32, device, rotated)
        made = Made(Side(lambda i: kernels.max_and_gather(x.at(i), x.targets)))

        def side(run: Callable[..., Any]) -> Side:
            return Side(lambda i: run(x.at(i), x.targets))

        quick = compiled(torch_max_and_gather, device)
        made.peers["torch"] = lambda: side(torch_max_and_gather)
        made.peers[COMPILED] = lambda: side(quick)
        return made

    def masked_whiten(device: torch.device) -> Made:
        x = Tokens(sizes.scan, device, 9, rotated)
        values, n = x.randn(), x.copies
        made = Made(Side(lambda i: kernels.masked_whiten(values[i % n], x.mask)[:1]))
        quick = compiled(torch_whiten, device)
        made.peers["torch"] = lambda: Side(lambda i: (torch_whiten(values[i % n], x.kept),))
        made.peers[COMPILED] = lambda: Side(lambda i: (quick(values[i % n], x.kept),))
        return made

    def group_advantages(device: torch.device) -> Made:
        scores = torch.rand(sizes.scores, device=device)
        groups = torch.arange(sizes.scores, device=device) // 8
        made = Made(Side(lambda _: (kernels.group_advantages(scores, groups, mode="grpo"),)))
        quick = compiled(torch_groups_of_8, device)
        made.peers["torch"] = lambda: Side(lambda _: (torch_groups_of_8(scores),))
        made.peers[COMPILED] = lambda: Side(lambda _: (quick(scores),))
        return made

    tokens = math.prod(sizes.scan)
    states, actions = sizes.values
    return [
        Plan("kl_divergence", "kl_divergence", words, 2 * one_pass, kl_divergence),
        Plan(
            "kl_divergence_backward",
            "kl_divergence, forward and backward by the second",
            words,
            5 * one_pass,
            kl_divergence_backward,
            tolerance=1e-2,
        ),
        Plan(
            "max_and_gather",
            "max_and_gather",
            _words(sizes.values, "float32"),
            states * (actions * 4 + 8 + 4 + 8 + 4),
            max_and_gather,
        ),
        Plan(
            "masked_whiten",
            "masked_whiten",
            _words(sizes.scan, "float32, masked"),
            9 * tokens,  # the second read of its two passes is no floor
            masked_whiten,
        ),
        Plan(
            "group_advantages",
            "group_advantages, grpo",
            f"{sizes.scores:,} scores in groups of 8, float32",
            16 * sizes.scores,
            group_advantages,
            graph="all",
        ),
    ]
