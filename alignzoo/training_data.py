"""What a run trains on and what it is measured on, encoded for one policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from alignzoo.algorithm import Algorithm
from alignzoo.data import (
    EncodedDemonstration,
    EncodedPrompt,
    PromptRow,
    check_prompt_lengths,
    dataset_fingerprint,
    encode_demonstrations,
    encode_prompts,
    read_demonstrations,
    read_prompts,
)
from alignzoo.data.schemas import Demonstration
from alignzoo.errors import ConfigError
from alignzoo.policy import Policy
from alignzoo.run_options import TrainerOptions

EncodedT = TypeVar("EncodedT", EncodedPrompt, EncodedDemonstration)
RowT = TypeVar("RowT", PromptRow, Demonstration)

MIN_ROWS_TO_SPLIT = 20


@dataclass(frozen=True)
class Dataset(Generic[EncodedT]):
    """Encoded rows to train on and rows held out; their fingerprint; notes for the user."""

    train: Sequence[EncodedT]
    held_out: Sequence[EncodedT]
    fingerprint: str
    notes: list[str] = field(default_factory=list)


def check_source(algorithm: Algorithm) -> None:
    """Checks that the trainer reads what the algorithm learns from.

    Raises:
        ConfigError: it does not; the message names the source.
    """
    source = algorithm.needs.source
    if source not in ("rollouts", "demonstrations"):
        raise ConfigError(
            f"{type(algorithm).__name__} learns from {source}, which this trainer does not read; "
            "expected an algorithm that needs rollouts or demonstrations"
        )


def load_prompts(
    policy: Policy, prompts: Any, eval_prompts: Any, options: TrainerOptions
) -> Dataset[EncodedPrompt]:
    """Reads and encodes prompts.

    Raises:
        DataError: a row is wrong or too long for the context; the message says where.
    """
    rows = read_prompts(prompts, name="prompts")
    given = None if eval_prompts is None else read_prompts(eval_prompts, name="eval_prompts")

    def encode(part: Sequence[PromptRow], notes: list[str]) -> list[EncodedPrompt]:
        encoded = encode_prompts(policy.tokenizer, part)
        check_prompt_lengths(
            encoded,
            context_length=policy.context_length,
            max_new_tokens=options.max_new_tokens,
        )
        return encoded

    return _make_dataset(rows, given, encode, options)


def load_demonstrations(
    policy: Policy, data: Any, eval_data: Any, options: TrainerOptions
) -> Dataset[EncodedDemonstration]:
    """Reads and encodes demonstrations; over-long ones are cut or dropped, and noted.

    Raises:
        DataError: a row is wrong, or none fits; the message says where.
    """
    rows = read_demonstrations(data, name="data")
    given = None if eval_data is None else read_demonstrations(eval_data, name="eval_data")
    end_ids = [policy.end_token_id, *policy.end_token_ids]
    limits = [n for n in (options.max_length, policy.context_length) if n is not None]

    def encode(part: Sequence[Demonstration], notes: list[str]) -> list[EncodedDemonstration]:
        encoded, report = encode_demonstrations(
            policy.tokenizer, part, end_ids=end_ids, max_length=min(limits) if limits else None
        )
        if report.describe():
            notes.append(report.describe())
        return encoded

    return _make_dataset(rows, given, encode, options)


def _make_dataset(
    rows: Sequence[RowT],
    given: Sequence[RowT] | None,
    encode: Callable[[Sequence[RowT], list[str]], list[EncodedT]],
    options: TrainerOptions,
) -> Dataset[EncodedT]:
    notes: list[str] = []
    train = rows
    held_out = given if given is not None else []
    if given is None:
        train, held_out = split_by_prompt(rows, options.eval_fraction)
        notes.append(
            f"{len(held_out)} of {len(rows)} rows are held out for evaluation (eval_fraction)"
            if held_out
            else "nothing is held out, so nothing measures this run but its own rows"
        )
    encoded = encode(train, notes)
    kept = spread_evenly(held_out, options.max_eval_rows)
    fingerprint = dataset_fingerprint([*rows, *(given or [])])
    return Dataset(encoded, encode(kept, notes) if kept else [], fingerprint, notes)


def split_by_prompt(rows: Sequence[RowT], fraction: float) -> tuple[list[RowT], list[RowT]]:
    """Returns rows to train on and rows held out, so that no prompt is in both.

    A prompt's side depends on its own text alone, so it stays the same when rows are added; only
    where chance would hold out none, the prompt of the smallest hash is. Files of fewer than 20
    distinct prompts are not split.
    """
    keys = [hashlib.sha256(repr(row.prompt).encode()).digest() for row in rows]
    if len(set(keys)) < MIN_ROWS_TO_SPLIT or fraction == 0:
        return list(rows), []
    limit = max(int(fraction * 2**64), 1 + min(int.from_bytes(key[:8], "big") for key in keys))
    is_held_out = [int.from_bytes(key[:8], "big") < limit for key in keys]
    held_out = [row for row, held in zip(rows, is_held_out, strict=True) if held]
    train = [row for row, held in zip(rows, is_held_out, strict=True) if not held]
    return (train, held_out) if train else (list(rows), [])


def spread_evenly(rows: Sequence[RowT], most: int) -> list[RowT]:
    """Returns at most `most` rows, from all over the sequence."""
    count = min(most, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
