"""The errors alignzoo raises. Each is also the fitting builtin, so callers need not import them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlignzooError(Exception):
    """Base of every error raised on purpose. Its message is one clear line or two."""


class ConfigError(AlignzooError, ValueError):
    """An option, id or combination of them is wrong. The command line exits with code 2."""


class DataError(AlignzooError, ValueError):
    """A file or row is wrong; the message names file and line. The exit code is 2."""


class PluginError(AlignzooError, RuntimeError):
    """A plugin failed while it was loaded or used; the message names it and its version."""


class RunError(AlignzooError, RuntimeError):
    """A run could not go on. The command line exits with code 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
