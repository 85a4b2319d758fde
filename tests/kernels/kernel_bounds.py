"""How far a kernel may be from the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernel_cases import to_numpy


def assert_exact_to(actual: Any, expected: Any, bound: float, scale: float | None = None) -> None:
    """|actual - expected| <= bound * max(|expected|, scale), NaN and inf in the same places.

    `scale` is the size of the numbers that were summed; default the largest expected.
    """
    actual, expected = to_numpy(actual).astype(np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    if scale is None:
        scale = float(np.abs(expected[finite]).max(initial=0.0))
    error = np.abs(actual[finite] - expected[finite])
    allowed = bound * np.maximum(np.abs(expected[finite]), scale)
    worst = int(np.argmax(error - allowed)) if error.size else 0
    assert np.all(error <= allowed), (
        f"{actual[finite].flat[worst]!r} should be {expected[finite].flat[worst]!r} to {bound:g}"
    )


def largest_error(actual: Any, expected: np.ndarray) -> float:
    """Largest absolute difference from the truth."""
    return float(np.abs(to_numpy(actual).astype(np.float64) - expected).max(initial=0.0))


def assert_at_most_twice_the_error(actual: Any, peer: Any, expected: np.ndarray) -> None:
    """The kernel's largest error is no more than twice the peer's own.

    Half a unit in the last place of the largest number is allowed to both, since correct rounding
    itself costs that.
    """
    dtype = to_numpy(actual).dtype
    rounding = 0.5 * float(np.spacing(np.abs(expected).max(initial=0.0).astype(dtype)))
    assert largest_error(actual, expected) <= 2 * max(largest_error(peer, expected), rounding)
