"""Tasks with one right answer each: `reverse`, `sort`, `arithmetic`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from alignzoo.plugins.string_tasks.base import WarmTask
from alignzoo.plugins.string_tasks.warm_start import Recipe
from pydantic import Field, field_validator, model_validator

import alignzoo as az

if TYPE_CHECKING:
    import numpy as np

NUM_HELD_OUT, NUM_CHECKS, MAX_PROMPTS = 200, 200, 2400
MIN_PROMPTS = 1000
SLIP = 0.2  # share of an answer's letters that the teacher draws at random


class ExactTask(WarmTask):
    """A task whose answers are right or wrong; a right one scores 1, any other 0."""

    metric = "share of held-out prompts answered exactly right"
    num_answers = 2
    enough: ClassVar[float] = 0.95  # share of right answers at which the teacher begins to slip
    slip_steps: ClassVar[int] = 100

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def optimum(self) -> float:
        return 1.0

    def draw(self, generator: np.random.Generator) -> str:
        """Returns a prompt."""
        raise NotImplementedError

    def answer(self, prompt: str) -> str:
        """Returns the right answer to a prompt."""
        raise NotImplementedError

    @property
    def num_prompts(self) -> int:
        """How many different prompts there are."""
        raise NotImplementedError

    @property
    def longest(self) -> tuple[int, int]:
        """The most characters of a prompt and of an answer."""
        raise NotImplementedError

    @property
    def letters(self) -> str:
        """What answers are written with."""
        raise NotImplementedError

    @cached_property
    def drawn(self) -> list[str]:
        """Different prompts in the order they were drawn; those held out come first."""
        import numpy as np

        generator, found = np.random.default_rng(0), dict[str, None]()
        while len(found) < min(MAX_PROMPTS, self.num_prompts):
            found[self.draw(generator)] = None
        return list(found)

    @property
    def texts(self) -> list[str]:
        return self.drawn[NUM_HELD_OUT:]

    @cached_property
    def recipe(self) -> Recipe:
        checks = self.texts[:NUM_CHECKS]
        prompt, answer = self.longest
        return Recipe(
            examples=[(text, self.answer(text)) for text in self.texts],
            checks=checks,
            score=self.score,
            enough=self.enough,
            slip=SLIP,
            slip_steps=self.slip_steps,
            letters=self.letters,
            max_new_tokens=answer + 1,
            context_length=prompt + answer + 2,
        )

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        pairs = zip(prompts, answers, strict=True)
        return [float(text == self.answer(prompt)) for prompt, text in pairs]

    def prompts(self) -> list[dict[str, str]]:
        return [{"prompt": text, "answer": self.answer(text)} for text in self.texts]

    def eval_prompts(self) -> list[dict[str, str]]:
        held_out = self.drawn[:NUM_HELD_OUT]
        return [{"prompt": text, "answer": self.answer(text)} for text in held_out]

    def reward(self, seed: int) -> Callable[..., list[float]]:
        return is_right

    def rows(self, source: str, seed: int) -> Sequence[Any]:
        if source == "demonstrations":
            return [{"prompt": text, "completion": self.answer(text)} for text in self.texts]
        if source == "preferences":
            return [
                {"prompt": prompt, "chosen": self.answer(prompt), "rejected": text}
                for prompt, answers in zip(self.texts, self.judged, strict=True)
                for text, score in answers
                if score == 0
            ]
        return self.ratings() if source == "ratings" else super().rows(source, seed)


def is_right(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Returns 1 for each completion that is its row's answer and nothing else, 0 for others."""
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


class LettersConfig(az.TaskConfig):
    """Options of `reverse` and `sort`."""

    length: int = Field(5, ge=2, le=12, description="letters of a prompt")
    alphabet: str = Field(
        "abcdefgh", min_length=2, max_length=64, description="letters that prompts are made of"
    )

    @field_validator("alphabet")
    @classmethod
    def _letters_differ(cls, text: str) -> str:
        if len(set(text)) < len(text) or not text.isascii() or not text.isprintable():
            raise ValueError("it should be different printable ASCII characters")
        if ">" in text or " " in text:
            raise ValueError("it should have neither '>', which ends a prompt, nor a space")
        return text

    @model_validator(mode="after")
    def _there_are_enough(self) -> LettersConfig:
        count = len(self.alphabet) ** self.length
        if count < MIN_PROMPTS:
            raise ValueError(
                f"{len(self.alphabet)} letters make {count} prompts of length {self.length}, and "
                f"{MIN_PROMPTS} are needed; give more letters or a larger length"
            )
        return self


class LettersTask(ExactTask):
    """A prompt is a few letters and '>'."""

    Config = LettersConfig

    @property
    def num_prompts(self) -> int:
        return int(len(self.config.alphabet) ** self.config.length)

    @property
    def longest(self) -> tuple[int, int]:
        return self.config.length + 1, self.config.length

    @property
    def letters(self) -> str:
        return str(self.config.alphabet)

    def draw(self, generator: np.random.Generator) -> str:
        letters = generator.choice(list(self.config.alphabet), size=self.config.length)
        return "".join(letters) + ">"


class Reverse(LettersTask):
    """The letters of the prompt in reverse: abc> is answered by cba."""

    name = "reverse"

    def answer(self, prompt: str) -> str:
        return prompt[-2::-1]


class Sort(LettersTask):
    """The letters of the prompt in the order of the alphabet: cab> is answered by abc."""

    name = "sort"

    def answer(self, prompt: str) -> str:
        return "".join(sorted(prompt[:-1], key=self.config.alphabet.index))


class ArithmeticConfig(az.TaskConfig):
    """Options of `arithmetic`."""

    terms: int = Field(4, ge=4, le=6, description="numbers that are added")


class Arithmetic(ExactTask):
    """The sum of a few numbers of one digit: 7+0+5+1= is answered by 13."""

    Config = ArithmeticConfig
    name = "arithmetic"
    enough = 0.8

    @property
    def num_prompts(self) -> int:
        return int(10**self.config.terms)

    @property
    def longest(self) -> tuple[int, int]:
        return 2 * self.config.terms, 2

    @property
    def letters(self) -> str:
        return "0123456789"

    def draw(self, generator: np.random.Generator) -> str:
        return "+".join(str(n) for n in generator.integers(10, size=self.config.terms)) + "="

    def answer(self, prompt: str) -> str:
        return str(sum(int(digit) for digit in prompt[:-1].split("+")))
