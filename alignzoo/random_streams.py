"""Random streams named by purpose, so that one more draw here never shifts the draws there."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Returns a 63-bit seed for a purpose such as "sampling", and numbers such as a step."""
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *numbers])
    return int(words.generate_state(1, np.uint64)[0] >> 1)


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Returns the generator of `purpose`; equal arguments give equal draws."""
    return np.random.default_rng(derive_seed(seed, purpose, *numbers))


def seed_globals(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, for plugins that draw from them."""
    import torch

    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") & 0xFFFFFFFF)
    torch.manual_seed(derive_seed(seed, "torch"))


def global_state() -> dict[str, Any]:
    """Returns the state of the global generators as JSON-able lists and numbers.

    Those of CUDA devices are among them once something has used one.
    """
    import torch

    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_initialized()
        else [],
    }


def set_global_state(state: dict[str, Any]) -> None:
    """Restores what `global_state` returned; states of CUDA devices that are not here are left."""
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    devices = state.get("cuda", []) if torch.cuda.is_available() else []
    for number, numbers in enumerate(devices[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(torch.tensor(numbers, dtype=torch.uint8), number)


@contextmanager
def preserved_globals() -> Iterator[None]:
    """Leaves the global generators as they were, whatever is drawn inside."""
    state = global_state()
    try:
        yield
    finally:
        set_global_state(state)
