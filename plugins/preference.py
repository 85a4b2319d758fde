"""A score from comparisons: Bradley-Terry of pairs, Plackett-Luce of rankings.

Responses y_1, ..., y_K to one prompt, best first, with scores s_k:

    -log P(y_1 > ... > y_K) = sum_{k < K} [ log sum_{j >= k} exp(s_j) - s_k ]

Plackett 1975, doi:10.2307/2346567. Of two it is -log sigmoid(s_1 - s_2), Bradley and Terry 1952,
doi:10.2307/2334029, as in Ouyang et al. 2022, arXiv:2203.02155, eq. 1. A pair's `margin` is taken
from s_1 first, Touvron et al. 2023, arXiv:2307.09288, eq. 2. A share e of the comparisons may be
turned round (`label_smoothing`): (1 - e) L(ranking) + e L(ranking reversed); of a tie one half is.

Without a policy s = w . features, fitted in float64 by minimising

    mean of the losses + l2 / 2 |w|^2

to a gradient of 1e-8, which is scikit-learn's LogisticRegression(C=1 / (l2 * rows)) without
intercept on differences of features. With a policy s is the number that a language model with a
scalar head says, and the loss is the sum over comparisons divided by half the responses of the
minibatch. Scores are moved so that their mean over the responses learned from is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import data, features, model_files, scalar_model

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alignzoo")

Array = np.ndarray[Any, np.dtype[np.float64]]
L2_GRID = tuple(10.0 ** (-power / 2) for power in range(1, 13))  # strongest first
NUM_FOLDS = 5
GRADIENT, ROUGH_GRADIENT = 1e-8, 1e-5  # largest component at which a fit ends
TRUTHS = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}


class PreferenceConfig(features.FeatureConfig, scalar_model.ScalarConfig):
    """Options of `preference`."""

    policy: str | None = Field(
        None,
        description="language model to train: model folder, hub id or 'tiny'; without one, a "
        "linear model of features",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of the comparisons that are taken to be reversed"
    )
    margin_scale: float = Field(
        1.0,
        ge=0,
        description="the chosen score should lie above the rejected one by this times the column "
        "`margin`, where there is one",
    )
    l2: float | None = Field(
        None,
        ge=0,
        description="weight of |w|^2 / 2 beside the mean loss, without a policy; default the best "
        "of cross-validation by prompt",
    )

    @model_validator(mode="after")
    def _a_policy_is_trained(self) -> PreferenceConfig:
        if "hidden" in self.features:
            raise ValueError(
                "features has 'hidden'; preference trains the policy itself, so leave it out"
            )
        return self


@dataclass(frozen=True)
class Comparison:
    """Two or more responses to one prompt, best first; `reversed` is the share turned round."""

    prompt: Any
    responses: tuple[str, ...]
    margin: float
    reversed: float
    where: str


class Preference(az.RewardModel):
    """Learns from pairs and rankings which of several responses is better."""

    Config = PreferenceConfig
    learns_from = ("preferences", "rankings")

    def __init__(self, config: PreferenceConfig) -> None:
        super().__init__(config)
        self._model: Any = None  # a ScalarModel or a LinearModel

    @property
    def model(self) -> Any:
        """The linear model, or the language model with a scalar head.

        Raises:
            ConfigError: nothing has been learned or loaded.
        """
        if self._model is None:
            raise az.ConfigError(
                "preference has learned nothing yet; train it with `alignzoo train-reward "
                "preference` and give its folder as the reward"
            )
        return self._model

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from preferences or rankings.

        Returns:
            loss (of a comparison, without the penalty), accuracy (over the pairs that the rows
            imply, ties of a score one half), comparisons, and without a policy l2.
        Raises:
            DataError: a row is wrong, or all pairs are ties.
        """
        comparisons = self._read(data)
        if all(item.reversed == 0.5 for item in comparisons):
            raise az.DataError("every pair is a tie, so there is nothing to learn.")
        if self.config.policy is None:
            self._model, measures = fit_linear(comparisons, self.config)
        else:
            self._model, measures = fit_language_model(comparisons, self.config, seed)
        return measures

    def _read(self, source: Any) -> list[Comparison]:
        kind, rows = data.read_judgements(source, self.learns_from)
        convert = self._pair if kind == "preferences" else self._ranking
        return [convert(row) for row in rows]

    def _pair(self, row: Any) -> Comparison:
        texts = tuple(data.plain_text(answer) for answer in (row.chosen, row.rejected))
        if read_tie(row):
            return Comparison(row.prompt, texts, 0.0, 0.5, row.where)
        margin = self.config.margin_scale * read_margin(row)
        return Comparison(row.prompt, texts, margin, self.config.label_smoothing, row.where)

    def _ranking(self, row: Any) -> Comparison:
        texts = tuple(data.plain_text(answer) for answer in row.completions)
        return Comparison(row.prompt, texts, 0.0, self.config.label_smoothing, row.where)

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        model = self.model
        if not len(responses):
            return []
        if isinstance(model, LinearModel):
            return model.score(prompts, responses)
        return score_texts(model, prompts, responses)

    def save(self, folder: Path) -> None:
        self.model.save(folder)

    def load(self, folder: Path) -> None:
        kind = LinearModel if self.config.policy is None else scalar_model.ScalarModel
        self._model = kind.load(folder, self.config)


