"""What held-out rows say of a reward: figures with intervals, baselines, calibration, mistakes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignzoo.data import plain_text
from alignzoo.reward import RewardModel
from alignzoo.reward_report.intervals import (
    FEWEST_GROUPS,
    NUM_RESAMPLES,
    Measure,
    finite_or_none,
    measure,
)
from alignzoo.reward_report.judged import COMPARED, FIRST, Floats, Judged, judge
from alignzoo.reward_report.measures import Calibration, Measurer, calibration, probability_table

NUM_WORST = 20
NUM_STRIPES = 30  # bars of a histogram
MAX_TEXT = 2000  # characters of one text that the report keeps
LARGE = 20_000  # rows or comparisons above which fewer resamples are taken


@dataclass(frozen=True)
class Histogram:
    """How often each score came: `edges` [bars + 1] and, by name, counts [bars]."""

    edges: list[float]
    counts: Mapping[str, list[int]]
    means: Mapping[str, float]


@dataclass(frozen=True)
class Disagreement:
    """A row on which reward and people differ most.

    Args:
        where: its place in the file.
        gap: by how much; the larger, the worse.
        said: what people said, and what the reward did, in words.
        texts: name, text and score of each response; the better one first.
    """

    where: str
    gap: float
    said: str
    prompt: Any
    texts: list[tuple[str, str, float]]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON; texts are cut at 2,000 characters."""
        responses = [
            {"which": name, "text": text[:MAX_TEXT], "score": score}
            for name, text, score in self.texts
        ]
        prompt = plain_text(self.prompt)[:MAX_TEXT]
        return {
            "where": self.where,
            "gap": self.gap,
            "said": self.said,
            "prompt": prompt,
            "responses": responses,
        }


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set of rows; see the fields' own classes."""

    kind: str
    num_rows: int
    num_responses: int
    num_prompts: int
    num_pairs: int
    pairs_of: str
    first_is: str
    metrics: dict[str, Measure]
    baselines: dict[str, Measure]
    lengths: dict[str, Measure]
    calibration: Calibration
    histogram: Histogram
    disagreements: list[Disagreement]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but what a chart alone needs as JSON."""
        names = ("metrics", "baselines", "lengths")
        return {
            "rows": self.num_rows,
            "responses": self.num_responses,
            "prompts": self.num_prompts,
            "comparisons": {"count": self.num_pairs, "of": self.pairs_of, "first": self.first_is},
            "left_out": dict(self.left_out),
            **{
                name: {key: value.to_json() for key, value in getattr(self, name).items()}
                for name in names
            },
            "calibration": {
                "what": self.calibration.text,
                "ece": finite_or_none(self.calibration.ece),
                "bins": [
                    {"predicted": predicted, "observed": observed, "count": count}
                    for predicted, observed, count in self.calibration.bins
                ],
            },
            "histogram": {
                "edges": self.histogram.edges,
                "counts": dict(self.histogram.counts),
                "means": dict(self.histogram.means),
            },
            "disagreements": [worst.to_json() for worst in self.disagreements],
            "notes": self.notes,
        }


def evaluate(
    reward: RewardModel,
    kind: str,
    rows: Sequence[Any],
    *,
    seed: int = 0,
    training_mean: float = math.nan,
) -> Evaluation:
    """Returns what the rows say of the reward.

    Args:
        rows: that it did not learn from, of one kind, as its reader returns them.
        seed: of the bootstrap.
        training_mean: of the ratings it learned from; a baseline says it of every row.
    Raises:
        ConfigError, PluginError: the reward failed or returned something else than numbers.
        DataError: no row has both a judgement and a score.
    """
    judged = judge(reward, kind, rows, seed=seed)
    measurer = Measurer(judged, training_mean=training_mean)
    resamples = num_resamples(judged)

    def interval(name: str) -> dict[str, Measure]:
        statistic = getattr(measurer, name)
        return measure(statistic, judged.num_groups, seed=seed, num_resamples=resamples)

    return Evaluation(
        kind=kind,
        num_rows=len(rows),
        num_responses=len(judged.items),
        num_prompts=judged.num_prompts,
        num_pairs=len(judged.better),
        pairs_of=judged.pairs_of,
        first_is=FIRST[kind],
        metrics=interval("metrics"),
        baselines=interval("baselines"),
        lengths=interval("lengths"),
        calibration=calibration(judged),
        histogram=histogram(judged),
        disagreements=disagreements(judged),
        left_out=judged.left_out,
        notes=_notes(judged),
    )


def quick_metrics(
    reward: RewardModel, kind: str, rows: Sequence[Any], *, seed: int = 0
) -> dict[str, float]:
    """Returns the reward's figures on some rows, without intervals."""
    judged = judge(reward, kind, rows, seed=seed)
    return Measurer(judged).metrics(np.ones(judged.num_groups, dtype=np.int64))


