"""Where a policy can live, and what is in the way where it cannot."""

from __future__ import annotations

import torch

from alignzoo.errors import ConfigError
from alignzoo.kernels.arrays import native


def find_device(name: str | torch.device, *, option: str = "device") -> torch.device:
    """Returns the device of that name: "cpu", "cuda" (torch's current one) or "cuda:N".

    Args:
        option: what the user calls it.
    Raises:
        ConfigError: torch or the kernels cannot use it; the message says what to do.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu":
        return torch.device("cpu")
    given = f"{option} is '{name}'"
    if device.type != "cuda":
        raise ConfigError(f"{given}; expected cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(f"{given}, but torch sees no CUDA device: {_reason()}, or give cpu")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"{given}, but torch sees only {there}; see CUDA_VISIBLE_DEVICES")
    if not native().cuda_built:
        raise ConfigError(
            f"{given}, but this build of alignzoo has no CUDA kernels; where nvcc is found, "
            "install it again from source with ALIGNZOO_CUDA=ON, or give cpu"
        )
    return torch.device("cuda", index)


def _reason() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a build with it"
    return (
        f"torch {torch.__version__} finds no driver or no GPU; see nvidia-smi and "
        "CUDA_VISIBLE_DEVICES"
    )
