"""Timing by interleaved pairs: neighbours in time, in random order, and the ratio of each pair.

On a shared machine a time means little, and a ratio of two times taken one after the other more.
"""

from __future__ import annotations

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

Run = Callable[[int], Any]  # gets the number of the call, to rotate its inputs by

SHORTEST = 1e-3  # seconds that a timing should last, by repeating the call
rotated_bytes = 128 << 20  # far beyond any cache


@dataclass(frozen=True)
class Options:
    """How long to measure: pairs, and seconds after which no further pair is begun."""

    rounds: int = 15
    seconds: float = 4.0
    fewest: int = 5


@dataclass(frozen=True)
class Pairs:
    """Seconds of a call, ours and the other's; item i of both were neighbours in time."""

    ours: list[float]
    other: list[float]

    def ratio(self) -> dict[str, float]:
        """Other over ours: the median over pairs and a 95 % bootstrap interval of it."""
        return median_interval([b / a for a, b in zip(self.ours, self.other, strict=True)])

    def describe(self) -> dict[str, float]:
        """The ratio, and both sides' median times in microseconds."""
        return {
            **self.ratio(),
            "ours_us": significant(1e6 * statistics.median(self.ours)),
            "other_us": significant(1e6 * statistics.median(self.other)),
            "pairs": len(self.ours),
        }


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def median_interval(values: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """The median and the range that 95 % of the medians of resampled values lie in."""
    array = np.asarray(values)
    drawn = np.random.default_rng(0).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(np.median(array[drawn], axis=1), [0.025, 0.975])
    return {
        "median": significant(float(np.median(array))),
        "low": significant(float(low)),
        "high": significant(float(high)),
    }


class Clock:
    """Times one side: as many calls as last long enough, each with the next of its inputs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.calls = 0
        self.repeats = 1
        self.seconds()  # compiles, or fills caches
        once = self.seconds()
        if once < 0.1:
            once = min(once, self.seconds())
        self.repeats = max(1, round(SHORTEST / max(once, 1e-7)))

    def seconds(self) -> float:
        first = self.calls
        self.calls += self.repeats
        start = time.perf_counter()
        for i in range(first, first + self.repeats):
            self.run(i)
        return (time.perf_counter() - start) / self.repeats


def pair(ours: Run, other: Run, options: Options) -> Pairs:
    """Times both in turn, who goes first by lot."""
    sides = Clock(ours), Clock(other)
    times: tuple[list[float], list[float]] = ([], [])
    order = [0, 1]
    began = time.perf_counter()
    while len(times[0]) < options.rounds:
        late = time.perf_counter() - began > options.seconds
        if late and len(times[0]) >= options.fewest:
            break
        random.shuffle(order)
        for side in order:
            times[side].append(sides[side].seconds())
    return Pairs(*times)


@cache
def copy_run() -> tuple[Run, int]:
    """A copy between two buffers that exist, by torch's threads, and the bytes it moves."""
    source = torch.rand(rotated_bytes // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return lambda _: target.copy_(source), 2 * rotated_bytes


@cache
def read_run() -> tuple[Run, int]:
    """A read of one buffer, and the bytes it moves: the faster of torch's sum and largest."""
    source = torch.rand(rotated_bytes // 4)
    runs: list[Run] = [lambda _: source.sum(), lambda _: source.max()]
    return min(runs, key=lambda run: min(Clock(run).seconds() for _ in range(3))), rotated_bytes


def bandwidth_share(ours: Run, num_bytes: int, kind: str, options: Options) -> dict[str, float]:
    """The bandwidth of `ours` over that of a copy, or of a read, timed beside it."""
    other, other_bytes = copy_run() if kind == "copy" else read_run()
    times = pair(ours, other, options)
    shares = [
        (num_bytes / mine) / (other_bytes / theirs)
        for mine, theirs in zip(times.ours, times.other, strict=True)
    ]
    return {
        **median_interval(shares),
        "gb_per_second": significant(num_bytes / statistics.median(times.ours) / 1e9),
        "limit_gb_per_second": significant(other_bytes / statistics.median(times.other) / 1e9),
        "ours_us": significant(1e6 * statistics.median(times.ours)),
        "pairs": len(times.ours),
    }


@contextmanager
def kept_memory() -> Iterator[None]:
    """Lets glibc keep what is freed, so that a result lies where an earlier one lay.

    Otherwise large arrays are new pages at each call, which the system has to clear. Allocators
    that keep memory, which training processes often run with, behave like this.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        raise OSError("this system's allocator cannot be told to keep memory")
    trim_threshold, mmap_max = -1, -4  # names of glibc's malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(trim_threshold, 128 * 1024)
        libc.malloc_trim(0)


def be_short() -> None:
    """From now on inputs may stay in a cache: whether all runs is the question, not how fast."""
    global rotated_bytes
    rotated_bytes = 4 << 20


def copies_of(num_bytes: int, least: int = 2, most: int = 64) -> int:
    """How many sets of inputs of this size to rotate, so that none is still in a cache."""
    return max(least, min(most, -(-rotated_bytes // max(1, num_bytes))))
