"""Prints the bytes that one side's log-probs and gradients need beyond their inputs and results.

python bench/kernel_speed/memory_side.py alignzoo|trl|torch ROWS VOCABULARY WIDTH THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from alignzoo import kernels


def log_probs(side: str, hidden: Any, weight: Any, targets: Any) -> Any:
    if side == "alignzoo":
        return kernels.linear_token_log_probs(hidden, weight, targets)
    if side == "trl":
        from peers import module

        run = module("trl", "trl.kernels.chunked_logprob").ChunkedLogProbFunction.apply
        return run(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ())[0]
    return torch.log_softmax(hidden @ weight.T, -1).gather(-1, targets[:, None])[:, 0]


def _status(field: str) -> int:
    """A field of Linux's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


def measure(side: str, num_rows: int, vocabulary: int, width: int) -> int:
    """One forward and backward pass; returns the peak beyond inputs and gradients, in bytes."""
    hidden = torch.randn(num_rows, width).requires_grad_()
    weight = (torch.randn(vocabulary, width) * width**-0.5).requires_grad_()
    targets = torch.randint(vocabulary, (num_rows,))
    # Thread pools and the products' packing buffers are set up once and are no part of it.
    log_probs(side, hidden[:8], weight, targets[:8]).sum().backward()
    hidden.grad = weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    log_probs(side, hidden, weight, targets).sum().backward()
    results = 4 * (hidden.numel() + weight.numel() + num_rows)
    return _status("VmHWM") - before - results


def main() -> None:
    side = sys.argv[1]
    num_rows, vocabulary, width, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    print(measure(side, num_rows, vocabulary, width))


if __name__ == "__main__":
    main()
