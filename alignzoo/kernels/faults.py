"""What kernels on a CUDA device found wrong in their data, since the last look."""

from __future__ import annotations

import sys

from alignzoo import _core

# By bit of the core's fault word.
_FAULTS = (
    "`targets` or `actions` outside the vocabulary",
    "a mask with a hole, where mask_mode is 'prefix'",
    "a truncated step without a value to follow it",
    "cu_seqlens that do not run from 0 to the number of tokens without falling",
    "logits to draw from that are no distribution: NaN, +inf, or nothing but -inf",
    "`row_ids` below 0",
)


def check_faults(device: int | None = None) -> None:
    """Raises if a kernel on the CUDA device met data it could not use, and forgets it.

    On the CPU such data is a ValueError of the call itself. On a device a call returns before its
    data is looked at, so the results in question are NaN (a drawn token is 0) and the fault is
    noted until this function asks. It waits for the work on the current stream.

    Args:
        device: number of the device; default torch's current one.

    Raises:
        ValueError: what was wrong, of all calls on the device since the last look.
        RuntimeError: the device reports an error.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return  # no tensor ever came
    if device is None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
    found = _core.take_faults(device)
    names = [name for bit, name in enumerate(_FAULTS) if found >> bit & 1]
    if names:
        raise ValueError(
            f"alignzoo.kernels on cuda:{device}, since the last check_faults(): "
            + "; ".join(names)
            + "; to see which call, repeat it on the CPU, which checks its data at once"
        )
