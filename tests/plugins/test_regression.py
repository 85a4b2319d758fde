"""`regression`: the closed form of ridge, scikit-learn's tree, and raters put on one scale."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignzoo.plugins.regression import Regression, RegressionConfig, _on_one_scale

from alignzoo.config import build_config
from alignzoo.data import Rating, read_ratings
from alignzoo.errors import ConfigError, DataError
from alignzoo.features import assign_folds

WORTH = {"kind": 2.0, "clear": 1.0, "vague": -1.0, "rude": -3.0}


def make(**options: Any) -> Regression:
    return Regression(build_config(RegressionConfig, options, "regression"))


def rows(count: int = 80, *, noise: float = 0.2, seed: int = 0) -> list[dict[str, Any]]:
    """Returns responses rated by the worth of the words in them."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        words = [word for word in WORTH if generator.random() < 0.5]
        filler = generator.choice(["one", "two", "three", "four"], size=8 - len(words)).tolist()
        rating = sum(WORTH[word] for word in words) + noise * generator.normal()
        text = " ".join(generator.permutation([*words, *filler]).tolist())
        found.append({"prompt": f"q{i}", "completion": text, "rating": rating})
    return found


def scores_of(reward: Regression, *responses: str) -> list[float]:
    return reward.score([""] * len(responses), responses)


def rated(ratings: np.ndarray, raters: np.ndarray, items: np.ndarray) -> list[Rating]:
    """Returns the ratings of N items by raters, as rows that say who rated."""
    triples = zip(ratings.tolist(), raters.tolist(), items.tolist(), strict=True)
    return [
        Rating("q", f"response {item}", rating, {"rater": f"r{rater}"}, f"data[{i}]")
        for i, (rating, rater, item) in enumerate(triples)
    ]


def simulate(
    num_raters: int, num_items: int, each: int, *, noise: float, seed: int = 0
) -> tuple[list[Rating], np.ndarray, np.ndarray]:
    """Returns ratings by raters with scales and offsets of their own; the worth of each response
    rated; and who rated. `noise` is in standard deviations of what a rater sees.
    """
    generator = np.random.default_rng(seed)
    worth = generator.normal(size=num_items)
    scale = np.exp(generator.normal(size=num_raters))
    offset = 5 * generator.normal(size=num_raters)
    raters = np.repeat(np.arange(num_raters), each)
    items = np.concatenate(
        [generator.choice(num_items, each, replace=False) for _ in range(num_raters)]
    )
    seen = worth[items] + noise * generator.normal(size=len(items))
    return rated(offset[raters] + scale[raters] * seen, raters, items), worth[items], raters


def normalised(data: list[Rating]) -> np.ndarray:
    return _on_one_scale(data, np.array([row.rating for row in data]), "rater")


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_ridge_is_the_closed_form(l2: float) -> None:
    data = rows(40)
    reward = make(l2=l2)
    reward.fit(data)
    prompts, responses = [r["prompt"] for r in data], [r["completion"] for r in data]
    x = reward.features.transform(prompts, responses).toarray()
    y = np.array([row["rating"] for row in data])
    centred = x - x.mean(0)
    # By the Woodbury identity, from the [B, B] matrix of inner products.
    dual = np.linalg.solve(centred @ centred.T + l2 * np.eye(len(y)), y - y.mean())
    expected = centred @ (centred.T @ dual) + y.mean()
    assert reward.score(prompts, responses) == pytest.approx(expected, abs=1e-6)
    assert reward.arrays["weights"][0] == pytest.approx(centred.T @ dual, abs=1e-6)


def test_a_tree_is_scikit_learns() -> None:
    from sklearn.tree import DecisionTreeRegressor

    data, new = rows(200), rows(50, seed=1)
    reward = make(model="tree", max_depth=5, max_columns=10_000)
    reward.fit(data, seed=3)
    prompts, responses = [r["prompt"] for r in data], [r["completion"] for r in data]
    x = reward.features.transform(prompts, responses)
    tree = DecisionTreeRegressor(max_depth=5, min_samples_leaf=5, random_state=3)
    tree.fit(x.toarray(), [row["rating"] for row in data])
    for some in (data, new):
        asked = [row["prompt"] for row in some], [row["completion"] for row in some]
        theirs = tree.predict(reward.features.transform(*asked).toarray())
        assert reward.score(*asked) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_better_responses_score_higher(model: str) -> None:
    reward = make(model=model)
    measures = reward.fit(rows(300))
    kind, plain, rude = scores_of(
        reward,
        "kind one two clear three four one two",
        "three one two four three four one two",
        "rude one two vague three four one two",
    )
    assert kind > plain > rude
    assert measures["cv_rmse"] < 1.0 < np.std([row["rating"] for row in rows(300)])


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_noise_makes_cross_validation_choose_a_simpler_model(model: str) -> None:
    name = "l2" if model == "ridge" else "max_depth"
    clean = make(model=model).fit(rows(200, noise=0.0))[name]
    noisy = make(model=model).fit(rows(200, noise=20.0))[name]
    assert noisy > clean if model == "ridge" else noisy < clean
    assert "cv_rmse" not in make(model=model, **{name: 3}).fit(rows())


