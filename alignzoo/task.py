"""The task contract: what algorithms are compared on, and what the number they get means.

A task is the same for every algorithm: initial policy, prompts and their order, reward, sizes,
budget, options, and how the trained policy is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from alignzoo.config import AlgorithmConfig, Config
from alignzoo.errors import ConfigError

if TYPE_CHECKING:
    from alignzoo.policy import Policy


class TaskConfig(Config):
    """Base of a task's options."""


class Task:
    """Base of every task. Subclasses set `metric` and `range` and write what raises here.

    Everything follows from the options, and from `seed` where there is one: the same call returns
    the same, bit for bit, in every process.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    metric: ClassVar[str] = "mean score"  # what the final number is; higher is better

    # What it can be learned from: "rollouts", and kinds of rows that `rows` returns.
    sources: ClassVar[tuple[str, ...]] = ("rollouts",)

    def __init__(self, config: TaskConfig) -> None:
        self.config: Any = config

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number a policy can get."""
        raise NotImplementedError

    @property
    def optimum(self) -> float | None:
        """The number of the best policy, where it is known."""
        return None

    @property
    def samples(self) -> int:
        """The budget where none is given: responses sampled, or read for offline algorithms."""
        return 6400

    @property
    def settings(self) -> Mapping[str, Any]:
        """The trainer's options, such as batch_size and max_new_tokens; `seed` is the cell's."""
        return {}

    def options(self, algorithm_id: str, config_class: type[AlgorithmConfig]) -> Mapping[str, Any]:
        """Returns the options this task gives an algorithm; others keep their defaults.

        The rule is to be the same for all, such as one learning rate for everyone who has one.
        """
        return {}

    def prepare(self) -> None:
        """Makes what `policy`, `reward` and `rows` read, where that takes long, and keeps it.

        A benchmark calls it once, before any run; whoever does not call it waits for `policy`.
        """

    def policy(self) -> Policy:
        """Returns the initial policy, a new one with the same parameters on every call."""
        raise NotImplementedError

    def prompts(self) -> Sequence[Any]:
        """Returns the prompts to sample from, as `az.Trainer` takes them."""
        raise NotImplementedError

    def eval_prompts(self) -> Sequence[Any]:
        """Returns the held-out prompts; none where `evaluate` and `kl` are exact."""
        return []

    def reward(self, seed: int) -> Any:
        """Returns the reward that is learned from, as `az.Trainer` takes it; its noise by seed."""
        raise NotImplementedError

    def true_reward(self) -> Any:
        """Returns the reward that held-out responses are measured by; the same unless hidden.

        Where it is another one, the reward that is learned from is measured beside it, as `proxy`.
        """
        return self.reward(0)

    def rows(self, source: str, seed: int) -> Sequence[Any]:
        """Returns demonstrations, preferences or ratings for algorithms that do not sample.

        Raises:
            ConfigError: the task has no such rows.
        """
        raise ConfigError(f"{type(self).__name__} has no {source}")

    def evaluate(self, policy: Policy) -> float | None:
        """Returns the policy's exact value; None where held-out responses are to be sampled."""
        return None

    def kl(self, policy: Policy) -> float | None:
        """Returns KL(policy || initial policy) in nats per response where exact, else None."""
        return None
