"""What a run trains on and what it is measured on, encoded for one policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from alignzoo.data import (
    Demonstration,
    EncodedPrompt,
    EncodingReport,
    Example,
    Preference,
    PromptRow,
    Rating,
    check_prompt_lengths,
    dataset_fingerprint,
    encode_demonstrations,
    encode_preferences,
    encode_prompts,
    encode_ratings,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_ratings,
)
from alignzoo.data import prompt_key as prompt_key
from alignzoo.data.splits import HasPrompt
from alignzoo.errors import ConfigError
from alignzoo.policy import Policy
from alignzoo.random_streams import stream
from alignzoo.run_options import TrainerOptions

EncodedT = TypeVar("EncodedT")
RowT = TypeVar("RowT", bound=PromptRow | Demonstration | Preference | Rating)
AnyRowT = TypeVar("AnyRowT", bound=HasPrompt)


class Kind(NamedTuple):
    """One kind of data: what it needs, how it is read, how it is encoded."""

    columns: str
    read: Callable[..., list[Any]]
    encode: Callable[..., tuple[list[Any], EncodingReport]]


KINDS: Mapping[str, Kind] = {
    "demonstrations": Kind("prompt, completion", read_demonstrations, encode_demonstrations),
    "preferences": Kind("prompt, chosen, rejected", read_preferences, encode_preferences),
    "ratings": Kind("prompt, completion, rating", read_ratings, encode_ratings),
}
MIN_ROWS_TO_SPLIT = 20


@dataclass(frozen=True)
class Dataset(Generic[EncodedT]):
    """Encoded rows to train on and rows held out; their fingerprint; notes for the user."""

    train: Sequence[EncodedT]
    held_out: Sequence[EncodedT]
    fingerprint: str
    notes: list[str] = field(default_factory=list)


class Cursor:
    """Walks over `num_rows` rows again and again, in an order shuffled anew for each pass."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.position = 0

    def take(self, count: int) -> list[int]:
        """Returns the next `count` row numbers."""
        taken: list[int] = []
        while len(taken) < count:
            epoch, start = divmod(self.position, self.num_rows)
            order = stream(self.seed, "order", epoch).permutation(self.num_rows)
            rows = order[start : start + count - len(taken)]
            taken += rows.tolist()
            self.position += len(rows)
        return taken


def check_source(name: str, source: str, batch_size: int, given: Mapping[str, Any]) -> None:
    """Checks that a run is given what its algorithm learns from, in batches that hold whole pairs.

    Args:
        name: what errors call the algorithm.
        source: of its needs.
        given: prompts, reward, eval_prompts, data and eval_data, under the names that errors use,
            such as "--eval-data"; None or empty where nothing was given.
    Raises:
        ConfigError: something is missing or of no use; the message says what to give instead.
    """
    samples = source == "rollouts"
    if not samples and source not in KINDS:
        expected = ", ".join(["rollouts", *KINDS])
        raise ConfigError(f"{name} learns from '{source}'; expected one of {expected}")
    options = {option.strip("-").replace("-", "_"): option for option in given}
    required = ["prompts", "reward"] if samples else ["data"]
    remedy = " and ".join(options[option] for option in required)
    if not samples:
        remedy += f" with the columns {KINDS[source].columns}"
    for option in options:
        useful = option.endswith("data") != samples
        if not useful and _is_given(given[options[option]]):
            complete = all(_is_given(given[options[other]]) for other in required)
            instead = "leave it out" if complete else f"give it {remedy} instead"
            raise ConfigError(
                f"{name} learns from {source} and has no use for {options[option]}; {instead}"
            )
    for option in required:
        if not _is_given(given[options[option]]):
            raise ConfigError(f"{name} learns from {source}; give it {remedy}")
    if source == "preferences" and batch_size % 2:
        raise ConfigError(
            f"batch_size is {batch_size} and {name} learns from preferences, which are pairs of "
            "responses; batch_size counts responses and must be even"
        )


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, (str, list, tuple)) and not value)


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


def load_examples(
    policy: Policy, source: str, data: Any, eval_data: Any, options: TrainerOptions
) -> Dataset[Example]:
    """Reads and encodes demonstrations, preferences or ratings, as `source` says.

    Over-long ones are cut or dropped, and noted.

    Raises:
        DataError: a row is wrong, or none fits; the message says where.
    """
    kind = KINDS[source]
    rows = kind.read(data, name="data")
    given = None if eval_data is None else kind.read(eval_data, name="eval_data")
    end_ids = [policy.end_token_id, *policy.end_token_ids]
    limits = [n for n in (options.max_length, policy.context_length) if n is not None]

    def encode(part: Sequence[Any], notes: list[str]) -> list[Example]:
        encoded, report = kind.encode(
            policy.tokenizer, part, end_ids=end_ids, max_length=min(limits, default=None)
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


def split_by_prompt(
    rows: Sequence[AnyRowT], fraction: float
) -> tuple[list[AnyRowT], list[AnyRowT]]:
    """Returns rows to train on and rows held out, so that no prompt is in both.

    A prompt's side depends on its own text alone, so it stays the same when rows are added; only
    where chance would hold out none, the prompt of the smallest hash is. Rows whose prompt is ""
    are told apart by their completion. Files of fewer than 20 distinct prompts are not split.
    """
    keys = [prompt_key(row) for row in rows]
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
