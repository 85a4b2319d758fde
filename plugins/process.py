"""A score for each step of a response, learned from ratings of steps, and one for the whole.

A step is what stands between two markers, such as line breaks. Its score sees the prompt, the steps
before it and the step itself, never what follows. With `target="probability"` ratings y are from 0
(wrong) to 1 (right), such as labels, and

    loss = -y log p - (1 - y) log(1 - p),    step score p = sigmoid(s),

Uesato et al. 2022, arXiv:2211.14275; Lightman et al. 2023, arXiv:2305.20050, whose solution score
is the product of p over steps; the smallest p is that of Wang et al. 2023, arXiv:2312.08935. With
`target="rating"` ratings are any numbers, the loss is (s - y)^2 / 2 of ratings scaled to mean 0 and
standard deviation 1, and the step score is s on the scale of the ratings.

Without a policy s = w . features(prompt and earlier steps, step) + b, fitted in float64 by
minimising the mean loss + l2 / 2 |w|^2 to a gradient of 1e-8. With one s is what a language model
with a scalar head says where the step's marker ends; steps without a rating are read, not scored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

import alignzoo as az
from alignzoo import data, features, model_files, scalar_model

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alignzoo")

Array = np.ndarray[Any, np.dtype[np.float64]]
L2_GRID = tuple(10.0 ** (-power / 2) for power in range(1, 13))  # strongest first
NUM_FOLDS = 5
GRADIENT, ROUGH_GRADIENT = 1e-8, 1e-5  # largest component at which a fit ends


class ProcessConfig(features.FeatureConfig, scalar_model.ScalarConfig):
    """Options of `process`."""

    policy: str | None = Field(
        None,
        description="language model to train: model folder, hub id or 'tiny'; without one, a "
        "linear model of features",
    )
    marker: str = Field(
        r"\n",
        min_length=1,
        validate_default=True,
        description=r"what parts the steps of a response; \n is a line break, \t a tab",
    )
    reduce: Literal["min", "mean", "product", "last"] = Field(
        "min", description="how the scores of its steps make the score of a response"
    )
    target: Literal["probability", "rating"] = Field(
        "probability",
        description="what a step's score is: the probability that it is right, from ratings from "
        "0 to 1, or its rating on any scale",
    )
    l2: float | None = Field(
        None,
        ge=0,
        description="weight of |w|^2 / 2 beside the mean loss, without a policy; default the best "
        "of cross-validation by prompt",
    )

    @field_validator("marker")
    @classmethod
    def _as_typed(cls, marker: str) -> str:
        return marker.replace(r"\n", "\n").replace(r"\t", "\t")

    @model_validator(mode="after")
    def _check_combinations(self) -> ProcessConfig:
        if "hidden" in self.features:
            raise ValueError(
                "features has 'hidden'; process trains the policy itself, so leave it out"
            )
        if self.reduce == "product" and self.target == "rating":
            raise ValueError("reduce is 'product', which is of probabilities; target is 'rating'")
        return self


class Scale(NamedTuple):
    """What ratings are scaled by to learn them: mean 0 and standard deviation 1."""

    mean: float
    std: float

    def down(self, rating: Any) -> Any:
        """Returns ratings as they are learned."""
        return (rating - self.mean) / self.std


class Process(az.RewardModel):
    """Scores every step, and a response by its steps."""

    Config = ProcessConfig
    learns_from = ("steps",)

    def __init__(self, config: ProcessConfig) -> None:
        super().__init__(config)
        self._model: Any = None  # a ScalarModel or a LinearModel

    # -- learning -------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The linear model, or the language model with a scalar head.

        Raises:
            ConfigError: nothing has been learned or loaded.
        """
        if self._model is None:
            raise az.ConfigError(
                "process has learned nothing yet; train it with `alignzoo train-reward process` "
                "and give its folder as the reward"
            )
        return self._model

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from ratings of steps.

        Returns:
            loss (of a step, without the penalty), steps (that have a rating), of probabilities
            accuracy (a rating over one half against a score over one half, equality one half), and
            without a policy l2.
        Raises:
            DataError: a row is wrong, a step holds the marker, a rating is not from 0 to 1 where
                probabilities are learned, or no step has a rating.
        """
        rows = self._read(data)
        rated = np.array([y for row in rows for y in row.ratings if not math.isnan(y)])
        if not len(rated):
            raise az.DataError("no step has a rating, so there is nothing to learn.")
        scale = Scale(0.0, 1.0)
        if self.config.target == "rating":
            scale = Scale(float(rated.mean()), float(rated.std()) or 1.0)
        fit_rows = self._fit_linear if self.config.policy is None else self._fit_language_model
        return {**fit_rows(rows, scale, seed), "steps": float(len(rated))}

    def _read(self, source: Any) -> list[Any]:
        _, rows = data.read_judgements(source, self.learns_from)
        for row in rows:
            self._check(row)
        unrated = sum(math.isnan(y) for row in rows for y in row.ratings)
        if unrated:
            logger.warning("%d steps have no rating and are read as context alone", unrated)
        return rows

    def _check(self, row: Any) -> None:
        marker = self.config.marker
        for place, (step, rating) in enumerate(zip(row.steps, row.ratings, strict=True)):
            if marker in step.strip():
                raise az.DataError(
                    f"{row.where}: step {place} holds the marker {marker!r}, so its response would "
                    "be parted elsewhere; set marker to what stands between steps alone."
                )
            if self.config.target == "probability" and not (0 <= rating <= 1 or math.isnan(rating)):
                raise az.DataError(
                    f"{row.where}: step {place} has the rating {rating:g}; expected 0 (wrong) to 1 "
                    "(right). Set target to 'rating' to learn ratings on any scale."
                )

    def _fit_linear(self, rows: Sequence[Any], scale: Scale, seed: int) -> dict[str, float]:
        rated = [item for row in rows for item in rated_steps(row, self.config.marker)]
        prompts, contexts, steps, ratings = map(list, zip(*rated, strict=True))
        found = features.Features(self.config).fit(contexts, steps)
        x, y = found.transform(contexts, steps), scale.down(np.array(ratings))
        loss, l2 = LOSSES[self.config.target], self.config.l2
        if l2 is None:
            l2 = choose_l2(x, y, loss, features.assign_folds(prompts, steps, NUM_FOLDS))
        weights = minimise(x, y, loss, l2, np.zeros(x.shape[1] + 1), GRADIENT)
        intercept = scale.std * weights[-1] + scale.mean
        self._model = LinearModel(found, np.append(scale.std * weights[:-1], intercept))
        numbers = x @ weights[:-1] + weights[-1]
        measures = {"loss": float(loss(numbers, y)[0].mean()), "l2": l2}
        if self.config.target == "probability" and (y != 0.5).any():
            right = np.sign(numbers) * np.sign(y - 0.5)
            measures["accuracy"] = float((0.5 + 0.5 * right)[y != 0.5].mean())
        return measures

    def _fit_language_model(self, rows: Sequence[Any], scale: Scale, seed: int) -> dict[str, float]:
        model = scalar_model.ScalarModel.create(self.config, seed=seed)
        texts = [self._text(row.prompt, row.steps, row.where) for row in rows]
        measures = model.fit(
            model.encode(texts),
            LOSS_TERMS[self.config.target],
            seed=seed,
            targets=[
                [UNRATED if math.isnan(y) else scale.down(y) for y in row.ratings] for row in rows
            ],
        )
        model.rescale(scale.std, scale.mean)
        self._model = model
        return measures

    def _text(self, prompt: Any, steps: Sequence[str], where: str = "data") -> scalar_model.Text:
        """Returns steps as segments, each with its marker, where its number is read."""
        segments = tuple(step.strip() + self.config.marker for step in steps)
        return scalar_model.Text(prompt, segments, where)

    # -- scoring --------------------------------------------------------------------------------

    def step_scores(self, prompts: Sequence[Any], responses: Sequence[str]) -> list[list[float]]:
        """Returns the score of every step of each response; a blank response is one blank step."""
        model = self.model
        if not len(responses):
            return []
        steps = [self._steps(response) for response in responses]
        if isinstance(model, LinearModel):
            found = model.score(prompts, steps, self.config.marker)
        else:
            texts = [self._text(p, own) for p, own in zip(prompts, steps, strict=True)]
            found = model.score(model.encode(texts))
        return [[self._step_score(number) for number in numbers] for numbers in found]

    def _steps(self, response: str) -> list[str]:
        parts = [part.strip() for part in response.split(self.config.marker)]
        return [part for part in parts if part] or [""]

    def _step_score(self, number: float) -> float:
        if self.config.target == "rating":
            return number
        return 1 / (1 + math.exp(-number)) if number > -700 else 0.0

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        reduce = REDUCTIONS[self.config.reduce]
        return [reduce(scores) for scores in self.step_scores(prompts, responses)]

    # -- files ----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        self.model.save(folder)

    def load(self, folder: Path) -> None:
        kind = LinearModel if self.config.policy is None else scalar_model.ScalarModel
        self._model = kind.load(folder, self.config)


REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "product": math.prod,
    "last": lambda scores: scores[-1],
}


# -- a linear model of features ----------------------------------------------------------------


def with_context(prompt: Any, steps: Sequence[str], marker: str) -> tuple[list[str], list[str]]:
    """Returns what each step answers, the prompt and the steps before it, and the steps."""
    stripped = [step.strip() for step in steps]
    asked = data.plain_text(prompt)
    return [marker.join([asked, *stripped[:place]]) for place in range(len(steps))], stripped


def rated_steps(row: Any, marker: str) -> Iterator[tuple[str, str, str, float]]:
    """Yields prompt, prompt with the steps before, step and rating of the steps that have one."""
    contexts, steps = with_context(row.prompt, row.steps, marker)
    for context, step, rating in zip(contexts, steps, row.ratings, strict=True):
        if not math.isnan(rating):
            yield data.plain_text(row.prompt), context, step, rating


def logistic_loss(numbers: Array, targets: Array) -> tuple[Array, Array]:
    """Returns the cross-entropy of each step [N], and its slope."""
    losses = np.logaddexp(0, numbers) - targets * numbers
    return losses, 1 / (1 + np.exp(-np.clip(numbers, -700, None))) - targets


def squared_loss(numbers: Array, targets: Array) -> tuple[Array, Array]:
    """Returns half the squared error of each step [N], and its slope."""
    return 0.5 * (numbers - targets) ** 2, numbers - targets


NumpyLoss = Callable[[Array, Array], tuple[Array, Array]]
LOSSES: Mapping[str, NumpyLoss] = {"probability": logistic_loss, "rating": squared_loss}


class LinearModel:
    """s = w . features + b."""

    def __init__(self, found: Any, weights: Array) -> None:
        self.features, self.weights = found, weights

    def score(
        self, prompts: Sequence[Any], steps: Sequence[Sequence[str]], marker: str
    ) -> list[list[float]]:
        """Returns the number of every step, the same to the bit whatever other rows there are."""
        contexts, flat = [], []
        for prompt, own in zip(prompts, steps, strict=True):
            asked, answered = with_context(prompt, own, marker)
            contexts += asked
            flat += answered
        x = self.features.transform(contexts, flat)
        numbers = iter(x @ self.weights[:-1] + self.weights[-1])
        return [[float(next(numbers)) for _ in own] for own in steps]

    def save(self, folder: Path) -> None:
        settings, arrays = self.features.state()
        about = {"features": settings}
        model_files.write_model(folder, about, {**arrays, "weights": self.weights})

    @classmethod
    def load(cls, folder: Path, config: ProcessConfig) -> LinearModel:
        settings, arrays = model_files.read_model(folder)
        found = features.Features(config).restore(settings["features"], arrays)
        return cls(found, arrays["weights"])


def minimise(x: Any, y: Array, loss: NumpyLoss, l2: float, start: Array, gradient: float) -> Array:
    """Returns weights, the intercept last, of least penalised mean loss."""
    from scipy.optimize import minimize

    def objective(weights: Array) -> tuple[float, Array]:
        losses, slopes = loss(x @ weights[:-1] + weights[-1], y)
        penalty = 0.5 * l2 * float(weights[:-1] @ weights[:-1])
        slope = np.append(x.T @ slopes / len(y) + l2 * weights[:-1], slopes.mean())
        return float(losses.mean()) + penalty, slope

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": gradient, "maxcor": 30}
    weights: Array = minimize(objective, start, method="L-BFGS-B", jac=True, options=options).x
    return weights


def choose_l2(x: Any, y: Array, loss: NumpyLoss, parts: Any) -> float:
    """Returns the penalty of least held-out loss; of one prompt alone, the middle of the grid."""
    held_out = [parts == part for part in np.unique(parts)]
    if len(held_out) < 2:
        return L2_GRID[len(L2_GRID) // 2]
    losses = np.zeros(len(L2_GRID))
    for out in held_out:
        weights = np.zeros(x.shape[1] + 1)
        x_train, x_test, y_train, y_test = x[~out], x[out], y[~out], y[out]
        for place, l2 in enumerate(L2_GRID):
            weights = minimise(x_train, y_train, loss, l2, weights, ROUGH_GRADIENT)
            losses[place] += loss(x_test @ weights[:-1] + weights[-1], y_test)[0].sum()
    return float(L2_GRID[int(losses.argmin())])


# -- a language model with a scalar head -------------------------------------------------------

UNRATED = -1e9  # stands for no rating, where numbers must be finite


def step_terms(batch: az.RolloutBatch, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the numbers and targets of the rated steps at hand, [N] each."""
    rated = batch.response_mask & (batch.segment_targets > UNRATED / 2)
    return values[rated], batch.segment_targets[rated]