def test_raters_who_differ_in_scale_and_offset_alone_give_one_ranking() -> None:
    """Without noise, what they say of all responses is one line, whoever rated which."""
    data, worth, _ = simulate(6, 60, 25, noise=0.0)
    found = normalised(data)
    line = np.polyfit(worth, found, 1)
    assert line[0] > 0
    assert found == pytest.approx(np.polyval(line, worth), abs=1e-6)
    raw = np.array([row.rating for row in data])
    assert np.corrcoef(raw, worth)[0, 1] < 0.8


def test_raters_who_saw_responses_of_different_quality_are_told_from_strict_ones() -> None:
    """One rated the worse half and some of the better, the other the reverse; standardising each
    alone would take both halves for alike.
    """
    worth = np.linspace(-2, 2, 40)
    items = np.concatenate([np.arange(25), np.arange(15, 40)])
    raters = np.repeat([0, 1], 25)
    data = rated(np.where(raters == 0, 1.0, 10.0) * worth[items] + 3 * raters, raters, items)
    found = normalised(data)
    assert np.array_equal(np.argsort(found, kind="stable")[[0, -1]], [0, 49])
    assert np.corrcoef(found, worth[items])[0, 1] > 1 - 1e-9


def test_noisy_raters_are_normalised_better_than_not_at_all() -> None:
    data, worth, raters = simulate(8, 60, 30, noise=0.7)
    raw = np.array([row.rating for row in data])
    alone = raw.copy()
    for rater in range(8):
        own = raters == rater
        alone[own] = (raw[own] - raw[own].mean()) / raw[own].std()
    quality = [np.corrcoef(values, worth)[0, 1] for values in (raw, alone, normalised(data))]
    assert quality[2] > quality[0] + 0.2
    assert quality[2] > quality[1] - 0.01


def test_raters_who_share_nothing_are_standardised_each() -> None:
    ratings = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    found = normalised(rated(ratings, np.repeat([0, 1], 3), np.arange(6)))
    assert found[:3] == pytest.approx(found[3:])
    assert found.mean() == pytest.approx(ratings.mean())


def test_a_rater_who_always_says_the_same_disturbs_nobody() -> None:
    data, worth, raters = simulate(4, 30, 20, noise=0.0)
    ratings = np.array([row.rating for row in data])
    ratings[raters == 3] = 7.0
    items = np.array([int(str(row.completion).split()[1]) for row in data])
    found = normalised(rated(ratings, raters, items))
    others = raters != 3
    assert np.corrcoef(found[others], worth[others])[0, 1] > 1 - 1e-3
    assert np.isfinite(found).all()


@pytest.mark.parametrize("num_linked", [1, 2, 3])
def test_a_rater_who_shares_little_disturbs_nobody(num_linked: int) -> None:
    data, worth, raters = simulate(4, 40, 30, noise=0.3)
    ratings = np.array([row.rating for row in data])
    items = np.array([int(str(row.completion).split()[1]) for row in data])
    kept = raters != 3
    alone = normalised(rated(ratings[kept], raters[kept], items[kept]))
    items[~kept] += 1000 * (np.arange(30) >= num_linked)  # what only that rater has seen
    together = normalised(rated(ratings, raters, items))
    assert np.corrcoef(together[kept], alone)[0, 1] > 0.995
    assert np.corrcoef(together[~kept], worth[~kept])[0, 1] > 0.9


def test_one_rater_alone_keeps_the_scale() -> None:
    ratings = np.array([1.0, 2.0, 5.0])
    found = normalised(rated(ratings, np.zeros(3, dtype=int), np.arange(3)))
    assert found == pytest.approx(ratings)


def test_a_rater_who_says_the_reverse_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    worth = np.linspace(0, 1, 20)
    raters, items = np.repeat(np.arange(4), 20), np.tile(np.arange(20), 4)
    signs = np.where(raters == 3, -1.0, 1.0)
    with caplog.at_level(logging.WARNING, "alignzoo"):
        found = normalised(rated(signs * worth[items], raters, items))
    assert "1 of 4 raters disagree with the others" in caplog.text
    assert np.corrcoef(found[:60], worth[items[:60]])[0, 1] > 1 - 1e-9


def test_a_reward_that_knows_its_raters_ranks_like_the_truth() -> None:
    """Raters with scales and offsets of their own, each response rated by two of them."""
    plain = rows(120, noise=0.0)
    generator = np.random.default_rng(0)
    scale, offset = [1.0, 8.0, 0.3], [0.0, 30.0, -9.0]
    data = [
        {**row, "rating": offset[r] + scale[r] * row["rating"], "who": f"rater {r}"}
        for row in plain
        for r in generator.choice(3, 2, replace=False).tolist()
    ]
    new = rows(60, noise=0.0, seed=1)
    truth = [row["rating"] for row in new]
    responses = [row["completion"] for row in new]
    found = {}
    for rater in (None, "who"):
        reward = make(rater=rater, features=["words"])
        reward.fit(data)
        found[rater] = np.corrcoef(scores_of(reward, *responses), truth)[0, 1]
    assert found["who"] > 0.99
    assert found["who"] > found[None] + 0.1


