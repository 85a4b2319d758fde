"""Bootstrap intervals: of prompts, seeded, as wide as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reward_report.cases import judged, ones

from alignzoo.reward_report.intervals import Measure, measure, number_groups, resamples
from alignzoo.reward_report.measures import Measurer


def mean_of(values):
    return lambda weights: {"mean": float(weights @ values / weights.sum())}


def test_an_interval_is_that_of_theory_for_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = measure(mean_of(values), 400, seed=1)["mean"]
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_a_share_is_within_its_interval_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        values = (generator.random(100) < 0.7) * 1.0
        found = measure(mean_of(values), 100, seed=trial, num_resamples=200)["mean"]
        hits += found.low <= 0.7 <= found.high
    assert 88 <= hits <= 99


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values = np.arange(30.0)
    first, again, other = (measure(mean_of(values), 30, seed=seed)["mean"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_figures_of_one_seed_are_of_the_same_draws() -> None:
    left = list(resamples(20, 5, seed=0))
    right = list(resamples(20, 5, seed=0))
    assert all((a == b).all() for a, b in zip(left, right, strict=True))


def test_a_figure_that_most_draws_leave_undefined_has_no_interval() -> None:
    def rarely(weights):
        return {"x": 1.0 if weights[0] > 2 else math.nan}

    found = measure(rarely, 20, seed=0)["x"]
    assert math.isnan(found.low)


def test_a_prompt_is_drawn_with_all_its_responses() -> None:
    # 25 prompts with 8 pairs each, of which all are right or all wrong
    pairs = [(f"{i} {j} {'good' * (i % 2)}", f"{i} {j} x") for i in range(25) for j in range(8)]
    scores = {text: float("good" in text) - 0.5 for text, _ in pairs}
    together = judged("preferences", pairs, **scores)
    prompts = [f"prompt {i}" for i in range(25) for _ in range(8)]
    numbers, count = number_groups([p.encode() for p in prompts], list(range(200)))
    assert count == 25
    assert (np.bincount(numbers) == 8).all()
    accuracy = Measurer(together).wins["score"]
    per_prompt = measure(
        lambda weights: {"a": float(weights[numbers] @ accuracy / weights[numbers].sum())},
        count,
        seed=0,
    )["a"]
    per_pair = measure(Measurer(together).metrics, together.num_groups, seed=0)["accuracy"]
    assert per_prompt.value == pytest.approx(per_pair.value)
    assert per_prompt.high - per_prompt.low > 2 * (per_pair.high - per_pair.low)


def test_too_few_prompts_to_draw_from_are_replaced_by_their_rows() -> None:
    numbers, count = number_groups([b"same"] * 5, [0, 0, 1, 2, 2])
    assert (numbers.tolist(), count) == ([0, 0, 1, 2, 2], 3)


def test_a_comparison_of_two_prompts_counts_as_often_as_both_are_drawn() -> None:
    found = judged("ratings", [("a", 1.0), ("b", 2.0), ("c", 3.0)])
    weights = np.array([2, 0, 3])
    pairs = {
        (int(found.better[i]), int(found.worse[i])): found.pair_weights(weights)[i]
        for i in range(len(found.better))
    }
    assert pairs == {(1, 0): 0.0, (2, 0): 6.0, (2, 1): 0.0}


def test_a_comparison_within_a_prompt_counts_as_often_as_the_prompt() -> None:
    found = judged("preferences", [("a", "b"), ("c", "d")])
    assert found.pair_weights(np.array([3, 1])).tolist() == [3.0, 1.0]
    assert ones(found).tolist() == [1, 1]


def test_a_measure_is_shown_with_its_interval() -> None:
    assert str(Measure(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
    assert str(Measure(0.5)) == "0.500"
    assert Measure(0.5).to_json() == {"value": 0.5, "low": None, "high": None}
