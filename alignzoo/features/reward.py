"""The base of rewards that learn from features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from alignzoo.data import plain_text
from alignzoo.errors import ConfigError, DataError
from alignzoo.features.config import FeatureConfig
from alignzoo.features.extractor import Features
from alignzoo.features.folds import assign_folds
from alignzoo.model_files import read_model, write_model
from alignzoo.reward import Prompt, RewardModel


class FeatureReward(RewardModel):
    """A reward whose scores are computed from the features of a prompt and a response.

    A subclass's `fit` calls `learn_features` and puts what it learns into `settings`, which JSON
    can hold, and `arrays`; both are saved with the features.
    """

    Config: ClassVar[type[FeatureConfig]] = FeatureConfig

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        self.settings: dict[str, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self._features: Features | None = None

    @property
    def features(self) -> Features:
        """The fitted features.

        Raises:
            ConfigError: the reward is not trained.
        """
        if self._features is None:
            raise ConfigError(
                f"this reward ({type(self).__name__}) is not trained: give the folder that "
                "`alignzoo train-reward` wrote, or call fit first."
            )
        return self._features

    def learn_features(self, prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> Any:
        """Fits the features to rows and returns them, csr_matrix [B, F]."""
        features = Features(self.config)
        found = features.fit_transform(prompts, responses)
        self._features = features
        return found

    def assign_folds(
        self, prompts: Sequence[Prompt], responses: Sequence[Prompt]
    ) -> NDArray[np.int64]:
        """Returns the part of each row in a cross-validation with the option `folds`, [B]."""
        asked, texts = map(plain_text, prompts), map(plain_text, responses)
        return assign_folds(list(asked), list(texts), self.config.folds)

    def linear_scores(
        self, prompts: Sequence[Prompt], responses: Sequence[Prompt]
    ) -> NDArray[np.float64]:
        """Returns features @ weights + intercept, [B, K]; `arrays` has weights [K, F] and [K].

        Each row is summed by itself in one order, so it is the same to the bit in any batch.
        """
        found = self.features.transform(prompts, responses) @ self.arrays["weights"].T
        scores: NDArray[np.float64] = np.asarray(found) + self.arrays["intercept"]
        return scores

    def save(self, folder: Path) -> None:
        """Writes the features and what was learned from them."""
        settings, arrays = self.features.state()
        write_model(folder, {**self.settings, "features": settings}, {**arrays, **self.arrays})

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote.

        Raises:
            DataError: a file is missing or damaged, or the features are others than the options'.
        """
        settings, arrays = read_model(folder)
        try:
            state = settings.pop("features")
            self._features = Features(self.config).restore(state, arrays)
        except (KeyError, AttributeError) as error:
            raise DataError(f"{folder}: no reward on features was saved there ({error}).") from None
        self.settings = settings
        self.arrays = {k: v for k, v in arrays.items() if not k.startswith("features.")}
        num_columns = self._features.num_runs + len(arrays["features.mean"])
        weights = self.arrays.get("weights")
        if weights is not None and weights.shape[-1] != num_columns:
            raise DataError(
                f"{folder}: there are {weights.shape[-1]} weights for {num_columns} features; the "
                "files do not belong together."
            )
