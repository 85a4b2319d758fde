"""Whitening and comparison within groups. Not differentiable: constants to a loss."""

from __future__ import annotations

from alignzoo.kernels.arrays import Array, Moments, native


def masked_whiten(
    x: Array,
    mask: Array | None = None,
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    eps: float = 1e-8,
    moments: Moments[Array] | None = None,
    cu_seqlens: Array | None = None,
) -> tuple[Array, Moments[Array]]:
    """The unmasked elements brought to mean 0 and variance 1, and their moments (n, mean, m2).

    (x - mean) / sqrt(var + eps),  var = m2 / (n - ddof),  m2 = sum (x - mean)^2, in two passes.
    With n <= ddof the result is 0. The moments are 0-d float64 arrays; those of several workers
    merge by Chan et al. 1979 and come back in as `moments`.

    Args:
        x: any shape, float32 or float64.
        mask: same shape, bool or integers 0 and 1; 0 where masked.
        shift_mean: False adds the mean again, so that only the scale changes.
        ddof: what is subtracted from n in the variance.
        eps: added to the variance.
        moments: (n, mean, m2) to use in place of x's own.
        cu_seqlens: [B + 1] integers; x is then packed [N] and summed row by row, with the same bits
            as [B, T] padded at the right.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an option out of range.
    """
    result: tuple[Array, Moments[Array]] = native().masked_whiten(
        x, mask, shift_mean, ddof, eps, moments, cu_seqlens
    )
    return result


def group_advantages(
    scores: Array, group_ids: Array, *, mode: str, eps: float = 1e-6, ddof: int = 1
) -> Array:
    """Each response's score against those of its group, [B].

    "grpo": (s - mean) / (std + eps), Shao et al. 2024, arXiv:2402.03300. "dr_grpo": s - mean, Liu
    et al. 2025, arXiv:2503.20783. "rloo": s - mean of the others, Ahmadian et al. 2024,
    arXiv:2402.14740. "batch_std": (s - group mean) / (std over the batch + eps), Hu et al. 2025,
    arXiv:2501.03262. A group of one, and a group whose scores are all equal, gives exactly 0. A NaN
    score gets 0 and counts in no mean.

    Args:
        scores: [B], float32 or float64.
        group_ids: [B] integers; rows of one group need not be neighbours.
        mode: "grpo", "dr_grpo", "rloo" or "batch_std".
        eps: added to the standard deviation, in units of the score.
        ddof: what is subtracted from the count in the variance; without freedom the result is 0.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes that disagree, an option out of range.
    """
    result: Array = native().group_advantages(scores, group_ids, mode, eps, ddof)
    return result
