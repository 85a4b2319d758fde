"""Learns from written criticism; scores responses that nobody has criticised yet.

Criticism says what is wrong, which a rating does not. While learning there is feedback; while
scoring there is the response alone. So three things are learned, each by ridge regression on the
features x of prompt and response, f being the criticism in numbers:

    1. what critics would write:      f^ = W x + a             from rows with feedback
    2. what it means for the rating:  rating = v . m f^ + u . x + b     from rows with a rating
    3. the score is that of the response alone:  w . x + c,  w = u + m W' v

With `within_prompts`, step 2 sees the ratings and features of each prompt's responses less their
mean: what makes a prompt easy or hard is then no reason, and only prompts with several rated
responses teach. Rows with feedback and no rating teach step 1 as well. In step 2, f^ of a row comes
from a fit of step 1 to other prompts, so that it is as good, and as bad, as it will be for a new
response. l2 of both steps and the weight m of the criticism are chosen by cross-validation over
prompts; m = 0, the response's features alone, is what others must be better than by a standard
error, and is all there is with `use_feedback=false`.

f is TF-IDF of the feedback's words (runs of one and two), or with `encoder` the mean of a
transformers model's last states, brought down to `components` principal components, of total
variance 1. Each has its own l2 in step 1: what nothing foretells is foretold as its mean. Stacked
generalisation is Wolpert's (1992); learning from what is there in training only is Vapnik's
privileged information (2009).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import alignzoo as az
from alignzoo import features

L2_GRID = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
L2_UNTRIED = 1.0  # where there is too little to cross-validate
PATIENCE = 4
MIX_GRID = (0.0, 1.0, 3.0, 10.0, 30.0)
MOST_WORDS = 5000  # runs of words that count in feedback
MOST_EXACT = 1200  # rows that are solved by eigenvalues
MIN_FEEDBACK = 5  # rows with feedback, below which it teaches nothing
Array = NDArray[np.float64]


class TextFeedbackConfig(features.FeatureConfig):
    """Options of `text_feedback`."""

    use_feedback: bool = Field(True, description="false learns from the ratings alone")
    encoder: str | None = Field(
        None,
        description="folder or hub id of a transformers model that reads the feedback; "
        "default TF-IDF of its words",
    )
    components: int = Field(
        32, ge=1, le=1024, description="columns that feedback is brought down to"
    )
    within_prompts: bool = Field(
        False, description="learn only from how ratings of one prompt's responses differ"
    )
    l2: float | None = Field(
        None,
        gt=0,
        description="weight of |w|^2 / 2 beside the summed loss of the ratings; default by "
        "cross-validation",
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the cross-validation")


class _Tried(NamedTuple):
    """What a weight of the criticism led to: squared errors held out [n], features and f^."""

    mix: float
    l2: Array
    squares: Array
    columns: Any


class TextFeedback(features.FeatureReward):
    """Scores a response by the rating that what critics would write of it leads to."""

    Config = TextFeedbackConfig
    learns_from = ("text_feedback",)

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from feedback and ratings.

        Args:
            seed: of the principal components, where they are many.
        Returns:
            num_rows, num_rated, num_criticised; l2 and mix (m) in use; root mean squared error of
            the rating held out in cross-validation (cv_rmse), the same with m = 0
            (cv_rmse_alone), and on the rows learned from (rmse); feedback_r2, the share of the
            feedback's variance that the features foretell, held out; absent without feedback.
        Raises:
            DataError: fewer than two ratings that differ.
        """
        rows = az.data.read_text_feedback(data)
        ratings = np.array([row.rating for row in rows])
        rated = np.flatnonzero(~np.isnan(ratings))
        if len(rated) < 2 or len(set(ratings[rated].tolist())) < 2:
            raise az.DataError(
                f"{rows[0].where}: {len(rated)} of {len(rows)} rows have a rating; expected at "
                "least two that differ, as they say what feedback is worth."
            )
        prompts, responses = [row.prompt for row in rows], [row.completion for row in rows]
        x = self.learn_features(prompts, responses)
        parts = self.assign_folds(prompts, responses)
        written = np.array([i for i, row in enumerate(rows) if row.feedback.strip()], dtype=int)
        measures = {"num_rows": float(len(rows)), "num_rated": float(len(rated))}
        measures["num_criticised"] = float(len(written))
        self.settings, self.arrays = {}, {}
        foretold = None
        if self.config.use_feedback and len(written) >= MIN_FEEDBACK:
            texts = [rows[i].feedback for i in written]
            foretold = self._learn_criticism(x, texts, written, parts, seed, measures)
        prompts = [az.data.plain_text(row.prompt) for row in rows]
        self._learn_ratings(x, foretold, ratings, rated, prompts, parts, measures)
        return measures

    def _learn_criticism(
        self,
        x: Any,
        texts: list[str],
        written: NDArray[np.int64],
        parts: NDArray[np.int64],
        seed: int,
        measures: dict[str, float],
    ) -> Array | None:
        """Returns f^ of every row by a fit to other prompts, [B, C]; None of a constant f."""
        feedback, axes, words = _encode_feedback(self.config, texts, seed)
        if feedback.shape[1] == 0:
            return None  # the same was written everywhere
        targets = np.full((len(parts), feedback.shape[1]), np.nan)
        targets[written] = feedback
        l2, foretold = _choose_l2(None, x, targets, written, parts)
        error = float(((foretold[written] - feedback) ** 2).mean())
        measures["feedback_r2"] = 1 - error / float((feedback**2).mean())
        weights, intercept = _Ridge(x[written]).solve(l2, feedback)
        self.settings = {"words": words}
        self.arrays = {"criticism": weights, "criticism_intercept": intercept, "axes": axes}
        return foretold

    def _learn_ratings(
        self,
        x: Any,
        foretold: Array | None,
        ratings: Array,
        rated: NDArray[np.int64],
        prompts: list[str],
        parts: NDArray[np.int64],
        measures: dict[str, float],
    ) -> None:
        """Learns the rating from the features and, as far as it helps, from f^."""
        from scipy.sparse import csr_matrix, hstack

        x, ratings, parts = x[rated], ratings[rated], parts[rated]
        centre = _centring([prompts[i] for i in rated], self.config.within_prompts)
        targets, every = centre @ ratings, np.arange(len(rated))
        tried = []
        for mix in MIX_GRID if foretold is not None else (0.0,):
            more = [] if foretold is None else [csr_matrix(mix * foretold[rated])]
            columns = centre @ csr_matrix(hstack([x, *more], "csr"))
            l2, said = _choose_l2(self.config.l2, columns, targets[:, None], every, parts)
            tried.append(_Tried(mix, l2, (said[:, 0] - targets) ** 2, columns))
        mix, l2, squares, columns = _best(tried)
        measures["cv_rmse_alone"] = math.sqrt(float(tried[0].squares.mean()))
        weights = _Ridge(columns).solve(l2, targets[:, None])[0]
        direct = weights[:, : x.shape[1]]
        if foretold is not None:  # whose own intercept is the same for every response
            direct = direct + mix * weights[:, x.shape[1] :] @ self.arrays["criticism"]
        intercept = np.array([(ratings - x @ direct[0]).mean()])
        errors = centre @ (x @ direct[0] + intercept - ratings)
        self.arrays |= {"weights": np.ascontiguousarray(direct), "intercept": intercept}
        measures |= {"l2": float(l2[0]), "mix": mix}
        measures["cv_rmse"] = math.sqrt(float(squares.mean()))
        measures["rmse"] = math.sqrt(float((errors**2).mean()))

    def score(
        self, prompts: Sequence[Any], responses: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns the expected rating of each response, in the scale of the ratings."""
        found: list[float] = self.linear_scores(prompts, responses)[:, 0].tolist()
        return found

    def expected_criticism(
        self, prompts: Sequence[Any], responses: Sequence[Any], *, count: int = 5
    ) -> list[list[str]]:
        """Returns the words critics are most likely to add for each response, B lists.

        Those whose expected TF-IDF exceeds its mean over the feedback learned from the most.

        Raises:
            ConfigError: it learned without feedback, or by an encoder, which knows no words.
        """
        if not self.settings.get("words"):
            raise az.ConfigError(
                "this reward knows no words of criticism: it learned without feedback, or with an "
                "encoder."
            )
        x = self.features.transform(prompts, responses)
        foretold = x @ self.arrays["criticism"].T + self.arrays["criticism_intercept"]
        words = self.settings["words"]
        return [
            [words[i] for i in np.argsort(-row, kind="stable")[:count] if row[i] > 0]
            for row in foretold @ self.arrays["axes"]
        ]


def _encode_feedback(
    config: TextFeedbackConfig, texts: list[str], seed: int
) -> tuple[Array, Array, list[str]]:
    """Returns feedback in numbers [B, C]; axes [C, F] that lead back to words; F words.

    The words are empty where an encoder made the numbers.
    """
    from sklearn.decomposition import PCA

    columns, words = (
        _tf_idf(texts) if config.encoder is None else (_read_by(config.encoder, texts), [])
    )
    count = min(config.components, len(texts) - 1, columns.shape[1])
    if count == 0 or not np.ptp(columns, axis=0).any():
        return np.zeros((len(texts), 0)), np.zeros((0, columns.shape[1])), words
    solver = "randomized" if count < min(columns.shape) // 2 else "full"
    found = PCA(count, svd_solver=solver, random_state=seed)
    scores = found.fit_transform(columns)
    return scores / math.sqrt(float((scores**2).sum(1).mean())), found.components_, words


def _tf_idf(texts: list[str]) -> tuple[Array, list[str]]:
    """Returns TF-IDF of words and pairs of words in two texts at least, [B, F], and those."""
    block = features.Ngrams("words", longest=2, min_df=2, most=MOST_WORDS)
    return block.fit_transform(texts).toarray(), block.names()


def _read_by(encoder: str, texts: list[str]) -> Array:
    """Returns the mean last state of an encoder over each text's tokens, [B, D]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        model, tokenizer = (
            AutoModel.from_pretrained(encoder),
            AutoTokenizer.from_pretrained(encoder),
        )
    except Exception as error:  # transformers raises many types; each means there is no model here
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise az.ConfigError(
            f"encoder '{encoder}' is no model that transformers can load: {reason[0]}"
        ) from None
    model = model.float().eval()
    longest = getattr(model.config, "max_position_embeddings", None) or 512
    means = []
    for text in texts:  # one at a time, so that no padding can matter
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        with torch.inference_mode():
            states = model(**{k: tokens[k] for k in ("input_ids", "attention_mask")})
        means.append(states.last_hidden_state[0].double().mean(0).numpy())
    return np.stack(means)


