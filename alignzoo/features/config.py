"""Options of every reward on features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignzoo.config import RewardConfig

FeatureName = Literal["words", "characters", "overlap", "length", "hidden"]
ORDER: tuple[FeatureName, ...] = ("words", "characters", "overlap", "length", "hidden")


class FeatureConfig(RewardConfig):
    """Options of every reward on features."""

    features: list[FeatureName] = Field(
        default=["words", "characters", "overlap", "length"],
        min_length=1,
        description="TF-IDF of the response's words and characters, its overlap with the prompt, "
        "its length; hidden states where a policy is given",
    )
    word_ngrams: int = Field(2, ge=1, le=5, description="longest run of words counted as one")
    character_ngrams: int = Field(
        5, ge=1, le=8, description="longest run of characters counted as one, within a word"
    )
    min_df: int = Field(2, ge=1, description="responses that must hold a run for it to count")
    max_features: int = Field(
        200_000, ge=1, description="most runs of words, and of characters: the most frequent ones"
    )
    policy: str | None = Field(
        None, description="model folder or hub id whose hidden states are features too"
    )

    @model_validator(mode="after")
    def _hidden_states_are_somebodys(self) -> FeatureConfig:
        if "hidden" in self.features and self.policy is None:
            raise ValueError("features has 'hidden', which needs a policy to read the states of")
        return self

    @property
    def kinds(self) -> tuple[FeatureName, ...]:
        """The kinds of features in use, in a fixed order."""
        hidden = {"hidden"} if self.policy is not None else set()
        return tuple(name for name in ORDER if name in {*self.features, *hidden})
