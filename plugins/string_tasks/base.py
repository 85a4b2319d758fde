"""What the tasks on a small model of their own have in common: the model, and rows of its answers.

Everything that takes long is made once and cached: the taught model, and the answers it samples to
the prompts that are trained on, which the rows of offline algorithms are made of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from alignzoo.plugins.string_tasks import cache, warm_start

import alignzoo as az

if TYPE_CHECKING:
    from alignzoo.plugins.string_tasks.warm_start import Recipe

    from alignzoo import Policy

SOURCES = ("rollouts", "demonstrations", "preferences", "ratings")
BATCH_SIZE = 64


class WarmTask(az.Task):
    """A task whose policy is a small model it teaches; subclasses say what and how."""

    sources = SOURCES
    name: ClassVar[str]
    num_answers: ClassVar[int] = 4  # sampled to each prompt, for the rows

    # Given to every algorithm that has the option; docs/tasks.md says how they were chosen.
    given: ClassVar[Mapping[str, float]] = {"learning_rate": 3e-4, "kl_coef": 0.0}

    @property
    def settings(self) -> Mapping[str, Any]:
        longest = self.recipe.max_new_tokens
        return {"batch_size": BATCH_SIZE, "max_new_tokens": longest, "checkpoint_every": 50}

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        return {name: self.given[name] for name in self.given if name in config_class.model_fields}

    @cached_property
    def recipe(self) -> Recipe:
        """How the model is made and taught."""
        raise NotImplementedError

    @property
    def texts(self) -> Sequence[str]:
        """The prompts that are trained on."""
        raise NotImplementedError

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Returns what each answer is worth, [B]."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Makes the model and its answers, or finds them in the cache."""
        _ = self.warm

    @cached_property
    def warm(self) -> cache.Made:
        """Facts, the sampled answers, and the model's parameters."""
        facts = {"task": self.name, "recipe": warm_start.RECIPE, **self.recipe_options}
        modules = {type(self).__module__, warm_start.__name__, *self.recipe_modules}
        name = f"{self.name}-{cache.digest_of(facts, sorted(modules))}"
        return cache.cached(name, self._make)

    @property
    def recipe_options(self) -> Mapping[str, Any]:
        """The options that the model and its answers follow from, JSON-able."""
        return self.config.model_dump(mode="json")  # type: ignore[no-any-return]

    recipe_modules: ClassVar[tuple[str, ...]] = ()  # what the recipe is in, besides the class's own

    def _make(self) -> cache.Made:
        began, recipe = time.process_time(), self.recipe
        with warm_start.one_thread():
            policy = warm_start.make_policy(recipe)
            steps, score = warm_start.teach(policy, recipe)
            answers = self.sample_answers(policy)
        facts = {"steps": steps, "score": score, "seconds": time.process_time() - began}
        return {**facts, "answers": answers}, warm_start.state_of(policy)

    def sample_answers(self, policy: Policy) -> list[list[str]]:
        """Returns the policy's answers to each prompt that is trained on."""
        count = self.num_answers
        found = warm_start.sample(
            policy, self.texts, int(self.settings["max_new_tokens"]), seed=1, num_samples=count
        )
        return [found[row : row + count] for row in range(0, len(found), count)]

    def policy(self) -> Policy:
        return warm_start.set_state(warm_start.make_policy(self.recipe), self.warm[1])

    @cached_property
    def judged(self) -> list[list[tuple[str, float]]]:
        """By prompt, the sampled answers that a row can hold, each with its score."""
        found = []
        for prompt, answers in zip(self.texts, self.warm[0]["answers"], strict=True):
            kept = [text for text in answers if _is_writable(text)]
            found.append(list(zip(kept, self.score([prompt] * len(kept), kept), strict=True)))
        return found

    def ratings(self) -> list[dict[str, Any]]:
        """Returns the sampled answers, each with its score."""
        return [
            {"prompt": prompt, "completion": text, "rating": score}
            for prompt, answers in zip(self.texts, self.judged, strict=True)
            for text, score in answers
        ]

    def pairs(self) -> list[dict[str, Any]]:
        """Returns the sampled answers two by two, the better one chosen; without ties."""
        found = []
        for prompt, answers in zip(self.texts, self.judged, strict=True):
            for one, other in zip(answers[::2], answers[1::2], strict=False):
                worse, better = sorted((one, other), key=lambda pair: pair[1])
                if worse[1] < better[1]:
                    found.append({"prompt": prompt, "chosen": better[0], "rejected": worse[0]})
        return found


def _is_writable(text: str) -> bool:
    """Whether a row may hold a text: some, and of characters alone."""
    return bool(text.strip()) and "\0" not in text and "\ufffd" not in text