def _best(tried: Sequence[_Tried]) -> _Tried:
    """Returns the one of least error, or the first, which is without criticism, where the gain is
    within one standard error of nothing: choosing among several finds some gain in noise.
    """
    best = min(tried, key=lambda one: float(one.squares.mean()))
    gain = tried[0].squares - best.squares
    is_sure = gain.mean() > gain.std() / math.sqrt(len(gain))
    return best if is_sure else tried[0]


def _centring(prompts: list[str], within_prompts: bool) -> Any:
    """Returns the sparse matrix [B, B] that takes each prompt's mean off its rows, or nothing."""
    from scipy.sparse import csr_matrix, diags, identity

    if not within_prompts:
        return identity(len(prompts), format="csr")
    groups = np.unique(prompts, return_inverse=True)[1]
    membership = csr_matrix((np.ones(len(groups)), (np.arange(len(groups)), groups)))  # [B, G]
    means = diags(1 / np.bincount(groups)) @ membership.T
    return csr_matrix(identity(len(prompts)) - membership @ means)


class _Ridge:
    """Least squares with an L2 penalty on n rows of features, for any penalty and targets.

    Few rows are solved exactly, by the eigenvalues of their inner products, which serve every
    penalty; many by conjugate gradients (scikit-learn's sparse_cg).
    """

    def __init__(self, x: Any) -> None:
        self.x = x
        self.mean = np.asarray(x.mean(0)).ravel()  # [F]
        self.eigen: Any = None
        if x.shape[0] <= MOST_EXACT:
            products = (x @ x.T).toarray()
            products -= products.mean(0)
            products -= products.mean(1, keepdims=True)
            self.eigen = np.linalg.eigh(products)

    def solve(self, l2: Array, targets: Array, *, tolerance: float = 1e-10) -> tuple[Array, Array]:
        """Returns weights [C, F] and intercepts [C]; from penalties [C] and targets [n, C]."""
        mean = targets.mean(0)
        if self.eigen is None:
            from sklearn.linear_model import Ridge

            model = Ridge(alpha=l2, solver="sparse_cg", tol=tolerance, max_iter=10_000)
            weights = np.atleast_2d(model.fit(self.x, targets).coef_)
        else:
            values, vectors = self.eigen
            scaled = vectors.T @ (targets - mean) / (np.maximum(values, 0)[:, None] + l2)
            dual = vectors @ scaled  # [n, C]
            weights = (self.x.T @ dual).T - np.outer(dual.sum(0), self.mean)
        return weights, mean - weights @ self.mean


