"""Times on a device: events around calls, replayed graphs, and neighbours in time.

Without a device the same functions take the host's clock, so that everything can be tried out.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gpu_parts.plans import Side
from timing import median_interval, significant

SHORTEST = 2e-3  # seconds that one timing should last, by repeating the call
GRAPH_CALLS = 16  # in a captured graph


@dataclass(frozen=True)
class Effort:
    """How long to measure: timings of each side, and seconds after which no other is begun."""

    rounds: int = 30
    seconds: float = 3.0
    fewest: int = 5


class Clock:
    """Seconds of one call of a side, each call on the next of its inputs."""

    def __init__(self, side: Side, device: torch.device) -> None:
        self.side, self.device = side, device
        self.calls = 0
        self.repeats = 1
        self.how = "events" if device.type == "cuda" else "the host's clock"
        self.seconds()  # compiles, loads modules, makes handles
        once = min(self.seconds() for _ in range(2))
        if side.before is None:
            self.repeats = max(1, min(1000, round(SHORTEST / max(once, 1e-7))))
            self.seconds()

    def seconds(self) -> float:
        first = self.calls
        self.calls += self.repeats
        if self.side.before is not None:
            self.side.before(first)
        return self._timed(lambda: self._run(first))

    def _run(self, first: int) -> None:
        for i in range(first, first + self.repeats):
            self.side.call(i)

    def _timed(self, run: Any) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) / self.repeats
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / self.repeats


class GraphClock(Clock):
    """The same for calls shorter than their launch: a captured graph of several is replayed."""

    def __init__(self, side: Side, device: torch.device) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(3):
                side.call(i)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(GRAPH_CALLS):
                side.call(i)
        super().__init__(Side(lambda _: (self.graph.replay(),)), device)
        self.how = f"a replayed graph of {GRAPH_CALLS}"

    def seconds(self) -> float:
        return super().seconds() / GRAPH_CALLS


def clock_of(side: Side, device: torch.device, *, graph: bool) -> Clock:
    """The clock for a side; where it cannot be captured, `how` says why it was not."""
    if not graph or device.type != "cuda":
        return Clock(side, device)
    try:
        return GraphClock(side, device)
    except Exception as error:
        torch.cuda.synchronize()  # raises where more than the capture is broken
        clock = Clock(side, device)
        clock.how += f", not captured: {first_line(error)}"
        return clock


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def interleave(clocks: Sequence[Clock], effort: Effort) -> list[list[float]]:
    """Seconds of each clock; item i of all were neighbours in time, their order by lot."""
    times: list[list[float]] = [[] for _ in clocks]
    order = list(range(len(clocks)))
    began = time.perf_counter()
    while len(times[0]) < effort.rounds:
        late = time.perf_counter() - began > effort.seconds
        if late and len(times[0]) >= effort.fewest:
            break
        random.shuffle(order)
        for k in order:
            times[k].append(clocks[k].seconds())
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """The median over neighbours of `over` / `under`, with a 95 % bootstrap interval."""
    return median_interval([a / b for a, b in zip(over, under, strict=True)])


def microseconds(seconds: Sequence[float]) -> dict[str, float]:
    return median_interval([1e6 * x for x in seconds])


def copy_side(num_bytes: int, device: torch.device) -> tuple[Side, int]:
    """A copy between two buffers that exist, and the bytes it reads and writes."""
    source = torch.randint(-128, 127, (num_bytes,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return Side(lambda _: (target.copy_(source),)), 2 * num_bytes


def product_side(size: int, device: torch.device) -> tuple[Side, float]:
    """A product of two square bfloat16 matrices of random numbers, and its operations."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    return Side(lambda _: (torch.mm(a, b, out=out),)), 2.0 * size**3


def ceilings(device: torch.device, effort: Effort, *, small: bool) -> dict[str, Any]:
    """What copies and bfloat16 products reach here, in bytes and operations a second."""
    copy, num_bytes = copy_side(1 << 16 if small else 4 << 30, device)
    product, flops = product_side(32 if small else 8192, device)
    clocks = [Clock(copy, device), Clock(product, device)]
    copies, products = interleave(clocks, effort)
    return {
        "copy_bytes_per_second": significant(num_bytes / statistics.median(copies)),
        "copy_us": microseconds(copies),
        "copied_bytes": num_bytes,
        "bfloat16_flops": significant(flops / statistics.median(products)),
        "product_us": microseconds(products),
        "product_flops": flops,
    }
