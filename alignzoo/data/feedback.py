"""Feedback beyond pairs and numbers: class labels, rankings, written criticism, marks per step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignzoo.data.columns import Completion
from alignzoo.reward import Prompt


@dataclass(frozen=True)
class ClassLabel:
    """A response and the class someone put it in, such as "good"."""

    prompt: Prompt
    completion: Completion
    label: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class Ranking:
    """Two or more responses to one prompt, best first; all text, or all chat messages."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class TextFeedback:
    """A response, what someone wrote about it, and their rating; NaN where they gave none."""

    prompt: Prompt
    completion: Completion
    feedback: str
    rating: float
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"


@dataclass(frozen=True)
class StepRatings:
    """The steps of one response and a rating of each; NaN where a step has none."""

    prompt: Prompt
    steps: tuple[str, ...]
    ratings: tuple[float, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "data"
