"""Small files of every kind of human judgement, easily learned."""

from __future__ import annotations

from typing import Any


def judgement_rows(kind: str, count: int = 40, *, start: int = 0) -> list[dict[str, Any]]:
    """Returns `count` rows of a kind of judgement, a key of `alignzoo.data.JUDGEMENTS`.

    What is thankful and long is good, what is rude and short is bad; so it can be learned from
    words, from characters and from lengths.

    Args:
        start: number of the first row; rows of other numbers are of other prompts.
    """
    return [_row(kind, number) for number in range(start, start + count)]


def good_response(number: int) -> str:
    """Returns what was judged to be good of prompt `number`."""
    return f"Thank you for asking, here it is: {number}."


def bad_response(number: int) -> str:
    """Returns what was judged to be bad of prompt `number`."""
    return f"Go away, {number}!"


def _row(kind: str, number: int) -> dict[str, Any]:
    prompt, good, bad = f"Say {number}.", good_response(number), bad_response(number)
    is_good = number % 2 == 0
    both = {"prompt": prompt, "completion": good if is_good else bad}
    rows: dict[str, dict[str, Any]] = {
        "ratings": {**both, "rating": 5 if is_good else 1, "rater": f"rater {number % 3}"},
        "classes": {**both, "label": "good" if is_good else "bad"},
        "preferences": {"prompt": prompt, "chosen": good, "rejected": bad},
        "rankings": {"prompt": prompt, "completions": [good, f"Well, it is {number}.", bad]},
        "text_feedback": {
            **both,
            "feedback": "This is kind." if is_good else "This is rude.",
            "rating": int(is_good),
        },
        "steps": {"prompt": prompt, "steps": [good, bad], "ratings": [1, 0]},
    }
    return rows[kind]
