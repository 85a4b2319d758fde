"""Splits by prompt: a row's part depends on its own prompt alone, never on the rows beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from alignzoo.errors import ConfigError
from alignzoo.reward import Prompt


class HasPrompt(Protocol):
    """A row of any kind that was read."""

    @property
    def prompt(self) -> Prompt: ...


def prompt_key(row: HasPrompt, salt: str = "") -> bytes:
    """Returns the SHA-256 by which a row's part of a split is drawn: its prompt's, salted.

    A row whose prompt is "" is told from others by its completion.

    Args:
        salt: each gives another split; "" the one of training.
    """
    return content_key(row.prompt or getattr(row, "completion", ""), salt)


def content_key(content: Any, salt: str = "") -> bytes:
    """Returns the SHA-256 of a value as Python writes it, salted."""
    return hashlib.sha256((salt + repr(content)).encode("utf-8", "backslashreplace")).digest()


def key_share(key: bytes) -> float:
    """Returns where a key lies between the smallest and the largest one, in [0, 1)."""
    return int.from_bytes(key[:8], "big") / 2**64


def choose_part(key: bytes, parts: Mapping[str, float]) -> str:
    """Returns the part that a key belongs to.

    The last part takes the smallest keys, as rows held out from training do: with parts
    {"train": 0.9, "test": 0.1}, `test` is what `--eval-fraction 0.1` would hold out.

    Args:
        parts: the share of each part, by name; they sum to 1.
    """
    share, begin = key_share(key), 0.0
    names = list(parts)
    for name in reversed(names[1:]):
        begin += parts[name]
        if share < begin:
            return name
    return names[0]


def check_parts(parts: Mapping[str, float]) -> None:
    """Checks the shares of a split.

    Raises:
        ConfigError: fewer than two, one that is not positive, or a sum other than 1.
    """
    total = sum(parts.values())
    if len(parts) < 2 or min(parts.values()) <= 0 or abs(total - 1) > 1e-9:
        given = ", ".join(f"{name}: {share:g}" for name, share in parts.items()) or "nothing"
        raise ConfigError(
            f"parts is {given}; expected two or more shares over 0 that sum to 1, such as "
            '{"train": 0.9, "test": 0.1}'
        )
