"""Run as a script, under compute-sanitizer: every kernel and its gradient, on a few shapes.

Tensors are allocated one by one (PYTORCH_NO_CUDA_MEMORY_CACHING), so that the tool sees where each
ends.
"""

import os
import sys
from pathlib import Path

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))

import gpu_cases
import torch

from alignzoo import kernels

SHAPES = ((1, 1, 1), (3, 31, 33), (5, 257, 1031), (3, 9001, 16_411))


def main() -> None:
    for rows, length, num_tokens in SHAPES:
        gpu_cases.ROWS, gpu_cases.LENGTH, gpu_cases.NUM_TOKENS = rows, length, num_tokens
        for dtype in gpu_cases.FLOATS:
            inputs = gpu_cases.make_inputs(dtype)
            if rows * length < 100:  # the starts of the packed rows are those of a larger batch
                inputs["starts"] = torch.tensor([0, 1, rows * length], device="cuda")
            for case in gpu_cases.CASES.values():
                gpu_cases.run(case, inputs)
        for dtype in (torch.bfloat16, torch.float16):
            halves = inputs | {x: inputs[x].to(dtype) for x in ("logits", "other_logits")}
            for name in gpu_cases.LOGIT_CASES:
                gpu_cases.run(gpu_cases.CASES[name], halves)
        torch.cuda.synchronize()
    kernels.check_faults()


if __name__ == "__main__":
    main()
