"""What the report measures: accuracy, errors, F1, calibration, and what needs no reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.reward_report.intervals import Numbers
from alignzoo.reward_report.judged import COMPARED, Floats, Judged

NUM_BINS = 10


def weighted_mean(values: Floats, weights: NDArray[Any]) -> float:
    """Returns the mean; NaN where nothing has weight."""
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else math.nan


def spearman(left: Floats, right: Floats, weights: Numbers | None = None) -> float:
    """Returns the rank correlation of two columns [n]; equal values share their mean rank.

    Args:
        weights: [n], how often each row counts.
    """
    if weights is not None:
        left, right = np.repeat(left, weights), np.repeat(right, weights)
    return pearson(mean_ranks(left), mean_ranks(right))


def mean_ranks(values: Floats) -> Floats:
    """Returns the rank of each value [n] from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def pearson(left: Floats, right: Floats) -> float:
    """Returns the correlation of two columns [n]; NaN where one of them is constant."""
    if len(left) < 2:
        return math.nan
    left, right = left - left.mean(), right - right.mean()
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / scale if scale > 0 else math.nan


def r_squared(truth: Floats, scores: Floats, weights: Numbers) -> float:
    """Returns 1 - the squared error of the scores over that of the mean; NaN for one value."""
    centre = weighted_mean(truth, weights)
    spread = float(weights @ (truth - centre) ** 2)
    return 1.0 - float(weights @ (truth - scores) ** 2) / spread if spread > 0 else math.nan


def macro_f1(truth: Numbers, predicted: Numbers, num_classes: int, weights: Numbers) -> float:
    """Returns the mean over classes of 2 TP / (2 TP + FP + FN).

    A class that is neither among the truth nor predicted does not count.
    """
    table = np.zeros((num_classes, num_classes))
    np.add.at(table, (truth, predicted), weights)
    hits = np.diag(table)
    sizes = table.sum(0) + table.sum(1)
    present = sizes > 0
    return float((2 * hits[present] / sizes[present]).mean()) if present.any() else math.nan


@dataclass(frozen=True)
class Calibration:
    """Whether the scores mean what they say.

    Args:
        text: what is predicted and what is observed, in words.
        bins: (mean prediction, mean of what was observed, how many) of each bin that is not empty.
        ece: mean of |prediction - observed| over bins, weighted by how many; NaN where there is
            nothing to compare.
    """

    text: str
    bins: list[tuple[float, float, int]]
    ece: float


def calibrate(text: str, predicted: Floats, observed: Floats, edges: Floats) -> Calibration:
    """Returns the calibration in bins that begin at `edges`, the last one without end."""
    place = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, len(edges) - 1)
    bins = []
    for number in range(len(edges)):
        inside = place == number
        if inside.any():
            count = int(inside.sum())
            bins.append((float(predicted[inside].mean()), float(observed[inside].mean()), count))
    total = sum(count for _, _, count in bins)
    gaps = sum(count * abs(p - o) for p, o, count in bins)
    return Calibration(text, bins, gaps / total if total else math.nan)


def calibration(judged: Judged) -> Calibration:
    """Returns the calibration that fits the kind of judgement.

    Comparisons: sigmoid(|difference of scores|), the chance a Bradley-Terry reward gives to its
    favourite, against how often that is right, in ten bins of equal width from 0.5 to 1. Classes:
    the probability of the likeliest class against how often it is right, in ten bins from 0 to 1.
    Ratings: the score against the rating, in ten bins of equal count, and the error in the
    rating's own unit.
    """
    if judged.kind in COMPARED:
        gap = judged.scores[judged.better] - judged.scores[judged.worse]
        right = judged.wins(judged.scores)
        text = "chance the scores give to the favourite of two, against how often that is right"
        return calibrate(text, sigmoid(np.abs(gap)), right, np.linspace(0.5, 1.0, 11)[:-1])
    if judged.kind == "classes":
        if not judged.probabilities:
            return Calibration("the reward gives no probabilities", [], math.nan)
        names, table = probability_table(judged)
        right = np.array(judged.labels) == np.array(names)[table.argmax(1)]
        text = "probability of the likeliest class, against how often it is right"
        return calibrate(text, table.max(1), right * 1.0, np.linspace(0.0, 1.0, 11)[:-1])
    shares = np.linspace(0.0, 1.0, NUM_BINS + 1)[:-1]
    edges = np.unique(np.quantile(judged.scores, shares))
    return calibrate("score against rating", judged.scores, judged.truth, edges)


def sigmoid(values: Floats) -> Floats:
    """Returns 1 / (1 + exp(-x)) without overflow."""
    return np.where(
        values >= 0, 1 / (1 + np.exp(-np.abs(values))), 1 - 1 / (1 + np.exp(-np.abs(values)))
    )


def probability_table(judged: Judged) -> tuple[list[str], Floats]:
    """Returns the classes the reward knows, and the probability of each, [n, classes]."""
    names = list(judged.probabilities)
    return names, np.stack([judged.probabilities[name] for name in names], axis=1)


