"""Token ids of prompts and demonstrations: exact boundaries, loss where the assistant writes."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import (
    Demonstration,
    EncodedDemonstration,
    EncodedPrompt,
    PromptRow,
    check_prompt_lengths,
    encode_demonstrations,
    encode_prompts,
    ensure_chat_template,
    read_demonstrations,
)
from alignzoo.data.encode import encode_continuation, encode_demonstration, encode_prompt
from alignzoo.errors import DataError

CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello you"},
    {"role": "user", "content": "the dog?"},
    {"role": "assistant", "content": "in the park"},
]


def chat_row(messages: list[dict[str, str]]) -> Demonstration:
    return read_demonstrations([{"messages": messages}])[0]


def spans(tokenizer: Any, row: EncodedDemonstration) -> list[tuple[bool, str]]:
    """Returns the response as text, span by span: whether it carries loss, and what it says."""
    pairs = zip(row.response_mask, row.response_ids, strict=True)
    groups = itertools.groupby(pairs, key=lambda pair: pair[0])
    return [(carries, tokenizer.decode([i for _, i in group])) for carries, group in groups]


def test_a_text_prompt_gets_the_bos_once(plain: Any) -> None:
    ids = plain.encode("hello", add_special_tokens=False)
    assert encode_prompt(plain, "hello", where="") == [plain.bos_token_id, *ids]
    assert encode_prompt(plain, "<s>hello", where="") == [plain.bos_token_id, *ids]
    assert encode_prompt(plain, "", where="") == [plain.bos_token_id]


def test_a_text_prompt_does_not_get_the_eos_that_the_tokenizer_puts(spaced: Any) -> None:
    assert spaced.encode("dog")[-1] == spaced.eos_token_id
    ids = encode_prompt(spaced, "dog", where="")
    assert ids == spaced.encode("dog")[:-1]
    assert ids[0] == spaced.bos_token_id


def test_a_prompt_without_a_token_is_an_error(chatml: Any) -> None:
    with pytest.raises(DataError, match=r"p\.jsonl, line 2: the prompt is empty"):
        encode_prompts(chatml, [PromptRow("", {}, "p.jsonl, line 2")])


def test_chat_prompts_are_what_the_chat_template_gives(chatml: Any, plain: Any) -> None:
    ensure_chat_template(plain)
    for tokenizer in (chatml, plain):
        expected = tokenizer.apply_chat_template(
            CHAT[:3], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        ids = encode_prompt(tokenizer, CHAT[:3], where="")
        assert ids == expected
        assert ids.count(tokenizer.bos_token_id) == (1 if tokenizer is plain else 0)


def test_a_tokenizer_without_a_template_gets_one_that_is_saved_with_it(
    plain: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        ids = [encode_prompt(plain, CHAT[:1], where="") for _ in range(2)]
    assert len(caplog.records) == 1
    assert plain.decode(ids[0]) == "<s>User:\nhi\nAssistant:\n"
    plain.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path)
    assert encode_prompt(loaded, CHAT[:1], where="") == ids[0]
    assert not ensure_chat_template(loaded)


def test_the_default_template_starts_with_bos_only_where_the_tokenizer_does(chatml: Any) -> None:
    chatml.chat_template = None
    assert chatml.decode(encode_prompt(chatml, CHAT[:1], where="")) == "User:\nhi\nAssistant:\n"


def test_prompt_and_completion_are_encoded_apart(plain: Any) -> None:
    """Together they would make one token of "hel" + "lo"; apart, the boundary is exact."""
    row = encode_demonstration(plain, Demonstration("hel", "lo you"), end_ids=[1])
    joint = plain.encode("hello you")
    assert row.prompt_ids == plain.encode("hel")
    assert row.response_ids == [*plain.encode("lo you", add_special_tokens=False), 1]
    assert row.prompt_ids + row.response_ids[:-1] != joint
    assert row.response_mask == [True] * len(row.response_ids)


def test_no_space_is_put_before_a_completion(spaced: Any) -> None:
    for completion in ("dog", " dog", "\ndog", "你"):
        row = encode_demonstration(spaced, Demonstration("run", completion), end_ids=[1])
        whole = row.prompt_ids + row.response_ids[:-1]
        assert spaced.decode(whole, skip_special_tokens=True) == "run" + completion
        assert whole == spaced.encode("run" + completion)[:-1]


def test_an_empty_completion_is_the_end_token_alone(plain: Any) -> None:
    row = encode_demonstration(plain, Demonstration("hello", ""), end_ids=[7, 1])
    assert (row.response_ids, row.response_mask) == ([7], [True])


def test_continuations_have_no_special_tokens(plain: Any, spaced: Any) -> None:
    for tokenizer in (plain, spaced):
        assert encode_continuation(tokenizer, "") == []
        assert not {0, 1} & set(encode_continuation(tokenizer, "dog run"))


def test_each_assistant_turn_and_its_end_token_carry_loss(chatml: Any) -> None:
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    row = encode_demonstration(chatml, chat_row(CHAT), end_ids=[end])
    assert (
        chatml.decode(row.prompt_ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    between = "\n<|im_start|>user\nthe dog?<|im_end|>\n<|im_start|>assistant\n"
    assert spans(chatml, row) == [
        (True, "hello you<|im_end|>"),
        (False, between),
        (True, "in the park<|im_end|>"),
    ]


def test_tokens_of_a_conversation_are_those_of_the_template(chatml: Any) -> None:
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    row = encode_demonstration(chatml, chat_row(CHAT), end_ids=[end])
    whole = chatml.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    ids = row.prompt_ids + row.response_ids
    assert ids == whole[: len(ids)]
    assert chatml.decode(whole[len(ids) :]) == "\n"


def test_an_end_token_is_added_where_the_templates_own_does_not_end_generation(
    chatml: Any,
) -> None:
    row = encode_demonstration(chatml, chat_row(CHAT), end_ids=[chatml.eos_token_id])
    assert spans(chatml, row)[-1] == (True, "in the park<|im_end|></s>")


def test_the_default_template_gives_each_turn_its_end_token(plain: Any) -> None:
    row = encode_demonstration(plain, chat_row(CHAT), end_ids=[plain.eos_token_id])
    assert spans(plain, row) == [
        (True, "hello you</s>"),
        (False, "\nUser:\nthe dog?\nAssistant:\n"),
        (True, "in the park</s>"),
    ]


def test_a_template_without_end_tokens_ends_the_last_turn_alone(chatml: Any) -> None:
    chatml.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = encode_demonstration(chatml, chat_row(CHAT), end_ids=[chatml.eos_token_id])
    assert spans(chatml, row) == [
        (True, "hello you"),
        (False, "\nuser: the dog?\nassistant: "),
        (True, "in the park</s>"),
    ]


def test_a_template_that_writes_more_into_the_last_turn_alone_is_understood(chatml: Any) -> None:
    """Qwen's puts an empty thought before the last answer; the policy has to write it."""
    chatml.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if loop.last and m['role'] == 'assistant' %}(thought)\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    told = spans(chatml, encode_demonstration(chatml, chat_row(CHAT), end_ids=[end]))
    assert told[0] == (True, "hello you<|im_end|>")
    assert told[2] == (True, "(thought)\nin the park<|im_end|>")


