"""`classification`: scikit-learn's optimum, expected class values, and what it says of bad data."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignzoo.plugins.classification import Classification, ClassificationConfig

from alignzoo.config import build_config
from alignzoo.data import read_classes
from alignzoo.errors import ConfigError, DataError
from alignzoo.features import assign_folds
from alignzoo.model_files import write_model

OPENINGS = {"bad": "go away", "medium": "well maybe", "good": "thank you"}


def make(**options: Any) -> Classification:
    return Classification(build_config(ClassificationConfig, options, "classification"))


def rows(count: int = 90, *, noise: float = 0.1, seed: int = 0) -> list[dict[str, Any]]:
    """Returns responses that begin with words of their class, a share of them labelled anew."""
    generator = random.Random(seed)
    names, found = list(OPENINGS), []
    for i in range(count):
        name = names[i % 3]
        words = " ".join(generator.choices(["one", "two", "three", "four", "five", "six"], k=5))
        label = generator.choice(names) if generator.random() < noise else name
        found.append({"prompt": f"q{i}", "completion": f"{OPENINGS[name]} {words}", "label": label})
    return found


def scores_of(reward: Classification, *responses: str) -> list[float]:
    return reward.score([""] * len(responses), responses)


@pytest.mark.parametrize("weight", ["none", "balanced"])
@pytest.mark.parametrize("names", [("bad", "good"), ("bad", "medium", "good")])
def test_logistic_regression_equals_scikit_learns_optimum(
    names: tuple[str, ...], weight: str
) -> None:
    """Weights and probabilities to 1e-6, against another solver at its tightest."""
    from sklearn.linear_model import LogisticRegression

    data = [row for row in rows(noise=0.2) if row["label"] in names][:-7]
    reward = make(l2=0.5, class_weight=weight, contrast=False)
    reward.fit(data)
    responses = [row["completion"] for row in data]
    prompts = [row["prompt"] for row in data]
    x = reward.features.transform(prompts, responses)
    labels = [names.index(row["label"]) for row in data]
    theirs = LogisticRegression(
        C=2.0,
        tol=1e-12,
        max_iter=100_000,
        class_weight=None if weight == "none" else "balanced",
    ).fit(x, labels)
    ours = reward.arrays["weights"]
    ours = ours[1:] - ours[:1] if len(names) == 2 else ours
    assert ours == pytest.approx(theirs.coef_, abs=1e-6)
    found = np.array(list(reward.class_probabilities(prompts, responses).values())).T
    assert found == pytest.approx(theirs.predict_proba(x), abs=1e-6)


def test_contrast_is_the_optimum_on_columns_weighted_by_their_log_ratio() -> None:
    from sklearn.linear_model import LogisticRegression

    data = [row for row in rows(noise=0.2) if row["label"] != "medium"][:-7]
    reward = make(l2=0.5)
    reward.fit(data)
    asked = [row["prompt"] for row in data], [row["completion"] for row in data]
    x = reward.features.transform(*asked).toarray()
    is_good = np.array([row["label"] == "good" for row in data])
    names = reward.features.names()
    is_run = np.array([name.startswith(("words", "characters")) for name in names])
    counts = [1 + (x[is_good == good][:, is_run] > 0).sum(0) for good in (True, False)]
    ratio = np.log((counts[0] / counts[0].sum()) / (counts[1] / counts[1].sum()))
    x[:, is_run] *= np.abs(ratio)
    theirs = LogisticRegression(C=2.0, tol=1e-12, max_iter=100_000).fit(x, is_good)
    found = reward.class_probabilities(*asked)["good"]
    assert found == pytest.approx(theirs.predict_proba(x)[:, 1], abs=1e-6)


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_the_score_is_the_expected_value_of_the_class(model: str) -> None:
    reward = make(model=model, classes={"bad": -1, "medium": 0, "good": 3})
    reward.fit(rows())
    responses = ["thank you two", "well maybe", "unheard of", ""]
    p = reward.class_probabilities([""] * 4, responses)
    assert list(p) == ["bad", "medium", "good"]
    assert sum(map(np.array, p.values())) == pytest.approx(1, abs=1e-12)
    expected = 3 * np.array(p["good"]) - np.array(p["bad"])
    assert scores_of(reward, *responses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_better_classes_score_higher(model: str) -> None:
    reward = make(model=model)
    reward.fit(rows())
    bad, medium, good = scores_of(
        reward, *(f"{opening} six one two five six" for opening in OPENINGS.values())
    )
    assert bad < 0.25 < medium < 0.75 < good


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_probabilities_are_calibrated_on_new_rows(model: str) -> None:
    """Where 30 % of the labels are drawn anew, the likeliest class is right in 80 %."""
    reward = make(model=model)
    reward.fit(rows(600, noise=0.3))
    new = rows(600, noise=0.3, seed=1)
    p = reward.class_probabilities(
        [row["prompt"] for row in new], [row["completion"] for row in new]
    )
    likeliest = np.array(list(p.values())).max(0).mean()
    names = np.array(list(p))[np.array(list(p.values())).argmax(0)]
    right = np.mean(names == np.array([row["label"] for row in new]))
    assert likeliest == pytest.approx(right, abs=0.06)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([0, 1], {"0": 0.0, "1": 1.0}),
        ([False, True], {"false": 0.0, "true": 1.0}),
        (["good", "bad"], {"bad": 0.0, "good": 1.0}),
        (["good", "medium"], {"medium": 0.5, "good": 1.0}),
    ],
)
def test_common_labels_have_their_value_by_themselves(
    labels: list[Any], values: dict[str, float]
) -> None:
    data = [{"text": f"text {i} {labels[i % 2]}", "label": labels[i % 2]} for i in range(20)]
    reward = make(l2=1.0)
    reward.fit(data)
    assert reward.class_values == values


def test_other_labels_need_values_and_the_error_says_how() -> None:
    data = [{"text": f"text {i}", "label": ["rude", "kind", "rude"][i % 3]} for i in range(9)]
    with pytest.raises(DataError) as caught:
        make().fit(data)
    message = str(caught.value)
    assert "data[0]: the label 'rude' is none of 'bad', 'medium', 'good'" in message
    assert "'rude' (6), 'kind' (3)" in message
    assert '--classes \'{"rude": 0.0, "kind": 0.0}\'' in message
    with pytest.raises(DataError, match=r"data\[1\]: the label 'kind' is none of 'rude', 'fine'"):
        make(classes={"rude": 0, "fine": 1}).fit(data)


def test_one_class_alone_teaches_nothing() -> None:
    data = [{"text": "a", "label": "good"}, {"text": "b", "label": "good"}]
    with pytest.raises(DataError, match=r"every row has the label 'good' \(2\)"):
        make().fit(data)


def test_balanced_weights_raise_the_rare_class() -> None:
    data = [
        row for i, row in enumerate(rows(300, noise=0.4)) if row["label"] != "bad" or i % 8 == 0
    ]
    probe = ["go away one two six one two"]
    found = {}
    for weight in ("none", "balanced"):
        reward = make(class_weight=weight, l2=1.0)
        reward.fit(data)
        found[weight] = reward.class_probabilities([""], probe)["bad"][0]
    assert found["balanced"] > found["none"] + 0.05


def test_l2_is_chosen_by_cross_validation_unless_given() -> None:
    clean, noisy = make(), make()
    first, second = clean.fit(rows(noise=0.0)), noisy.fit(rows(noise=0.8))
    assert first["l2"] < second["l2"]
    assert first["cv_loss"] < second["cv_loss"]
    assert second["cv_loss"] == pytest.approx(np.log(3), abs=0.1)  # nothing can be told
    given = make(l2=0.25).fit(rows())
    assert given["l2"] == 0.25
    assert "cv_loss" not in given


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_two_rows_are_enough(model: str) -> None:
    reward = make(model=model)
    reward.fit([{"text": "kind", "label": 1}, {"text": "rude", "label": 0}])
    kind, rude = scores_of(reward, "kind", "rude")
    assert kind > rude


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_save_and_load_keep_every_bit(model: str, tmp_path: Path) -> None:
    reward = make(model=model)
    reward.fit(rows())
    reward.save(tmp_path)
    other = make(model=model)
    other.load(tmp_path)
    responses = [row["completion"] for row in rows(seed=1)] + ["", "谢谢"]
    assert scores_of(other, *responses) == scores_of(reward, *responses)
    assert other.class_values == reward.class_values


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    small, large = make(features=["words"]), make(features=["words"])
    small.fit(rows(30))
    large.fit([{**row, "completion": row["completion"] + " more more"} for row in rows()])
    settings, arrays = large.features.state()
    write_model(tmp_path, {**small.settings, "features": settings}, {**arrays, **small.arrays})
    with pytest.raises(DataError, match=r"\d+ weights for \d+ features"):
        make(features=["words"]).load(tmp_path)
    with pytest.raises(DataError, match="saved features are"):
        make(features=["length"]).load(tmp_path)


def test_a_response_scores_the_same_in_any_batch_to_the_bit() -> None:
    """correctness.md #25."""
    reward = make()
    reward.fit(rows())
    responses = [row["completion"] for row in rows(seed=2)]
    together = scores_of(reward, *responses)
    assert [scores_of(reward, response)[0] for response in responses] == together
    assert scores_of(reward, *responses[::-1]) == together[::-1]