class Measurer:
    """Computes every figure of held-out rows for any weights of their groups.

    `metrics` are the reward's, `baselines` what needs no reward, `lengths` how far the score
    follows the length; each takes how often every group counts, [G].
    """

    def __init__(self, judged: Judged, *, training_mean: float = math.nan) -> None:
        """Args: training_mean: of the ratings learned from; the baseline "mean rating" says it."""
        self.judged = judged
        self.training_mean = training_mean
        self.wins = {
            "score": judged.wins(judged.scores),
            "longer": judged.wins(judged.lengths),
            "first": judged.wins(-judged.order),
        }
        gap = judged.scores[judged.better] - judged.scores[judged.worse]
        longer = np.sign(judged.lengths[judged.better] - judged.lengths[judged.worse])
        self.prefers_longer = np.where(np.sign(gap) * longer > 0, 1.0, 0.0)
        self.prefers_longer[gap == 0] = 0.5
        self.lengths_differ = (longer != 0) * 1.0
        self.names, self.label_numbers, self.predicted = _numbered_classes(judged)

    def metrics(self, weights: Numbers) -> dict[str, float]:
        """Returns the figures of the reward; the first is the one to look at."""
        judged = self.judged
        accuracy = self._accuracy("score", weights)
        if judged.kind in COMPARED:
            found = {"accuracy": accuracy}
            if judged.kind == "rankings":
                found["top_1"] = self._top_1(weights)
            return found
        rows = weights[judged.groups]
        if judged.kind == "classes":
            found = {}
            if judged.probabilities:
                f1 = macro_f1(self.label_numbers, self.predicted, len(self.names), rows)
                right = (self.label_numbers == self.predicted) * 1.0
                found = {"macro_f1": f1, "accuracy": weighted_mean(right, rows)}
            return {**found, "pair_accuracy": accuracy}
        error = judged.truth - judged.scores
        return {
            "rmse": math.sqrt(weighted_mean(error**2, rows)),
            "spearman": spearman(judged.scores, judged.truth, rows),
            "r2": r_squared(judged.truth, judged.scores, rows),
            "pair_accuracy": accuracy,
        }

    def baselines(self, weights: Numbers) -> dict[str, float]:
        """Returns what the null baselines score on the same comparisons and rows."""
        found = {
            "longer wins": self._accuracy("longer", weights),
            "first wins": self._accuracy("first", weights),
        }
        rows = weights[self.judged.groups]
        if self.judged.kind == "classes" and len(self.names):
            counts = np.bincount(self.label_numbers, rows, minlength=len(self.names))
            guess = np.full(len(rows), int(counts.argmax()))
            found["most frequent class: macro_f1"] = macro_f1(
                self.label_numbers, guess, len(self.names), rows
            )
        elif math.isfinite(self.training_mean):
            error = self.judged.truth - self.training_mean
            found["mean rating: rmse"] = math.sqrt(weighted_mean(error**2, rows))
        return found

    def lengths(self, weights: Numbers) -> dict[str, float]:
        """Returns how far the score follows the length, beside how far people do."""
        pairs = self.judged.pair_weights(weights) * self.lengths_differ
        rows = weights[self.judged.groups]
        return {
            "spearman": spearman(self.judged.scores, self.judged.lengths, rows),
            "reward prefers longer": weighted_mean(self.prefers_longer, pairs),
            "people prefer longer": weighted_mean(self.wins["longer"], pairs),
        }

    def _accuracy(self, name: str, weights: Numbers) -> float:
        return weighted_mean(self.wins[name], self.judged.pair_weights(weights))

    def _top_1(self, weights: Numbers) -> float:
        """Returns the share of rankings whose best response has the highest score; ties share."""
        judged = self.judged
        rows = np.array([item.row for item in judged.items])
        starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        best = np.maximum.reduceat(judged.scores, starts)
        number = np.cumsum(np.r_[False, rows[1:] != rows[:-1]])
        at_best = judged.scores == best[number]
        tied = np.add.reduceat(at_best * 1.0, starts)
        leads = np.array([judged.items[start].place == 0 for start in starts])
        values = np.where(leads & at_best[starts], 1.0 / tied, 0.0)
        return weighted_mean(values, weights[judged.groups[starts]])


def _numbered_classes(judged: Judged) -> tuple[list[str], Numbers, Numbers]:
    """Returns all class names, and as numbers into them the label and the likeliest class, [n]."""
    empty = np.zeros(0, dtype=np.int64)
    if judged.kind != "classes" or not judged.probabilities:
        return [], empty, empty
    known, table = probability_table(judged)
    names = [*known, *sorted(set(judged.labels) - set(known))]
    number: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    labels = np.array([number[label] for label in judged.labels], dtype=np.int64)
    return names, labels, table.argmax(1).astype(np.int64)
