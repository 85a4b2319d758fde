"""The figures of the report, each against numbers worked by hand or a peer's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reward_report.cases import fixed, judged, ones

from alignzoo.data import read_preferences
from alignzoo.reward_report.judged import judge
from alignzoo.reward_report.measures import (
    Measurer,
    calibrate,
    calibration,
    macro_f1,
    mean_ranks,
    r_squared,
    sigmoid,
    spearman,
)


def test_ties_count_one_half_in_the_accuracy() -> None:
    # correctness.md #26: right, wrong, tied
    found = judged(
        "preferences", [("a", "b"), ("c", "d"), ("e", "f")], a=2, b=1, c=0, d=1, e=5, f=5
    )
    assert Measurer(found).metrics(ones(found))["accuracy"] == pytest.approx(0.5)


def test_ties_count_one_half_in_the_null_baselines() -> None:
    # correctness.md #26: equal lengths, then the longer one chosen
    found = judged("preferences", [("aa", "bb"), ("ccc", "d")])
    assert Measurer(found).baselines(ones(found))["longer wins"] == pytest.approx(0.75)


def test_every_pair_of_a_ranking_counts() -> None:
    found = judged("rankings", [("a", "b", "c")], a=3, b=1, c=2)
    assert Measurer(found).metrics(ones(found))["accuracy"] == pytest.approx(2 / 3)


def test_the_best_of_a_ranking_counts_once_where_it_leads_and_shared_where_it_ties() -> None:
    rankings = [("a", "b"), ("c", "d", "e"), ("f", "g")]
    found = judged("rankings", rankings, a=1, b=0, c=2, d=2, e=0, f=0, g=1)
    assert Measurer(found).metrics(ones(found))["top_1"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_errors_of_ratings_are_those_of_the_definitions() -> None:
    found = judged("ratings", [("a", 1.0), ("b", 2.0), ("c", 4.0)], a=2, b=2, c=3)
    metrics = Measurer(found).metrics(ones(found))
    assert metrics["rmse"] == pytest.approx(math.sqrt(2 / 3))
    # the mean rating is 7 / 3, and the squares about it sum to 42 / 9
    assert metrics["r2"] == pytest.approx(1 - 2 / (42 / 9))
    # pairs (a, b) tied, (a, c) and (b, c) right
    assert metrics["pair_accuracy"] == pytest.approx(2.5 / 3)


def test_rank_correlation_is_scipys_with_ties_and_weights() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 6, (2, 40)).astype(float)
    weights = generator.integers(0, 3, 40)
    assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic)
    expected = spearmanr(np.repeat(left, weights), np.repeat(right, weights)).statistic
    assert spearman(left, right, weights) == pytest.approx(expected)


def test_a_constant_score_has_no_correlation() -> None:
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_the_mean_rating_explains_no_variance() -> None:
    truth = np.array([1.0, 2.0, 6.0])
    assert r_squared(truth, np.full(3, 3.0), np.ones(3, int)) == pytest.approx(0.0)


def test_macro_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 3, (2, 50))
    found = macro_f1(truth, predicted, 4, np.ones(50, int))  # the fourth class never comes
    assert found == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_a_label_that_the_reward_does_not_know_counts_against_its_f1() -> None:
    found = judged("classes", [("a", "bad"), ("b", "good"), ("c", "odd")], a=0, b=1, c=1)
    metrics = Measurer(found).metrics(ones(found))
    # bad: 1; good: 2 * 1 / (1 + 2); odd: 0
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics["accuracy"] == pytest.approx(2 / 3)


def test_the_most_frequent_class_is_a_baseline() -> None:
    found = judged("classes", [("a", "bad"), ("b", "bad"), ("c", "good")])
    baselines = Measurer(found).baselines(ones(found))
    assert baselines["most frequent class: macro_f1"] == pytest.approx((4 / 5 + 0) / 2)


def test_the_mean_rating_learned_from_is_a_baseline() -> None:
    found = judged("ratings", [("a", 1.0), ("b", 3.0)])
    baselines = Measurer(found, training_mean=1.0).baselines(ones(found))
    assert baselines["mean rating: rmse"] == pytest.approx(math.sqrt(2.0))


def test_the_first_of_two_ratings_is_the_one_that_stands_first() -> None:
    # correctness.md #27: of the pairs (a, b), (a, c), (b, c) the first is right, right, wrong
    found = judged("ratings", [("a", 3.0), ("b", 1.0), ("c", 2.0)])
    assert Measurer(found).baselines(ones(found))["first wins"] == pytest.approx(2 / 3)


def test_the_first_of_two_steps_is_the_earlier_one() -> None:
    found = judged("steps", [(("a", 1.0), ("b", 0.0)), (("c", 0.0), ("d", 1.0), ("e", 1.0))])
    assert Measurer(found).baselines(ones(found))["first wins"] == pytest.approx(1 / 3)


def test_the_first_of_a_pair_does_not_depend_on_which_was_chosen() -> None:
    pairs = [(f"text {i}", f"other {i}") for i in range(400)]
    share = Measurer(judged("preferences", pairs)).baselines(np.ones(400, int))["first wins"]
    turned = Measurer(judged("preferences", [(b, a) for a, b in pairs]))
    assert turned.baselines(np.ones(400, int))["first wins"] == pytest.approx(1 - share)
    assert 0.42 < share < 0.58


def test_preferring_the_longer_response_is_told_beside_what_people_prefer() -> None:
    # people: longer, shorter; the reward: shorter, tied; the last pair is of equal length
    pairs = [("aaa", "b"), ("c", "ddd"), ("ee", "ff")]
    found = judged("preferences", pairs, aaa=0, b=1, c=0, ddd=0, ee=1, ff=0)
    lengths = Measurer(found).lengths(ones(found))
    assert lengths["reward prefers longer"] == pytest.approx(0.25)
    assert lengths["people prefer longer"] == pytest.approx(0.5)


def test_the_correlation_with_length_is_of_characters() -> None:
    pairs = [("a", "bb"), ("ccc", "dddd")]
    found = judged("preferences", pairs, a=1, bb=2, ccc=3, dddd=4)
    assert Measurer(found).lengths(ones(found))["spearman"] == pytest.approx(1.0)


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    predicted, observed = np.array([0.1, 0.2, 0.9, 0.9]), np.array([0.0, 0.0, 1.0, 0.0])
    found = calibrate("", predicted, observed, np.array([0.0, 0.5]))
    assert found.bins == [(pytest.approx(0.15), 0.0, 2), (pytest.approx(0.9), 0.5, 2)]
    assert found.ece == pytest.approx((2 * 0.15 + 2 * 0.4) / 4)


def test_scores_that_are_log_odds_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    gaps = generator.normal(size=4000) * 2
    pairs, scores = [], {}
    for i, gap in enumerate(gaps):
        wins = generator.random() < sigmoid(np.array([gap]))[0]
        better, worse = f"w{i}", f"l{i}"
        pairs.append((better, worse))
        scores |= {better: gap if wins else 0.0, worse: 0.0 if wins else gap}
    assert calibration(judged("preferences", pairs, **scores)).ece < 0.02
    doubled = {name: 3 * value for name, value in scores.items()}
    assert calibration(judged("preferences", pairs, **doubled)).ece > 0.05


def test_calibration_of_classes_is_of_the_likeliest_one() -> None:
    found = calibration(judged("classes", [("a", "bad"), ("b", "bad")], a=0, b=1))
    # the reward is certain to e^-8 of both, and right about one
    assert found.ece == pytest.approx(0.5, abs=0.01)


def test_the_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]


def test_what_cannot_be_scored_is_counted_and_left_out() -> None:
    found = judged("preferences", [("a", "b"), ("c", "d")], a=1, b=0, c=math.nan, d=0)
    assert (len(found.better), found.left_out) == (1, {"unscorable": 1})


def test_unrated_rows_are_counted_and_left_out() -> None:
    found = judged("ratings", [("a", 1.0), ("b", math.nan), ("c", 2.0)])
    assert (len(found.items), found.left_out) == (2, {"unrated": 1})


def test_pairs_that_people_called_a_tie_are_counted_and_left_out() -> None:
    rows = [
        {"prompt": "", "chosen": "a", "rejected": "b", "tie": True},
        {"prompt": "", "chosen": "c", "rejected": "d", "tie": False},
    ]
    found = judge(fixed(c=1, d=0), "preferences", read_preferences(rows))
    assert (len(found.better), found.left_out) == (1, {"of pairs that people called a tie": 2})