def test_fitting_again_gives_the_same_bits_whatever_the_seed() -> None:
    one, other = make(), make()
    one.fit(rows(), seed=1)
    other.fit(read_classes(rows()), seed=2)
    assert np.array_equal(one.arrays["weights"], other.arrays["weights"])


def test_a_score_before_training_says_to_train() -> None:
    with pytest.raises(ConfigError, match=r"not trained: give the folder that `alignzoo train-rew"):
        scores_of(make(), "a")


def test_nothing_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    import warnings

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        make().fit(rows(noise=0.0))
        make(model="svm").fit(rows(noise=0.0))
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tree"}, "'model'"),
        ({"classes": {"a": 1}}, "'classes'"),
        ({"classes": {"a": 1, "b": 1}}, "every class has the same value"),
        ({"classes": {"a": 1, "b": float("inf")}}, "'classes'"),
        ({"l2": 0}, "'l2'"),
        ({"folds": 1}, "'folds'"),
        ({"class_weight": "even"}, "'class_weight'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^classification.*{message}"):
        make(**options)


@pytest.mark.slow
def test_offensive_chinese_is_found_with_a_macro_f1_of_088(data_dir: Path) -> None:
    """`cold_zh_train`, a fifth of the texts held out by their hash."""
    from sklearn.metrics import f1_score

    lines = (data_dir / "cold_zh_train.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    data = [{"text": row["text"], "label": row["offensive"]} for row in found]
    part = assign_folds([""] * len(data), [row["text"] for row in data], 5)
    reward = make(classes={"1": 0, "0": 1}, l2=0.1)  # what cross-validation chooses, in a minute
    reward.fit([row for row, fold in zip(data, part, strict=True) if fold])
    held_out = [row for row, fold in zip(data, part, strict=True) if not fold]
    p = reward.class_probabilities([""] * len(held_out), [row["text"] for row in held_out])
    offensive = [int(value > 0.5) for value in p["1"]]
    assert f1_score([row["label"] for row in held_out], offensive, average="macro") >= 0.88
