"""What the checks of a reward look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignzoo.plugin_registry import Entry
from alignzoo.testing.records import PluginSubject


class RewardSubject(PluginSubject):
    """One reward, made once and scored by many checks."""


def make_subject(entry: Entry, options: Mapping[str, Any]) -> RewardSubject:
    """Returns what the checks of a reward look at; imports nothing yet."""
    return RewardSubject(entry, options)