def probability_loss(batch: az.RolloutBatch, values: Tensor) -> az.Loss:
    """Returns the cross-entropy of the rated steps, over the number of steps."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    numbers, targets = step_terms(batch, values)
    total = binary_cross_entropy_with_logits(numbers, targets, reduction="sum")
    clear = targets != 0.5
    right = 0.5 + 0.5 * numbers.detach().sign() * (targets - 0.5).sign()
    metrics = {
        "loss": (total.detach(), len(targets)),
        "accuracy": (right[clear].sum(), clear.sum()),
    }
    return az.Loss(total / batch.num_tokens, metrics)


def rating_loss(batch: az.RolloutBatch, values: Tensor) -> az.Loss:
    """Returns half the squared error of the rated steps, over the number of steps."""
    numbers, targets = step_terms(batch, values)
    total = 0.5 * (numbers - targets).square().sum()
    return az.Loss(total / batch.num_tokens, {"loss": (total.detach(), len(targets))})


LOSS_TERMS: Mapping[str, scalar_model.ScalarLoss] = {
    "probability": probability_loss,
    "rating": rating_loss,
}


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `process`."""
    return [
        az.RewardSpec(
            id="process",
            target="alignzoo.plugins.process:Process",
            summary="One score per step, from ratings of steps",
            paper="arXiv:2305.20050",
            revision=1,
        )
    ]
