"""The reward contract: text in, one number per response out; higher is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from alignzoo.config import RewardConfig
from alignzoo.errors import ConfigError

Prompt = str | list[dict[str, str]]


class RewardModel:
    """Base of every reward. Subclasses set `Config` and write `score`.

    `score` must not depend on what else is in the batch.
    """

    Config: ClassVar[type[RewardConfig]] = RewardConfig

    def __init__(self, config: RewardConfig) -> None:
        self.config: Any = config

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float | None]:
        """Returns one number per response; None or NaN where a response cannot be scored.

        Args:
            prompts: B prompts, strings or chat messages.
            responses: B responses, decoded without special tokens.
            columns: further columns of the data file, each of length B, by name.
        """
        raise NotImplementedError

    def fit(self, data: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
        """Learns from human feedback and returns held-out metrics."""
        raise ConfigError(f"reward {type(self).__name__} has nothing to learn")

    def save(self, folder: Path) -> None:
        """Writes what `fit` learned as safetensors and JSON."""

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
