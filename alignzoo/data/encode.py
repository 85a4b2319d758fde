"""Prompts and responses as token ids, with the boundary between them exact.

A prompt and what follows it are encoded apart, as the sampler sees them, so no token spans the
boundary. A response is encoded as a continuation: without special tokens, and without the space
that SentencePiece tokenizers put before the beginning of a text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignzoo.data.messages import Messages
from alignzoo.data.schemas import Demonstration, PromptRow
from alignzoo.errors import DataError
from alignzoo.reward import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("alignzoo")

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token or '' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's token ids, special tokens included, beside its row."""

    token_ids: list[int]
    row: PromptRow


@dataclass(frozen=True)
class EncodedDemonstration:
    """A demonstration's token ids.

    Args:
        prompt_ids: tokens before the first response token; they never carry loss.
        response_ids: from the first response token on, later user turns included.
        response_mask: one bool per response token; True where the token carries loss.
        where: the row's place.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[bool]
    where: str = "data"

    @property
    def responses(self) -> tuple[EncodedDemonstration, ...]:
        """Itself alone; other examples have responses of their own."""
        return (self,)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Gives a tokenizer without a chat template the plain default one; returns whether it did.

    The default is "User:", a line break, the message, a line break, "Assistant:", a line break,
    the answer and the end token; after the tokenizer's BOS where it puts one itself. It is set on
    the tokenizer, so it is saved with the model, and one log line says so.
    """
    if tokenizer.chat_template:
        return False
    starts_with_bos = tokenizer.bos_token and _encode_plain_prompt(tokenizer, "a")[:1] == [
        tokenizer.bos_token_id
    ]
    tokenizer.chat_template = ("{{ bos_token }}" if starts_with_bos else "") + DEFAULT_CHAT_TEMPLATE
    logger.warning(
        "the tokenizer has no chat template; chat data uses a plain one (User:, Assistant:), "
        "which is saved with the model"
    )
    return True


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, where: str) -> list[int]:
    """Returns the prompt's token ids.

    Text gets the tokenizer's own leading special tokens, once; chat messages are rendered by the
    chat template, which holds its special tokens itself, up to where the assistant answers.

    Raises:
        DataError: the prompt has no token, or the template refuses the messages.
    """
    if isinstance(prompt, str):
        ids = _encode_plain_prompt(tokenizer, prompt)
    else:
        ensure_chat_template(tokenizer)
        ids = _encode(tokenizer, _render(tokenizer, prompt, True, where))
    if not ids:
        raise DataError(f"{where}: the prompt is empty: it has no token to start from.")
    return ids


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[PromptRow]
) -> list[EncodedPrompt]:
    """Returns the rows' token ids, in order; see `encode_prompt`."""
    return [
        EncodedPrompt(encode_prompt(tokenizer, row.prompt, where=row.where), row) for row in rows
    ]


def check_prompt_lengths(
    prompts: Sequence[EncodedPrompt], *, context_length: int | None, max_new_tokens: int
) -> None:
    """Checks that every prompt and `max_new_tokens` fit the context; None is without bound.

    Raises:
        DataError: one does not; the message names its place, both lengths and what to do.
    """
    if context_length is None:
        return
    for prompt in prompts:
        length = len(prompt.token_ids)
        if length + max_new_tokens > context_length:
            raise DataError(
                f"{prompt.row.where}: the prompt has {length} tokens, and with {max_new_tokens} "
                f"new ones that is {length + max_new_tokens}, over the model's context of "
                f"{context_length}. Shorten the prompt or lower max_new_tokens."
            )


def encode_demonstration(
    tokenizer: PreTrainedTokenizerBase, row: Demonstration, *, end_ids: Sequence[int]
) -> EncodedDemonstration:
    """Returns one row's token ids, at full length.

    The response ends with an end token that carries loss: the template's own where that is one of
    `end_ids`, else the first of `end_ids` is appended.

    Raises:
        DataError: the chat template refuses or rewrites the row.
    """
    if not end_ids:
        raise ValueError("end_ids is empty; a response must end with an end token")
    prompt_ids = encode_prompt(tokenizer, row.prompt, where=row.where)
    if isinstance(row.completion, str):
        ids = encode_continuation(tokenizer, row.completion)
        mask = [True] * len(ids)
    else:
        assert isinstance(row.prompt, list)
        ids, mask = _encode_turns(tokenizer, row.prompt, row.completion, end_ids, row.where)
    if not ids or ids[-1] not in end_ids:
        ids, mask = [*ids, end_ids[0]], [*mask, True]
    return EncodedDemonstration(prompt_ids, ids, mask, row.where)


def encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the tokens of `text` as they follow other text: nothing is put before them.

    A tokenizer that starts every text with a space (SentencePiece) is given a line break to hang
    `text` on, whose tokens are then taken off again.
    """
    if not text:
        return []
    anchor = "\n"
    anchor_ids = _encode(tokenizer, anchor)
    if _encode(tokenizer, anchor + "a")[len(anchor_ids) :] == _encode(tokenizer, "a"):
        return _encode(tokenizer, text)
    ids = _encode(tokenizer, anchor + text)
    if ids[: len(anchor_ids)] != anchor_ids:
        return _encode(tokenizer, text)
    return ids[len(anchor_ids) :]


def _encode_turns(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Messages,
    completion: Messages,
    end_ids: Sequence[int],
    where: str,
) -> tuple[list[int], list[bool]]:
    """Returns the tokens after the prompt and which carry loss: what the assistant writes.

    Where an assistant turn begins is found by rendering the messages before it up to where the
    assistant answers; each such text must begin the text of the whole conversation.
    """
    messages = [*prompt, *completion]
    whole = _render(tokenizer, messages, False, where)
    turns = [i for i in range(len(prompt), len(messages)) if messages[i]["role"] == "assistant"]
    starts = []
    for turn in turns:
        before = _render(tokenizer, messages[:turn], True, where)
        if not whole.startswith(before):
            raise DataError(
                f"{where}: the chat template renders the messages before assistant turn {turn} "
                "differently when more follow, so the turn's tokens cannot be told apart. Use a "
                "template that only appends, or rows with one assistant turn."
            )
        starts.append(len(before))
    ids: list[int] = []
    mask: list[bool] = []
    stops = _stop_ids(tokenizer, end_ids)
    for turn, start, end in zip(turns, starts, [*starts[1:], len(whole)], strict=True):
        content = messages[turn]["content"].strip()
        found = whole.find(content, start, end)
        if found < 0:
            raise DataError(
                f"{where}: the chat template does not render the content of assistant turn {turn} "
                "as it stands, so its tokens cannot be found. Use a template that does."
            )
        written = encode_continuation(tokenizer, whole[start : found + len(content)])
        after = encode_continuation(tokenizer, whole[found + len(content) : end])
        stop = next((i + 1 for i, token in enumerate(after) if token in stops), 0)
        if turn == turns[-1]:
            after = after[:stop]
        ids += written + after
        mask += [True] * (len(written) + stop) + [False] * (len(after) - stop)
    return ids, mask


def _stop_ids(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> set[int]:
    """Returns the tokens that can end a turn: end tokens and special ones."""
    added = tokenizer.added_tokens_decoder.items()
    return {*end_ids, *tokenizer.all_special_ids, *(i for i, token in added if token.special)}


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _encode_plain_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the tokens of `text` after the special tokens the tokenizer starts a text with.

    Tokens it would end a text with are left out: a response is to follow. Text that begins with
    the BOS written out gets no second one.
    """
    plain = _encode(tokenizer, text)
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        return plain
    ids = list(tokenizer.encode(text))
    if not plain:
        return [token for token in ids[:1] if token == tokenizer.bos_token_id]
    for start in range(len(ids) - len(plain) + 1):
        if ids[start : start + len(plain)] == plain:
            return ids[: start + len(plain)]
    return ids


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, generation_prompt: bool, where: str
) -> str:
    from jinja2 import TemplateError

    try:
        text: Any = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
    except TemplateError as error:
        raise DataError(f"{where}: the chat template refuses the messages: {error}.") from error
    return str(text)
