"""Held-out rows as scored responses and comparisons: one shape for every kind of judgement."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignzoo.data import plain_text, prompt_key
from alignzoo.errors import ConfigError, DataError
from alignzoo.random_streams import stream
from alignzoo.reward import Prompt, RewardModel
from alignzoo.reward_report.intervals import Numbers, number_groups
from alignzoo.scoring import RewardSum

CHUNK = 1024  # responses scored at a time
MAX_PAIRS = 200_000  # comparisons that are looked at
COMPARED = ("preferences", "rankings")  # kinds that say which of two is better, and no more
FIRST: Mapping[str, str] = {
    "preferences": "the file keeps no order; which of two is the first is drawn by hash",
    "rankings": "the file keeps no order but the ranking; which of two is the first is drawn "
    "by hash",
    "ratings": "the first of two is the one that stands first in the file",
    "classes": "the first of two is the one that stands first in the file",
    "text_feedback": "the first of two is the one that stands first in the file",
    "steps": "the first of two is the earlier step",
}
ONE_PROMPT, ALL_ROWS = "one prompt", "all rows"

Floats = NDArray[np.float64]


class Item(NamedTuple):
    """One response (or step) and what people said about it.

    Args:
        row: number of the row it comes from.
        place: its own number in that row.
        source: the row, as its reader returned it.
        truth: its rating; NaN where there is none.
        label: its class; empty where there is none.
    """

    prompt: Prompt
    response: str
    row: int
    place: int
    source: Any
    truth: float = math.nan
    label: str = ""


@dataclass(frozen=True)
class Judged:
    """n scored responses, and P comparisons of them.

    Args:
        kind: of judgement, a key of `alignzoo.data.JUDGEMENTS`.
        items: the responses.
        scores: [n], the reward's; all finite.
        truth: [n], the rating or the value of the class; NaN for preferences and rankings.
        probabilities: by class, each [n]; empty where the reward gives none.
        order: [n]; of two responses the one with the smaller number is the first.
        groups: [n], number of the response's prompt (or row, see `number_groups`).
        num_groups: how many groups there are.
        num_prompts: distinct prompts.
        better, worse: [P] each, index of a response; by the judgement, not by the score.
        pairs_of: "one prompt" or "all rows": where the comparisons come from.
        left_out: how many responses were left out, by reason.
    """

    kind: str
    items: list[Item]
    scores: Floats
    truth: Floats
    probabilities: Mapping[str, Floats]
    order: Numbers
    groups: Numbers
    num_groups: int
    num_prompts: int
    better: Numbers
    worse: Numbers
    pairs_of: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def lengths(self) -> Floats:
        """[n], characters of each response."""
        return np.array([len(item.response) for item in self.items], dtype=np.float64)

    @property
    def labels(self) -> list[str]:
        """n class names."""
        return [item.label for item in self.items]

    def wins(self, values: NDArray[Any]) -> Floats:
        """Returns [P]: 1 where the better response has the larger value, one half for a tie."""
        gap = values[self.better] - values[self.worse]
        return np.where(gap > 0, 1.0, np.where(gap == 0, 0.5, 0.0))

    def pair_weights(self, weights: Numbers) -> Floats:
        """Returns how often each comparison counts, [P], where each group counts `weights` [G]."""
        left, right = self.groups[self.better], self.groups[self.worse]
        return np.where(left == right, weights[left], weights[left] * weights[right]) * 1.0


def judge(reward: RewardModel, kind: str, rows: Sequence[Any], *, seed: int = 0) -> Judged:
    """Scores what the rows hold and returns it beside what people said.

    Args:
        rows: of one kind, as its reader returns them.
        seed: of the choice of comparisons, where there are more than 200,000.
    Raises:
        ConfigError, PluginError: the reward failed or returned something else than numbers.
        DataError: no row has both a judgement and a score.
    """
    items = list_items(kind, rows)
    rated = [item for item in items if kind in (*COMPARED, "classes") or item.truth == item.truth]
    scores = score_items(reward, kind, rows, rated)
    known = np.isfinite(scores)
    kept = [item for item, keep in zip(rated, known, strict=True) if keep]
    if not kept:
        raise DataError(
            f"nothing to measure the reward on: of {len(rows)} held-out rows, none has both a "
            "judgement and a score."
        )
    truth = np.array([item.truth for item in kept])
    probabilities: dict[str, Floats] = {}
    left_out = {"unrated": len(items) - len(rated), "unscorable": int((~known).sum())}
    if kind == "preferences":
        left_out["of pairs that people called a tie"] = 2 * len(rows) - len(items)
    if kind == "classes":
        truth = _class_values(reward, kept)
        probabilities = _probabilities(reward, kept)
        left_out["of a class that the reward has no value for"] = int(np.isnan(truth).sum())
    prompts = [prompt_key(item.source) for item in kept]
    groups, num_groups = number_groups(prompts, [item.row for item in kept])
    better, worse, pairs_of = choose_pairs(kind, kept, prompts, truth, seed)
    return Judged(
        kind=kind,
        items=kept,
        scores=scores[known],
        truth=truth,
        probabilities=probabilities,
        order=_order(kind, kept),
        groups=groups,
        num_groups=num_groups,
        num_prompts=len(set(prompts)),
        better=better,
        worse=worse,
        pairs_of=pairs_of,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def list_items(kind: str, rows: Sequence[Any]) -> list[Item]:
    """Returns the responses of the rows, in order; of preferences the chosen one first.

    Of two that people called equally good, which a true column `tie` says, none is returned.
    """
    found: list[Item] = []
    for number, row in enumerate(rows):
        if kind == "preferences":
            answers = [] if is_tie(row.columns.get("tie")) else [row.chosen, row.rejected]
        elif kind == "rankings":
            answers = list(row.completions)
        elif kind == "steps":
            marked = zip(row.steps, row.ratings, strict=True)
            found += [
                Item(row.prompt, step, number, place, row, rating)
                for place, (step, rating) in enumerate(marked)
            ]
            continue
        else:
            rating, label = getattr(row, "rating", math.nan), getattr(row, "label", "")
            text = plain_text(row.completion)
            found.append(Item(row.prompt, text, number, 0, row, rating, label))
            continue
        texts = enumerate(map(plain_text, answers))
        found += [Item(row.prompt, text, number, place, row) for place, text in texts]
    return found


def is_tie(mark: Any) -> bool:
    """Whether the column `tie` says that neither response was preferred."""
    return str(mark).strip().lower() in ("true", "1")


def score_items(
    reward: RewardModel, kind: str, rows: Sequence[Any], items: Sequence[Item]
) -> Floats:
    """Returns the reward's score of each response, [n]; of steps the score of each step."""
    if kind == "steps" and hasattr(reward, "step_scores"):
        found = _step_scores(reward, rows)
        return np.array([found[item.row][item.place] for item in items], dtype=np.float64)
    total = RewardSum([(type(reward).__name__, reward, 1.0)])
    parts = []
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        names = dict.fromkeys(name for item in part for name in item.source.columns)
        columns = {name: [item.source.columns.get(name) for item in part] for name in names}
        prompts, responses = [i.prompt for i in part], [i.response for i in part]
        parts.append(total.score(prompts, responses, columns).total)
    return np.concatenate(parts) if parts else np.zeros(0)


