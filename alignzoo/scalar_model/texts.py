"""Texts in segments, as token ids: an end token last, and the place where each segment is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignzoo.reward import Prompt

if TYPE_CHECKING:
    from alignzoo.policy import Policy


@dataclass(frozen=True)
class Text:
    """A prompt and what answers it, in segments that follow each other; each gets a number."""

    prompt: Prompt
    segments: tuple[str, ...]
    where: str = "data"


@dataclass(frozen=True)
class EncodedText:
    """A text as token ids, an end token last.

    Args:
        prompt_ids: at least one.
        response_ids: of all segments and the end token.
        reads: for each segment, the place in `response_ids` after its last token; the state
            before that place has its number. Segments that were cut off share the last place.
        is_cut: the text was longer than the model takes.
        where: the row's place.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    reads: tuple[int, ...]
    is_cut: bool
    where: str

    @property
    def mask(self) -> list[bool]:
        """Which response tokens a number is read before."""
        ends = set(self.reads)
        return [place in ends for place in range(len(self.response_ids))]

    def spread(self, targets: Sequence[float]) -> list[float]:
        """Returns one value per response token; of segments at one place the first one's."""
        row = [0.0] * len(self.response_ids)
        for place, target in reversed(list(zip(self.reads, targets, strict=True))):
            row[place] = target
        return row

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def encode_text(policy: Policy, text: Text, max_length: int | None) -> EncodedText:
    """Returns a text's token ids, cut to `max_length` tokens, the end token included.

    Prompt and segments are encoded apart, as a policy that answers the prompt sees them. An empty
    prompt is the tokenizer's BOS, else the end token. What is over the limit goes from the
    beginning of the prompt, which keeps a token, then from the end of the response.

    Raises:
        DataError: the chat template refuses the prompt.
    """
    from alignzoo.data.encode import encode_continuation

    body: list[int] = []
    reads: list[int] = []
    for segment in text.segments:
        body += encode_continuation(policy.tokenizer, segment)
        reads.append(len(body))
    prompt = _encode_prompt(policy, text)
    is_cut = max_length is not None and len(prompt) + len(body) + 1 > max_length
    if max_length is not None and is_cut:
        prompt = prompt[-max(1, max_length - len(body) - 1) :]
        body = body[: max_length - len(prompt) - 1]
    places = tuple(min(place, len(body)) for place in reads)
    return EncodedText(prompt, [*body, policy.end_token_id], places, is_cut, text.where)


def _encode_prompt(policy: Policy, text: Text) -> list[int]:
    from alignzoo.data.encode import encode_prompt

    if text.prompt == "" and policy.tokenizer.bos_token_id is None:
        return [policy.end_token_id]
    return encode_prompt(policy.tokenizer, text.prompt, where=text.where)
