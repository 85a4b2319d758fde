"""Preferences and ratings: what a row means, and the row that means nothing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    EncodedPreference,
    Preference,
    Rating,
    encode_preferences,
    encode_ratings,
    read_preferences,
    read_ratings,
)
from alignzoo.errors import DataError

USER = {"role": "user", "content": "hi"}
MORE = {"role": "user", "content": "and?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# -- preferences -------------------------------------------------------------------------------


def test_text_preferences_stand_as_they_are() -> None:
    rows = read_preferences([{"prompt": "a", "chosen": " b", "rejected": " c", "id": 1}])
    assert rows == [Preference("a", " b", " c", {"id": 1}, "data[0]")]
    assert read_preferences(rows) == rows


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [said("yes")], "rejected": [said("no")]},
        {"prompt": "hi", "chosen": [said("yes")], "rejected": [said("no")]},
        {"prompt": "hi", "chosen": [said("yes")], "rejected": "no"},
        {"chosen": [USER, said("yes")], "rejected": [USER, said("no")]},
        {"prompt": "hi", "chosen": [USER, said("yes")], "rejected": [USER, said("no")]},
    ],
)
def test_chat_preferences_come_in_many_forms_and_mean_the_same(row: dict[str, Any]) -> None:
    (read,) = read_preferences([row])
    assert (read.prompt, read.chosen, read.rejected) == ([USER], [said("yes")], [said("no")])


def test_transcripts_share_their_messages_up_to_a_user_turn() -> None:
    start = [USER, said("hello"), MORE]
    (read,) = read_preferences([{"chosen": [*start, said("x")], "rejected": [*start, said("y")]}])
    assert (read.prompt, read.chosen, read.rejected) == (start, [said("x")], [said("y")])
    # One that is the beginning of the other: both answer the user before.
    (read,) = read_preferences([{"chosen": start[:2], "rejected": [*start, said("y")]}])
    assert read.prompt == [USER]
    assert (read.chosen, read.rejected) == ([said("hello")], [said("hello"), MORE, said("y")])


def test_transcripts_written_as_one_text_are_split_after_the_assistant_is_named() -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant:"
    (read,) = read_preferences([{"chosen": start + " This.", "rejected": start + " That."}])
    assert (read.prompt, read.chosen, read.rejected) == (start, " This.", " That.")
    (read,) = read_preferences([{"chosen": start + " This.", "rejected": start + " This. Or."}])
    assert (read.prompt, read.chosen, read.rejected) == (start, " This.", " This. Or.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The dog ran.", "The dog rested.", "The dog"),
        ("The dog ran.", "The dog ran. It sat.", "The dog"),
        ("今天很好", "今天很坏", "今天很"),
    ],
)
def test_other_texts_are_split_before_the_word_in_which_they_part(
    chosen: str, rejected: str, prompt: str
) -> None:
    (read,) = read_preferences([{"chosen": chosen, "rejected": rejected}])
    assert read.prompt == prompt
    assert (read.prompt + read.chosen, read.prompt + read.rejected) == (chosen, rejected)  # type: ignore[operator]


BAD_PREFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "demonstrations": (
        {"prompt": "a", "completion": "b"},
        "no column 'chosen'; the columns are 'prompt', 'completion'. Preferences need 'prompt',",
    ),
    "half": ({"prompt": "a", "chosen": "b"}, "no column 'rejected'; the columns are"),
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "'chosen' and 'rejected' are the s"),
    "equal chat": ({"chosen": [USER, said("b")], "rejected": [USER, said("b")]}, "are the same"),
    "null": ({"prompt": "a", "chosen": "b", "rejected": None}, "column 'rejected' holds null"),
    "apart": ({"chosen": "yes", "rejected": "no"}, "do not begin alike, and there is no column"),
    "apart chat": ({"chosen": [USER, said("a")], "rejected": [MORE, said("b")]}, "not begin alike"),
    "mixed": ({"chosen": "hi yes", "rejected": [USER, said("b")]}, "one of 'chosen' and 'rejected"),
    "user": ({"prompt": [USER], "chosen": [MORE], "rejected": "b"}, "'chosen' begins with the ro"),
    "ended": ({"chosen": [USER], "rejected": [USER, said("b")]}, "'chosen' ends before the assis"),
    "other prompt": (
        {"prompt": "else", "chosen": [USER, said("a")], "rejected": [USER, said("b")]},
        "'prompt' is not among the messages that",
    ),
    "assistant": ({"prompt": [said("x")], "chosen": "a", "rejected": "b"}, "ends with the role"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PREFERENCES)
def test_a_bad_preference_is_named_with_file_and_line(case: str, tmp_path: Path) -> None:
    # correctness.md #22: chosen equal to rejected is an error naming the row.
    row, message = BAD_PREFERENCES[case]
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match="pairs.jsonl, line 2: .*" + re.escape(message)):
        read_preferences(path)


def encode(tokenizer: Any, rows: list[dict[str, Any]], **options: Any) -> Any:
    return encode_preferences(tokenizer, read_preferences(rows), end_ids=[1], **options)


def test_both_responses_of_a_pair_follow_the_same_prompt_and_end(plain: Any) -> None:
    ((pair,), report) = encode(plain, [{"prompt": "z", "chosen": "q", "rejected": "qx"}])
    assert isinstance(pair, EncodedPreference)
    assert pair.responses == (pair.chosen, pair.rejected)
    assert pair.chosen.prompt_ids == pair.rejected.prompt_ids == plain.encode("z")
    assert pair.chosen.response_ids[:-1] == pair.rejected.response_ids[:-2]
    assert pair.chosen.response_ids[-1] == pair.rejected.response_ids[-1] == 1
    assert report.describe() == ""


def test_pairs_that_are_identical_after_truncation_are_counted_reported_and_dropped(
    plain: Any,
) -> None:
    # correctness.md #22.
    rows = [
        {"prompt": "z", "chosen": "qxqxqx", "rejected": "qxqxqz"},  # part at the 6th token
        {"prompt": "z", "chosen": "qxqxqx", "rejected": "xqxqxq"},
        {"prompt": "zxzxzxzx", "chosen": "q", "rejected": "x"},
        {"prompt": "z", "chosen": "q", "rejected": "x"},
    ]
    pairs, report = encode(plain, rows, max_length=6)
    assert [pair.chosen.where for pair in pairs] == ["data[1]", "data[3]"]
    assert report.identical == ["data[0]"]
    assert (report.cut, report.dropped) == (["data[0]", "data[1]"], ["data[2]"])
    assert "1 dropped, whose chosen and rejected are the same tokens (first: data[0])" in (
        report.describe()
    )
    with pytest.raises(DataError, match=r"nothing is left to learn from.*same tokens.*data\[0\]"):
        encode(plain, rows[:1], max_length=6)


def test_a_template_that_strips_can_make_a_pair_identical(chatml: Any) -> None:
    rows = [
        {"prompt": [USER], "chosen": "yes", "rejected": "yes "},
        {"prompt": [USER], "chosen": "yes", "rejected": "no"},
    ]
    pairs, report = encode(chatml, rows)
    assert len(pairs) == 1
    assert report.describe().startswith("of 2 rows: 1 dropped, whose chosen and rejected")


# -- ratings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [(3, 3.0), (-0.5, -0.5), ("4.5", 4.5), (True, 1.0), (False, 0.0), ("True", 1.0), ("false", 0)],
)
def test_a_rating_is_a_number_or_a_truth_value(given: Any, expected: float) -> None:
    for column in ("rating", "label"):
        (row,) = read_ratings([{"prompt": "a", "completion": " b", column: given, "id": 1}])
        assert row == Rating("a", " b", expected, {"id": 1}, "data[0]")
        assert read_ratings([row]) == [row]


def test_a_rating_goes_before_a_label() -> None:
    (row,) = read_ratings([{"prompt": "a", "completion": "b", "rating": 2, "label": True}])
    assert (row.rating, row.columns) == (2.0, {"label": True})


def test_responses_without_a_rating_are_counted_reported_and_dropped(plain: Any) -> None:
    ratings = [None, 1, math.nan, "", 2]
    rows = read_ratings([{"prompt": "z", "completion": "q", "rating": r} for r in ratings])
    assert [math.isnan(row.rating) for row in rows] == [True, False, True, True, False]
    encoded, report = encode_ratings(plain, rows, end_ids=[1])
    assert [item.rating for item in encoded] == [1.0, 2.0]
    assert encoded[0].responses == (encoded[0].response,)
    assert report.unrated == ["data[0]", "data[2]", "data[3]"]
    assert report.describe() == "of 5 rows: 3 dropped, which have no rating (first: data[0])"
    with pytest.raises(DataError, match=r"nothing is left to learn from.*have no rating"):
        encode_ratings(plain, rows[:1], end_ids=[1])


BAD_RATINGS: dict[str, tuple[dict[str, Any], str]] = {
    "preferences": ({"prompt": "a", "chosen": "b"}, "no column 'completion'; the columns are"),
    "unrated": ({"prompt": "a", "completion": "b"}, "no column 'rating'; the columns are 'prompt'"),
    "text": ({"prompt": "a", "completion": "b", "rating": "good"}, "column 'rating' holds text"),
    "list": ({"prompt": "a", "completion": "b", "label": [1]}, "column 'label' holds a list; expe"),
    "infinite": ({"prompt": "a", "completion": "b", "rating": math.inf}, "expected a finite numb"),
    "huge": ({"prompt": "a", "completion": "b", "rating": 10**400}, "holds the number of 1329 bit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_a_bad_rating_is_named(case: str) -> None:
    row, message = BAD_RATINGS[case]
    with pytest.raises(DataError, match=re.escape("data[0]: ") + ".*" + re.escape(message)):
        read_ratings([row])


def test_ratings_are_read_from_csv(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("prompt,completion,label\na,b,True\na,c,false\na,d,\n")
    assert [row.rating for row in read_ratings(path)[:2]] == [1.0, 0.0]
    assert math.isnan(read_ratings(path)[2].rating)


# -- real files --------------------------------------------------------------------------------


def test_whole_transcripts_are_split_as_people_split_them(real_data: Path) -> None:
    split = {}
    for row in read_preferences(real_data / "hh_harmless_pairs.jsonl"):
        asked = tuple(message["content"].strip() for message in row.prompt)  # type: ignore[index]
        answers = (row.chosen[0]["content"], row.rejected[0]["content"])  # type: ignore[index]
        split[asked] = tuple(text.strip() for text in answers)
    rows = read_preferences(real_data / "hh_harmless_raw_300.jsonl.gz")
    assert len(rows) == 300
    found = 0
    for row in rows:
        assert isinstance(row.prompt, str)
        assert row.prompt.endswith("\n\nAssistant:")
        asked = tuple(t.strip() for t in re.split("\n\n(?:Human|Assistant):", row.prompt)[1:-1])
        if asked in split:
            found += 1
            assert split[asked] == (str(row.chosen).strip(), str(row.rejected).strip())
    assert found > 200


@pytest.mark.parametrize("file", ["correctness_pairs_train.jsonl", "zh_pref_demo.jsonl"])
def test_real_pairs_are_read(real_data: Path, file: str) -> None:
    rows = read_preferences(real_data / file)
    assert len(rows) >= 300
    assert all(row.chosen != row.rejected for row in rows)
