"""Learns from ratings: ridge regression or a decision tree on features; the score is the rating.

`model="ridge"` finds the one minimum of

    1/2 sum_i (rating_i - w . x_i - b)^2 + l2 / 2 * |w|^2

by conjugate gradients (scikit-learn's sparse_cg, to 1e-10). `model="tree"` grows a regression tree
(CART) whose leaves hold the mean rating of their rows. Unless given, l2 and the tree's depth are
chosen by cross-validation over prompts, as those with the least squared error.

`rater` names the column that says who rated. Raters use a scale each in their own way: where rater
j gives r to a response, its worth on a common scale is taken to be

    x = alpha_j + beta_j * (r - mean_j) / std_j

With nothing rated twice, alpha is 0 and beta is 1: raters are assumed to have seen responses that
are alike on the whole. Where raters share responses, alpha and beta minimise the squared
disagreement about them,

    sum_(i, j) (x_ij - mean_j' x_ij')^2 + penalty * sum_j n_j (alpha_j^2 + (beta_j - 1)^2),

at a mean alpha of 0 and a mean beta of 1 (weighted by what a rater says at all) within each group
of raters that are linked by shared responses. The penalty is the variance left when there is none,
over PRIOR_VARIANCE: raters who agree but for their scales are put on one exactly, and noisy ones
move little. x times the raters' common standard deviation plus the common mean is what is learned.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import alignzoo as az
from alignzoo import features

logger = logging.getLogger("alignzoo")

L2_GRID = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
L2_UNTRIED = 1.0  # where there is too little to cross-validate
PATIENCE = 2
DEPTH_GRID = (2, 4, 6, 9, 13, 19)
DEPTH_UNTRIED = 4
PRIOR_VARIANCE = 0.25  # of a rater's alpha and beta, in standard deviations of their ratings
MIN_FREE = 3  # ratings beyond what determines everything, to tell how noisy raters are
UNKNOWN_NOISE = 0.5  # variance taken with fewer, of standardised ratings
MIN_LINKED = 3  # shared ratings, below which alpha and beta fit them whatever the others say
EXACT = 1e-9  # a penalty too small to bend what the ratings determine
MIN_SLOPE = 0.05  # a rater whose ratings say no more than this keeps beta = 1


class RegressionConfig(features.FeatureConfig):
    """Options of `regression`."""

    model: Literal["ridge", "tree"] = Field(
        "ridge", description="linear with an L2 penalty, or a decision tree"
    )
    l2: float | None = Field(
        None,
        gt=0,
        description="ridge: weight of |w|^2 / 2 beside the summed loss; default by "
        "cross-validation",
    )
    max_depth: int | None = Field(
        None,
        ge=1,
        le=64,
        description="tree: questions on the way to a leaf; default by cross-validation",
    )
    min_samples_leaf: int = Field(5, ge=1, description="tree: rows of a leaf at least")
    max_columns: int = Field(
        2000, ge=1, description="tree: columns it may ask about, the best correlated ones"
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the cross-validation")
    rater: str | None = Field(
        None, description="column that says who rated; scales and offsets of raters are removed"
    )


class Regression(features.FeatureReward):
    """Scores a response by the rating it is expected to get."""

    Config = RegressionConfig
    learns_from = ("ratings",)

    def fit(self, data: Any, *, seed: int = 0) -> Mapping[str, float]:
        """Learns from ratings.

        Args:
            seed: decides between splits of a tree that are equally good.
        Returns:
            num_rows, unrated rows left out (num_unrated), the l2 or max_depth in use, root mean
            squared error held out in cross-validation (cv_rmse; absent where there was none) and
            on the rows learned from (rmse), in the scale of the ratings.
        Raises:
            DataError: fewer than two ratings that differ, or a row does not say who rated.
        """
        every = az.data.read_ratings(data)
        rows = [row for row in every if not math.isnan(row.rating)]
        if len(rows) < len(every):
            logger.warning("%d rows have no rating and are left out", len(every) - len(rows))
        ratings = np.array([row.rating for row in rows])
        if len(rows) < 2 or ratings.min() == ratings.max():
            raise az.DataError(
                f"{every[0].where}: {len(rows)} of {len(every)} rows have a rating"
                f"{', all the same' if len(rows) > 1 else ''}; expected at least two that differ."
            )
        if self.config.rater is not None:
            ratings = _on_one_scale(rows, ratings, self.config.rater)
        prompts, responses = [row.prompt for row in rows], [row.completion for row in rows]
        x = self.learn_features(prompts, responses)
        fit = _fit_ridge if self.config.model == "ridge" else _fit_tree
        parts = self.assign_folds(prompts, responses)
        self.arrays, measures = fit(self.config, x, ratings, parts, seed)
        errors = self._predict(x) - ratings
        return {
            "num_rows": float(len(rows)),
            "num_unrated": float(len(every) - len(rows)),
            **measures,
            "rmse": float(np.sqrt(np.mean(errors**2))),
        }

    def score(
        self, prompts: Sequence[Any], responses: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float]:
        """Returns the expected rating of each response; ridge may leave the scale's ends."""
        found: list[float] = self._predict(self.features.transform(prompts, responses)).tolist()
        return found

    def _predict(self, x: Any) -> NDArray[np.float64]:  # [B]
        arrays = self.arrays
        if "weights" in arrays:
            return np.asarray(x @ arrays["weights"][0] + arrays["intercept"][0])
        return arrays["value"][_leaves(arrays, x)]