def _step_scores(reward: Any, rows: Sequence[Any]) -> list[list[float]]:
    """Returns the score of each step of each row.

    Raises:
        DataError: the reward finds another number of steps, for one of them holds its marker.
    """
    marker = reward.config.marker
    responses = [marker.join(row.steps) for row in rows]
    found: list[list[float]] = []
    for start in range(0, len(rows), CHUNK):
        prompts = [row.prompt for row in rows[start : start + CHUNK]]
        found += [list(s) for s in reward.step_scores(prompts, responses[start : start + CHUNK])]
    for row, scores in zip(rows, found, strict=True):
        if len(scores) != len(row.steps):
            raise DataError(
                f"{row.where}: the reward sees {len(scores)} steps where the file has "
                f"{len(row.steps)}: one of them holds the marker {marker!r}. Choose another marker."
            )
    return found


def _class_values(reward: RewardModel, items: Sequence[Item]) -> Floats:
    """Returns the value of each response's class, [n]; NaN where the reward has none for it."""
    values = getattr(reward, "class_values", None) or {}
    return np.array([values.get(item.label, math.nan) for item in items], dtype=np.float64)


def _probabilities(reward: RewardModel, items: Sequence[Item]) -> dict[str, Floats]:
    """Returns the probability of each class by name, each [n]; empty where there are none."""
    parts: list[Mapping[str, Sequence[float]]] = []
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        found = reward.class_probabilities([i.prompt for i in part], [i.response for i in part])
        if found is None:
            return {}
        for name, values in found.items():
            if len(values) != len(part):
                raise ConfigError(
                    f"the reward gave {len(values)} probabilities of class '{name}' for "
                    f"{len(part)} responses; expected one each"
                )
        parts.append(found)
    return {
        name: np.concatenate([np.asarray(part[name], dtype=np.float64) for part in parts])
        for name in parts[0]
    }


