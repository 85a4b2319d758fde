"""The task `gsm8k`: questions of mathematics whose answers end in a number, for a policy given.

The data is GSM8K (Cobbe et al. 2021, arXiv:2110.14168) or any of its form: `question`, and `answer`
whose last line is `#### N`, or `final` with the number alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignzoo.plugins.string_tasks.given import GivenConfig, hold_out, load_policy
from pydantic import Field, field_validator

import alignzoo as az

if TYPE_CHECKING:
    from alignzoo import Policy

MAX_HELD_OUT = 256
TEMPLATE = "Question: {question} Think step by step, and end with #### and the number. Answer:"


class GSM8KConfig(GivenConfig):
    """Options of `gsm8k`."""

    policy: str = Field(..., description="model folder or hub id")
    data: str = Field(
        ..., description="file or hub id with 'question' and 'answer' (ending in #### N) or 'final'"
    )
    eval_data: str | None = Field(
        None, description="held-out rows of that form; default 256 of data, at most half"
    )
    learning_rate: az.options.LearningRate = Field(
        1e-6, description="given to every algorithm that has the option"
    )
    max_new_tokens: int = Field(256, ge=1, le=32768, description="longest response, in tokens")
    batch_size: int = Field(64, ge=2, le=65536, description="responses an update")
    samples: int = Field(6400, ge=2, le=10**9, description="the budget where none is given")
    template: str = Field(TEMPLATE, description="prompt, with the place {question}")
    chat: bool = Field(
        False, description="the prompt is a message to the policy's chat template, not plain text"
    )

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, text: str) -> str:
        if "{question}" not in text:
            raise ValueError("it should hold {question}, the place of the question")
        return text


class GSM8K(az.Task):
    """Questions of mathematics; a response with the right final number scores 1, others 0."""

    Config = GSM8KConfig
    metric = "share of held-out questions answered right"
    sources = ("rollouts", "demonstrations")

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def optimum(self) -> float:
        return 1.0

    @property
    def samples(self) -> int:
        return int(self.config.samples)

    @property
    def settings(self) -> Mapping[str, Any]:
        config = self.config
        return {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        return {"learning_rate": self.config.learning_rate}

    def prepare(self) -> None:
        """Reads the data and loads the policy, so that what is wrong is said before any run."""
        _ = self.split, self.policy()

    def policy(self) -> Policy:
        return load_policy(self.config)

    @cached_property
    def split(self) -> tuple[list[Any], list[Any]]:
        """Rows to train on and rows held out."""
        rows = self._read(self.config.data, "data")
        if self.config.eval_data is None:
            return hold_out(rows, MAX_HELD_OUT, "data")
        held_out = self._read(self.config.eval_data, "eval_data")
        known = {repr(row["prompt"]) for row in held_out}
        rows = [row for row in rows if repr(row["prompt"]) not in known]
        if not rows:
            raise az.DataError(f"'{self.config.data}': every question is in eval_data too.")
        return rows, held_out

    def _read(self, source: str, name: str) -> list[dict[str, Any]]:
        found = []
        for row in az.data.read_rows(source, name=name):
            question, answer = row.values.get("question"), row.values.get("answer")
            final = row.values.get("final", answer)
            if not isinstance(question, str) or final is None:
                raise az.DataError(
                    f"{row.where}: {name} needs 'question' and 'answer' or 'final'; it has "
                    f"{', '.join(row.values) or 'nothing'}."
                )
            text = self.config.template.replace("{question}", question)
            prompt = [{"role": "user", "content": text}] if self.config.chat else text
            found.append({"prompt": prompt, "answer": str(final), "solution": answer})
        return found

    def prompts(self) -> Sequence[Any]:
        return [{"prompt": row["prompt"], "answer": row["answer"]} for row in self.split[0]]

    def eval_prompts(self) -> Sequence[Any]:
        return [{"prompt": row["prompt"], "answer": row["answer"]} for row in self.split[1]]

    def reward(self, seed: int) -> az.RewardModel:
        return az.make_reward("math")

    def rows(self, source: str, seed: int) -> Sequence[Any]:
        if source != "demonstrations":
            return super().rows(source, seed)
        return [
            {"prompt": row["prompt"], "completion": self._written(row)} for row in self.split[0]
        ]

    def _written(self, row: Mapping[str, Any]) -> str:
        """Returns the solution, or where there is none the number alone, after the prompt."""
        solution = row["solution"]
        text = f"#### {row['answer']}" if solution is None else str(solution)
        return text if self.config.chat else f" {text}"