def _fit_ridge(
    config: RegressionConfig,
    x: Any,
    ratings: NDArray[np.float64],
    parts: NDArray[np.int64],
    seed: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Returns weights [1, F] and intercept [1], and the l2 and error they were chosen for."""

    def fit(l2: float, x: Any, ratings: NDArray[np.float64], tolerance: float = 1e-4) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=l2, solver="sparse_cg", tol=tolerance, max_iter=10_000).fit(x, ratings)

    l2, measures = _choose(L2_GRID, config.l2, L2_UNTRIED, fit, x, ratings, parts)
    model = fit(l2, x, ratings, 1e-10)
    arrays = {"weights": model.coef_.reshape(1, -1), "intercept": np.array([model.intercept_])}
    return arrays, {"l2": l2, **measures}


def _fit_tree(
    config: RegressionConfig,
    x: Any,
    ratings: NDArray[np.float64],
    parts: NDArray[np.int64],
    seed: int,
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Returns a tree's nodes, and the depth and error they were chosen for.

    Node n asks whether column feature[n] is at most threshold[n], in float32; yes is left[n], no
    right[n], and a leaf has feature -1 and a value.
    """
    from sklearn.tree import DecisionTreeRegressor

    columns = _best_columns(x, ratings, config.max_columns)
    asked = np.asarray(x[:, columns].todense(), dtype=np.float32)

    def fit(depth: int, x: Any, ratings: NDArray[np.float64]) -> Any:
        return DecisionTreeRegressor(
            max_depth=depth, min_samples_leaf=config.min_samples_leaf, random_state=seed
        ).fit(x, ratings)

    depth, measures = _choose(
        DEPTH_GRID, config.max_depth, DEPTH_UNTRIED, fit, asked, ratings, parts
    )
    tree = fit(depth, asked, ratings).tree_
    is_leaf = tree.children_left < 0
    arrays = {
        "feature": np.where(is_leaf, -1, columns[np.maximum(tree.feature, 0)]),
        "threshold": np.where(is_leaf, 0.0, tree.threshold),
        "left": tree.children_left,
        "right": tree.children_right,
        "value": tree.value[:, 0, 0],
    }
    return arrays, {"max_depth": float(depth), **measures}


def _choose(
    grid: Sequence[Any],
    given: Any,
    untried: Any,
    fit: Any,
    x: Any,
    ratings: NDArray[np.float64],
    parts: NDArray[np.int64],
) -> tuple[Any, dict[str, float]]:
    """Returns the setting with the least squared error held out, and that error's root.

    The grid goes from simple to complex and is left after PATIENCE settings that were no better.
    """
    if given is not None or len(set(parts.tolist())) < 2:
        return given or untried, {}
    best, chosen, worse = math.inf, untried, 0
    for setting in grid:
        error = 0.0
        for part in sorted(set(parts.tolist())):
            inside = parts == part
            model = fit(setting, x[~inside], ratings[~inside])
            error += float(((model.predict(x[inside]) - ratings[inside]) ** 2).sum())
        worse = 0 if error < best else worse + 1
        if error < best:
            best, chosen = error, setting
        if worse == PATIENCE:
            break
    return chosen, {"cv_rmse": math.sqrt(best / len(ratings))}


def _best_columns(x: Any, ratings: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Returns the columns of highest squared correlation with the ratings, in their order."""
    n = x.shape[0]
    centred = ratings - ratings.mean()
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    covariance = np.asarray(x.T @ centred) / n
    strength = np.where(variance > 1e-12, covariance**2 / np.maximum(variance, 1e-12), 0.0)
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def _leaves(tree: Mapping[str, NDArray[Any]], x: Any) -> NDArray[np.int64]:
    """Returns the leaf each row of features ends in, [B]."""
    nodes = np.zeros(x.shape[0], dtype=np.int64)
    rows = np.flatnonzero(tree["feature"][nodes] >= 0)
    while len(rows):
        asked = tree["feature"][nodes[rows]]
        values = np.asarray(x[rows, asked]).ravel().astype(np.float32)
        is_left = values <= tree["threshold"][nodes[rows]]
        nodes[rows] = np.where(is_left, tree["left"][nodes[rows]], tree["right"][nodes[rows]])
        rows = rows[tree["feature"][nodes[rows]] >= 0]
    return nodes


def _on_one_scale(
    rows: Sequence[Any], ratings: NDArray[np.float64], column: str
) -> NDArray[np.float64]:
    """Returns the ratings without their raters' scales and offsets; see the module."""
    names = []
    for row in rows:
        if row.columns.get(column) is None:
            has = ", ".join(f"'{name}'" for name in row.columns) or "none"
            raise az.DataError(
                f"{row.where}: no '{column}' that says who rated; the other columns are {has}."
            )
        names.append(str(row.columns[column]))
    raters = np.unique(names, return_inverse=True)[1]
    texts = [f"{row.prompt!r}\n{row.completion!r}" for row in rows]
    items = np.unique(texts, return_inverse=True)[1]
    count = np.bincount(raters)  # n_j
    mean = np.bincount(raters, ratings) / count
    variance = np.bincount(raters, (ratings - mean[raters]) ** 2) / count
    spread = np.sqrt(variance)
    told = (ratings - mean[raters]) / np.where(spread > 0, spread, 1.0)[raters]
    alpha, beta = _link(raters, items, told)
    common_spread = math.sqrt(np.average(variance, weights=count))
    return ratings.mean() + common_spread * (alpha[raters] + beta[raters] * told)


def _link(
    raters: NDArray[np.int64], items: NDArray[np.int64], told: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns alpha and beta of each rater, [J] each, from standardised ratings of items."""
    num_raters = int(raters.max()) + 1
    shared = np.bincount(raters, told**2)[raters] > 1e-9  # who always says the same says nothing
    shared[shared] = _shared_items(raters[shared], items[shared])
    if not shared.any():
        return np.zeros(num_raters), np.ones(num_raters)
    raters, told = raters[shared], told[shared]
    items = np.unique(items[shared], return_inverse=True)[1]
    quadratic = _disagreement(raters, items, told, num_raters)
    groups = _groups(raters, items, num_raters)
    count = np.maximum(np.bincount(raters, minlength=num_raters), 1).astype(np.float64)
    says = _what_is_said(raters, told, groups, count)
    num_linked = len(set(raters.tolist()))
    num_groups = len(set(groups[raters].tolist()))
    free = len(told) - (items.max() + 1) - 2 * (num_linked - num_groups)
    noise = UNKNOWN_NOISE
    if free >= MIN_FREE:
        exact = _solve(quadratic, count, says, groups, EXACT)
        noise = float(exact @ (quadratic @ exact)) / free
    found = _solve(quadratic, count, says, groups, max(EXACT, noise / PRIOR_VARIANCE))
    alpha, beta = found[:num_raters], found[num_raters:]
    odd = beta < MIN_SLOPE
    if odd.any():
        logger.warning("%d of %d raters disagree with the others", odd.sum(), num_raters)
    return np.where(odd, 0.0, alpha), np.where(odd, 1.0, beta)


def _shared_items(raters: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns which ratings are of an item that several raters rated, [N]."""
    if len(items) == 0:
        return np.zeros(0, dtype=bool)
    pairs = np.unique(np.stack([items, raters]), axis=1)
    return np.bincount(pairs[0], minlength=items.max() + 1)[items] > 1


def _disagreement(
    raters: NDArray[np.int64],
    items: NDArray[np.int64],
    told: NDArray[np.float64],
    num_raters: int,
) -> Any:
    """Returns Q, sparse [2J, 2J]: v'Qv is the squared disagreement, v alphas and then betas."""
    from scipy.sparse import csr_matrix, diags

    rows = np.arange(len(told))
    design = csr_matrix(
        (
            np.concatenate([np.ones(len(told)), told]),
            (np.tile(rows, 2), np.concatenate([raters, raters + num_raters])),
        ),
        shape=(len(told), 2 * num_raters),
    )
    membership = csr_matrix((np.ones(len(told)), (rows, items)))  # [N, I]
    sums = membership.T @ design
    return design.T @ design - sums.T @ diags(1 / np.bincount(items)) @ sums


def _groups(
    raters: NDArray[np.int64], items: NDArray[np.int64], num_raters: int
) -> NDArray[np.int64]:
    """Returns which group of linked raters each is in, [J]."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    size = num_raters + int(items.max()) + 1
    links = csr_matrix((np.ones(len(raters)), (raters, items + num_raters)), shape=(size, size))
    found: NDArray[np.int64] = connected_components(links, directed=False)[1][:num_raters]
    return found


def _what_is_said(
    raters: NDArray[np.int64],
    told: NDArray[np.float64],
    groups: NDArray[np.int64],
    count: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Returns the weight of each rater's beta in the mean that is held at 1, [J].

    It is the squared deviation of the ratings linked. One with too few to contradict anybody has
    none: their beta could be anything and take up the mean, so that the others agreed at 0.
    """
    mean = np.bincount(raters, told, len(count)) / count
    squares = np.bincount(raters, (told - mean[raters]) ** 2, len(count))
    says = np.where((count >= MIN_LINKED) & (squares > 1e-9), squares, 0.0)
    nothing = np.bincount(groups, says)[groups] == 0
    return np.where(nothing, count, says)


def _solve(
    quadratic: Any,
    count: NDArray[np.float64],
    says: NDArray[np.float64],
    groups: NDArray[np.int64],
    penalty: float,
) -> NDArray[np.float64]:
    """Returns the alphas and betas [2J] that minimise disagreement and penalty; see the module."""
    from scipy.sparse import block_diag, bmat, csr_matrix, diags
    from scipy.sparse.linalg import spsolve

    num_raters = len(count)
    means = [csr_matrix((mass, (groups, np.arange(num_raters)))) for mass in (count, says)]
    constraint = block_diag(means)  # [2G, 2J]
    weight = diags(penalty * np.tile(count, 2))
    start = np.concatenate([np.zeros(num_raters), np.ones(num_raters)])
    system = bmat([[quadratic + weight, constraint.T], [constraint, None]], format="csc")
    wanted = np.concatenate([weight @ start, constraint @ start])
    found: NDArray[np.float64] = spsolve(system, wanted)[: 2 * num_raters]
    return found


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `regression`."""
    return [
        az.RewardSpec(
            id="regression",
            target="alignzoo.plugins.regression:Regression",
            summary="Expected rating, by ridge regression or a decision tree",
        )
    ]
