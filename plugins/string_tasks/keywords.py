"""The task `keywords`: sentences that say some words, leave out others, and are long enough.

What is learned from and measured is the reward `keywords`. The policy is a small model taught the
sentences of `grammar`, or any that is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from alignzoo.plugins.string_tasks import cache, grammar, warm_start
from alignzoo.plugins.string_tasks.base import WarmTask
from alignzoo.plugins.string_tasks.given import GivenConfig, hold_out, load_policy, read_rows
from pydantic import Field, model_validator

import alignzoo as az

if TYPE_CHECKING:
    from alignzoo import Policy

NUM_HELD_OUT = 192
NUM_EXAMPLES = 4096
CONTEXT_LENGTH = 96  # of the model made here; its own sentences are shorter
TOKENS_OF_A_GIVEN_POLICY = 32
ASKED: dict[grammar.Language, dict[str, Any]] = {
    "en": {"include": ["cat", "sea"], "avoid": ["saw", "bit"], "min_words": 6},
    "zh": {"include": ["猫", "城"], "avoid": ["看", "怕"], "min_words": 7},
}
STORIES: dict[grammar.Language, str] = {
    "en": "Once upon a time, there was a {quality} {noun}.",
    "zh": "从前有一只{quality}{noun}，",
}


class KeywordsTaskConfig(GivenConfig):
    """Options of the task `keywords`."""

    language: grammar.Language = Field("en", description="en counts words, zh characters")
    policy: str | None = Field(
        None, description="model folder or hub id; without one a small model is made and taught"
    )
    include: list[str] | None = Field(
        None, description="words that should appear; default two that are rare, by language"
    )
    avoid: list[str] | None = Field(
        None, description="words that should not; default two that are common, by language"
    )
    min_words: int | None = Field(
        None, ge=0, le=1000, description="shortest length; default the longest form of sentence"
    )
    max_words: int | None = Field(None, ge=0, le=1000, description="longest length")
    prompts: str | None = Field(
        None, description="file or hub id with a 'prompt' column; needs a policy"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=4096, description="longest response; default the longest sentence, or 32"
    )

    @model_validator(mode="after")
    def _prompts_are_for_a_policy(self) -> KeywordsTaskConfig:
        if self.prompts is not None and self.policy is None:
            raise ValueError(
                "prompts are given and no policy; the model that is made here knows the subjects "
                "of its own sentences alone"
            )
        return self


class Keywords(WarmTask):
    """Words to say, words to leave out, and length; a response that has all scores 1."""

    Config = KeywordsTaskConfig
    metric = "mean keywords score of held-out responses"
    name = "keywords"
    num_answers = 8
    enough: ClassVar[float] = 0.8  # share of sampled answers that are sentences, then it is taught
    recipe_modules = (grammar.__name__,)

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def optimum(self) -> float:
        return 1.0

    @property
    def samples(self) -> int:
        return 3200

    @property
    def settings(self) -> Mapping[str, Any]:
        longest = self.config.max_new_tokens or (
            self.recipe.max_new_tokens if self.config.policy is None else TOKENS_OF_A_GIVEN_POLICY
        )
        return {"batch_size": 64, "max_new_tokens": longest, "checkpoint_every": 50}

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        given = super().options(algorithm_id, config_class)
        return {**given, "learning_rate": self.config.learning_rate}

    @cached_property
    def grammar(self) -> grammar.Grammar:
        """The sentences of the language."""
        return grammar.GRAMMARS[self.config.language]

    @cached_property
    def recipe(self) -> warm_start.Recipe:
        import numpy as np

        generator, found = np.random.default_rng(0), self.grammar
        drawn = generator.choice(self.texts, size=NUM_EXAMPLES)
        examples = [(str(prompt), found.answer(generator)) for prompt in drawn]
        return warm_start.Recipe(
            examples=examples,
            checks=self.texts,
            score=lambda _, answers: [float(found.is_answer(text)) for text in answers],
            enough=self.enough,
            learning_rate=3e-3,
            max_new_tokens=1 + max(len(answer.encode()) for _, answer in examples),
            context_length=CONTEXT_LENGTH,
        )

    @property
    def recipe_options(self) -> Mapping[str, Any]:
        return {"language": self.config.language}

    @cached_property
    def split(self) -> tuple[list[Any], list[Any]]:
        """Rows to train on and rows held out."""
        config, found = self.config, self.grammar
        if config.prompts is not None:
            return hold_out(read_rows(config.prompts, "prompts"), NUM_HELD_OUT, "prompts")
        form = found.subject if config.policy is None else STORIES[config.language]
        return hold_out(
            [{"prompt": text} for text in found.subjects(form)], NUM_HELD_OUT, "prompts"
        )

    @property
    def texts(self) -> Sequence[Any]:
        return [row["prompt"] for row in self.split[0]]

    def prompts(self) -> Sequence[Any]:
        return list(self.split[0])

    def eval_prompts(self) -> Sequence[Any]:
        return list(self.split[1])

    def reward(self, seed: int) -> az.RewardModel:
        config = self.config
        asked = {
            name: ASKED[config.language].get(name) if value is None else value
            for name in ("include", "avoid", "min_words", "max_words")
            for value in [getattr(config, name)]
        }
        unit, match = ("characters", "substring") if config.language == "zh" else ("words", "word")
        options = {name: value for name, value in asked.items() if value is not None}
        return az.make_reward("keywords", **options, unit=unit, match=match)

    def score(self, prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        return [float(number) for number in self.reward(0).score(prompts, answers)]

    def prepare(self) -> None:
        """Makes the model; of one that is given only says whether it and the prompts are there."""
        if self.config.policy is None:
            super().prepare()
        else:
            _ = self.split, self.policy()

    def policy(self) -> Policy:
        return super().policy() if self.config.policy is None else load_policy(self.config)

    @cached_property
    def warm(self) -> cache.Made:
        if self.config.policy is None:
            return super().warm
        policy = load_policy(self.config)
        facts = {"policy": policy.fingerprint(), "prompts": self.texts, **self.settings}
        name = f"answers-{cache.digest_of(facts, [type(self).__module__])}"
        return cache.cached(name, lambda: ({"answers": self.sample_answers(policy)}, {}))

    def rows(self, source: str, seed: int) -> Sequence[Any]:
        if source == "demonstrations":
            best = [max(answers, key=lambda pair: pair[1], default=None) for answers in self.judged]
            return [
                {"prompt": prompt, "completion": pair[0]}
                for prompt, pair in zip(self.texts, best, strict=True)
                if pair is not None
            ]
        if source == "preferences":
            return self.pairs()
        return self.ratings() if source == "ratings" else super().rows(source, seed)
