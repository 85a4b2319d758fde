"""Data files in, token ids out: prompts and demonstrations, with every error located."""

from alignzoo.data.encode import (
    EncodedDemonstration,
    EncodedPrompt,
    EncodingReport,
    check_prompt_lengths,
    encode_demonstrations,
    encode_prompts,
    ensure_chat_template,
)
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
    "EncodedPrompt",
    "EncodingReport",
    "PromptRow",
    "Row",
    "check_prompt_lengths",
    "dataset_fingerprint",
    "encode_demonstrations",
    "encode_prompts",
    "ensure_chat_template",
    "gather_columns",
    "read_demonstrations",
    "read_prompts",
    "read_rows",
]
