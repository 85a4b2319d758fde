"""A reward for the right final answer to a question of mathematics, however it is written.

score = correct   where the response's final answer equals the row's
        wrong     where it does not
        missing   where the response states none

The final answer of a response is what its last \\boxed{...} holds; else what follows its last
"####"; else what follows its last "answer is", "answer:" or "答案是"; else, with
`extract="any"`, its last number. Of the row's own answer the same is read, or its whole text.

Two answers are equal if they are the same number: 1,234.50, $1234.5, \\frac{2469}{2}, 1234 1/2
and 1.2345e3 are, as fractions, without rounding. A percentage equals its number with or without
the sign, and its hundredth only where one of the two has the sign. Lists such as (1, 2) are
compared part by part. Other answers are compared as text, without case, spaces, dollar signs or
final stops. No algebra is done: x + 1 and 1 + x differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field

import alignzoo as az
from alignzoo import options

STATED = re.compile(r"(?:answer\s*(?:is|:|=)|答案\s*[是为:=])[\s:*]*", re.IGNORECASE)
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+"
UNIT = re.compile(r"\s*%?(?:\s+[^\W\d_]+|[^\W\d_]{2,}|[\u4e00-\u9fff])?(?:[ -][^\W\d_]+)*\s*")
LAST_NUMBER = re.compile(
    rf"(?<![\w.)\]])[-+]?\s?(?:{NUMBER})(?:\s+\d+/\d+|/\d+)?\s?%?|(?:{NUMBER})"
)
VALUE = re.compile(rf"(?P<sign>[-+]?)(?P<whole>{NUMBER})(?:\s+(?P<top>\d+)/(?P<bottom>\d+))?")
RATIO = re.compile(rf"(?P<sign>[-+]?)(?P<top>{NUMBER})/(?P<bottom>{NUMBER})")
FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
SYMBOLS = str.maketrans({"−": "-", "–": "-", "：": ":", "，": ",", "。": ".", "＝": "="})
MAX_DIGITS = 400  # of an exponent or a number: 1e999999999 is no answer, and would fill memory


class MathConfig(az.RewardConfig):
    """Options of `math`."""

    answer_column: str = Field("answer", description="column that holds the right answer")
    extract: Literal["any", "marked"] = Field(
        "any", description="marked: a number counts as answer only where the response says so"
    )
    correct: options.Score = Field(1.0, description="score of the right answer")
    wrong: options.Score = Field(0.0, description="score of another answer")
    missing: options.Score = Field(0.0, description="score of a response that states no answer")


class Math(az.RewardModel):
    """Scores whether a response ends at the right answer."""

    Config = MathConfig
    examples = (
        {"prompt": "1 + 1?", "completion": "It is \\boxed{2}.", "answer": "2", "score": 1.0},
        {"prompt": "1 / 4?", "completion": "25 %", "answer": "0.25", "score": 1.0},
        {"prompt": "1 + 1?", "completion": "3", "answer": "2", "score": 0.0},
        {
            "options": {"missing": -1, "answer_column": "gold"},
            "prompt": "1 + 1?",
            "completion": "I do not know.",
            "gold": "#### 2",
            "score": -1.0,
        },
    )

    def score(
        self, prompts: Sequence[Any], responses: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """Returns `correct`, `wrong` or `missing` per response; None where the row has no answer.

        Raises:
            DataError: the data has no column `answer_column`.
        """
        column = self.config.answer_column
        if column not in columns:
            has = ", ".join(f"'{name}'" for name in columns) or "none"
            raise az.DataError(
                f"math compares with the column '{column}', which the data lacks; besides prompts "
                f"and completions there is {has}. Name another with answer_column."
            )
        rows = zip(responses, columns[column], strict=True)
        return [self._score_one(response, answer) for response, answer in rows]

    def _score_one(self, response: str, answer: Any) -> float | None:
        if answer is None or not str(answer).strip():
            return None
        right = marked_answer(str(answer)) or str(answer)
        given = marked_answer(response)
        if given is None and self.config.extract == "any":
            given = last_number(response)
        if given is None:
            score = self.config.missing
        else:
            score = self.config.correct if same_answer(given, right) else self.config.wrong
        return float(score)


def marked_answer(text: str) -> str | None:
    """Returns what a text marks as its final answer, or None where it marks nothing."""
    text = _plain(text).rpartition("</think>")[2]
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        return _first_line(text.rpartition("####")[2])
    stated = list(STATED.finditer(text))
    if not stated:
        return None
    said = _first_line(text[stated[-1].end() :])
    if same_text(said) == "":
        return None
    number = re.match(rf"[^\d]{{0,12}}?({LAST_NUMBER.pattern})", said)
    return said if number is None or len(said) <= 24 else number[1]


def last_number(text: str) -> str | None:
    """Returns the last number in a text, as it is written."""
    found = LAST_NUMBER.findall(_plain(text).rpartition("</think>")[2])
    return found[-1] if found else None


def same_answer(given: str, right: str) -> bool:
    """Whether two answers are the same number, list of numbers, or text."""
    given, right = _bare(given), _bare(right)
    if same_text(given) == same_text(right):
        return True
    values, wanted = _value(given), _value(right)
    if values is not None and wanted is not None:
        if "%" in given + right and ("%" in given) != ("%" in right):
            return wanted in (values, values / 100, values * 100)
        return values == wanted
    parts, others = _parts(given), _parts(right)
    return len(parts) == len(others) > 1 and all(
        same_answer(a, b) for a, b in zip(parts, others, strict=True)
    )


def same_text(text: str) -> str:
    """Returns a text without what does not distinguish answers."""
    return re.sub(r"[\s$]|\\[,;!]|\\left|\\right", "", text).casefold().rstrip(".").strip("()")


def _plain(text: str) -> str:
    """Returns a text with digits and signs of every script as ASCII has them."""
    return unicodedata.normalize("NFKC", text.translate(SYMBOLS)).translate(SYMBOLS)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].strip(" *`.") if lines else ""


def _last_boxed(text: str) -> str | None:
    """Returns what the last \\boxed{...} that is closed holds, nested braces included."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place].strip()
    return None


