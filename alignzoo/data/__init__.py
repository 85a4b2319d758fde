"""Data files in, token ids out: prompts, demonstrations, preferences, ratings; errors located.

Importing this imports none of it; a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignzoo.data.build import BuildOptions as BuildOptions
    from alignzoo.data.build import BuildReport as BuildReport
    from alignzoo.data.build import build_rows as build_rows
    from alignzoo.data.check import DataCheck as DataCheck
    from alignzoo.data.check import Spread as Spread
    from alignzoo.data.check import check_data as check_data
    from alignzoo.data.columns import plain_text as plain_text
    from alignzoo.data.convert import convert_rows as convert_rows
    from alignzoo.data.dialogues import DialogueOptions as DialogueOptions
    from alignzoo.data.dialogues import DialogueReport as DialogueReport
    from alignzoo.data.dialogues import dialogue_rows as dialogue_rows
    from alignzoo.data.encode import EncodedDemonstration as EncodedDemonstration
    from alignzoo.data.encode import EncodedPrompt as EncodedPrompt
    from alignzoo.data.encode import check_prompt_lengths as check_prompt_lengths
    from alignzoo.data.encode import encode_prompts as encode_prompts
    from alignzoo.data.encode import ensure_chat_template as ensure_chat_template
    from alignzoo.data.examples import EncodedPreference as EncodedPreference
    from alignzoo.data.examples import EncodedRating as EncodedRating
    from alignzoo.data.examples import EncodingReport as EncodingReport
    from alignzoo.data.examples import Example as Example
    from alignzoo.data.examples import encode_demonstrations as encode_demonstrations
    from alignzoo.data.examples import encode_preferences as encode_preferences
    from alignzoo.data.examples import encode_ratings as encode_ratings
    from alignzoo.data.feedback import ClassLabel as ClassLabel
    from alignzoo.data.feedback import Ranking as Ranking
    from alignzoo.data.feedback import StepRatings as StepRatings
    from alignzoo.data.feedback import TextFeedback as TextFeedback
    from alignzoo.data.feedback import read_classes as read_classes
    from alignzoo.data.feedback import read_rankings as read_rankings
    from alignzoo.data.feedback import read_step_ratings as read_step_ratings
    from alignzoo.data.feedback import read_text_feedback as read_text_feedback
    from alignzoo.data.filters import FilterOptions as FilterOptions
    from alignzoo.data.filters import FilterReport as FilterReport
    from alignzoo.data.filters import filter_rows as filter_rows
    from alignzoo.data.judgements import Preference as Preference
    from alignzoo.data.judgements import Rating as Rating
    from alignzoo.data.judgements import read_preferences as read_preferences
    from alignzoo.data.judgements import read_ratings as read_ratings
    from alignzoo.data.kinds import JUDGEMENTS as JUDGEMENTS
    from alignzoo.data.kinds import JudgementKind as JudgementKind
    from alignzoo.data.kinds import read_judgements as read_judgements
    from alignzoo.data.row import Row as Row
    from alignzoo.data.rows import dataset_fingerprint as dataset_fingerprint
    from alignzoo.data.rows import iterate_rows as iterate_rows
    from alignzoo.data.rows import read_rows as read_rows
    from alignzoo.data.schemas import Demonstration as Demonstration
    from alignzoo.data.schemas import PromptRow as PromptRow
    from alignzoo.data.schemas import gather_columns as gather_columns
    from alignzoo.data.schemas import read_demonstrations as read_demonstrations
    from alignzoo.data.schemas import read_prompts as read_prompts
    from alignzoo.data.split_file import split_file as split_file
    from alignzoo.data.splits import prompt_key as prompt_key
    from alignzoo.data.templates import Template as Template
    from alignzoo.data.templates import Templates as Templates
    from alignzoo.data.templates import read_templates as read_templates
    from alignzoo.data.write import write_rows as write_rows

_HOMES = {
    "build": "BuildOptions BuildReport build_rows",
    "check": "DataCheck Spread check_data",
    "columns": "plain_text",
    "convert": "convert_rows",
    "dialogues": "DialogueOptions DialogueReport dialogue_rows",
    "encode": "EncodedDemonstration EncodedPrompt "
    "check_prompt_lengths encode_prompts ensure_chat_template",
    "examples": "EncodedPreference EncodedRating EncodingReport "
    "Example encode_demonstrations encode_preferences encode_ratings",
    "feedback": "ClassLabel Ranking StepRatings TextFeedback "
    "read_classes read_rankings read_step_ratings read_text_feedback",
    "filters": "FilterOptions FilterReport filter_rows",
    "judgements": "Preference Rating read_preferences read_ratings",
    "kinds": "JUDGEMENTS JudgementKind read_judgements",
    "row": "Row",
    "rows": "dataset_fingerprint iterate_rows read_rows",
    "schemas": "Demonstration PromptRow gather_columns read_demonstrations read_prompts",
    "split_file": "split_file",
    "splits": "prompt_key",
    "templates": "Template Templates read_templates",
    "write": "write_rows",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'alignzoo.data' has no attribute '{name}'", name=name)
    value = getattr(importlib.import_module(f"alignzoo.data.{_HOME_OF[name]}"), name)
    globals()[name] = value  # over a submodule of that name, `split_file`
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