def _order(kind: str, items: Sequence[Item]) -> Numbers:
    """Returns numbers [n] of which the smaller is the first of two; see `FIRST`."""
    if kind in COMPARED:
        texts = (repr((item.prompt, item.response)).encode() for item in items)
        digests = (hashlib.sha256(text).digest() for text in texts)
        return np.array([int.from_bytes(digest[:7], "big") for digest in digests], dtype=np.int64)
    by_place = kind == "steps"
    return np.array([item.place if by_place else item.row for item in items], dtype=np.int64)


def choose_pairs(
    kind: str, items: Sequence[Item], prompts: Sequence[bytes], truth: Floats, seed: int
) -> tuple[Numbers, Numbers, str]:
    """Returns the better and the worse response of each comparison, [P] each, and their source.

    Preferences and rankings are comparisons: every pair of one row. Of other kinds, two responses
    that people rated differently are one: of the same prompt, if at least half of the responses
    have such a mate, else any two.
    """
    if kind in COMPARED:
        rank = np.array([-item.place for item in items], dtype=np.float64)
        members = _members([item.row for item in items])
        return (*_compare(members, rank, seed), ONE_PROMPT)
    within = _compare(_members(list(prompts)), truth, seed)
    if 2 * len(set(within[0].tolist()) | set(within[1].tolist())) >= len(items):
        return (*within, ONE_PROMPT)
    return (*_compare([np.arange(len(items))], truth, seed), ALL_ROWS)


def _members(keys: Sequence[Any]) -> list[Numbers]:
    """Returns the indices of each key's responses."""
    found: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return [np.array(indices, dtype=np.int64) for indices in found.values()]


def _compare(members: list[Numbers], truth: Floats, seed: int) -> tuple[Numbers, Numbers]:
    """Returns the better and the worse of each two in a group that differ in truth, [P] each."""
    sizes = np.array([len(group) for group in members])
    counts = sizes * (sizes - 1) // 2
    if counts.sum() <= MAX_PAIRS:
        corners = [np.triu_indices(size, 1) for size in sizes]
        picked = [(g[i], g[j]) for g, (i, j) in zip(members, corners, strict=True)]
        left, right = (np.concatenate(side) for side in zip(*picked, strict=True))
    else:
        left, right = _draw(members, sizes, counts, seed)
    left_wins, right_wins = truth[left] > truth[right], truth[left] < truth[right]
    differ = left_wins | right_wins  # NaN differs from nothing
    better = np.where(left_wins, left, right)[differ]
    return better, np.where(left_wins, right, left)[differ]


def _draw(
    members: list[Numbers], sizes: Numbers, counts: Numbers, seed: int
) -> tuple[Numbers, Numbers]:
    """Returns 200,000 pairs [P] each, drawn evenly from all pairs within a group."""
    generator = stream(seed, "comparisons")
    flat, starts = np.concatenate(members), np.cumsum(sizes) - sizes
    group = generator.choice(len(members), size=MAX_PAIRS, p=counts / counts.sum())
    left = (generator.random(MAX_PAIRS) * sizes[group]).astype(np.int64)
    right = (generator.random(MAX_PAIRS) * (sizes[group] - 1)).astype(np.int64)
    right += right >= left
    return flat[starts[group] + left], flat[starts[group] + right]
