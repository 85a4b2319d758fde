"""The scalar model's tokens and numbers, against transformers read directly."""

from __future__ import annotations

import pytest
import torch
from trainer.runs import make_policy

from alignzoo.scalar_model import ScalarConfig, ScalarModel, Text
from alignzoo.scalar_model.texts import encode_text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model whose head is no longer 0; a token is a byte."""
    folder = make_policy(tmp_path_factory.mktemp("policy") / "small")
    made = ScalarModel.create(ScalarConfig(policy=str(folder)), seed=0)
    with torch.no_grad():
        made.policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        made.policy.value_head.bias.fill_(0.25)
    return made


def numbers_of(model, token_ids, places):
    """Returns the head's numbers of the states after these places, by transformers alone."""
    hidden = model.policy.model(
        input_ids=torch.tensor([token_ids]), output_hidden_states=True
    ).hidden_states[-1][0]
    return model.policy.value_head(hidden[places]).squeeze(-1).tolist()


def test_the_number_is_read_from_the_state_after_the_last_token_of_the_text(model):
    tokenizer = model.policy.tokenizer
    prompt, response = (
        tokenizer("Why?")["input_ids"],
        tokenizer.encode("so", add_special_tokens=False),
    )
    (text,) = model.encode([Text("Why?", ("so",))])
    assert text.prompt_ids == prompt
    assert text.response_ids == [*response, model.policy.end_token_id]
    ids = [*prompt, *response]
    expected = numbers_of(model, ids, [len(ids) - 1])
    assert model.score([text])[0] == pytest.approx(expected, abs=1e-5)


def test_each_segment_has_the_number_at_its_end(model):
    (text,) = model.encode([Text("Why?", ("so ", "it is", ""))])
    ids = [*text.prompt_ids, *text.response_ids[:-1]]
    start = len(text.prompt_ids)
    expected = numbers_of(model, ids, [start + 2, start + 7, start + 7])
    assert model.score([text])[0] == pytest.approx(expected, abs=1e-5)


def test_an_empty_response_has_the_number_of_its_prompt(model):
    (text,) = model.encode([Text("Why?", ("",))])
    expected = numbers_of(model, text.prompt_ids, [len(text.prompt_ids) - 1])
    assert model.score([text])[0] == pytest.approx(expected, abs=1e-5)


def test_a_chat_prompt_is_rendered_as_a_policy_sees_it(model):
    (text,) = model.encode([Text([{"role": "user", "content": "Why?"}], ("so",))])
    shown = model.policy.tokenizer.decode(text.prompt_ids)
    assert shown == "<start><user>Why?<end><assistant>"


def test_an_empty_prompt_is_the_bos_or_else_the_end_token(model):
    assert model.encode([Text("", ("so",))])[0].prompt_ids == [model.policy.tokenizer.bos_token_id]
    other = ScalarModel.create(model.config, seed=0)
    other.policy.tokenizer.bos_token = None
    (text,) = other.encode([Text("", ("so",))])
    assert text.prompt_ids == [other.policy.end_token_id]


@pytest.mark.parametrize(
    ("limit", "prompt", "response"),
    [
        (8, "Why?", "so"),  # with BOS and end token 8 tokens
        (7, "Why?", "so"),
        (4, "?", "so"),
        (3, "?", "s"),
    ],
)
def test_what_is_too_long_goes_from_the_prompts_beginning_then_from_the_responses_end(
    model, limit, prompt, response
):
    text = encode_text(model.policy, Text("Why?", ("so",)), limit)
    decode = model.policy.tokenizer.decode
    assert decode(text.prompt_ids, skip_special_tokens=True) == prompt
    assert decode(text.response_ids, skip_special_tokens=True) == response
    assert len(text) <= limit
    assert text.is_cut == (limit < 8)
    assert text.response_ids[-1] == model.policy.end_token_id


def test_targets_of_segments_that_were_cut_off_are_left_out(model):
    text = encode_text(model.policy, Text("Why?", ("abc", "def", "ghi")), 7)
    assert len(text.response_ids) == 6  # five tokens of text: the second segment is cut
    assert text.reads == (3, 5, 5)
    assert text.spread([1.0, 2.0, 3.0]) == [0, 0, 0, 1.0, 0, 2.0]
    assert text.mask == [False, False, False, True, False, True]
