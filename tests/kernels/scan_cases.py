"""The backward scans as one family: what each takes, and the ways an episode can end."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from kernel_cases import given_as


class Scan(NamedTuple):
    """A scan's per-token arrays in order, and its numbers with a default for tests."""

    arrays: tuple[str, ...]
    factors: dict[str, float]


SCANS = {
    "gae": Scan(("rewards", "values"), {"gamma": 0.99, "gae_lambda": 0.95}),
    "discounted_returns": Scan(("rewards",), {"gamma": 0.99}),
    "td_lambda_returns": Scan(("rewards", "values"), {"gamma": 0.99, "td_lambda": 0.9}),
    "vtrace": Scan(
        ("log_probs", "old_log_probs", "rewards", "values"),
        {"gamma": 0.99, "vtrace_lambda": 0.95, "clip_rho": 1.3, "clip_c": 1.1, "clip_pg_rho": 2.0},
    ),
}
NAMES = tuple(SCANS)
every_scan = pytest.mark.parametrize("name", NAMES)
# Those after the fifth need values of single steps, which discounted_returns does not take.
ENDINGS = (
    "unflagged",
    "bootstrapped",
    "rows_terminated",
    "rows_truncated",
    "steps_terminated",
    "steps_truncated",
    "rows_with_next_values",
    "rows_and_steps",
    "all_kinds",
)


def endings_of(name: str) -> tuple[str, ...]:
    """The endings that a scan takes."""
    return ENDINGS[:5] if name == "discounted_returns" else ENDINGS


def arrays_of(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Its per-token arrays, float64."""
    drawn = {x: rng.normal(size=shape) for x in ("rewards", "values", "log_probs")}
    drawn["old_log_probs"] = drawn["log_probs"] + 0.5 * rng.normal(size=shape)
    return [drawn[x] for x in SCANS[name].arrays]


def ends(ending: str, shape: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The options that say how episodes end, as float64 and bool arrays."""
    num_rows = shape[0]
    bootstrap = rng.normal(size=num_rows)
    next_values = rng.normal(size=shape)
    row_flags, step_flags = rng.random((2, num_rows)) < 0.5, rng.random((2, *shape)) < 0.2
    return {
        "unflagged": {},
        "bootstrapped": {"bootstrap": bootstrap},
        "rows_terminated": {"bootstrap": bootstrap, "terminated": row_flags[0]},
        "rows_truncated": {"bootstrap": bootstrap, "truncated": row_flags[0]},
        "steps_terminated": {"terminated": step_flags[0]},
        "steps_truncated": {"truncated": step_flags[0], "next_values": next_values},
        "rows_with_next_values": {
            "terminated": row_flags[0],
            "truncated": row_flags[1],
            "next_values": next_values,
        },
        "rows_and_steps": {
            "terminated": step_flags[0].astype(np.uint8),
            "truncated": row_flags[0],
            "bootstrap": bootstrap,
        },
        "all_kinds": {
            "terminated": step_flags[0],
            "truncated": step_flags[1].astype(np.int64),
            "bootstrap": bootstrap,
            "next_values": next_values,
        },
    }[ending]


def as_options(
    library: str, options: dict[str, np.ndarray], dtype: str = "float64", layout: str = "contiguous"
) -> dict[str, Any]:
    """The array options as `library` holds them, floats in `dtype`."""
    return {
        name: given_as(library, x.astype(dtype) if x.dtype.kind == "f" else x, layout)
        for name, x in options.items()
    }


def run(module: Any, name: str, arrays: list[Any], **options: Any) -> tuple[Any, ...]:
    """The outputs of one scan of `module` (the kernels or the reference), always as a tuple."""
    found = getattr(module, name)(*arrays, **(SCANS[name].factors | options))
    return found if isinstance(found, tuple) else (found,)


def packed(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Per-token numbers [B, T] packed; per-row ones as they are."""
    return x[inside] if x.ndim == 2 else x


def packed_ends(options: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, np.ndarray]:
    """Options of padded rows for the same rows packed.

    Flags [B] would be read as flags [N] where N == B: there they are spread over the tokens.
    """
    is_ambiguous = inside.sum() == len(inside)
    return {
        name: _per_token(x, inside) if is_ambiguous and x.dtype != float else packed(x, inside)
        for name, x in options.items()
    }


def _per_token(flags: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Packed per-token flags, from padded ones or from per-row ones on each row's last token."""
    if flags.ndim == 2:
        return flags[inside]
    spread = np.zeros(inside.shape, bool)
    kept = inside.any(axis=1)
    spread[kept, inside.sum(axis=1)[kept] - 1] = flags[kept]
    return spread[inside]
