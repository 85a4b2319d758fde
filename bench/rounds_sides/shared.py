"""What both sides of `bench/rounds.py` share: the work, the reward, the stopwatch and the protocol.

Runs in both environments, so importing it imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

PROMPT = "Once upon a time, there was a"
GROUP_SIZE = 8
LEARNING_RATE = 1e-5
KL_COEF = 0.02
CLIP_RANGE = 0.2
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Workload:
    """One row of the table that is to be beaten.

    Args:
        name: what `--workloads` and the results call it.
        title: what the table says.
        num_samples: responses a round.
        max_new_tokens: longest response, in tokens.
        num_updates: optimiser steps on each round's whole batch.
        device: where both models live, in float32.
        autocast: take matrix products in bfloat16.
    """

    name: str
    title: str
    num_samples: int
    max_new_tokens: int
    num_updates: int
    device: str = "cpu"
    autocast: bool = False


WORKLOADS = {
    "stories": Workload(
        "stories", "stories260K, 64 samples of 64 tokens, 2 updates", 64, 64, num_updates=2
    ),
    "wide": Workload(
        "wide", "11.4M parameters, V=32,000, 32 samples of 64 tokens, 1 update", 32, 64, 1
    ),
}
# Those of `bench/gpu.py`, and the same on a small model without a GPU.
GPU_WORKLOADS = {
    "half_billion": Workload(
        "half_billion",
        "509M parameters, V=128,256, bfloat16 autocast, 64 samples of 128 tokens, 1 update",
        64,
        128,
        1,
        device="cuda",
        autocast=True,
    ),
    "half_billion_tried": Workload(
        "half_billion_tried", "a trial of the workload on a small model", 8, 6, 1
    ),
}


def workload_named(name: str) -> Workload:
    return {**WORKLOADS, **GPU_WORKLOADS}[name]


def keyword_score(
    prompts: Sequence[str], completions: Sequence[str], **columns: Any
) -> list[float]:
    """Returns a score in [0, 1] per completion; both trainers call this very function."""
    return [_score(text.lower()) for text in completions]


def _score(text: str) -> float:
    score = 0.3 * ("dog" in text) + 0.3 * ("park" in text)
    score += 0.2 * (not any(word in text for word in ("sad", "scared", "cry")))
    return score + 0.2 * (20 <= len(text.split()) <= 45)


class Device:
    """Waits for a device where there is one, so that a clock read next to it counts its work."""

    def __init__(self, name: str) -> None:
        self.is_cuda = name.startswith("cuda")

    def synchronize(self) -> None:
        if self.is_cuda:
            import torch

            torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        """The most that torch's tensors held there at once; 0 without a device."""
        if not self.is_cuda:
            return 0
        import torch

        return int(torch.cuda.max_memory_allocated())


CPU = Device("cpu")


class Stopwatch:
    """Seconds by part of a round, taken by wrapping methods; of nested calls the outermost."""

    def __init__(self, device: Device = CPU) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._is_inside = False

    def wrap(
        self, owner: Any, name: str, part: str, when: Callable[[], bool] = lambda: True
    ) -> None:
        """Replaces `owner.name` by a version that adds its time to `part` wherever `when` holds."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside or not when():
                return function(*args, **kwargs)
            self._is_inside = True
            self.device.synchronize()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.device.synchronize()
                elapsed = time.perf_counter() - start
                self.seconds[part] = self.seconds.get(part, 0.0) + elapsed
                self._is_inside = False

        setattr(owner, name, timed)


class Gate:
    """A worker's side of the protocol: it stands still between rounds until it is told to go on.

    One JSON object a line. The worker says what it is, then answers each `go` with the seconds of
    one round, and `stop` with its peak memory. Whatever libraries print goes to standard error.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.replies: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.started_at = 0.0
        self.started_at_cpu = 0.0

    def open(self, **facts: Any) -> None:
        """Says that the worker is ready and waits for the first round."""
        self._reply({**facts, **self._peaks()})
        self._wait()

    def turn(self, num_tokens: int) -> bool:
        """Ends a round that made `num_tokens` response tokens; True means there is no other."""
        self.stopwatch.device.synchronize()
        self._reply(
            {
                "seconds": time.perf_counter() - self.started_at,
                "cpu_seconds": time.process_time() - self.started_at_cpu,
                "parts": dict(self.stopwatch.seconds),
                "tokens": num_tokens,
            }
        )
        return not self._wait()

    def _wait(self) -> bool:
        if sys.stdin.readline().strip() != "go":
            self._reply(self._peaks())
            return False
        self.stopwatch.seconds.clear()
        self.started_at, self.started_at_cpu = time.perf_counter(), time.process_time()
        return True

    def _peaks(self) -> dict[str, int]:
        device = self.stopwatch.device
        return {"peak_bytes": peak_bytes(), "device_peak_bytes": device.peak_bytes()}

    def _reply(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self.replies, flush=True)


def peak_bytes() -> int:
    """Returns the largest resident size this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shared_settings(workload: Workload) -> dict[str, Any]:
    """Returns what both sides are told alike."""
    return {
        **asdict(workload),
        "prompt": PROMPT,
        "group_size": GROUP_SIZE,
        "learning_rate": LEARNING_RATE,
        "kl_coef": KL_COEF,
        "clip_range": CLIP_RANGE,
        "max_grad_norm": MAX_GRAD_NORM,
        "dtype": "float32",
        "temperature": 1.0,
    }
