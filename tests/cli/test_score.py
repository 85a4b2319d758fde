"""`alignzoo score`: every row kept, in order, with its score."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from trainer.runs import flags, listing, read_lines, write_lines

from alignzoo import cli

CHAT = [{"role": "user", "content": "你好"}]
ROWS = [
    {"prompt": "A pet?", "completion": "my dog", "id": 7, "answer": "dog"},
    {"prompt": "Where?", "completion": "", "id": 8, "answer": "park"},
    {
        "prompt": [{"role": "user", "content": "你好"}],
        "completion": "狗 in the park",
        "answer": "x",
    },
]
FUNCTIONS = """
import math

def right(completions, answer):
    return [float(a in c) for c, a in zip(answer_texts(completions), answer)]

def answer_texts(completions):
    return [c if isinstance(c, str) else c[0]["content"] for c in completions]

def some(responses):
    return [None, math.nan, 1]

def endless(responses):
    return [math.inf, -math.inf, 1]

def raising(responses):
    raise OSError("no judge")

def text(responses):
    return ["good"] * len(responses)

def too_few(responses):
    return [1.0]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "data.jsonl", ROWS)
    write_lines(tmp_path / "prompts.jsonl", ["no completion"])
    write_lines(tmp_path / "number.jsonl", [*ROWS, {"prompt": "a", "completion": 3}])
    (tmp_path / "malformed.jsonl").write_text("{\n")
    (tmp_path / "reward.py").write_text(FUNCTIONS)
    return tmp_path


def score(*rewards, data="data.jsonl", out="out.jsonl", **options):
    given = {"reward": list(rewards), "data": data, "out": out, **options}
    return cli.main(["score", *flags(given)])


def scored(folder, *rewards, **options):
    assert score(*rewards, **options) == 0
    return read_lines(folder / "out.jsonl")


def test_rows_are_kept_in_order_with_their_score(folder):
    rows = scored(folder, 'keywords:{"include": ["dog", "park"]}')
    assert [{k: v for k, v in row.items() if k != "score"} for row in rows] == ROWS
    assert [row["score"] for row in rows] == pytest.approx([0.7, 0.4, 0.7])
    assert all(list(row)[-1] == "score" for row in rows)


def test_several_rewards_are_summed_by_weight_and_each_is_given(folder):
    rows = scored(folder, "reward.py:right", 'keywords:{"include": ["狗"], "weight": 2}')
    assert [row["scores"] for row in rows] == [
        {"right": 1.0, "keywords": 0.4},
        {"right": 0.0, "keywords": 0.4},
        {"right": 0.0, "keywords": 1.0},
    ]
    for row in rows:
        total = row["scores"]["right"] + 2 * row["scores"]["keywords"]
        assert row["score"] == pytest.approx(total)


def test_the_weight_of_a_single_reward_counts(folder):
    (first, *_) = scored(folder, 'reward.py:right:{"weight": -3}')
    assert first["score"] == -3.0


@pytest.mark.parametrize("name", ["some", "endless"])
def test_what_cannot_be_scored_is_null(name, folder):
    rows = scored(folder, f"reward.py:{name}", "length")
    assert [row["score"] is None for row in rows] == [True, True, False]
    assert [row["scores"][name] for row in rows] == [None, None, 1.0]
    assert all(row["scores"]["length"] is not None for row in rows)


def test_a_score_of_the_file_is_replaced(folder):
    write_lines(folder / "data.jsonl", [{**ROWS[0], "score": 99, "scores": {}}])
    (row,) = scored(folder, "reward.py:right")
    assert row["score"] == 1.0


def test_text_is_written_as_it_is(folder):
    scored(folder, "length")
    assert "狗" in (folder / "out.jsonl").read_text(encoding="utf-8")


def test_the_path_is_all_it_prints(folder, capsys):
    assert score("length") == 0
    assert capsys.readouterr() == ("out.jsonl\n", "")


def test_the_file_may_be_scored_in_place(folder):
    assert score("length", out="data.jsonl") == 0
    assert score("length", out="data.jsonl") == 0
    assert [row["answer"] for row in read_lines(folder / "data.jsonl")] == ["dog", "park", "x"]


@pytest.mark.parametrize(
    ("reward", "options", "code", "said"),
    [
        ("keyword", {}, 2, ["Did you mean 'keywords'?"]),
        ("reward.py:text", {}, 2, ["reward.py:text", "'good'"]),
        ("reward.py:too_few", {}, 2, ["reward.py:too_few", "1 scores", "expected 3"]),
        ("reward.py:raising", {}, 1, ["reward.py:raising", "no judge"]),
        ("length", {"data": "malformed.jsonl"}, 2, ["malformed.jsonl, line 1"]),
        ("length", {"data": "prompts.jsonl"}, 2, ["prompts.jsonl, line 1", "'completion'"]),
        ("length", {"data": "number.jsonl"}, 2, ["number.jsonl, line 4", "'completion'", "text"]),
        ("length", {"data": "nowhere.jsonl"}, 2, ["no file nowhere.jsonl"]),
        ("length", {"out": "no/folder.jsonl"}, 2, ["no/folder.jsonl", "cannot be written"]),
        ("length", {"seed": 1}, 2, ["no option '--seed'"]),
    ],
)
def test_a_failure_is_one_clear_line_and_leaves_the_old_file(
    reward, options, code, said, folder, capsys
):
    (folder / "out.jsonl").write_text("old\n")
    before = listing(folder)
    assert score(reward, **options) == code
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (line[:7], printed.out) == ("error: ", "")
    for part in said:
        assert part in line
    assert listing(folder) == before


def test_a_reward_is_needed(folder, capsys):
    assert score() == 2
    assert "--reward is needed" in capsys.readouterr().err


def test_scoring_needs_no_torch(folder):
    words = ["score", *flags({"reward": "keywords", "data": "data.jsonl", "out": "out.jsonl"})]
    code = f"""
import sys
from alignzoo.cli import main
code = main({json.dumps(words)})
print(code, "torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "0 False\n"
