"""`math`: which answers are found, and which are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alignzoo.plugins.math import Math, MathConfig, last_number, marked_answer, same_answer

from alignzoo.config import build_config
from alignzoo.errors import DataError


def make(**options: Any) -> Math:
    return Math(build_config(MathConfig, options, "math"))


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("1,234.50", "$1234.5"),
        ("\\frac{2469}{2}", "1234 1/2"),
        ("\\dfrac{1}{2}", "0.5"),
        ("1.2345e3", "1234.5"),
        ("− 3", "-3"),
        ("１２", "12"),
        ("5 apples", "5"),
        ("12,000 dollars per day", "12000"),
        ("18个", "18"),
        ("50%", "50"),
        ("50 %", "0.5"),
        ("x = 5", "5"),
        ("(1, 2)", "(1,2.0)"),
        ("(B)", "b"),
        ("\\text{Paris}.", "paris"),
        ("3\\!", "3"),
    ],
)
def test_answers_that_differ_in_format_alone_are_the_same(given: str, right: str) -> None:
    assert same_answer(given, right)
    assert same_answer(right, given)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("3", "-3"),
        ("50", "0.5"),
        ("0.3333", "1/3"),
        ("1,2", "12"),
        ("(2, 1)", "(1, 2)"),
        ("3x", "3"),
        ("10-20", "10"),
        ("12:30", "12"),
        ("1 + x", "x + 1"),
        ("3/0", "3"),
        ("1e999999999", "3"),
        ("", "3"),
    ],
)
def test_answers_that_differ_in_value_are_not(given: str, right: str) -> None:
    assert not same_answer(given, right)
    assert not same_answer(right, given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{3}, no: \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("2 + 2 = 4\n#### 4\n", "4"),
        ("The answer is 42.", "42"),
        ("The answer is: **$1,200** per day, whatever they may say of it", "1,200"),
        ("答案是：18。", "18"),
        ("<think>#### 9</think> the answer is 8", "8"),
        ("an open \\boxed{3", None),
        ("The answer is", None),
        ("3 and 4", None),
    ],
)
def test_the_marked_answer_is_the_last_of_the_strongest_mark(
    text: str, expected: str | None
) -> None:
    assert marked_answer(text) == expected


def test_a_minus_is_a_sign_only_where_nothing_is_subtracted() -> None:
    assert last_number("it is 12-15") == "15"
    assert last_number("it is -15") == "-15"
    assert last_number("none") is None


def test_a_response_is_right_wrong_or_without_an_answer() -> None:
    reward = make(correct=2.0, wrong=-1.0, missing=-3.0)
    scores = reward.score([""] * 3, ["5 + 5 = 10", "so 9", "who knows"], answer=["#### 10"] * 3)
    assert scores == [2.0, -1.0, -3.0]


def test_only_a_marked_answer_counts_where_asked() -> None:
    reward = make(extract="marked")
    assert reward.score([""] * 2, ["so 9", "#### 9"], answer=["9", "9"]) == [0.0, 1.0]


def test_a_row_without_an_answer_cannot_be_scored() -> None:
    assert make().score([""] * 2, ["9", "9"], answer=[None, " "]) == [None, None]


def test_a_numeric_answer_is_compared_as_it_is() -> None:
    assert make(answer_column="final").score([""], ["it is 7.0"], final=[7]) == [1.0]


def test_data_without_the_column_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"column 'answer', which the data lacks.*'final'"):
        make().score([""], ["9"], final=["9"])


def test_the_solutions_of_real_questions_are_right_and_the_questions_mostly_not(
    data_dir: Path,
) -> None:
    lines = (data_dir / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:1000]
    rows = [json.loads(line) for line in lines]
    reward, finals = make(answer_column="final"), [row["final"] for row in rows]
    blank = [""] * len(rows)
    assert set(reward.score(blank, [row["answer"] for row in rows], final=finals)) == {1.0}
    by_chance = reward.score(blank, [row["question"] for row in rows], final=finals)
    assert sum(score or 0.0 for score in by_chance) < 0.05 * len(rows)