def num_resamples(judged: Judged) -> int:
    """Returns 1,000, and fewer, but 200 at least, where there are over 20,000 rows."""
    size = max(len(judged.items), len(judged.better) // 10)
    return max(NUM_RESAMPLES // 5, min(NUM_RESAMPLES, NUM_RESAMPLES * LARGE // max(1, size)))


def _notes(judged: Judged) -> list[str]:
    """Returns what a reader should know before trusting the figures."""
    notes = [f"{count:,} responses are left out: {why}" for why, count in judged.left_out.items()]
    if judged.num_prompts < FEWEST_GROUPS:
        notes.append(
            f"the held-out rows have {judged.num_prompts} different prompts, so the intervals are "
            "over rows; for other prompts they are too narrow"
        )
    if not len(judged.better):
        notes.append(
            "no two held-out responses differ in what people said of them, so there is no "
            "comparison: no accuracy of pairs and no null baseline"
            if judged.kind != "classes" or np.isfinite(judged.truth).any()
            else "the reward does not say what its classes are worth, so there is no comparison: "
            "no accuracy of pairs and no null baseline"
        )
    return notes


def histogram(judged: Judged) -> Histogram:
    """Returns how the scores are spread, by what people said: stripes of equal width."""
    parts = _parts(judged)
    shown = np.concatenate(list(parts.values()))
    low, high = float(shown.min()), float(shown.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, NUM_STRIPES + 1)
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in parts.items()}
    means = {name: float(values.mean()) for name, values in parts.items() if len(values)}
    return Histogram(edges.tolist(), counts, means)


def _parts(judged: Judged) -> dict[str, Floats]:
    """Returns the scores by what people said of the response."""
    places = np.array([item.place for item in judged.items])
    if judged.kind == "preferences":
        return {"chosen": judged.scores[places == 0], "rejected": judged.scores[places == 1]}
    if judged.kind == "rankings":
        return {"ranked first": judged.scores[places == 0], "others": judged.scores[places > 0]}
    if judged.kind == "classes":
        labels = np.array(judged.labels)
        names = sorted(set(judged.labels), key=lambda name: -float((labels == name).sum()))[:4]
        return {name: judged.scores[labels == name] for name in sorted(names)}
    return {"score": judged.scores, "rating": judged.truth}


def disagreements(judged: Judged) -> list[Disagreement]:
    """Returns the 20 worst, the worst first: one of a row at most, and only where they differ.

    Comparisons: by how much the worse response scores higher. Classes: by the probability the
    reward denies to the label. Ratings: by the distance of score and rating.
    """
    if judged.kind in COMPARED:
        return _worst_pairs(judged)
    if judged.kind == "classes":
        return _worst_labels(judged)
    gaps = np.abs(judged.truth - judged.scores)
    return [
        _one(judged, i, gaps[i], f"rating {judged.truth[i]:.4g}", "score")
        for i in _largest(gaps, judged)
    ]


def _worst_pairs(judged: Judged) -> list[Disagreement]:
    gaps = judged.scores[judged.worse] - judged.scores[judged.better]
    found: list[Disagreement] = []
    rows: set[int] = set()
    for pair in np.argsort(-gaps, kind="stable"):
        better, worse = judged.items[judged.better[pair]], judged.items[judged.worse[pair]]
        if gaps[pair] <= 0 or len(found) == NUM_WORST:
            break
        if better.row in rows:
            continue
        rows.add(better.row)
        names = ("chosen", "rejected")
        if judged.kind == "rankings":
            names = (f"ranked {better.place + 1}", f"ranked {worse.place + 1}")
        scores = (judged.scores[judged.better[pair]], judged.scores[judged.worse[pair]])
        texts = [
            (name, item.response, float(score))
            for name, item, score in zip(names, (better, worse), scores, strict=True)
        ]
        said = f"the reward puts {names[1]} above {names[0]}"
        where = better.source.where
        found.append(Disagreement(where, float(gaps[pair]), said, better.prompt, texts))
    return found


def _worst_labels(judged: Judged) -> list[Disagreement]:
    if not judged.probabilities:
        return []
    names, table = probability_table(judged)
    columns = np.array([names.index(x) if x in names else -1 for x in judged.labels])
    rows = np.arange(len(columns))
    given = np.where(columns < 0, 0.0, table[rows, columns])
    gaps = np.where(table.argmax(1) == columns, 0.0, 1.0 - given)
    return [
        _one(judged, i, gaps[i], f"labelled {judged.labels[i]}", names[int(table[i].argmax())])
        for i in _largest(gaps, judged)
    ]


def _largest(gaps: Floats, judged: Judged) -> list[int]:
    """Returns the indices of the largest gaps above 0, one of a row at most."""
    found: dict[int, int] = {}
    for index in np.argsort(-gaps, kind="stable").tolist():
        if gaps[index] <= 0 or len(found) == NUM_WORST:
            break
        found.setdefault(judged.items[index].row, index)
    return list(found.values())


def _one(judged: Judged, index: int, gap: float, people: str, name: str) -> Disagreement:
    item, score = judged.items[index], float(judged.scores[index])
    place = f", step {item.place + 1}" if judged.kind == "steps" else ""
    said = f"{people}; the reward says {name}"
    if name == "score":
        said += f" {score:.4g}"
    return Disagreement(
        item.source.where + place,
        float(gap),
        said,
        item.prompt,
        [("response", item.response, score)],
    )
