"""Data files in, token ids out: prompts, demonstrations, preferences, ratings; errors located."""

from alignzoo.data.build import BuildOptions, BuildReport, build_rows
from alignzoo.data.check import DataCheck, Spread, check_data
from alignzoo.data.columns import plain_text
from alignzoo.data.convert import convert_rows
from alignzoo.data.dialogues import DialogueOptions, DialogueReport, dialogue_rows
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
from alignzoo.data.feedback import (
    ClassLabel,
    Ranking,
    StepRatings,
    TextFeedback,
    read_classes,
    read_rankings,
    read_step_ratings,
    read_text_feedback,
)
from alignzoo.data.filters import FilterOptions, FilterReport, filter_rows
from alignzoo.data.judgements import Preference, Rating, read_preferences, read_ratings
from alignzoo.data.kinds import JUDGEMENTS, JudgementKind, read_judgements
from alignzoo.data.row import Row
from alignzoo.data.rows import dataset_fingerprint, iterate_rows, read_rows
from alignzoo.data.schemas import (
    Demonstration,
    PromptRow,
    gather_columns,
    read_demonstrations,
    read_prompts,
)
from alignzoo.data.split_file import split_file
from alignzoo.data.splits import prompt_key
from alignzoo.data.templates import Template, Templates, read_templates
from alignzoo.data.write import write_rows

__all__ = [
    "JUDGEMENTS",
    "BuildOptions",
    "BuildReport",
    "ClassLabel",
    "DataCheck",
    "Demonstration",
    "DialogueOptions",
    "DialogueReport",
    "EncodedDemonstration",
    "EncodedPreference",
    "EncodedPrompt",
    "EncodedRating",
    "EncodingReport",
    "Example",
    "FilterOptions",
    "FilterReport",
    "JudgementKind",
    "Preference",
    "PromptRow",
    "Ranking",
    "Rating",
    "Row",
    "Spread",
    "StepRatings",
    "Template",
    "Templates",
    "TextFeedback",
    "build_rows",
    "check_data",
    "check_prompt_lengths",
    "convert_rows",
    "dataset_fingerprint",
    "dialogue_rows",
    "encode_demonstrations",
    "encode_preferences",
    "encode_prompts",
    "encode_ratings",
    "ensure_chat_template",
    "filter_rows",
    "gather_columns",
    "iterate_rows",
    "plain_text",
    "prompt_key",
    "read_classes",
    "read_demonstrations",
    "read_judgements",
    "read_preferences",
    "read_prompts",
    "read_rankings",
    "read_ratings",
    "read_rows",
    "read_step_ratings",
    "read_templates",
    "read_text_feedback",
    "split_file",
    "write_rows",
]