def test_a_row_that_does_not_say_who_rated_is_named() -> None:
    data = [{**row, "who": "a"} for row in rows(4)]
    del data[2]["who"]
    with pytest.raises(DataError, match=r"data\[2\]: no 'who' that says who rated"):
        make(rater="who").fit(data)


def test_rows_without_a_rating_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = rows(30)
    with caplog.at_level(logging.WARNING, "alignzoo"):
        measures = make(l2=1.0).fit([*data, {**data[0], "rating": None}])
    assert measures["num_unrated"] == 1
    assert measures["num_rows"] == 30
    assert len([r for r in caplog.records if "1 rows have no rating" in r.message]) == 1


@pytest.mark.parametrize("ratings", [[1.0, 1.0, 1.0], [1.0, math.nan, math.nan], [math.nan] * 3])
def test_ratings_that_do_not_differ_teach_nothing(ratings: list[float]) -> None:
    data = [{"text": f"text {i}", "rating": rating} for i, rating in enumerate(ratings)]
    with pytest.raises(DataError, match=r"data\[0\]: .* expected at least two that differ"):
        make().fit(data)


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_two_rows_are_enough(model: str) -> None:
    reward = make(model=model, min_samples_leaf=1)
    reward.fit([{"text": "kind", "rating": 1}, {"text": "rude", "rating": 0}])
    kind, rude = scores_of(reward, "kind", "rude")
    assert kind > rude


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_save_and_load_keep_every_bit(model: str, tmp_path: Path) -> None:
    reward = make(model=model)
    reward.fit(rows())
    reward.save(tmp_path)
    other = make(model=model)
    other.load(tmp_path)
    responses = [row["completion"] for row in rows(seed=1)] + ["", "谢谢"]
    assert scores_of(other, *responses) == scores_of(reward, *responses)


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_a_response_scores_the_same_in_any_batch_to_the_bit(model: str) -> None:
    """correctness.md #25."""
    reward = make(model=model)
    reward.fit(rows())
    responses = [row["completion"] for row in rows(seed=2)]
    together = scores_of(reward, *responses)
    assert [scores_of(reward, response)[0] for response in responses] == together
    assert scores_of(reward, *responses[::-1]) == together[::-1]


@pytest.mark.parametrize("model", ["ridge", "tree"])
def test_fitting_again_with_one_seed_gives_the_same_bits(model: str) -> None:
    one, other = make(model=model), make(model=model)
    one.fit(rows(), seed=1)
    other.fit(read_ratings(rows()), seed=1)
    assert all(np.array_equal(one.arrays[key], other.arrays[key]) for key in one.arrays)


def test_a_score_before_training_says_to_train() -> None:
    with pytest.raises(ConfigError, match="not trained: give the folder that `alignzoo train-rew"):
        scores_of(make(), "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "forest"}, "'model'"),
        ({"l2": -1}, "'l2'"),
        ({"max_depth": 0}, "'max_depth'"),
        ({"min_samples_leaf": 0}, "'min_samples_leaf'"),
        ({"folds": 1}, "'folds'"),
        ({"raters": "who"}, "Did you mean 'rater'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^regression.*{message}"):
        make(**options)


def test_hidden_states_of_a_policy_teach_too(data_dir: Path) -> None:
    """stories260K knows stories from shuffled ones; the other features are left out."""
    policy = str(data_dir / "models" / "stories260K")
    story = "Once upon a time there was a little girl named Lily. She loved to play in the park."
    generator = np.random.default_rng(0)
    data = []
    for i in range(60):
        words = story.split()[i % 7 :]
        if i % 2:
            words = generator.permutation(words).tolist()
        data.append({"text": " ".join(words), "rating": float(i % 2 == 0)})
    reward = make(features=["length"], policy=policy, l2=10.0)
    reward.fit(data[:40])
    scores = scores_of(reward, *(row["text"] for row in data[40:]))
    assert np.mean(np.array(scores[::2]) > np.array(scores[1::2])) >= 0.9


@pytest.mark.slow
def test_votes_about_tweets_are_foretold(data_dir: Path) -> None:
    """`toxicity_votes_en`: the share of `neither`, a fifth of the texts held out by their hash."""
    lines = (data_dir / "toxicity_votes_en.jsonl").read_text(encoding="utf-8").splitlines()
    votes = [json.loads(line) for line in lines]
    data = [{"text": row["text"], "rating": row["neither"] / row["n"]} for row in votes]
    part = assign_folds([""] * len(data), [row["text"] for row in data], 5)
    reward = make(l2=1.0)
    reward.fit([row for row, fold in zip(data, part, strict=True) if fold])
    held_out = [row for row, fold in zip(data, part, strict=True) if not fold]
    truth = np.array([row["rating"] for row in held_out])
    found = np.array(scores_of(reward, *(row["text"] for row in held_out)))
    assert 1 - np.mean((found - truth) ** 2) / truth.var() > 0.5
