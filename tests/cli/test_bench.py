"""`alignzoo bench`: rows, tables and pages; what is reused; what a crash or a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from benchmark import bench_cases
from benchmark.bench_cases import UNTIMED
from trainer.runs import listing, read_lines

from alignzoo import cli
from alignzoo.benchmark import Results
from alignzoo.plugin_registry import select_plugins

PLUGIN = ("-p", bench_cases.__name__)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    select_plugins([])


def bench(*words):
    return cli.main([*PLUGIN, "bench", *map(str, words)])


def rows_of(out):
    rows = read_lines(out / "results.jsonl")
    return [{k: v for k, v in row.items() if k not in UNTIMED} for row in rows]


def test_rows_a_table_and_a_page_come_of_it(tmp_path, capsys):
    out = tmp_path / "out"
    assert bench("plain", "reinforce", "--task", "coin", "--seeds", 2, "--out", out) == 0
    printed = capsys.readouterr()
    rows = rows_of(out)
    assert [(row["algorithm"], row["seed"]) for row in rows] == [
        ("plain", 0), ("plain", 1), ("reinforce", 0), ("reinforce", 1),
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[2]["distribution"] == "alignzoo"
    mean = sum(row["score"] for row in rows[:2]) / 2
    (line,) = [line for line in printed.out.splitlines() if line.startswith("  plain ")]
    assert f"{mean:.4f}" in line
    assert "4/4 coin reinforce seed 1" in printed.err
    assert "<h2>coin</h2>" in (out / "report.html").read_text()
    assert (out / "runs" / "coin" / "plain" / "1" / "final" / "model.safetensors").exists()
    assert not (out / "runs" / "coin" / "plain" / "1" / "checkpoints").exists()


def test_jobs_change_nothing_and_finished_cells_are_reused(tmp_path, capsys):
    words = ("plain", "--task", "coin", "--task", "drawn", "--seeds", 2)
    assert bench(*words, "--out", tmp_path / "one") == 0
    assert bench(*words, "--out", tmp_path / "two", "--jobs", 2) == 0
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    before = listing(tmp_path / "one" / "runs")
    results = (tmp_path / "one" / "results.jsonl").read_bytes()
    capsys.readouterr()
    assert bench(*words, "--out", tmp_path / "one") == 0
    assert "4 of 4 runs are done already" in capsys.readouterr().err
    assert listing(tmp_path / "one" / "runs") == before
    assert (tmp_path / "one" / "results.jsonl").read_bytes() == results


def test_a_run_that_fails_or_dies_is_a_row_and_the_others_go_on(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("killed", "raising", "plain", "--task", "coin", "--seeds", 1, "--out", out)
    assert bench(*words) == 1
    rows = rows_of(out)
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"]
    assert rows[0]["error"] == "its process was ended by SIGKILL"
    assert "no third update" in rows[1]["error"]
    printed = capsys.readouterr()
    assert "runs that failed: 2" in printed.err
    assert "0, 1 failed" in printed.out


def test_options_are_given_to_one_algorithm(tmp_path):
    out = tmp_path / "out"
    given = ("--option", "plain.learning_rate=0.3", "--budget", "samples=32")
    assert bench("plain", "picky", "--task", "coin", "--seeds", 1, "--out", out, *given) == 0
    plain, picky = rows_of(out)
    assert plain["chosen"] == {
        "task": {"learning_rate": 0.1}, "given": {"learning_rate": 0.3}, "tuned": {},
    }  # fmt: skip
    assert (plain["options"]["learning_rate"], picky["options"]["learning_rate"]) == (0.3, 0.1)
    assert plain["samples"] == 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "coin"], "give the algorithms first"),
        (["plain"], "--task is needed"),
        (["plain", "--task", "coins"], "Did you mean 'coin'"),
        (["plian", "--task", "coin"], "Did you mean 'plain'"),
        (["dpo", "--task", "coin"], "dpo learns from preferences"),
        (["plain", "--task", "coin", "--budget", "hours=3"], "expected samples=N"),
        (["plain", "--task", "coin", "--budget", "samples=-3"], "expected samples=N"),
        (["plain", "--task", "coin", "--budget", "seconds=nan"], "or seconds=X"),
        (["plain", "--task", "coin", "--budget", "tokens=15"], "tokens=15 is less than one"),
        (["plain", "--task", "coin", "--sweep", "learning_rate"], "expected name=value,value"),
        (["plain", "--task", "coin", "--sweep", "learning_rate=1,"], "expected name=value,value"),
        (["plain", "--task", "coin", "--sweep", "kl_coeff=1"], "Did you mean 'kl_coef'"),
        (["plain", "--task", "coin", "--sweep", "kl_coef=0,0"], "given twice"),
        (["plain", "--task", "coin", "--sweep", "kl_coef=0,-1"], "--sweep kl_coef is -1"),
        (["--report", "here", "there"], "--report has 2: here, there; expected one folder"),
        (["--compare", "here"], "--compare has 1: here; expected two folders"),
        (["--compare", "a", "b", "--task", "coin"], "runs nothing, so it takes no --task"),
        (["plain", "--task", "coin", "--seeds", "0"], "--seeds is '0'"),
        (["plain", "--task", "coin", "--option", "clip_range"], "expected ALGO.name=value"),
        (["plain", "--task", "coin", "--option", "ppo.clip_range=1"], "'ppo' is not compared"),
        (["ppo", "--task", "coin", "--option", "ppo.clip_rang=1"], "Did you mean 'clip_range'"),
        (["ppo", "--task", "coin", "--option", "ppo.clip_range=x"], "--option ppo.clip_range is"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, message, tmp_path, capsys):
    assert bench(*words, "--out", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_sweep_chooses_for_each_algorithm_on_seeds_that_are_not_reported(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("plain", "picky", "--task", "coin", "--seeds", 2, "--out", out)
    words += ("--sweep", "learning_rate=1e-3,0.3", "--tuning-seeds", 2)
    words += ("--option", "picky.learning_rate=0.2")
    assert bench(*words) == 0
    rows = rows_of(out)
    assert [row["options"]["learning_rate"] for row in rows] == [0.3, 0.3, 0.2, 0.2]
    tuning = rows[0]["tuning"]
    assert rows[0]["chosen"]["tuned"] == {"learning_rate": 0.3}
    assert tuning["grid"] == {"learning_rate": [0.001, 0.3]}
    assert not set(tuning["seeds"]) & {row["seed"] for row in rows}
    tried = rows_of(out / "tuning" / "learning_rate=0.001")
    assert [row["seed"] for row in tried] == tuning["seeds"]
    assert tuning["tried"][0]["score"] == sum(row["score"] for row in tried) / 2
    assert rows[2]["tuning"] is None
    before = listing(out)
    capsys.readouterr()
    assert bench(*words) == 0
    assert "2 of 2 runs are done already" in capsys.readouterr().err
    assert {p: b for p, b in listing(out).items() if p in before} == before


def test_a_folder_that_another_bench_writes_to_is_refused(tmp_path, capsys):
    with Results(tmp_path / "out").lock():
        assert bench("plain", "--task", "coin", "--out", tmp_path / "out") == 2
    assert "is being written to by another" in capsys.readouterr().err


def test_what_a_task_starts_from_is_made_once_and_a_failure_is_one_line(tmp_path, capsys):
    words = ("--seeds", 1, "--out", tmp_path / "out")
    assert bench("plain", "--task", "made", *words) == 0
    assert "made what task 'made' starts from" in capsys.readouterr().err
    assert bench("plain", "--task", 'made:{"fails": true}', "--out", tmp_path / "other") == 1
    assert "bench_cases' failed: RuntimeError: no room" in capsys.readouterr().err
    words = ("plain", "--task", "made", "--out", tmp_path / "other", "--sweep", "kl_coeff=1")
    assert bench(*words) == 2
    assert "made what" not in capsys.readouterr().err  # no work before the grid was checked
    task = 'keywords:{"policy": "nowhere/at/all"}'
    assert bench("plain", "--task", task, "--out", tmp_path / "other") == 2
    assert "nowhere/at/all" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_folder_of_other_conditions_is_refused_and_left_alone(tmp_path, capsys):
    out = tmp_path / "out"
    assert bench("plain", "--task", "coin", "--seeds", 1, "--out", out) == 0
    before = listing(out)
    words = ("plain", "ppo", "--task", "coin", "--seeds", 2, "--out", out, "--budget", "samples=32")
    assert bench(*words) == 2
    assert "give another --out" in capsys.readouterr().err
    assert listing(out) == before


@pytest.mark.slow
def test_a_kill_loses_at_most_the_running_cell_and_leaves_no_process(tmp_path):
    words = ["plain", "reinforce", "--task", "chain", "--seeds", "2", "--budget", "samples=1280"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert bench(*words, "--out", whole) == 0
    command = [sys.executable, "-m", "alignzoo", *PLUGIN, "bench", *words, "--out", str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    log = killed / "runs" / "chain" / "plain" / "1.log"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = rows_of(killed)
    assert [row["seed"] for row in done] == [0]
    size = -1
    while size != (size := log.stat().st_size):  # whoever was running has ended, or will show here
        time.sleep(1.0)
    assert bench(*words, "--out", killed) == 0
    assert json.dumps(rows_of(killed)) == json.dumps(rows_of(whole))