def _choose_l2(
    given: float | None, x: Any, targets: Array, known: NDArray[np.int64], parts: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Returns for each column of targets the l2 of least squared error held out, [C], and
    what it says of every row, [B, C].

    Each row's is said by a fit to the `known` rows of other parts, or to all where no other part
    has any. The grid is left after PATIENCE values that were better for no column.
    """
    num_columns = targets.shape[1]
    fits = []
    for part in sorted(set(parts.tolist())):
        others = known[parts[known] != part]
        others = others if len(others) else known
        fits.append((parts == part, others, _Ridge(x[others])))
    errors, chosen = np.full(num_columns, np.inf), np.full(num_columns, L2_UNTRIED)
    best, num_worse = np.zeros(targets.shape), 0
    for l2 in L2_GRID if given is None else (given,):
        said = np.zeros(targets.shape)
        for inside, others, ridge in fits:
            penalty = np.full(num_columns, l2)
            weights, intercept = ridge.solve(penalty, targets[others], tolerance=1e-6)
            said[inside] = x[inside] @ weights.T + intercept
        found = ((said[known] - targets[known]) ** 2).sum(0)
        is_better = found < errors
        best[:, is_better], chosen[is_better] = said[:, is_better], l2
        errors = np.minimum(errors, found)
        num_worse = 0 if is_better.any() else num_worse + 1
        if num_worse == PATIENCE:
            break
    return chosen, best


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `text_feedback`."""
    return [
        az.RewardSpec(
            id="text_feedback",
            target="alignzoo.plugins.text_feedback:TextFeedback",
            summary="Expected rating, learned from written criticism",
        )
    ]
