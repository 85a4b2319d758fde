"""What is timed: each kernel on a workload, beside the functions that others have for it.

Every case makes its own random inputs, several sets of them where one would stay in a cache, and a
call takes the next set. Outputs are fresh on both sides unless the workload says "reused".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import Run, copies_of

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
class Columns:
    """Arrays [B, T, 1], the value after each step, and flags that end each row at its last step."""

    rewards: list[Tensor]
    values: list[Tensor]
    after: list[Tensor]
    done: Tensor

    def at(self, i: int, *names: str) -> list[Tensor]:
        """The named arrays of call i."""
        return [getattr(self, name)[i % len(self.rewards)] for name in names]


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
        self.rewards, self.values = (
            randn(self.copies, *shape),
            randn(self.copies, *shape),
        )
        self.masks = [random_mask(*shape, holes=self.holes) for _ in range(self.copies)]
        self.floats = [mask.float() for mask in self.masks]

    @property
    def size(self) -> int:
        return self.num_rows * self.length

    def columns(self) -> Columns:
        """The same arrays as torchrl takes them, without a mask."""
        return Columns(
            rewards=[x[..., None] for x in self.rewards],
            values=[x[..., None] for x in self.values],
            after=[torch.roll(x, -1, dims=1)[..., None] for x in self.values],
            done=torch.arange(self.length).eq(self.length - 1).expand(self.num_rows, -1)[..., None],
        )


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

    def through(self, run: Callable[..., Any], *names: str) -> Run:
        """A call of `run` on the named arrays and the mask, and its gradient by `new`.

        `run` gives a loss, and statistics or nothing.
        """
        arrays = [getattr(self, name) for name in names]

        def call(i: int) -> Any:
            j = i % self.copies
            loss, stats = run(*(x[j] for x in arrays), self.mask)
            return torch.autograd.grad(loss, self.new[j]), stats

        return call
