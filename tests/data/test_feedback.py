"""Class labels, rankings, written feedback and marks of steps: what a row means, and what not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from alignzoo.data import (
    ClassLabel,
    Ranking,
    Rating,
    StepRatings,
    TextFeedback,
    plain_text,
    read_classes,
    read_rankings,
    read_ratings,
    read_step_ratings,
    read_text_feedback,
)
from alignzoo.errors import DataError

USER = {"role": "user", "content": "hi"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_plain_text_of_messages_is_their_contents_line_by_line() -> None:
    assert plain_text([USER, said("hello")]) == "hi\nhello"
    assert plain_text(" text\n stays ") == " text\n stays "


@pytest.mark.parametrize(
    ("given", "label"),
    [("good", "good"), (1, "1"), (True, "true"), (False, "false"), (2.0, "2"), (" bad ", "bad")],
)
def test_a_class_is_text_and_numbers_and_truth_values_become_text(given: Any, label: str) -> None:
    row = {"prompt": "a", "completion": "b", "label": given, "id": 7}
    assert read_classes([row]) == [ClassLabel("a", "b", label, {"id": 7}, "data[0]")]


@pytest.mark.parametrize(
    ("read", "column", "row"),
    [
        (read_classes, {"label": "bad"}, ClassLabel("", "c", "bad", {}, "data[0]")),
        (read_ratings, {"rating": 2}, Rating("", "c", 2.0, {}, "data[0]")),
        (
            read_text_feedback,
            {"feedback": "dull", "rating": 1},
            TextFeedback("", "c", "dull", 1.0, {}, "data[0]"),
        ),
    ],
)
def test_text_alone_is_a_completion_to_the_empty_prompt(
    read: Callable[..., Any], column: dict[str, Any], row: Any
) -> None:
    assert read([{"text": "c", **column}]) == [row]
    assert read([{"completion": "c", **column}]) == [row]


def test_text_beside_prompt_and_completion_is_a_further_column() -> None:
    (row,) = read_classes([{"prompt": "a", "completion": "b", "text": "c", "label": 1}])
    assert (row.completion, row.columns) == ("b", {"text": "c"})


@pytest.mark.parametrize("column", ["completions", "ranked"])
def test_a_ranking_is_a_list_best_first(column: str) -> None:
    (row,) = read_rankings([{"prompt": "a", column: ["x", "y", "z"], "id": 7}])
    assert row == Ranking("a", ("x", "y", "z"), {"id": 7}, "data[0]")


def test_a_ranking_of_answers_in_a_chat_is_all_messages() -> None:
    (row,) = read_rankings([{"prompt": [USER], "ranked": ["x", [said("y")]]}])
    assert (row.prompt, row.completions) == ([USER], ([said("x")], [said("y")]))


def test_feedback_without_a_rating_has_nan() -> None:
    rows = read_text_feedback(
        [
            {"prompt": "a", "completion": "b", "feedback": "too short"},
            {"prompt": "a", "completion": "b", "feedback": "fine", "rating": "4"},
        ]
    )
    assert math.isnan(rows[0].rating)
    assert (rows[1].feedback, rows[1].rating) == ("fine", 4.0)


@pytest.mark.parametrize(
    "row",
    [
        {"steps": ["x", "y", "z"], "ratings": [1, 0.5, None]},
        {"completions": ["x", "y", "z"], "labels": [True, 0.5, None]},
    ],
)
def test_steps_are_rated_one_by_one(row: dict[str, Any]) -> None:
    (read,) = read_step_ratings([{"prompt": "a", **row}])
    assert isinstance(read, StepRatings)
    assert (read.steps, read.ratings[:2], read.columns) == (("x", "y", "z"), (1.0, 0.5), {})
    assert math.isnan(read.ratings[2])


READERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (read_classes, {"prompt": "a", "completion": "b", "label": "x"}),
    (read_rankings, {"prompt": "a", "completions": ["x", "y"]}),
    (read_text_feedback, {"prompt": "a", "completion": "b", "feedback": "x", "rating": 1}),
    (read_step_ratings, {"prompt": "a", "steps": ["x"], "ratings": [1]}),
]


@pytest.mark.parametrize(("read", "row"), READERS)
def test_rows_that_were_read_pass_through(read: Callable[..., Any], row: dict[str, Any]) -> None:
    rows = read([row, row])
    assert read(rows) == rows


PAIR = {"prompt": "a", "completion": "b"}
BAD: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "no label": (read_classes, PAIR, "no column 'label'; the columns are 'prompt', 'completion'"),
    "no text": (read_classes, {"label": 1}, "no column 'completion'; the columns are 'label'. Cla"),
    "null label": (read_classes, {**PAIR, "label": None}, "column 'label' holds null; expected a"),
    "empty label": (read_classes, {**PAIR, "label": " "}, "column 'label' holds text; expected a"),
    "half a label": (read_classes, {**PAIR, "label": 0.5}, "holds the number 0.5; expected"),
    "NaN label": (read_classes, {**PAIR, "label": math.nan}, "holds the number nan; expected a cl"),
    "label list": (read_classes, {**PAIR, "label": ["x"]}, "column 'label' holds a list"),
    "no ranking": (read_rankings, PAIR, "no column 'completions'; the columns are 'prompt'"),
    "no prompt": (read_rankings, {"ranked": ["x", "y"]}, "no column 'prompt'; the columns are 'ra"),
    "text": (read_rankings, {"prompt": "a", "ranked": "x"}, "column 'ranked' holds text; exp"),
    "one": (read_rankings, {"prompt": "a", "ranked": ["x"]}, "'ranked' is a list of 1; expe"),
    "number": (read_rankings, {"prompt": "a", "ranked": ["x", 3]}, "column 'ranked[1]' holds the"),
    "same": (
        read_rankings,
        {"prompt": "a", "ranked": ["x", "y", "x"]},
        "'ranked[0]' and 'ranked[2]' are the same",
    ),
    "no feedback": (read_text_feedback, PAIR, "no column 'feedback'"),
    "feedback list": (read_text_feedback, {**PAIR, "feedback": []}, "column 'feedback' holds a li"),
    "infinite": (
        read_text_feedback,
        {**PAIR, "feedback": "x", "rating": -math.inf},
        "column 'rating' holds the number -inf; expected a finite number",
    ),
    "no marks": (read_step_ratings, {"prompt": "a", "steps": ["x"]}, "no column 'ratings'"),
    "no steps": (read_step_ratings, {"prompt": "a", "steps": [], "labels": []}, "a list of 0; exp"),
    "fewer": (
        read_step_ratings,
        {"prompt": "a", "steps": ["x", "y"], "labels": [1]},
        "'steps' has 2 steps and 'labels' 1 marks",
    ),
    "step": (
        read_step_ratings,
        {"prompt": "a", "steps": ["x", 1], "labels": [1, 1]},
        "column 'steps[1]' holds the number 1; expected text",
    ),
    "mark": (
        read_step_ratings,
        {"prompt": "a", "steps": ["x"], "labels": ["+"]},
        "column 'labels[0]' holds text; expected a number, true or false",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_judgement_is_named(case: str) -> None:
    read, row, message = BAD[case]
    with pytest.raises(DataError, match=re.escape("votes[0]: ") + ".*" + re.escape(message)):
        read([row], name="votes")