def test_the_same_words_in_user_and_assistant_turns_are_told_apart(chatml: Any) -> None:
    echo = [{"role": role, "content": "hello"} for role in ("user", "assistant") * 2]
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    told = spans(chatml, encode_demonstration(chatml, chat_row(echo), end_ids=[end]))
    assert [text for carries, text in told if carries] == ["hello<|im_end|>"] * 2


def test_a_template_that_rewrites_the_past_is_refused(chatml: Any) -> None:
    chatml.chat_template = "{{ messages | length }}: {{ messages[-1]['content'] }}\n"
    with pytest.raises(
        DataError, match=r"data\[0\]: the chat template renders the messages before"
    ):
        encode_demonstration(chatml, chat_row(CHAT), end_ids=[1])


def test_a_template_that_changes_an_answer_is_refused(chatml: Any) -> None:
    chatml.chat_template = "{% for m in messages %}{{ m['content'] | upper }}\n{% endfor %}"
    with pytest.raises(DataError, match="does not render the content of assistant turn 1"):
        encode_demonstration(chatml, chat_row(CHAT), end_ids=[1])


def test_what_a_template_raises_is_placed(chatml: Any) -> None:
    chatml.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"data\[0\]: the chat template refuses .*must alternate"):
        encode_demonstration(chatml, chat_row(CHAT), end_ids=[1])


