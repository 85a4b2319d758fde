"""The readers on real files, with a real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    JUDGEMENTS,
    encode_demonstrations,
    encode_prompts,
    read_demonstrations,
    read_judgements,
    read_prompts,
    read_rankings,
)
from alignzoo.data.encode import encode_demonstration
from alignzoo.errors import DataError

END_IDS = [1, 2]


@pytest.fixture
def stories(real_data: Path) -> Any:
    """The tokenizer of stories260K: SentencePiece in kind, without a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_data / "models" / "stories260K")


def test_alpaca_rows_end_where_their_output_ends(real_data: Path, stories: Any) -> None:
    rows = read_demonstrations(real_data / "instruct_train.jsonl")
    assert len(rows) == 4513
    encoded, report = encode_demonstrations(stories, rows[:200], end_ids=END_IDS)
    assert (len(encoded), report.cut, report.dropped) == (200, [], [])
    for row, tokens in zip(rows[:200], encoded, strict=True):
        assert all(tokens.response_mask)
        text = stories.decode(tokens.prompt_ids + tokens.response_ids, skip_special_tokens=True)
        assert text.split("\nAssistant:\n", 1)[1] == row.completion[0]["content"].strip()  # type: ignore[index]


def test_every_assistant_turn_of_chinese_dialogues_carries_loss(
    real_data: Path, stories: Any
) -> None:
    rows = read_demonstrations(real_data / "kdconv_zh_dialogues.jsonl")
    assert len(rows) == 900
    for row in rows[:30]:
        encoded = encode_demonstration(stories, row, end_ids=END_IDS)
        turns = [m for m in row.completion if m["role"] == "assistant"]  # type: ignore[union-attr]
        learnt = [
            token
            for token, carries in zip(encoded.response_ids, encoded.response_mask, strict=True)
            if carries
        ]
        expected = "".join(m["content"].strip() + "</s>" for m in turns)  # type: ignore[index]
        assert stories.decode([13, *learnt])[1:] == expected


def test_a_story_goes_on_without_a_second_space(real_data: Path, stories: Any) -> None:
    rows = read_demonstrations([{"prompt": "Once upon a time, there was a", "completion": " dog."}])
    tokens = encode_demonstrations(stories, rows, end_ids=END_IDS)[0][0]
    assert tokens.prompt_ids + tokens.response_ids[:-1] == stories.encode(
        "Once upon a time, there was a dog."
    )


def test_preference_prompts_are_chat_prompts(real_data: Path, stories: Any) -> None:
    prompts = read_prompts(real_data / "hh_harmless_pairs.jsonl")
    assert len(prompts) == 1826
    assert set(prompts[0].columns) == {"id", "subset", "chosen", "rejected"}
    assert len(encode_prompts(stories, prompts[:20])) == 20


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("eval_prompts.jsonl", "turns"),
        ("gsm8k_train.jsonl", "question"),
    ],
)
def test_files_without_prompts_say_what_they_have(real_data: Path, file: str, column: str) -> None:
    for read in (read_prompts, read_demonstrations):
        with pytest.raises(DataError, match=rf"{file}, line 1: no column 'prompt'.*'{column}'"):
            read(real_data / file)


def test_whole_transcripts_of_pairs_are_demonstrations_of_the_chosen_answers(
    real_data: Path,
) -> None:
    rows = read_demonstrations(real_data / "hh_harmless_raw_300.jsonl.gz")
    assert len(rows) == 300
    for row in rows:
        turns = [*row.prompt, *row.completion]
        assert [turn["role"] for turn in turns[:2]] == ["user", "assistant"]  # type: ignore[index]
        assert not any("\n\nHuman:" in turn["content"] for turn in turns)  # type: ignore[index]
        assert turns[-1]["role"] == "assistant"  # type: ignore[index]


def test_rankings_of_replies_are_read(real_data: Path) -> None:
    rows = read_rankings(real_data / "oasst_rankings.jsonl")
    lengths = [len(row.completions) for row in rows]
    assert (len(rows), min(lengths), max(lengths)) == (212, 2, 9)
    assert sum(length * (length - 1) // 2 for length in lengths) == 754


@pytest.mark.parametrize(
    ("file", "columns", "kind", "num_rows"),
    [
        ("cold_zh_train.jsonl", {"label": "offensive"}, "classes", 8000),
        ("toxicity_votes_en.jsonl", {"rating": "hate"}, "ratings", 8000),
        ("ilf_text_feedback.jsonl", {"completion": "original"}, "text_feedback", 195),
        ("hh_harmless_raw_300.jsonl.gz", {}, "preferences", 300),
        ("oasst_rankings.jsonl", {}, "rankings", 212),
    ],
)
def test_the_kind_of_a_real_file_is_told_from_its_columns(
    real_data: Path, file: str, columns: dict[str, str], kind: str, num_rows: int
) -> None:
    kinds = [kind, *(other for other in JUDGEMENTS if {kind, other} != {"ratings", "classes"})]
    found, rows = read_judgements(real_data / file, kinds, columns=columns)
    assert (found, len(rows)) == (kind, num_rows)
