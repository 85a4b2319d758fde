"""The scale on which scores are learned from: as they are, whitened by round or over the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError

Mode = Literal["none", "batch", "running"]
SMALLEST_STD = 1e-8  # below it scores count as equal, and are centred only


class RewardScale:
    """Brings the scores of a round to a common scale, and limits them.

    `batch` subtracts the mean of the round's scores and divides by their standard deviation;
    `running` uses the mean and deviation of every score observed so far, this round's included
    (Welford's update, in Chan's form for batches). Equal scores become 0. A row that could not be
    scored is not observed.

    Args:
        mode: "none" leaves scores as they are.
        clip: what is left of a score lies in [-clip, clip], on the scale; None is no limit.
    """

    def __init__(self, mode: Mode = "none", clip: float | None = None) -> None:
        self.mode = mode
        self.clip = clip
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0  # sum of squared distances from the mean

    @property
    def acts(self) -> bool:
        """Whether any score may change."""
        return self.mode != "none" or self.clip is not None

    def observe(self, scores: NDArray[np.float64]) -> None:
        """Takes note of a round's scores, [B]; what is not finite is left out."""
        seen = scores[np.isfinite(scores)]
        if not seen.size:
            return
        mean, total = float(seen.mean()), self.count + seen.size
        distance = mean - self.mean
        self.squares += float(np.square(seen - mean).sum())
        self.squares += distance**2 * self.count * seen.size / total
        self.mean += distance * seen.size / total
        self.count = total

    def apply(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Returns finite scores [B] on the scale, and the share of them that was limited."""
        if self.mode == "batch" and scores.size:
            scores = _whiten(scores, float(scores.mean()), float(scores.std()))
        elif self.mode == "running" and self.count:
            scores = _whiten(scores, self.mean, math.sqrt(self.squares / self.count))
        if self.clip is None or not scores.size:
            return scores, 0.0
        limited = np.abs(scores) > self.clip
        return np.clip(scores, -self.clip, self.clip), float(limited.mean())

    def state_dict(self) -> dict[str, Any]:
        """Returns what was observed so far."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            DataError: a number is missing or impossible.
        """
        try:
            count, mean, squares = (state[name] for name in ("count", "mean", "squares"))
            sound = count >= 0 and squares >= 0 and math.isfinite(mean) and math.isfinite(squares)
        except (KeyError, TypeError) as error:
            raise DataError(f"the saved reward scale is damaged ({error!r})") from None
        if not sound:
            raise DataError(f"the saved reward scale is damaged: {dict(state)}")
        self.count, self.mean, self.squares = count, mean, squares


def _whiten(scores: NDArray[np.float64], mean: float, std: float) -> NDArray[np.float64]:
    centred = scores - mean
    return centred / std if std > SMALLEST_STD * max(1.0, abs(mean)) else centred
