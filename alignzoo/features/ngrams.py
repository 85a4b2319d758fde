"""TF-IDF of runs of words or characters, by scikit-learn, kept as vocabulary and idf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignzoo.features.words import WORD


class Ngrams:
    """TF-IDF of the runs of one to `longest` words or characters in a response.

    weight = (1 + log count) * idf, idf = 1 + log((1 + B) / (1 + responses that hold the run)),
    and each response's weights have Euclidean length 1. Small and capital letters are alike.
    Runs of characters do not cross white space, whose edge counts as one space.
    """

    def __init__(
        self, unit: Literal["words", "characters"], *, longest: int, min_df: int, most: int
    ) -> None:
        self.options: dict[str, Any] = {
            "analyzer": "word" if unit == "words" else "char_wb",
            "token_pattern": WORD if unit == "words" else None,
            "ngram_range": (1, longest),
            "sublinear_tf": True,
            "norm": None,
            "dtype": np.float64,
        }
        self.min_df, self.most = min_df, most
        self.vectorizer: Any = None  # None where no run is known

    def fit_transform(self, responses: Sequence[str]) -> Any:
        """Learns which runs there are and how rare, and returns `transform(responses)`.

        Where no run comes in `min_df` responses, all runs count.
        """
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import TfidfVectorizer

        for min_df in (self.min_df, 1):
            if min_df <= len(responses):
                vectorizer = TfidfVectorizer(**self.options, min_df=min_df, max_features=self.most)
                found = _fit_transform(vectorizer, responses)
                if found is not None:
                    self.vectorizer = vectorizer
                    return _unit_rows(found)
        self.vectorizer = None
        return csr_matrix((len(responses), 0))

    def transform(self, responses: Sequence[str]) -> Any:
        """Returns a csr_matrix [B, F] of float64."""
        from scipy.sparse import csr_matrix

        if self.vectorizer is None or not responses:
            return csr_matrix((len(responses), len(self.names())))
        return _unit_rows(self.vectorizer.transform(responses))

    def names(self) -> list[str]:
        """Returns the runs, by column."""
        return [] if self.vectorizer is None else list(self.vectorizer.get_feature_names_out())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns vocabulary and idf."""
        idf = np.zeros(0) if self.vectorizer is None else np.asarray(self.vectorizer.idf_)
        return {"vocabulary": self.names()}, {"idf": idf}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes what `state` returned."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary, idf = settings["vocabulary"], arrays["idf"]
        if len(vocabulary) != len(idf):
            raise ValueError(f"{len(vocabulary)} runs and {len(idf)} idf")
        self.vectorizer = None
        if vocabulary:
            numbered = {run: number for number, run in enumerate(vocabulary)}
            self.vectorizer = TfidfVectorizer(**self.options, vocabulary=numbered)
            self.vectorizer.idf_ = idf


def _fit_transform(vectorizer: Any, responses: Sequence[str]) -> Any:
    """Returns the rows, or None where nothing is left to count, for which scikit-learn raises."""
    try:
        return vectorizer.fit_transform(responses)
    except ValueError as error:
        if "empty vocabulary" in str(error) or "no terms remain" in str(error):
            return None
        raise


def _unit_rows(weights: Any) -> Any:
    """Returns the rows scaled to length 1, each summed in the order of its columns.

    scikit-learn's own order differs between fit_transform and transform, and so would the bits.
    """
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize

    found = csr_matrix(weights)
    found.sort_indices()
    return normalize(found, copy=False)
