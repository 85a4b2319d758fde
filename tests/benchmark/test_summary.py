"""What rows come to: failures, missing runs, matched KL, rankings, and rows that others made."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

import alignzoo as az
from alignzoo.benchmark import statistics as st
from alignzoo.benchmark.rows import load_rows
from alignzoo.benchmark.summary import summarise as summarise_with

FEW = 2_000


def summarise(rows, **given):
    return summarise_with(rows, resamples=FEW, **given)


def made(scores, *, task="t", **fields):
    """Returns rows of {algorithm: scores by seed}; None is a failed run."""
    return [
        {"task": task, "algorithm": id, "seed": seed, "score": score, **fields}
        | ({"status": "failed", "error": "no"} if score is None else {})
        for id, found in scores.items()
        for seed, score in enumerate(found)
    ]


def with_curve(row, kl, scores):
    points = zip(kl, scores, strict=True)
    curve = [{"step": i, "samples": 10 * i, "kl": k, "score": s} for i, (k, s) in enumerate(points)]
    return {**row, "curve": curve, "kl": kl[-1]}


def line_of(rows, **given):
    return summarise(rows, **given).tasks["t"][0]


# -- a line ------------------------------------------------------------------------------------


def test_rows_need_no_more_than_task_algorithm_seed_and_score():
    line = line_of(made({"a": [0.2, 0.4, 0.9]}))
    assert line.mean == st.estimate([[0.2, 0.4, 0.9]], st.mean, resamples=FEW)
    assert line.share.value == line.mean.value == pytest.approx(0.5)
    assert line.gap.value == pytest.approx(0.5)
    assert line.median == 0.4
    assert all(map(math.isnan, (line.kl, line.area.value, line.samples_to_threshold, line.memory)))


def test_a_failed_run_counts_as_the_least_of_the_range():
    line = line_of(made({"a": [0.0, None, 1.0]}, range=[-1, 1], optimum=1.0))
    assert (len(line.rows), line.num_failed) == (2, 1)
    assert line.mean.value == 0.0
    assert line.share.value == pytest.approx(0.5)
    assert line.median == 0.0


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_a_score_that_is_no_finite_number_is_a_failed_run(score):
    rows = made({"a": [0.5]})
    rows[0]["score"] = score
    assert line_of(rows).num_failed == 1


def test_a_run_that_was_not_made_is_absent():
    rows = made({"a": [0.2, 0.4, 0.9], "b": [0.3]})
    summary = summarise(rows)
    assert [(one.algorithm, len(one.rows)) for one in summary.tasks["t"]] == [("a", 3), ("b", 1)]
    assert summary.pairs["a", "b"].paired.value == 0.0  # 0.2 against 0.3, the seed that both have


def test_the_gap_is_to_the_optimum_where_it_is_known():
    rows = made({"a": [0.0, 0.5]}, range=[-1, 3], optimum=1.0)
    assert line_of(rows).gap.value == pytest.approx((0.25 + 0.125) / 2)
    rows = made({"a": [0.0, 0.5]}, range=[-1, 3])
    assert line_of(rows).gap.value == pytest.approx((0.75 + 0.625) / 2)


def test_lines_are_ranked_by_mean_and_equal_ones_by_name():
    summary = summarise(made({"b": [0.5], "c": [0.7], "a": [0.5]}))
    assert [line.algorithm for line in summary.tasks["t"]] == ["c", "a", "b"]


def test_costs_are_of_runs_that_ended_well():
    rows = made({"a": [0.5, 0.6, None]})
    rows[0] |= {"seconds": 2.0, "peak_memory": 100, "kl": 1.0, "proxy": 0.9}
    rows[1] |= {"seconds": 4.0, "peak_memory": 300, "kl": 2.0, "proxy": None}
    line = line_of(rows)
    assert (line.seconds, line.memory, line.kl, line.proxy) == (3.0, 300.0, 1.5, 0.9)


# -- curves ------------------------------------------------------------------------------------


def kl_rows():
    a, b, c = made({"a": [0.5, 0.7], "b": [0.9]})
    return [
        with_curve(a, [0, 1, 2], [0.1, 0.3, 0.5]),
        with_curve(b, [0, 2, 4], [0.1, 0.8, 0.7]),
        with_curve(c, [0, 3, 6], [0.1, 0.6, 0.9]),
    ]


def test_scores_are_matched_at_the_median_of_mean_final_kls():
    summary = summarise(kl_rows())
    assert summary.matched_kl == {"t": (3 + 6) / 2}
    b, a = summary.tasks["t"]
    assert (a.algorithm, a.score_at_kl.value) == ("a", pytest.approx((0.5 + 0.8) / 2))
    assert b.score_at_kl.value == 0.6


def test_the_kl_to_match_at_may_be_given_for_all_tasks_or_by_task():
    for kl in (1.0, {"t": 1.0}):
        lines = {line.algorithm: line for line in summarise(kl_rows(), kl=kl).tasks["t"]}
        assert lines["a"].score_at_kl.value == pytest.approx((0.3 + 0.1) / 2)
        assert lines["b"].score_at_kl.value == 0.1


def test_area_goes_to_the_largest_kl_that_any_run_measured():
    lines = {line.algorithm: line for line in summarise(kl_rows()).tasks["t"]}
    first, second = (0.1 + 0.3 + 0.5 * 4) / 6, (0.1 * 2 + 0.8 * 4) / 6
    assert lines["a"].area.value == pytest.approx((first + second) / 2)
    assert lines["b"].area.value == pytest.approx((0.1 * 3 + 0.6 * 3) / 6)


def test_failed_runs_have_the_least_frontier_and_never_reach_the_threshold():
    failed = made({"a": [0, 0, None]})[2]
    lines = {line.algorithm: line for line in summarise([*kl_rows(), failed]).tasks["t"]}
    assert lines["a"].score_at_kl.value == pytest.approx((0.5 + 0.8 + 0.0) / 3)
    assert lines["a"].area.value == pytest.approx((2.4 / 6 + 3.4 / 6 + 0.0) / 3)
    assert lines["a"].num_reached == 0


def test_the_initial_policy_is_at_no_distance_whatever_was_sampled():
    (row,) = made({"a": [0.5]})
    line = line_of([with_curve(row, [0.2, 1.0], [0.1, 0.5])], kl=0.0)
    assert line.score_at_kl.value == 0.1


def test_samples_to_threshold_are_a_median_in_which_never_is_infinite():
    a, b, c = made({"a": [0.9, 0.9, 0.5]}, range=[0, 2], optimum=1.0)
    curves = [[0.1, 0.95, 0.9], [0.1, 0.5, 0.9], [0.1, 0.2, 0.5]]
    rows = [with_curve(r, [0, 1, 2], curve) for r, curve in zip((a, b, c), curves, strict=True)]
    summary = summarise(rows)
    (line,) = summary.tasks["t"]
    assert summary.threshold == {"t": 0.9}
    assert (line.samples_to_threshold, line.num_reached) == (20.0, 2)
    assert line_of(rows, threshold=0.95).samples_to_threshold == math.inf
    assert line_of(rows, threshold=0.5).samples_to_threshold == 10.0


# -- all tasks ---------------------------------------------------------------------------------


def two_tasks():
    return [
        *made({"a": [10, 30], "b": [50, 70], "c": [0, 0]}, range=[0, 100]),
        *made({"a": [0.2, 0.4], "b": [0.5, None]}, task="u"),
    ]


def test_aggregates_are_of_normalised_scores_and_of_those_on_all_tasks():
    summary = summarise(two_tasks())
    b, a, c = summary.aggregates
    assert [one.algorithm for one in (b, a, c)] == ["b", "a", "c"]
    assert a.iqm.value == st.iqm([[0.1, 0.3], [0.2, 0.4]])
    assert b.mean.value == pytest.approx((0.6 + 0.25) / 2)
    assert (b.num_runs, b.num_failed) == (4, 1)
    assert math.isnan(c.iqm.value)
    assert set(summary.profile) == {"a", "b"}


def test_pairs_are_over_the_tasks_that_both_have_and_both_ways():
    summary = summarise(two_tasks())
    assert summary.pairs["a", "b"].probability.value == pytest.approx((0.0 + 0.5) / 2)
    assert summary.pairs["a", "c"].probability.value == 1.0
    assert summary.pairs["c", "a"].probability.value == 0.0
    assert summary.pairs["a", "b"].paired.value == pytest.approx((0.0 + 0.5) / 2)


def test_algorithms_without_a_common_task_are_not_told_apart():
    summary = summarise([*made({"a": [1.0] * 9}), *made({"b": [0.0] * 9}, task="u")])
    pair = summary.pairs["a", "b"]
    assert (pair.verdict, pair.paired) == ("not told apart", None)
    assert math.isnan(pair.probability.value)
    assert math.isnan(pair.p_value)


def test_a_verdict_needs_a_p_value_that_stands_among_all_pairs():
    rng = np.random.default_rng(0)
    low, high = rng.random(5), rng.random(5) + 2
    assert summarise(made({"a": low, "b": high})).pairs["b", "a"].verdict == "better"
    assert summarise(made({"a": low, "b": high})).pairs["a", "b"].verdict == "worse"
    others = {f"c{i}": rng.random(5) for i in range(8)}
    among = summarise(made({"a": low, "b": high, **others}))
    assert among.pairs["b", "a"].p_value == pytest.approx(2 / 252 * 45 / 9)
    assert summarise(made({"a": low[:3], "b": high[:3]})).pairs["b", "a"].verdict == (
        "not told apart"  # three seeds against three: the least p-value is 0.1
    )


def test_the_selection_and_order_of_tasks_and_algorithms_can_be_given():
    summary = summarise(two_tasks(), tasks=["u"], algorithms=["b", "a"])
    assert list(summary.tasks) == ["u"]
    assert set(summary.pairs) == {("a", "b"), ("b", "a")}


def test_no_digit_depends_on_the_order_of_rows():
    rows = two_tasks()
    other = random.Random(0).sample(rows, len(rows))
    first, second = (summarise(found) for found in (rows, other))
    assert str(first) == str(second)


def test_scores_above_the_range_are_kept_and_the_profile_reaches_them():
    summary = summarise(made({"a": [0.5, 7.0]}))
    assert summary.aggregates[0].mean.value == 3.75
    tau, share, _, _ = summary.profile["a"]
    assert (tau[0], tau[-1], share[0], share[-1]) == (0.0, 7.0, 1.0, 0.0)


def test_a_published_matrix_can_be_read_as_rows(tmp_path):
    matrix = np.random.default_rng(0).gamma(1.0, 0.4, (5, 6))  # [num_runs, num_tasks]
    rows = [
        {"task": f"game {g}", "algorithm": "x", "seed": s, "score": float(matrix[s, g])}
        for s in range(5)
        for g in range(6)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = summarise(load_rows(path)).aggregates
    kinds = (st.iqm, st.median, st.mean, st.optimality_gap)
    expected = st.estimates(matrix.T, kinds, resamples=FEW)
    assert [found.iqm, found.median, found.mean, found.gap] == expected


# -- files -------------------------------------------------------------------------------------

ROW = {"task": "t", "algorithm": "a", "seed": 0, "score": 0.5}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1 is no JSON"),
        (["[1]"], r"line 1 is \[1\]; expected an object"),
        ([json.dumps({**ROW, "seed": 1}), json.dumps({"task": "t"})], "line 2 has no 'algorithm'"),
        ([json.dumps({k: v for k, v in ROW.items() if k != "score"})], "line 1 has no 'score'"),
        ([json.dumps({**ROW, "score": "high"})], "'score' is 'high'; expected a number"),
        ([json.dumps({**ROW, "range": [1, 0]})], r"'range' is \[1, 0\]"),
        ([json.dumps({**ROW, "range": [0, 10**400]})], r"'range' is \[0, 1000"),
        ([json.dumps({**ROW, "budget": 64})], "'budget' is 64; expected an object"),
        ([json.dumps({**ROW, "chosen": {"task": 1}})], "'chosen' by 'task' is 1"),
        ([json.dumps({**ROW, "curve": [1]})], "'curve' is .*expected a list of points"),
        ([json.dumps(ROW)] * 2, "line 2: task 't', algorithm 'a', seed 0 is in .*line 1"),
        (
            [json.dumps(ROW), json.dumps({**ROW, "seed": 1, "range": [0, 2]})],
            r"line 2: task 't' has range \[0.0, 2.0\]",
        ),
        ([], "has no rows"),
    ],
    ids=[
        "json",
        "list",
        "id",
        "score",
        "text",
        "range",
        "huge",
        "budget",
        "chosen",
        "curve",
        "twice",
        "scales",
        "empty",
    ],
)
def test_a_file_that_is_no_result_is_refused_by_line(tmp_path, lines, message):
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    with pytest.raises(az.DataError, match=message):
        load_rows(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(az.DataError, match=r"results\.jsonl' cannot be read"):
        load_rows(tmp_path)