def _bare(text: str) -> str:
    """Returns an answer without the wrapping that people and LaTeX put around it."""
    text = _plain(text).strip()
    text = re.sub(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}", r" \1 ", text)
    text = FRACTION.sub(r"(\1)/(\2)", text)
    text = re.sub(r"\((-?[\d.,]+)\)/\((-?[\d.,]+)\)", r"\1/\2", text)
    text = re.sub(
        r"\\[,;!()\[\]]|\\left|\\right|\\%|[$£€¥*`]", lambda m: "%" * (m[0] == "\\%"), text
    )
    return re.sub(r"^\s*[a-zA-Z]\s*=\s*", "", text).strip().rstrip(".")


def _value(text: str) -> Fraction | None:
    """Returns the number a text is, with or without a unit after it; None where it is none."""
    text = re.sub(r"^([-+])\s+", r"\1", text.strip())
    ratio = RATIO.match(text)
    match = ratio or VALUE.match(text)
    if match is None or not UNIT.fullmatch(text, match.end()):
        return None
    found = match.groupdict()
    numbers = {key: _number(value) for key, value in found.items() if value and key != "sign"}
    if None in numbers.values() or numbers.get("bottom") == 0:
        return None
    whole, top, bottom = (numbers.get(key) for key in ("whole", "top", "bottom"))
    value = (whole or Fraction(0)) + (top / bottom if top is not None and bottom else Fraction(0))
    return -value if found["sign"] == "-" else value


def _number(text: str) -> Fraction | None:
    digits = text.replace(",", "")
    exponent = re.search(r"[eE]([+-]?\d+)$", digits)
    too_long = len(digits) > MAX_DIGITS or (exponent and abs(int(exponent[1])) > MAX_DIGITS)
    return None if too_long else Fraction(digits)


def _parts(text: str) -> list[str]:
    """Returns the parts of a list such as (1, 2); a text that is none is its one part."""
    return [part.strip() for part in re.split(r"[,;]\s*", text.strip("()[]{} "))]


@az.hookimpl
def alignzoo_rewards() -> list[az.RewardSpec]:
    """Returns the record of `math`."""
    return [
        az.RewardSpec(
            id="math",
            target="alignzoo.plugins.math:Math",
            summary="The right final answer to a question of mathematics",
        )
    ]
