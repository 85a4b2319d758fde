"""All features of a response as one sparse row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.data import plain_text
from alignzoo.errors import DataError
from alignzoo.features.config import FeatureConfig
from alignzoo.features.hidden import HiddenStates
from alignzoo.features.length import COLUMNS as LENGTH_COLUMNS
from alignzoo.features.length import lengths
from alignzoo.features.ngrams import Ngrams
from alignzoo.features.overlap import COLUMNS as OVERLAP_COLUMNS
from alignzoo.features.overlap import Overlap
from alignzoo.reward import Prompt

Arrays = dict[str, NDArray[Any]]

# One penalty serves runs, which are mostly 0 in rows of length 1, and dense columns. At 1 the dense
# ones are nearly free beside them, and on human preferences they crowd out what words say.
DENSE_DEVIATION = 0.3


class Features:
    """The features that a configuration asks for, [B, F]: runs first, then dense columns.

    Runs of words and of characters are TF-IDF of the response. Dense columns (overlap, length,
    hidden states) have mean 0 and standard deviation `DENSE_DEVIATION` over the rows of `fit`; one
    that is constant there is 0 everywhere. `fit` and `transform` are free of chance, and a row of
    `transform` is the same to the bit whatever other rows there are.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        ngrams = {"min_df": config.min_df, "most": config.max_features}
        self._blocks: dict[str, Any] = {
            "words": Ngrams("words", longest=config.word_ngrams, **ngrams),
            "characters": Ngrams("characters", longest=config.character_ngrams, **ngrams),
            "overlap": Overlap(),
            "length": None,
            "hidden": None if config.policy is None else HiddenStates(config.policy),
        }
        self._mean: NDArray[np.float64] | None = None  # of the dense columns; None before fit
        self._scale = np.zeros(0)

    def fit(self, prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> Features:
        """Learns vocabularies, rarity and scales from B rows, and returns itself.

        Args:
            prompts: B texts or chats.
            responses: B texts, or chats, whose contents are joined by line breaks.
        Raises:
            DataError: there is no row, or the number of prompts and responses differs.
        """
        self.fit_transform(prompts, responses)
        return self

    def fit_transform(self, prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> Any:
        """Does `fit`, and returns `transform` of the same rows for half of the work."""
        if not len(responses):
            raise DataError("there is no row to learn features from.")
        texts, asked = _texts(prompts, responses)
        parts = [self._blocks[name].fit_transform(texts) for name in self._runs]
        if "overlap" in self.config.kinds:
            self._blocks["overlap"].fit(asked)
        if "hidden" in self.config.kinds:
            self._blocks["hidden"].fit()
        dense = self._dense(prompts, asked, texts)
        spread = dense.std(0)
        self._mean = dense.mean(0)
        varies = spread > 1e-9 * (1 + np.abs(self._mean))  # a constant has a spread of rounding
        self._scale = np.where(varies, DENSE_DEVIATION / np.where(varies, spread, 1.0), 0.0)
        return self._join(parts, dense)

    def transform(self, prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> Any:
        """Returns the features as a csr_matrix [B, F] of float64.

        Raises:
            DataError: the number of prompts and responses differs.
        """
        if self._mean is None:
            raise RuntimeError("the features are not fitted; call fit or restore first")
        texts, asked = _texts(prompts, responses)
        parts = [self._blocks[name].transform(texts) for name in self._runs]
        return self._join(parts, self._dense(prompts, asked, texts))

    @property
    def num_runs(self) -> int:
        """How many columns are TF-IDF of runs; they come first, and are 0 or above."""
        return sum(len(self._blocks[name].names()) for name in self._runs)

    @property
    def _runs(self) -> list[str]:
        return [name for name in self.config.kinds if name in ("words", "characters")]

    def _join(self, parts: list[Any], dense: NDArray[np.float64]) -> Any:
        """Returns sparse blocks and scaled dense columns as one csr_matrix."""
        from scipy.sparse import csr_matrix, hstack

        assert self._mean is not None
        scaled = csr_matrix((dense - self._mean) * self._scale)
        return csr_matrix(hstack([*parts, scaled], format="csr"))

    def _dense(
        self, prompts: Sequence[Prompt], asked: list[str], texts: list[str]
    ) -> NDArray[np.float64]:
        """Returns the dense columns before they are scaled, [B, K]."""
        parts = [np.zeros((len(texts), 0))]
        for name in self.config.kinds:
            if name == "overlap":
                parts.append(self._blocks[name].transform(asked, texts))
            elif name == "length":
                parts.append(lengths(texts))
            elif name == "hidden":
                parts.append(self._blocks[name].transform(prompts, texts))
        return np.concatenate(parts, axis=1)

    def names(self) -> list[str]:
        """Returns a name for each column, such as "words: not good", by kind."""
        columns: list[str] = []
        for name in self.config.kinds:
            if name == "overlap":
                found = list(OVERLAP_COLUMNS)
            elif name == "length":
                found = list(LENGTH_COLUMNS)
            else:
                found = self._blocks[name].names()
            columns += [f"{name}: {column}" for column in found]
        return columns

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Returns what `fit` learned: settings that JSON can hold, and arrays by name."""
        assert self._mean is not None
        settings: dict[str, Any] = {"kinds": list(self.config.kinds)}
        arrays: Arrays = {"features.mean": self._mean, "features.scale": self._scale}
        for name in self.config.kinds:
            if name != "length":
                settings[name], own = self._blocks[name].state()
                arrays |= {f"features.{name}.{key}": value for key, value in own.items()}
        return settings, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
        """Takes what `state` returned, and returns itself; further arrays are passed over.

        Raises:
            DataError: it is not the state of features with these options.
        """
        kinds = list(self.config.kinds)
        if settings.get("kinds") != kinds:
            raise DataError(f"the saved features are {settings.get('kinds')}; expected {kinds}.")
        try:
            for name in kinds:
                if name != "length":
                    own = f"features.{name}."
                    self._blocks[name].restore(
                        settings[name],
                        {k.removeprefix(own): v for k, v in arrays.items() if k.startswith(own)},
                    )
            self._mean, self._scale = arrays["features.mean"], arrays["features.scale"]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"the saved features are damaged ({type(error).__name__}: {error})."
            ) from None
        return self


def _texts(prompts: Sequence[Prompt], responses: Sequence[Prompt]) -> tuple[list[str], list[str]]:
    """Returns responses and prompts as text."""
    if len(prompts) != len(responses):
        raise DataError(f"there are {len(prompts)} prompts and {len(responses)} responses.")
    return [plain_text(item) for item in responses], [plain_text(item) for item in prompts]
