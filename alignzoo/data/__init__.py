"""Data files in, token ids out: prompts, demonstrations, preferences, ratings; errors located."""

from alignzoo.data.encode import (
    EncodedDemonstration,
    EncodedPrompt,
    check_prompt_lengths,
    encode_prompts,
    ensure_chat_template,
)
from alignzoo.data.examples import (
    EncodedPreference,
    EncodedRating,
    EncodingReport,
    Example,
    encode_demonstrations,
    encode_preferences,
    encode_ratings,
)
from alignzoo.data.judgements import Preference, Rating, read_preferences, read_ratings
from alignzoo.data.rows import Row, dataset_fingerprint, read_rows
from alignzoo.data.schemas import (
    Demonstration,
    PromptRow,
    gather_columns,
    read_demonstrations,
    read_prompts,
)

__all__ = [
    "Demonstration",
    "EncodedDemonstration",
    "EncodedPreference",
    "EncodedPrompt",
    "EncodedRating",
    "EncodingReport",
    "Example",
    "Preference",
    "PromptRow",
    "Rating",
    "Row",
    "check_prompt_lengths",
    "dataset_fingerprint",
    "encode_demonstrations",
    "encode_preferences",
    "encode_prompts",
    "encode_ratings",
    "ensure_chat_template",
    "gather_columns",
    "read_demonstrations",
    "read_preferences",
    "read_prompts",
    "read_ratings",
    "read_rows",
]
