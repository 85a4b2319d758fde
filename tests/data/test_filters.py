"""Rows left out by length, language and duplicates: which, how many, and where they stood."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import FilterOptions, FilterReport, filter_rows, read_rows
from alignzoo.data.duplicates import NearDuplicates, _rows_per_band, normalise
from alignzoo.data.filters import language_identifier
from alignzoo.errors import ConfigError, DataError

ENGLISH = "The quick brown fox jumps over the lazy dog while everybody in the village watches it."
CHINESE = "今天下午我们一起去公园散步，看见很多小朋友在草地上高兴地玩耍。"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, während das ganze Dorf zusieht."


def run(rows: list[dict[str, Any]], **options: Any) -> tuple[list[Any], FilterReport]:
    report = FilterReport()
    kept = list(filter_rows(read_rows(rows), FilterOptions(**options), report))
    return kept, report


def texts(*completions: str) -> list[dict[str, Any]]:
    return [{"prompt": "a", "completion": text, "id": i} for i, text in enumerate(completions)]


@pytest.mark.parametrize(
    ("options", "kept", "reason"),
    [
        ({"min_completion": 3}, [1, 2], "completion too short"),
        ({"max_completion": 3}, [0, 1], "completion too long"),
        ({"min_prompt": 2}, [], "prompt too short"),
        ({"max_prompt": 1}, [0, 1, 2], None),
    ],
)
def test_lengths_are_in_characters(
    options: dict[str, int], kept: list[int], reason: str | None
) -> None:
    rows, report = run(texts("ab", "abc", "今天下午"), **options)
    assert [row["id"] for row in rows] == kept
    assert (report.rows, report.kept) == (3, len(kept))
    assert report.dropped == ({reason: 3 - len(kept)} if reason else {})


def test_both_answers_of_a_pair_must_be_of_the_right_length() -> None:
    rows = [{"prompt": "a", "chosen": "long enough", "rejected": "no"}]
    assert run(rows, min_completion=3)[0] == []


def test_where_the_first_rows_of_a_reason_stood_is_told() -> None:
    _, report = run(texts("abc", "x", "y", "z", "w"), min_completion=2)
    assert report.first == {"completion too short": ["data[1]", "data[2]", "data[3]"]}


def test_exact_duplicates_differ_in_nothing_but_case_width_and_white_space() -> None:
    rows, report = run(texts("One two.", "one  TWO.\n", "Ｏｎｅ two.", "One two!", "One two."))
    assert [row["id"] for row in rows] == [0, 3]
    assert report.dropped == {"exact duplicate": 3}


def test_one_answer_to_two_prompts_is_no_duplicate() -> None:
    rows = [{"prompt": prompt, "completion": "yes"} for prompt in ("a", "b")]
    assert len(run(rows)[0]) == 2


@pytest.mark.parametrize("text", [ENGLISH * 3, CHINESE * 3])
def test_near_duplicates_are_found_in_any_script(text: str) -> None:
    rows = texts(text, text[:-4] + "!", text[::-1])
    kept, report = run(rows, duplicates="near")
    assert [row["id"] for row in kept] == [0, 2]
    assert report.dropped == {"near duplicate": 1}
    assert len(run(rows, duplicates="none")[0]) == 3


def test_a_kept_row_is_as_the_file_has_it() -> None:
    row = {"instruction": "Say hi.", "input": "", "output": "Hi!", "source": "mine"}
    assert run([row])[0] == [row]


def test_wrong_rows_are_refused_or_told(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 3}]
    with pytest.raises(DataError, match=r"data\[1\]: column 'completion' holds the number 3"):
        run(rows)
    told: list[DataError] = []
    report = FilterReport()
    kept = filter_rows(read_rows(rows), FilterOptions(), report, on_error=told.append)
    assert (len(list(kept)), len(told), report.kept) == (1, 1, 1)


# -- language ------------------------------------------------------------------------------------


def test_languages_are_told_apart() -> None:
    pytest.importorskip("py3langid")
    rows = [{"prompt": "", "completion": text} for text in (ENGLISH, CHINESE, GERMAN)]
    kept, report = run(rows, languages=["en,zh"])
    assert [row["completion"] for row in kept] == [ENGLISH, CHINESE]
    assert report.dropped == {"language de": 1}


def test_an_unknown_language_is_a_wrong_option() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match="'chinese' is no language that can be told; expected IS"):
        run(texts("a"), languages=["chinese"])


def test_without_py3langid_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigError, match=r"pip install 'alignzoo\[data\]'"):
        language_identifier()


# -- near duplicates -----------------------------------------------------------------------------


def jaccard(left: str, right: str) -> float:
    one, two = ({t[i : i + 5] for i in range(len(t) - 4)} for t in map(normalise, (left, right)))
    return len(one & two) / len(one | two)


def test_the_similarity_is_that_of_character_5_grams() -> None:
    words = [f"word{i:03d}" for i in range(400)]
    base = " ".join(words)
    for changed in (5, 20, 40, 80, 160):
        other = " ".join(word if i >= changed else word[::-1] for i, word in enumerate(words))
        similarity = jaccard(base, other)
        for threshold in (0.4, 0.6, 0.8, 0.95):
            finder = NearDuplicates(threshold)
            assert finder.find(base, "first") is None
            if abs(similarity - threshold) > 0.15:  # over three standard errors
                expected = "first" if similarity > threshold else None
                assert finder.find(other, "second") == expected, (similarity, threshold)


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_miss_at_most_one_pair_in_a_thousand(similarity: float) -> None:
    rows = _rows_per_band(similarity)
    assert (1 - similarity**rows) ** (128 // rows) < 1e-3


def test_texts_shorter_than_a_gram_are_compared_whole() -> None:
    finder = NearDuplicates(0.8)
    assert [finder.find(text, text) for text in ("", "hi", "ho", "hi")] == [None, None, None, "hi"]


def test_near_duplicates_of_real_instructions_are_alike_indeed(real_data: Path) -> None:
    rows = read_rows(real_data / "kdconv_zh_dialogues.jsonl")[:300]
    said = [" ".join(m["content"] for m in row.values["messages"]) for row in rows]
    finder = NearDuplicates(0.8)
    found = [(finder.find(text, str(i)), text) for i, text in enumerate(said)]
    pairs = [(said[int(first)], text) for first, text in found if first is not None]
    assert all(jaccard(*pair) > 0.65 for pair in pairs)
    assert finder.find(said[0] + "！", "again") == "0"