def read_tie(row: Any) -> bool:
    """Returns whether the column `tie` says that neither response is better."""
    value = row.columns.get("tie")
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise az.DataError(f"{row.where}: 'tie' is {value!r}; expected true or false.")
    return found


def read_margin(row: Any) -> float:
    """Returns the column `margin`, 0 where there is none."""
    value = row.columns.get("margin")
    if value is None or value == "":
        return 0.0
    try:
        margin = float(value) if isinstance(value, (Real, str)) else -1.0
    except ValueError:
        margin = -1.0
    if not 0 <= margin < float("inf"):
        raise az.DataError(
            f"{row.where}: 'margin' is {value!r}; expected a number from 0 up, how much better "
            "the chosen response is."
        )
    return margin


# -- a linear model of features ----------------------------------------------------------------


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
    def load(cls, folder: Path, config: PreferenceConfig) -> LinearModel:
        settings, arrays = model_files.read_model(folder)
        found = features.Features(config).restore(settings["features"], arrays)
        return cls(found, arrays["weights"], float(settings["offset"]))


def fit_linear(
    comparisons: Sequence[Comparison], config: PreferenceConfig
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


# -- a language model with a scalar head -------------------------------------------------------


def fit_language_model(
    comparisons: Sequence[Comparison], config: PreferenceConfig, seed: int
) -> tuple[scalar_model.ScalarModel, dict[str, float]]:
    """Returns the trained model, and measures of the last pass over the data."""
    model = scalar_model.ScalarModel.create(config, seed=seed)
    encoded = [
        model.encode([scalar_model.Text(c.prompt, (r,), c.where) for r in c.responses])
        for c in comparisons
    ]
    kept = [i for i, texts in enumerate(encoded) if all_differ(texts)]
    if len(kept) < len(encoded):
        lost = next(c for i, c in enumerate(comparisons) if i not in set(kept))
        logger.warning(
            "%d of %d comparisons are dropped: two of their responses are the same tokens once "
            "cut to %s (first: %s)",
            len(encoded) - len(kept),
            len(encoded),
            model.max_length,
            lost.where,
        )
    texts = [text for i in kept for text in encoded[i]]
    measures = model.fit(
        texts,
        ranking_loss,
        seed=seed,
        groups=[i for i in kept for _ in encoded[i]],
        columns={
            "margins": [comparisons[i].margin for i in kept for _ in encoded[i]],
            "reversed_share": [comparisons[i].reversed for i in kept for _ in encoded[i]],
        },
    )
    model.offset = float(np.mean(model.score(texts)))
    return model, {**measures, "comparisons": float(len(kept))}


def all_differ(texts: Sequence[scalar_model.EncodedText]) -> bool:
    """Returns whether no two texts are the same tokens."""
    return len({(*text.prompt_ids, -1, *text.response_ids) for text in texts}) == len(texts)


def ranking_loss(batch: az.RolloutBatch, values: Tensor) -> az.Loss:
    """Returns the loss of rankings whose rows stand side by side, best first."""
    scores, total, count = values.sum(1), values.new_zeros(()), 0
    wins = gaps = values.new_zeros(())
    pairs = 0
    for rows in tables_of(batch.group_ids):  # [G, K]
        share, given = batch.reversed_share[rows[:, 0]], scores[rows]
        moved = given.clone()
        moved[:, 0] = given[:, 0] - batch.margins[rows[:, 0]]
        losses = (1 - share) * ranking_losses(moved) + share * ranking_losses(moved.flip(1))
        total, count = total + losses.sum(), count + len(rows)
        above = pair_gaps(given.detach()[share < 0.5])
        wins = wins + (above > 0).sum() + 0.5 * (above == 0).sum()
        gaps, pairs = gaps + above.sum(), pairs + above.numel()
    metrics = {
        "loss": (total.detach(), count),
        "accuracy": (wins, pairs),
        "margin": (gaps, pairs),
    }
    return az.Loss(total / (batch.num_sequences / 2), metrics)


def tables_of(group_ids: Tensor) -> Iterator[Tensor]:
    """Yields, for each length K, the rows [G, K] of the groups of that length."""
    import torch

    sizes = torch.unique_consecutive(group_ids, return_counts=True)[1]
    starts = sizes.cumsum(0) - sizes
    for size in sizes.unique().tolist():
        yield starts[sizes == size][:, None] + torch.arange(size, device=group_ids.device)


def ranking_losses(scores: Tensor) -> Tensor:
    """Returns -log P of each ranking, [G] from scores [G, K]."""
    later = scores.flip(1).logcumsumexp(1).flip(1)
    losses: Tensor = (later - scores)[:, :-1].sum(1)
    return losses


def pair_gaps(scores: Tensor) -> Tensor:
    """Returns how far every response lies above every worse one, [G, K (K - 1) / 2]."""
    import torch

    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    return scores[:, first] - scores[:, second]


def score_texts(
    model: scalar_model.ScalarModel, prompts: Sequence[Any], responses: Sequence[str]
) -> list[float]:
    """Returns the model's number for each response."""
    texts = [
        scalar_model.Text(prompt, (response,))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return [float(numbers[0]) for numbers in model.score(model.encode(texts))]


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `preference`."""
    return [
        az.RewardSpec(
            id="preference",
            target="alignzoo.plugins.preference:Preference",
            summary="Bradley-Terry of pairs, Plackett-Luce of rankings",
            paper="doi:10.2307/2334029",
            revision=1,
        )
    ]
