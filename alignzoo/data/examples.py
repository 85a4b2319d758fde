"""What algorithms learn from without sampling, as token ids, and what of a file was left out.

A response over `max_length` (tokens, prompt included) is cut, and loses its end token; a row whose
prompt leaves no room for one response token is dropped. `EncodingReport` has the place of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alignzoo.data.columns import Completion
from alignzoo.data.encode import EncodedDemonstration, encode_demonstration
from alignzoo.data.judgements import Preference, Rating
from alignzoo.data.schemas import Demonstration
from alignzoo.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedPreference:
    """A pair of responses to one prompt; their tokens differ."""

    chosen: EncodedDemonstration
    rejected: EncodedDemonstration

    @property
    def responses(self) -> tuple[EncodedDemonstration, ...]:
        """Both, the chosen one first."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class EncodedRating:
    """A response and its rating, a finite number."""

    response: EncodedDemonstration
    rating: float

    @property
    def responses(self) -> tuple[EncodedDemonstration, ...]:
        """The one response."""
        return (self.response,)


Example = EncodedDemonstration | EncodedPreference | EncodedRating


@dataclass
class EncodingReport:
    """How many rows were read, and the places of those that did not stay whole.

    Args:
        cut: rows with a response that was cut at `max_length`.
        dropped: rows whose prompt leaves no room for a response.
        identical: pairs dropped because both responses became the same tokens.
        unrated: rows dropped because they have no rating.
    """

    num_rows: int
    max_length: int | None
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    identical: list[str] = field(default_factory=list)
    unrated: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Returns one line on what was cut and dropped; empty if nothing was."""
        reasons = {
            "cut": self.cut,
            "dropped, whose prompts leave no room for a response": self.dropped,
            "dropped, whose chosen and rejected are the same tokens": self.identical,
            "dropped, which have no rating": self.unrated,
        }
        parts = [
            f"{len(places)} {reason} (first: {places[0]})"
            for reason, places in reasons.items()
            if places
        ]
        if not parts:
            return ""
        limit = "" if self.max_length is None else f", at {self.max_length} tokens"
        return f"of {self.num_rows} rows{limit}: {'; '.join(parts)}"

    def check_some_left(self, kept: Sequence[object]) -> None:
        """Checks that something is left to learn from."""
        if self.num_rows and not kept:
            raise DataError(
                f"nothing is left to learn from: {self.describe()}. Shorten prompts, raise the "
                "length, or give rows that can be learned from."
            )


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Demonstration],
    *,
    end_ids: Sequence[int],
    max_length: int | None = None,
) -> tuple[list[EncodedDemonstration], EncodingReport]:
    """Returns the rows' token ids and what was cut or dropped; see `encode_demonstration`.

    Raises:
        DataError: a chat template that refuses or rewrites a row, or all rows dropped.
    """
    report = EncodingReport(len(rows), max_length)
    kept = []
    for row in rows:
        encoded = encode_demonstration(tokenizer, row, end_ids=end_ids)
        kept += _fit([encoded], report)
    report.check_some_left(kept)
    return kept, report


def encode_preferences(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Preference],
    *,
    end_ids: Sequence[int],
    max_length: int | None = None,
) -> tuple[list[EncodedPreference], EncodingReport]:
    """Returns the pairs' token ids and what was cut or dropped; responses as in demonstrations.

    Raises:
        DataError: a chat template that refuses or rewrites a row, or all rows dropped.
    """
    report = EncodingReport(len(rows), max_length)
    kept = []
    for row in rows:
        responses = [
            _encode(tokenizer, row, answer, end_ids) for answer in (row.chosen, row.rejected)
        ]
        pair = _fit(responses, report)
        if pair and pair[0] == pair[1]:
            report.identical.append(row.where)
        elif pair:
            kept.append(EncodedPreference(*pair))
    report.check_some_left(kept)
    return kept, report


def encode_ratings(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Rating],
    *,
    end_ids: Sequence[int],
    max_length: int | None = None,
) -> tuple[list[EncodedRating], EncodingReport]:
    """Returns the rated responses' token ids and what was cut or dropped.

    Raises:
        DataError: a chat template that refuses or rewrites a row, or all rows dropped.
    """
    report = EncodingReport(len(rows), max_length)
    kept = []
    for row in rows:
        if math.isnan(row.rating):
            report.unrated.append(row.where)
            continue
        response = _encode(tokenizer, row, row.completion, end_ids)
        kept += [EncodedRating(fitting, row.rating) for fitting in _fit([response], report)]
    report.check_some_left(kept)
    return kept, report


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    row: Preference | Rating,
    answer: Completion,
    end_ids: Sequence[int],
) -> EncodedDemonstration:
    demonstration = Demonstration(row.prompt, answer, where=row.where)
    return encode_demonstration(tokenizer, demonstration, end_ids=end_ids)


def _fit(
    responses: Sequence[EncodedDemonstration], report: EncodingReport
) -> list[EncodedDemonstration]:
    """Returns the responses of one row, cut to fit; none of them where one has no room."""
    fitting = [_cut(response, report.max_length) for response in responses]
    whole = [response for response in fitting if response is not None]
    if len(whole) < len(responses):
        report.dropped.append(responses[0].where)
        return []
    if whole != list(responses):
        report.cut.append(responses[0].where)
    return whole


def _cut(encoded: EncodedDemonstration, max_length: int | None) -> EncodedDemonstration | None:
    """Returns the row within `max_length`, its last token one that carries loss; None for none."""
    room = len(encoded.response_ids)
    if max_length is not None:
        room = min(room, max(max_length - len(encoded.prompt_ids), 0))
    carrying = [i for i, carries in enumerate(encoded.response_mask[:room], 1) if carries]
    if not carrying:
        return None
    if room == len(encoded.response_ids):
        return encoded
    return replace(
        encoded,
        response_ids=encoded.response_ids[: carrying[-1]],
        response_mask=encoded.response_mask[: carrying[-1]],
    )
