"""A benchmark as Markdown, and the comparison of two: what is said, and what is left out."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import alignzoo as az
from alignzoo.benchmark.comparing import compare as compare_with
from alignzoo.benchmark.summary import summarise
from alignzoo.benchmark.tables import comparison_text, markdown

FEW = 2_000


def made(scores, *, task="t", **fields):
    return [
        {"task": task, "algorithm": id, "seed": seed, "score": float(score), **fields}
        for id, found in scores.items()
        for seed, score in enumerate(found)
    ]


def compare(a, b):
    return compare_with(a, b, resamples=FEW)


def text_of(rows):
    return markdown(summarise(rows, resamples=FEW))


def cells(text, title=""):
    """Returns the rows of the first table after a title."""
    lines = text[text.index(title) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    found = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return [found[0], *found[2:]]


# -- one benchmark -----------------------------------------------------------------------------


def test_a_table_has_a_line_for_each_algorithm_and_only_columns_that_say_something():
    heads, first, second = cells(text_of(made({"a": [0.2, 0.2], "b": [0.5, 0.5]})))
    assert heads == ["algorithm", "mean", "IQM", "of range", "optimality gap", "runs"]
    assert first[:4] == ["b", "0.5000 [0.5000, 0.5000]", "0.5000 [0.5000, 0.5000]", "50.0 %"]
    assert second[0] == "a"


def test_costs_and_curves_are_shown_where_they_are_known():
    curve = [{"step": i, "samples": 10 * i, "kl": float(i), "score": 0.5 * i} for i in range(3)]
    costs = {"kl": 2.0, "curve": curve, "seconds": 1.25, "peak_memory": 3_000_000}
    heads, (_, *found) = cells(text_of(made({"a": [1.0]}, **costs)))
    said = dict(zip(heads[1:], found, strict=True))
    assert said["KL, nats"] == "2.00"
    assert said["score at 2 nats"] == "1.0000"
    assert said["area, score-KL"] == "0.2500"
    assert said["samples to 0.9"] == "20 (1 of 1)"
    assert (said["seconds"], said["MB"]) == ("1.2", "3")


def test_a_threshold_that_is_never_reached_and_failures_are_said():
    rows = made({"a": [0.1, 0.1]}, curve=[{"samples": 0, "score": 0.1}])
    rows[1] |= {"status": "failed", "score": None}
    heads, found = cells(text_of(rows))
    assert found[heads.index("samples to 0.9")] == "never (0 of 2)"
    assert found[heads.index("runs")] == "2, 1 failed"


def test_how_options_were_chosen_is_said():
    chosen = {"task": {"kl_coef": 0}, "tuned": {"learning_rate": 0.1}, "given": {}}
    rows = made({"a": [0.5]}, chosen=chosen)
    heads, found = cells(text_of(rows))
    assert found[heads.index("options")] == "tuned learning_rate; else the task's and defaults"


def test_decimals_follow_the_range():
    assert cells(text_of(made({"a": [50.0]}, range=[0, 100])))[1][1] == "50.00"
    assert cells(text_of(made({"a": [0.005]}, range=[0, 0.01])))[1][1] == "0.005000"


def test_aggregates_come_where_there_are_several_tasks():
    rows = [*made({"a": [0.2], "b": [0.4]}), *made({"a": [0.6]}, task="u")]
    assert "All tasks" not in text_of(rows[:2])
    text = text_of(rows)
    assert cells(text, "## All tasks")[1:] == [
        ["a", "0.4000", "0.4000", "0.4000", "0.6000", "2"],
        ["b", "-", "-", "-", "-", "1"],
    ]
    assert '"-": no run on one of the tasks.' in text


def test_who_is_told_apart_is_said_in_sentences_and_each_pair_once():
    rng = np.random.default_rng(0)
    rows = made({"low": rng.random(6), "high": rng.random(6) + 2, "top": rng.random(6) + 2.1})
    text = text_of(rows)
    (top, high) = re.findall(r"^- .*$", text, re.M)
    assert top.startswith("- **top** is better than low (P = 1.00 [1.00, 1.00], p = 0.003); ")
    assert top.endswith("is not told apart from high.")
    assert high == "- **high** is better than low (P = 1.00 [1.00, 1.00], p = 0.003)."


def test_too_few_runs_to_tell_anything_apart_are_said():
    few, enough = ({"a": [0.1] * n, "b": [0.9] * n} for n in (3, 4))
    assert "3 against 3 runs a task the least p-value there can be is 0.1" in text_of(made(few))
    assert "the least p-value" not in text_of(made(enough))


def test_text_of_others_starts_no_markup():
    text = text_of(made({"a|<b>\n[x]": [0.5]}, metric="m|n"))
    assert cells(text)[1][0] == r"a\|\<b\> \[x\]"
    assert r"m\|n" in text


def test_the_same_rows_give_the_same_text_in_any_order():
    rows = made({"a": [0.1, 0.3], "b": [0.2, 0.6]})
    assert text_of(rows) == text_of(rows[::-1])


# -- two benchmarks ----------------------------------------------------------------------------


def test_an_algorithm_is_compared_with_itself_seed_by_seed():
    a = made({"x": [0.1, 0.2, 0.6, 0.4]})
    b = made({"x": [0.2, 0.3, 0.7, 0.5]})
    (change,) = compare(a, b).changes
    assert (change.first, change.second, change.num_shared, change.is_paired) == ("x", "x", 4, True)
    assert change.difference.value == pytest.approx(0.1)
    assert change.difference.high - change.difference.low < 1e-12  # 0.1 for every seed
    assert change.pair.probability.value == pytest.approx((1.5 + 2 + 4 + 3) / 16)
    assert change.pair.paired.value == 1.0


def test_without_shared_seeds_the_difference_is_of_all_runs():
    a, b = made({"x": [0.1, 0.2]}), made({"x": [0.2, 0.4, 0.6]})
    for row in b:
        row["seed"] += 10
    found = compare(a, b)
    assert not found.changes[0].is_paired
    assert found.changes[0].difference.value == pytest.approx(0.25)
    assert "of all runs" in str(found)


def test_the_other_way_round_the_same_numbers_are_turned():
    rng = np.random.default_rng(1)
    a = [*made({"x": rng.random(4), "y": rng.random(4)}), *made({"x": rng.random(3)}, task="u")]
    b = [*made({"x": rng.random(5), "y": rng.random(4)}), *made({"x": rng.random(3)}, task="u")]
    there, back = compare(a, b).changes, compare(b[::-1], a[::-1]).changes
    assert [change.task for change in there] == ["t", "t", "u", ""]
    for one, other in zip(there, back, strict=True):
        assert one.difference == other.difference.scaled(-1.0)
        assert (one.mean_a, one.mean_b) == (other.mean_b, other.mean_a)
        assert one.pair.p_value == other.pair.p_value
        turned = other.pair.probability.scaled(-1.0, 1.0)
        assert one.pair.probability.value == pytest.approx(turned.value, abs=1e-12)
        assert one.pair.probability.low == pytest.approx(turned.low, abs=1e-12)


def test_all_shared_tasks_are_compared_together_as_shares_of_their_ranges():
    a = [*made({"x": [10.0]}, range=[0, 100]), *made({"x": [0.5]}, task="u")]
    b = [*made({"x": [30.0]}, range=[0, 100]), *made({"x": [0.4]}, task="u")]
    together = compare(a, b).changes[-1]
    assert (together.task, together.num_runs) == ("", (2, 2))
    assert together.difference.value == pytest.approx((0.2 - 0.1) / 2)
    assert '"all" is of all tasks' in str(compare(a, b))


def test_where_no_algorithm_is_shared_each_is_compared_with_each():
    found = compare(made({"x": [0.1], "y": [0.2]}), made({"z": [0.3]}))
    assert [(one.first, one.second) for one in found.changes] == [("x", "z"), ("y", "z")]
    assert cells(str(found))[0][:3] == ["task", "A's", "B's"]


def test_what_only_one_has_is_named():
    a = [*made({"x": [0.1], "y": [0.2]}), *made({"x": [0.1]}, task="u")]
    found = compare(a, made({"x": [0.1], "z": [0.2]}))
    assert found.left_out == [
        "only in A: task u", "only in A: algorithm y", "only in B: algorithm z",
    ]  # fmt: skip
    assert "- only in A: task u" in comparison_text(found)


def test_nothing_in_common_is_refused():
    with pytest.raises(az.DataError, match="A has task t and B task u; expected a task"):
        compare(made({"x": [0.1]}), made({"x": [0.1]}, task="u"))


CONDITIONS = {
    "task_revision": 1, "task_options": {"length": 4}, "task_code": "1", "policy": "abc",
    "settings": {"batch_size": 64}, "budget": {"samples": 640}, "threads": 1, "revision": 1,
    "options": {"learning_rate": 0.1, "clip_range": 0.2}, "code": "2", "tuning": None,
    "versions": {"torch": "2.6", "numpy": "2.0"}, "cpu": "one",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"task_revision": 2}, "task t: revision is 1 in A and 2 in B"),
        ({"task_options": {"length": 5}}, "task t: option length is 4 in A and 5 in B"),
        ({"task_code": "3"}, "task t: the task's file is another version in A than in B"),
        ({"policy": "def"}, "task t: initial policy is abc in A and def in B"),
        ({"budget": {"samples": 320}}, "task t: budget of samples is 640 in A and 320 in B"),
        ({"revision": 2}, "x on t: revision is 1 in A and 2 in B"),
        (
            {"options": {"learning_rate": 0.1, "clip_range": 0.3}},
            "x on t: option clip_range is 0.2 in A and 0.3 in B",
        ),
        ({"code": "4"}, "x on t: the algorithm's file is another version in A than in B"),
        ({"tuning": {"grid": {}}}, "x on t: options were tuned in B and not in A"),
        (
            {"versions": {"torch": "2.7", "numpy": "2.0"}},
            "version of torch is 2.6 in A and 2.7 in B",
        ),
        ({"cpu": None}, "the rows of B do not say: cpu"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_condition_that_differs_is_named_with_both_values(change, sentence):
    a = made({"x": [0.1, 0.2]}, **CONDITIONS)
    b = [{**row, **change} for row in copy.deepcopy(a)]
    assert compare(a, b).conditions == [sentence]
    assert f"- {sentence}" in str(compare(a, b))


def test_the_same_results_differ_in_nothing():
    a = made({"x": [0.1, 0.2]}, **CONDITIONS)
    found = compare(a, copy.deepcopy(a))
    assert found.conditions == found.left_out == []
    (change,) = found.changes
    assert (change.difference.value, change.pair.verdict) == (0.0, "not told apart")
    assert "No other difference is known of." in str(found)
