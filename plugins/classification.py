"""Learns from labels such as good, medium and bad; the score is the expected value of the class.

    score = sum_k p_k value_k,   p = softmax(W x + b),   x the features of prompt and response

`model="logistic"` finds the one minimum of

    sum_i weight_i * -log p(label_i) + l2 / 2 * |W|^2

by Newton's method (scikit-learn's newton-cg, to a gradient of 1e-9). `model="svm"` fits one linear
machine with squared hinge loss per class against the rest (one in all for two classes), and turns
their outputs into probabilities by a multinomial logistic regression on outputs for rows that were
not trained on: Platt's method, with one matrix where he has one slope. Either way what remains is
W and b.

With `contrast`, a run of words or characters is multiplied by

    max_k log q_k - min_k log q_k,   q_k the share of the run among the runs in rows of class k,

before either, and W by the same after: what classes use alike is penalised more. It is the
weighting of Wang and Manning (2012), from naive Bayes, which they have for two classes.

Unless given, l2 is chosen among GRID by cross-validation over prompts, as that with the highest
likelihood of the labels held out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

import alignzoo as az
from alignzoo import features

QUALITY = {"bad": 0.0, "medium": 0.5, "good": 1.0}
TRUTH = ({"0": 0.0, "1": 1.0}, {"false": 0.0, "true": 1.0})
GRID = {"logistic": (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), "svm": (30.0, 10.0, 3.0, 1.0, 0.3)}
PATIENCE = 2
L2_UNTRIED = 1.0  # where there is too little to cross-validate


class ClassificationConfig(features.FeatureConfig):
    """Options of `classification`."""

    model: Literal["logistic", "svm"] = Field(
        "logistic", description="logistic regression, or linear support vector machines"
    )
    classes: dict[str, float] | None = Field(
        None,
        min_length=2,
        description='value of each class, as JSON: {"rude": 0, "kind": 1}; default bad 0, '
        "medium 0.5, good 1, or labels 0 and 1, or false and true",
    )
    class_weight: Literal["none", "balanced"] = Field(
        "none", description="every row weighs the same, or every class does"
    )
    contrast: bool = Field(True, description="runs that the classes use alike are penalised more")
    l2: float | None = Field(
        None,
        gt=0,
        description="weight of |W|^2 / 2 beside the summed loss; default by cross-validation",
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the cross-validation")

    @field_validator("classes")
    @classmethod
    def _values_differ(cls, classes: dict[str, float] | None) -> dict[str, float] | None:
        if classes is not None and len(set(classes.values())) < 2:
            raise ValueError("every class has the same value, so no score could differ")
        return classes


class Fitted(NamedTuple):
    """Logits are features @ weights.T + intercept: [K, F] and [K]; how they were found."""

    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    l2: float
    cv_loss: float | None


class _Rows(NamedTuple):
    """Features [B, F], the first num_runs to be contrasted; labels, weights and parts [B]."""

    x: Any
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    parts: NDArray[np.int64]
    num_runs: int

    def take(self, which: NDArray[np.bool_]) -> _Rows:
        """Returns some of the rows."""
        chosen = (column[which] for column in (self.x, self.labels, self.weights, self.parts))
        return _Rows(*chosen, self.num_runs)


class Classification(features.FeatureReward):
    """Scores a response by the value of the class it is expected to be in."""

    Config = ClassificationConfig
    learns_from = ("classes",)

    @property
    def class_values(self) -> Mapping[str, float]:
        """The value of each class that was found in the data."""
        return dict(self.settings.get("classes", {}))

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from class labels. Nothing is drawn, so `seed` changes nothing.

        Returns:
            num_rows, num_classes, l2, the mean log loss in nats of rows held out in
            cross-validation (cv_loss; absent where there was none), and mean log loss and
            accuracy on the rows learned from (loss, accuracy).
        Raises:
            DataError: labels without a value (names those found), or of one class only.
        """
        rows = az.data.read_classes(data)
        values = _class_values(rows, self.config.classes)
        numbers = {name: number for number, name in enumerate(values)}
        labels = np.array([numbers[row.label] for row in rows])
        prompts, responses = [row.prompt for row in rows], [row.completion for row in rows]
        x = self.learn_features(prompts, responses)
        weights = _row_weights(labels, self.config.class_weight)
        num_runs = self.features.num_runs if self.config.contrast else 0
        rows_given = _Rows(x, labels, weights, self.assign_folds(prompts, responses), num_runs)
        fitted = _fit(self.config, rows_given)
        self.settings = {"classes": values}
        self.arrays = {"weights": fitted.weights, "intercept": fitted.intercept}
        probabilities = _softmax(x @ fitted.weights.T + fitted.intercept)
        held_out = {} if fitted.cv_loss is None else {"cv_loss": fitted.cv_loss}
        return {
            "num_rows": float(len(rows)),
            "num_classes": float(len(values)),
            "l2": fitted.l2,
            **held_out,
            "loss": _log_loss(probabilities, labels, weights),
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
        }

    def score(
        self, prompts: Sequence[Any], responses: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns the expected value of each response's class, between the classes' values."""
        values = list(self.class_values.values())
        return [
            sum(p * value for p, value in zip(row, values, strict=True))
            for row in self._probabilities(prompts, responses)
        ]

    def class_probabilities(
        self, prompts: Sequence[Any], responses: Sequence[Any]
    ) -> dict[str, list[float]]:
        """Returns the probability of each class by name, each of length B."""
        rows = self._probabilities(prompts, responses)
        return {name: [row[k] for row in rows] for k, name in enumerate(self.class_values)}

    def _probabilities(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[list[float]]:
        return _softmax(self.linear_scores(prompts, responses)).tolist()


def _class_values(rows: Sequence[Any], classes: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the classes found in the data and their values, from low to high value."""
    counts = Counter(row.label for row in rows)
    if classes is None:
        classes = next((truth for truth in TRUTH if set(counts) <= set(truth)), QUALITY)
    unknown = next((row for row in rows if row.label not in classes), None)
    found = ", ".join(f"'{name}' ({count})" for name, count in counts.most_common(20))
    if unknown is not None:
        known = ", ".join(f"'{name}'" for name in classes)
        example = json.dumps(dict.fromkeys(list(counts)[:3], 0.0), ensure_ascii=False)
        raise az.DataError(
            f"{unknown.where}: the label '{unknown.label}' is none of {known}. The data has "
            f"{found}; give each a value, higher is better: --classes '{example}'."
        )
    if len(counts) < 2:
        raise az.DataError(
            f"{rows[0].where}: every row has the label {found}; expected rows of at least two "
            "classes."
        )
    known_order = sorted(classes, key=lambda name: (classes[name], name))
    return {name: float(classes[name]) for name in known_order if name in counts}


def _row_weights(labels: NDArray[np.int64], class_weight: str) -> NDArray[np.float64]:
    """Returns the weight of each row, [B], of mean 1."""
    if class_weight == "none":
        return np.ones(len(labels))
    counts = np.bincount(labels)
    return np.asarray(len(labels) / (len(counts) * counts[labels]), dtype=np.float64)


def _contrast(rows: _Rows) -> NDArray[np.float64]:
    """Returns what each column is multiplied with, [F]: see the module; 1 for dense columns.

    Counts are of rows that hold the run, one more in each class.
    """
    scale = np.ones(rows.x.shape[1])
    if rows.num_runs:
        held = (rows.x[:, : rows.num_runs] > 0).astype(np.float64)
        counts = np.stack(
            [1 + np.asarray(held[rows.labels == k].sum(0)).ravel() for k in set(rows.labels)]
        )
        logs = np.log(counts / counts.sum(1, keepdims=True))
        scale[: rows.num_runs] = logs.max(0) - logs.min(0)
    return scale


def _fit(config: ClassificationConfig, rows: _Rows) -> Fitted:
    """Chooses l2 unless it is given, and calibrates what is no probability yet."""
    is_svm = config.model == "svm"
    grid = GRID[config.model] if config.l2 is None else (config.l2,)
    best_loss, l2, calibration, num_worse = None, config.l2 or L2_UNTRIED, None, 0
    if _can_hold_out(rows) and (is_svm or config.l2 is None):
        for candidate in grid:
            outputs = _held_out(_model(config.model, candidate, 1e-4), rows)
            scale = _calibrate(outputs, rows) if is_svm else None
            logits = outputs if scale is None else outputs @ scale[0].T + scale[1]
            loss = _log_loss(_softmax(logits), rows.labels, rows.weights)
            num_worse += 1
            if best_loss is None or loss < best_loss:
                best_loss, l2, calibration, num_worse = loss, candidate, scale, 0
            if num_worse == PATIENCE:
                break  # from simple to complex, the likelihood rises and then falls
    coefficients, intercept = _solve(_model(config.model, l2, 1e-9), rows)
    if is_svm and calibration is None:
        calibration = _calibrate(np.asarray(rows.x @ coefficients.T + intercept), rows)
    if calibration is not None:
        slope, offset = calibration
        coefficients, intercept = slope @ coefficients, slope @ intercept + offset
    return Fitted(np.ascontiguousarray(coefficients), intercept, l2, best_loss)


def _can_hold_out(rows: _Rows) -> bool:
    """Whether every class is left when any part is held out."""
    parts, every = set(rows.parts.tolist()), set(rows.labels.tolist())
    return len(parts) > 1 and all(
        set(rows.labels[rows.parts != part].tolist()) == every for part in parts
    )


def _solve(model: Any, rows: _Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the coefficients [K, F] and intercepts [K] that an estimator finds."""
    from scipy.sparse import diags

    scale = _contrast(rows)
    model.fit(rows.x @ diags(scale), rows.labels, sample_weight=rows.weights)
    coefficients, intercept = _linear(model)
    return coefficients * scale, intercept


def _model(kind: str, l2: float, tolerance: float) -> Any:
    """Returns an estimator of scikit-learn that is not fitted yet."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if kind == "logistic":
        return LogisticRegression(C=1 / l2, solver="newton-cg", tol=tolerance, max_iter=1000)
    return LinearSVC(C=1 / l2, dual=False, tol=max(tolerance, 1e-6), max_iter=10_000)


def _linear(model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns an estimator's coefficients and intercepts, one row per class.

    For two classes scikit-learn has one row, of the second class; the first class has zeros.
    """
    coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    return coefficients, intercept


def _held_out(model: Any, rows: _Rows) -> NDArray[np.float64]:
    """Returns the outputs for each row of an estimator fitted to the other parts, [B, K]."""
    outputs = np.zeros((len(rows.labels), rows.labels.max() + 1))
    for part in sorted(set(rows.parts.tolist())):
        inside = rows.parts == part
        coefficients, intercept = _solve(model, rows.take(~inside))
        outputs[inside] = rows.x[inside] @ coefficients.T + intercept
    return outputs


def _calibrate(
    outputs: NDArray[np.float64], rows: _Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns slope [K, K] and offset [K] that turn outputs [B, K] into logits."""
    model = _model("logistic", 1.0, 1e-9)
    return _linear(model.fit(outputs, rows.labels, sample_weight=rows.weights))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns probabilities [B, K]; each row by itself, as its value must not depend on others."""
    rows = []
    for row in logits.tolist():
        highest = max(row)
        powers = [math.exp(value - highest) for value in row]
        total = sum(powers)
        rows.append([power / total for power in powers])
    return np.array(rows, dtype=np.float64).reshape(logits.shape)


def _log_loss(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> float:
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(np.average(-np.log(np.maximum(chosen, 1e-300)), weights=weights))


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `classification`."""
    return [
        az.RewardSpec(
            id="classification",
            target="alignzoo.plugins.classification:Classification",
            summary="Expected value of a class such as good or bad, learned from labels",
        )
    ]
