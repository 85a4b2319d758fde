"""What is refused before any work, and what results are reused."""

from __future__ import annotations

import json

import pytest
from benchmark import bench_cases

import alignzoo as az
from alignzoo.benchmark import Budget, Results, make_plan
from alignzoo.plugin_registry import select_plugins, selected_plugins


@pytest.fixture(autouse=True, scope="module")
def _installed():
    before = selected_plugins()
    select_plugins([bench_cases.__name__])
    yield
    select_plugins(before)


def plan(algorithms=("plain",), tasks=("coin",), *, seeds=2, budget=None, **given):
    return make_plan(
        az.registry(), list(algorithms), list(tasks), seeds=range(seeds), threads=1, given=given,
        budget=None if budget is None else Budget("samples", budget),
    )  # fmt: skip


def finished(made, scores=()):
    """Returns rows as if every cell of a plan had been run."""
    scores = iter(scores)
    return [
        {
            **identity, "status": "ok", "error": None, "score": (score := next(scores, 0.5)),
            "kl": 0.1, "seconds": 1.0, "peak_memory": 2**20, "range": [0.0, 1.0], "optimum": 1.0,
            "metric": "m", "chosen": {"task": {}, "given": {}}, "versions": {}, "cpu": "x",
            "curve": [{"samples": 0, "score": 0.1}, {"samples": 64, "score": score}],
        }
        for identity in made.identities.values()
    ]  # fmt: skip


def written(folder, made, **scores):
    results = Results(folder)
    for row in finished(made, **scores):
        results.add(row, [cell.key for cell in made.cells])
    return results


# -- before any work ---------------------------------------------------------------------------


def test_cells_are_every_task_algorithm_and_seed_in_that_order():
    made = plan(["plain", "ppo"], ["drawn", "coin"])
    assert [cell.key for cell in made.cells] == [
        (task, id, seed)
        for task in ("drawn", "coin") for id in ("plain", "ppo") for seed in (0, 1)
    ]  # fmt: skip
    assert {cell.budget for cell in made.cells} == {Budget("samples", 64)}


@pytest.mark.parametrize(
    ("algorithms", "tasks", "message"),
    [
        (["plainn"], ["coin"], "Did you mean 'plain'"),
        (["plain"], ["coins"], "Did you mean 'coin'"),
        (["plain", "plain"], ["coin"], "given twice"),
        (["dpo"], ["coin"], "dpo learns from preferences, and task 'coin' has rollouts"),
        (["keywords"], ["coin"], "'keywords' is a reward"),
        (["plain"], ['chain:{"lenth": 3}'], "Did you mean 'length'"),
        (["plain"], ["chain:{length}"], "no JSON"),
    ],
)
def test_what_cannot_be_run_is_refused(algorithms, tasks, message):
    with pytest.raises(az.ConfigError, match=message):
        plan(algorithms, tasks)


def test_groups_that_do_not_fill_an_update_are_refused():
    with pytest.raises(az.ConfigError, match=r"groups of 5 .* 16 responses .*grpo.group_size"):
        plan(["grpo"], grpo={"group_size": 5})


def test_a_budget_below_one_update_is_refused():
    with pytest.raises(az.ConfigError, match="samples=15 is less than one update"):
        plan(budget=15)


def test_an_option_out_of_range_is_refused_by_the_name_it_was_given_under():
    with pytest.raises(az.ConfigError, match=r"--option ppo\.clip_range is -1"):
        plan(["ppo"], ppo={"clip_range": -1})


# -- the folder --------------------------------------------------------------------------------


def test_finished_cells_are_kept_and_seeds_and_algorithms_may_be_added(tmp_path):
    written(tmp_path / "out", plan(seeds=1))
    results = Results(tmp_path / "out")
    results.open(plan(["plain", "ppo"], seeds=3).identities)
    assert list(results.rows) == [("coin", "plain", 0)]


def test_a_failed_cell_is_made_again(tmp_path):
    results = written(tmp_path / "out", plan())
    row = {**results.rows["coin", "plain", 1], "status": "failed"}
    results.add(row, [])
    again = Results(tmp_path / "out")
    again.open(plan().identities)
    assert list(again.rows) == [("coin", "plain", 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_revision": 7}, r"task 'coin' have task_revision 7, and now it is 1"),
        ({"revision": 7}, r"'plain' have revision 7, and now it is 1"),
        ({"version": "0.1"}, r"version '0.1'"),
        ({"code": "0"}, r"another version of the file that 'plain' is in"),
        ({"threads": 2}, r"threads 2, and now it is 1"),
        ({"budget": {"samples": 32}}, r"\{'samples': 32\}, and now it is \{'samples': 64\}"),
    ],
)
def test_results_of_other_conditions_are_refused_by_name_and_value(tmp_path, change, message):
    results = written(tmp_path / "out", plan(seeds=1))
    results.add({**results.rows["coin", "plain", 0], **change}, [])
    with pytest.raises(az.ConfigError, match=message):
        Results(tmp_path / "out").open(plan().identities)


def test_another_budget_is_refused_for_algorithms_that_are_added(tmp_path):
    written(tmp_path / "out", plan())
    with pytest.raises(az.ConfigError, match="budget"):
        Results(tmp_path / "out").open(plan(["ppo"], budget=128).identities)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(az.ConfigError, match="holds no benchmark and is not empty"):
        Results(tmp_path).open({})
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(az.DataError, match="no benchmark's result"):
        Results(tmp_path).open({})


def test_rows_are_in_the_order_of_the_plan_however_they_end(tmp_path):
    made = plan()
    rows, order = finished(made), [cell.key for cell in made.cells]
    results = Results(tmp_path / "out")
    for row in reversed(rows):
        results.add(row, order)
    lines = results.path.read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