def test_long_responses_are_cut_and_long_prompts_dropped_and_both_counted(plain: Any) -> None:
    rows = read_demonstrations(
        [
            {"prompt": "z", "completion": "q"},  # 2 + 2 tokens
            {"prompt": "z", "completion": "qxqxqxqx"},  # 2 + 9
            {"prompt": "zxzxzxzx", "completion": "q"},  # 9 + 2
            {"prompt": "z", "completion": "qxqxqx"},  # 2 + 7
        ]
    )
    encoded, report = encode_demonstrations(plain, rows, end_ids=[1], max_length=6)
    assert [len(row.response_ids) for row in encoded] == [2, 4, 4]
    assert [row.response_ids[-1] == 1 for row in encoded] == [True, False, False]
    assert all(len(row.prompt_ids + row.response_ids) <= 6 for row in encoded)
    assert report.num_rows == 4
    assert (report.cut, report.dropped) == (["data[1]", "data[3]"], ["data[2]"])
    assert "2 cut (first: data[1]); 1 dropped" in report.describe()


def test_a_row_that_just_fits_is_kept_whole(plain: Any) -> None:
    rows = read_demonstrations([{"prompt": "z", "completion": "q"}])
    encoded, report = encode_demonstrations(plain, rows, end_ids=[1], max_length=4)
    assert encoded == encode_demonstrations(plain, rows, end_ids=[1])[0]
    assert report.describe() == ""


def test_a_cut_conversation_ends_with_a_token_that_carries_loss(chatml: Any) -> None:
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    full = encode_demonstration(chatml, chat_row(CHAT), end_ids=[end])
    first_turn = full.response_mask.index(False)
    limit = len(full.prompt_ids) + first_turn + 3
    encoded, _ = encode_demonstrations(chatml, [chat_row(CHAT)], end_ids=[end], max_length=limit)
    assert encoded[0].response_ids == full.response_ids[:first_turn]


def test_a_file_whose_rows_all_leave_no_room_is_an_error(plain: Any) -> None:
    rows = read_demonstrations([{"prompt": "hello", "completion": "you"}])
    with pytest.raises(
        DataError,
        match=r"nothing is left to learn from: of 1 rows, at 2 tokens: 1 dropped.*data\[0\]",
    ):
        encode_demonstrations(plain, rows, end_ids=[1], max_length=2)


def test_a_prompt_over_the_context_is_named_with_both_lengths() -> None:
    prompts = [EncodedPrompt([1] * n, PromptRow("x", {}, f"p.jsonl, line {n}")) for n in (6, 7)]
    check_prompt_lengths(prompts, context_length=11, max_new_tokens=4)
    check_prompt_lengths(prompts, context_length=None, max_new_tokens=4)
    with pytest.raises(
        DataError, match=r"p\.jsonl, line 7: the prompt has 7 tokens, and with 4 new.*11.*of 10"
    ):
        check_prompt_lengths(prompts[1:], context_length=10, max_new_tokens=4)
