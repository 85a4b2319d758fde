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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignzoo.plugins.preference.comparisons import Comparison, read_margin, read_tie
from alignzoo.plugins.preference.language_model import fit_language_model, score_texts
from alignzoo.plugins.preference.linear import LinearModel, fit_linear
from pydantic import Field, model_validator

import alignzoo as az
from alignzoo import data, features, scalar_model


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
