"""Statistics of scores agree with brute force on small arrays, and with rliable where it is."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from alignzoo.benchmark import statistics as st

TWO_TASKS = [[0.1, 0.5, 0.6], [0.2, 0.3, 0.9]]
FEW = 2_000  # resamples, where the interval is not what is tested


def random_scores(seed, *, num_tasks, sizes, levels=None):
    """Returns an array for each task; of few different scores where `levels` is given."""
    rng = np.random.default_rng(seed)
    draw = rng.random if levels is None else lambda n: rng.integers(0, levels, n) / levels
    return [draw(rng.integers(*sizes)) for _ in range(num_tasks)]


def resamples(runs):
    """Yields every way to draw as many runs as there are."""
    return [np.array(drawn) for drawn in product(runs, repeat=len(runs))]


def assert_percentiles(estimate, values):
    """Checks the ends against all resamples; the slack is that of 50,000 random ones."""
    for end, share in ((estimate.low, 0.025), (estimate.high, 0.975)):
        least, most = np.quantile(values, [share - 0.004, share + 0.004], method="inverted_cdf")
        assert least - 1e-12 <= end <= most + 1e-12


# -- aggregates --------------------------------------------------------------------------------


def test_iqm_pools_the_runs_of_all_tasks_and_leaves_out_a_quarter_at_each_end():
    assert st.iqm([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 100.0]]) == 3.5
    assert st.iqm([[0.0, 1.0, 2.0, 9.0, 9.0]]) == pytest.approx(4.0)  # floor(5 / 4) each end


def test_mean_and_gap_weigh_tasks_alike_however_many_runs_they_have():
    scores = [[0.0, 0.0, 0.0, 0.0], [1.0, 1.5]]
    assert st.mean(scores) == 0.625
    assert st.optimality_gap(scores) == 0.5  # what is above the target makes up for nothing
    assert st.optimality_gap(scores, target=1.5) == pytest.approx((1.5 + 0.25) / 2)


def test_median_is_of_task_means_and_of_one_task_that_of_its_runs():
    assert st.median([[0.0, 1.0], [0.1, 0.1], [9.0, 9.0]]) == 0.5
    assert st.median([[0.0, 0.1, 9.0]]) == 0.1


def test_a_matrix_of_tasks_and_runs_is_the_same_as_an_array_for_each_task():
    assert st.estimate(np.array(TWO_TASKS), resamples=FEW) == st.estimate(TWO_TASKS, resamples=FEW)


# -- intervals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", [st.iqm, st.mean, st.median, st.optimality_gap])
def test_an_interval_has_the_percentiles_of_all_resamples_within_tasks(statistic):
    values = [statistic(drawn) for drawn in product(*map(resamples, TWO_TASKS))]
    assert len(values) == 27**2
    assert_percentiles(st.estimate(TWO_TASKS, statistic), values)


def test_a_task_of_one_run_is_drawn_as_it_is():
    values = [st.mean([[0.9], drawn]) for drawn in resamples(TWO_TASKS[0])]
    assert_percentiles(st.estimate([[0.9], TWO_TASKS[0]], st.mean), values)


def test_one_run_has_no_interval():
    found = st.estimate([[0.5], [0.7]], st.mean)
    assert found.value == pytest.approx(0.6)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_runs_that_are_all_alike_have_an_interval_of_one_point():
    found = st.estimate([[0.1] * 3, [0.3] * 7], st.mean)
    assert found.low == found.value == found.high


def test_no_digit_depends_on_the_order_of_runs_or_tasks():
    scores = random_scores(1, num_tasks=3, sizes=(2, 6))
    other = [scores[2][::-1], scores[0], scores[1][::-1]]
    for statistic in (st.iqm, st.mean):
        assert st.estimate(scores, statistic) == st.estimate(other, statistic)


def test_several_statistics_are_those_of_each_alone():
    together = st.estimates(TWO_TASKS, [st.iqm, st.mean], resamples=FEW)
    assert together == [st.estimate(TWO_TASKS, s, resamples=FEW) for s in (st.iqm, st.mean)]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "no task"),
        ([[0.5], []], r"task 1 have shape \(0,\)"),
        ([0.5, 0.6], r"task 0 have shape \(\); .* for one task give \[runs\]"),
        ([[0.5, math.nan]], "task 0 are not all finite"),
    ],
    ids=["none", "empty", "flat", "nan"],
)
def test_scores_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        st.estimate(scores)


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    share, low, high = st.performance_profile([[0.0, 0.5], [0.5, 1.0, 2.0]], [0.0, 0.5, 1.0, 2.0])
    assert share == pytest.approx([0.8, 0.4, 0.2, 0.0])
    assert (low[3], high[3]) == (0.0, 0.0)
    drawn = product(resamples([0.0, 0.5]), resamples([0.5, 1.0, 2.0]))
    values = [np.mean(np.concatenate(one) > 0.5) for one in drawn]
    assert_percentiles(st.Estimate(share[1], low[1], high[1]), values)


# -- one against the other ---------------------------------------------------------------------


def probability_by_loops(x, y):
    shares = []
    for runs_x, runs_y in zip(x, y, strict=True):
        won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in runs_x for b in runs_y]
        shares.append(sum(won) / len(won))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "tied"])
def test_probability_of_improvement_is_that_of_loops_over_all_pairs_of_runs(seed, levels):
    x, y = (random_scores(s, num_tasks=3, sizes=(2, 7), levels=levels) for s in (seed, seed + 100))
    found = st.probability_of_improvement(x, y, resamples=FEW)
    assert found.value == pytest.approx(probability_by_loops(x, y), abs=1e-12)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("y", [[0.2, 0.55], [0.1, 0.5]], ids=["distinct", "tied"])
def test_its_interval_has_the_percentiles_of_all_resamples_of_both(y):
    x = TWO_TASKS[0]
    values = [probability_by_loops([a], [b]) for a, b in product(resamples(x), resamples(y))]
    assert_percentiles(st.probability_of_improvement([x], [y]), values)


def test_its_interval_draws_tasks_apart():
    x, y = [[0.1, 0.5], [0.2, 0.6]], [[0.3, 0.4], [0.2, 0.1]]
    drawn = product(*map(resamples, (*x, *y)))
    values = [probability_by_loops([a, b], [c, d]) for a, b, c, d in drawn]
    assert_percentiles(st.probability_of_improvement(x, y), values)


def test_paired_only_runs_of_one_seed_are_compared_and_drawn_together():
    x, y = [0.1, 0.5, 0.6, 0.2], [0.0, 0.5, 0.9, 0.1]
    found = st.probability_of_improvement([x], [y], paired=True)
    assert found.value == (1 + 0.5 + 0 + 1) / 4
    seeds = list(product(range(4), repeat=4))
    values = [np.mean([(x[s] > y[s]) + (x[s] == y[s]) / 2 for s in drawn]) for drawn in seeds]
    assert_percentiles(found, values)


def test_two_that_are_equal_everywhere_are_at_one_half_without_doubt():
    found = st.probability_of_improvement([[0.5] * 4], [[0.5] * 6])
    assert found == st.Estimate(0.5, 0.5, 0.5)


def test_one_that_is_always_better_is_at_one():
    found = st.probability_of_improvement([[0.5, 0.6]], [[0.1, 0.2, 0.3]])
    assert found == st.Estimate(1.0, 1.0, 1.0)


def test_one_run_against_one_has_no_interval():
    found = st.probability_of_improvement([[0.5]], [[0.1]])
    assert found.value == 1.0
    assert math.isnan(found.low)


def test_many_pairs_at_once_are_what_each_is_alone():
    pairs = [
        tuple(random_scores(seed + side, num_tasks=2, sizes=(2, 5), levels=6) for side in (0, 50))
        for seed in range(6)
    ]
    together = st.probabilities_of_improvement(pairs, resamples=FEW)
    assert together == [st.probability_of_improvement(x, y, resamples=FEW) for x, y in pairs]
    assert st.permutation_tests(pairs) == [st.permutation_test(x, y) for x, y in pairs]


def test_x_against_y_is_y_against_x_turned_round():
    x, y = (random_scores(seed, num_tasks=2, sizes=(4, 5)) for seed in (5, 6))
    for paired in (False, True):
        there = st.probability_of_improvement(x, y, paired=paired)
        back = st.probability_of_improvement(y, x, paired=paired)
        assert (there.value, there.low, there.high) == pytest.approx(
            (1 - back.value, 1 - back.high, 1 - back.low), abs=1e-12
        )
    assert st.permutation_test(x, y) == st.permutation_test(y, x)
    assert st.mean_difference(x, y) == st.mean_difference(y, x).scaled(-1.0)


def test_different_tasks_are_refused():
    with pytest.raises(ValueError, match="x has 2 tasks and y 1"):
        st.probability_of_improvement(TWO_TASKS, TWO_TASKS[:1])
    with pytest.raises(ValueError, match="x has 3 runs of task 0 and y 2"):
        st.probability_of_improvement([[1, 2, 3]], [[1, 2]], paired=True)


@pytest.mark.parametrize("paired", [False, True], ids=["free", "paired"])
def test_a_difference_of_means_has_the_percentiles_of_all_resamples(paired):
    x, y = [0.1, 0.5, 0.6], [0.0, 0.3, 0.7]
    found = st.mean_difference([x], [y], paired=paired)
    both = resamples(np.subtract(x, y)) if paired else product(resamples(x), resamples(y))
    values = [np.mean(one) if paired else np.mean(one[0]) - np.mean(one[1]) for one in both]
    assert found.value == pytest.approx(np.mean(x) - np.mean(y))
    assert_percentiles(found, values)


# -- the permutation test ----------------------------------------------------------------------


def p_value_by_enumeration(x, y):
    """Returns the two-sided p-value over all splits of the seeds; rows are tasks, NaN is no run."""
    seeds = np.concatenate([x, y], axis=1)
    num_seeds, num_first = seeds.shape[1], x.shape[1]

    def statistic(first):
        rest = [s for s in range(num_seeds) if s not in first]
        shares = []
        for task in seeds:
            a, b = (task[list(side)][~np.isnan(task[list(side)])] for side in (first, rest))
            if len(a) and len(b):
                shares.append(probability_by_loops([a], [b]))
        return sum(shares) / len(shares) if shares else 0.5

    values = np.array([statistic(split) for split in combinations(range(num_seeds), num_first)])
    observed = statistic(tuple(range(num_first)))
    return min(1.0, 2 * min(np.mean(values <= observed + 1e-9), np.mean(values >= observed - 1e-9)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "tied"])
@pytest.mark.parametrize("sizes", [(4, 3), (1, 5), (3, 1), (2, 2)], ids=str)
def test_p_values_are_those_of_all_splits_of_whole_seeds(seed, levels, sizes):
    rng = np.random.default_rng([seed, *sizes])
    x, y = (rng.random((2, n)) if levels is None else rng.integers(0, levels, (2, n)) / levels
            for n in sizes)  # fmt: skip
    assert st.permutation_test(x, y) == pytest.approx(p_value_by_enumeration(x, y), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_without_a_run_on_one_task_keeps_its_others_together(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.random((2, 4)), rng.random((2, 3))
    x[0, 1] = y[1, 2] = math.nan
    assert st.permutation_test(x, y) == pytest.approx(p_value_by_enumeration(x, y), abs=1e-12)


def test_a_shorter_task_lacks_the_last_seeds():
    x, y = [[0.1, 0.2, 0.3], [0.5, 0.6]], [[0.2, 0.4], [0.7, 0.8]]
    padded = np.array([[0.1, 0.2, 0.3], [0.5, 0.6, math.nan]])
    assert st.permutation_test(x, y) == st.permutation_test(padded, y)


def test_the_least_p_value_of_five_against_five_is_that_of_two_splits_of_252():
    p = st.permutation_test([[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 10]])
    assert p == pytest.approx(2 / 252)
    assert st.permutation_test([[1] * 5], [[1] * 5]) == 1.0
    assert st.permutation_test([[1]], [[2]]) == 1.0


def test_random_splits_are_near_the_exact_p_value_of_mann_whitney():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(4)
    x, y = rng.random(10), rng.random(10) + 0.25
    exact = mannwhitneyu(x, y, method="exact").pvalue
    assert st.permutation_test([x], [y]) == pytest.approx(exact, abs=0.006)  # 4 standard errors


def test_p_values_of_many_tests_are_raised_and_undefined_ones_stay():
    found = st.adjusted_p_values([0.01, math.nan, 0.04, 0.03])
    # Benjamini and Hochberg: p_(i) n / i, and no more than those of larger p.
    assert found[:1] + found[2:] == pytest.approx([0.03, 0.04, 0.04])
    assert math.isnan(found[1])


# -- learning curves ---------------------------------------------------------------------------

KL, CURVE = [0.0, 2.0, 1.0, 4.0], [0.1, 0.6, 0.4, 0.5]  # it went to 2 nats and back to 1


@pytest.mark.parametrize(
    ("nats", "best"), [(0, 0.1), (0.9, 0.1), (1, 0.4), (1.9, 0.4), (2, 0.6), (3, 0.6), (9, 0.6)]
)
def test_score_at_a_kl_is_the_best_that_was_measured_with_no_more(nats, best):
    assert st.score_at_kl(KL, CURVE, nats) == best


def test_there_is_no_score_below_the_least_kl_and_a_sampled_one_below_zero_is_zero():
    assert math.isnan(st.score_at_kl([1.0], [0.5], 0.9))
    assert math.isnan(st.score_at_kl([], [], 0.9))
    assert st.score_at_kl([-0.01], [0.5], 0.0) == 0.5


@pytest.mark.parametrize(
    ("up_to", "area"),
    [
        (4, (0.1 * 1 + 0.4 * 1 + 0.6 * 2) / 4),
        (8, (0.1 * 1 + 0.4 * 1 + 0.6 * 6) / 8),
        (1.5, (0.1 * 1 + 0.4 * 0.5) / 1.5),
        (0, 0.1),
    ],
)
def test_area_is_the_mean_height_of_the_steps(up_to, area):
    assert st.area_under_frontier(KL, CURVE, up_to) == pytest.approx(area)


def test_a_curve_that_does_not_begin_at_the_initial_policy_has_no_area():
    assert math.isnan(st.area_under_frontier([1.0, 2.0], [0.5, 0.6], 2.0))


@pytest.mark.parametrize(
    ("threshold", "samples"), [(0.1, 0), (0.4, 10), (0.6, 10), (0.61, math.inf)]
)
def test_samples_are_those_of_the_first_point_at_or_above_the_threshold(threshold, samples):
    assert st.samples_to_threshold([0, 10, 20], [0.1, 0.6, 0.4], threshold) == samples
    assert st.samples_to_threshold([20, 10, 0], [0.4, 0.6, 0.1], threshold) == samples


# -- beside others -----------------------------------------------------------------------------


@pytest.mark.peer
def test_aggregates_and_intervals_are_those_of_rliable():
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(3)
    x, y = (rng.gamma(1.2, 0.5, (10, 26)) * rng.uniform(0.2, 2, 26) for _ in range(2))
    theirs = (metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_mean,
              metrics.aggregate_optimality_gap)  # fmt: skip
    found = st.estimates(x.T, [st.iqm, st.median, st.mean, st.optimality_gap])
    assert [one.value for one in found] == pytest.approx([their(x) for their in theirs], abs=1e-12)
    np.random.seed(0)  # rliable draws from numpy's global generator
    _, ends = library.get_interval_estimates(
        {"x": x}, lambda m: np.array([metrics.aggregate_iqm(m)]), reps=2_000
    )
    width = found[0].high - found[0].low
    assert (found[0].low, found[0].high) == pytest.approx(ends["x"][:, 0], abs=0.1 * width)
    better = metrics.probability_of_improvement(x, y)
    assert st.probability_of_improvement(x.T, y.T, resamples=FEW).value == pytest.approx(better)
