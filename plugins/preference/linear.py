"""Scores that are linear in features: the convex fit, and how strongly to penalise it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from alignzoo.plugins.preference.comparisons import Comparison

from alignzoo import data, features, model_files

Array = np.ndarray[Any, np.dtype[np.float64]]
L2_GRID = tuple(10.0 ** (-power / 2) for power in range(1, 13))  # strongest first
NUM_FOLDS = 5
GRADIENT, ROUGH_GRADIENT = 1e-8, 1e-5  # largest component at which a fit ends


class Block(NamedTuple):
    """G comparisons of K responses: rows [G, K], best first, margins and shares reversed."""

    rows: np.ndarray[Any, np.dtype[np.int64]]
    margins: Array
    reversed: Array


def blocks_of(comparisons: Sequence[Comparison]) -> list[Block]:
    """Returns the comparisons by length; their responses are numbered through in order."""
    starts = np.cumsum([0, *(len(item.responses) for item in comparisons)])
    found = []
    for length in sorted({len(item.responses) for item in comparisons}):
        chosen = [i for i, item in enumerate(comparisons) if len(item.responses) == length]
        found.append(
            Block(
                starts[chosen][:, None] + np.arange(length),
                np.array([comparisons[i].margin for i in chosen]),
                np.array([comparisons[i].reversed for i in chosen]),
            )
        )
    return found


def plackett_luce(scores: Array) -> tuple[Array, Array]:
    """Returns -log P of each ranking [G], and its gradient [G, K], from scores [G, K]."""
    later = np.logaddexp.accumulate(scores[:, ::-1], axis=1)[:, ::-1]  # log sum_{j >= k} exp(s_j)
    losses = (later - scores)[:, :-1].sum(1)
    # ds_j: sum over the stages k <= j of exp(s_j - later_k), less 1 where j itself was chosen.
    stages = np.logaddexp.accumulate(-later[:, :-1], axis=1)
    stages = np.concatenate([stages, stages[:, -1:]], axis=1)
    gradient = np.exp(scores + stages)
    gradient[:, :-1] -= 1
    return losses, gradient


def comparison_loss(scores: Array, blocks: Sequence[Block]) -> tuple[float, Array]:
    """Returns the mean loss of the comparisons, and its gradient in the scores [B]."""
    count = sum(len(block.rows) for block in blocks)
    total, gradient = 0.0, np.zeros_like(scores)
    for rows, margins, share in blocks:
        given = scores[rows]
        given[:, 0] -= margins
        losses, slopes = plackett_luce(given)
        if share.any():
            turned, back = plackett_luce(given[:, ::-1])
            losses = (1 - share) * losses + share * turned
            slopes = (1 - share)[:, None] * slopes + share[:, None] * back[:, ::-1]
        total += float(losses.sum())
        gradient[rows] = slopes
    return total / count, gradient / count


def implied_accuracy(scores: Array, blocks: Sequence[Block]) -> float:
    """Returns the share of the implied pairs whose better response scores higher, ties one half."""
    wins = pairs = 0.0
    for rows, _, share in blocks:
        given = scores[rows[share < 0.5]]
        first, second = np.triu_indices(rows.shape[1], 1)
        gaps = given[:, first] - given[:, second]
        wins += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        pairs += gaps.size
    return wins / pairs


class LinearModel:
    """s = w . features - offset."""

    def __init__(self, found: Any, weights: Array, offset: float) -> None:
        self.features, self.weights, self.offset = found, weights, offset

    def score(self, prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
        """Returns the scores [B], each the same to the bit whatever other rows there are."""
        numbers = self.features.transform(prompts, responses) @ self.weights - self.offset
        return [float(number) for number in numbers]

    def save(self, folder: Path) -> None:
        settings, arrays = self.features.state()
        about = {"features": settings, "offset": self.offset}
        model_files.write_model(folder, about, {**arrays, "weights": self.weights})

    @classmethod
    def load(cls, folder: Path, config: Any) -> LinearModel:
        settings, arrays = model_files.read_model(folder)
        found = features.Features(config).restore(settings["features"], arrays)
        return cls(found, arrays["weights"], float(settings["offset"]))


def fit_linear(
    comparisons: Sequence[Comparison], config: Any
) -> tuple[LinearModel, dict[str, float]]:
    """Returns the linear model of least penalised loss, and measures of the fit."""
    prompts = [data.plain_text(item.prompt) for item in comparisons for _ in item.responses]
    responses = [response for item in comparisons for response in item.responses]
    found = features.Features(config).fit(prompts, responses)
    x, blocks = found.transform(prompts, responses), blocks_of(comparisons)
    l2 = choose_l2(x, comparisons) if config.l2 is None else config.l2
    weights = minimise(x, blocks, l2, np.zeros(x.shape[1]), GRADIENT)
    scores = x @ weights
    measures = {
        "loss": comparison_loss(scores, blocks)[0],
        "accuracy": implied_accuracy(scores, blocks),
        "comparisons": float(len(comparisons)),
        "l2": l2,
    }
    return LinearModel(found, weights, float(scores.mean())), measures


def minimise(x: Any, blocks: Sequence[Block], l2: float, start: Array, gradient: float) -> Array:
    """Returns the weights of least penalised mean loss, to the largest component of a gradient."""
    from scipy.optimize import minimize

    def objective(weights: Array) -> tuple[float, Array]:
        loss, slopes = comparison_loss(x @ weights, blocks)
        return loss + 0.5 * l2 * float(weights @ weights), x.T @ slopes + l2 * weights

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": gradient, "maxcor": 30}
    weights: Array = minimize(objective, start, method="L-BFGS-B", jac=True, options=options).x
    return weights


def choose_l2(x: Any, comparisons: Sequence[Comparison]) -> float:
    """Returns the penalty of least held-out loss, over five parts that share no prompt.

    Where there are too few prompts, parts are of comparisons; of one comparison there is none.
    """
    count = min(NUM_FOLDS, len(comparisons))
    if count < 2:
        return L2_GRID[len(L2_GRID) // 2]
    prompts = [data.plain_text(item.prompt) for item in comparisons]
    if len(set(prompts)) < count:
        prompts = ["\n".join(item.responses) for item in comparisons]
    parts = features.assign_folds(prompts, prompts, count)
    losses = np.zeros(len(L2_GRID))
    for part in np.unique(parts):
        held_out = parts == part
        if not held_out.all():
            losses += [*held_out_losses(x, comparisons, held_out)]
    return float(L2_GRID[int(losses.argmin())])


def held_out_losses(
    x: Any, comparisons: Sequence[Comparison], held_out: np.ndarray[Any, np.dtype[np.bool_]]
) -> Iterator[float]:
    """Yields the summed loss of the comparisons held out, for each penalty from the strongest.

    Each fit starts from the one before. Once two in a row were worse than the best, the rest are
    taken to be worse still.
    """
    sizes = [len(item.responses) for item in comparisons]
    of_row = np.repeat(held_out, sizes)
    train = [item for item, out in zip(comparisons, held_out, strict=True) if not out]
    test = [item for item, out in zip(comparisons, held_out, strict=True) if out]
    x_train, x_test = x[~of_row], x[of_row]
    blocks, test_blocks = blocks_of(train), blocks_of(test)
    weights, best, worse = np.zeros(x.shape[1]), np.inf, 0
    for l2 in L2_GRID:
        if worse == 2:
            yield np.inf
            continue
        weights = minimise(x_train, blocks, l2, weights, ROUGH_GRADIENT)
        loss = len(test) * comparison_loss(x_test @ weights, test_blocks)[0]
        worse = worse + 1 if loss > best else 0
        best = min(best, loss)
        yield loss
