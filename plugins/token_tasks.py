"""Tasks on languages so small that a policy's value is known exactly.

    bandit     each response is one token, an arm, which pays its mean plus noise
    chain      one response is right; each of its tokens that comes first, in order, pays its share
    tree       each token pays an amount of its own, in each context another
    noisy_max  responses that begin with 0 pay 0; all others pay less, which noise hides (after
               Sutton and Barto 2018, example 6.7)

The policy is a table of logits, flat at first. What it is worth, and its KL to the flat policy, are
sums over all responses: nothing is sampled, and critics that steer are counted in.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

import alignzoo as az
from alignzoo import testing

if TYPE_CHECKING:
    import numpy as np

    from alignzoo import Policy
    from alignzoo.testing import TokenMDP

NUM_DRAWS = 8192  # prompts of tasks with noise, which differ in their noise alone
NUM_ROWS = 2048  # responses in the rows that algorithms learn from which do not sample
NUM_CANDIDATES = 8  # responses of which a pair has the best, beside one that is worse
DRAW_TEMPERATURE = 0.125  # those responses are e times as likely for this much of the range

# What every algorithm is given that has such an option. `beta` is small because a policy that may
# not stray from the initial one has another optimum than the task's; who steers by Q starts with
# trying everything, because Q of what is never sampled is never learned.
OPTIONS: Mapping[str, Any] = {
    "learning_rate": 0.2,
    "value_learning_rate": 0.2,
    "kl_coef": 0.0,
    "beta": 0.02,
    "explore_temperature": 0.5,
    "explore_updates": 30,
}
# And on noisy_max: estimates follow the noise for as long as everything is tried, a maximum is
# taken of one value and not of a sum over all steps, and the network that rates it is stale enough
# to have noise of its own. Afterwards enough is left to learn better.
MAXIMA: Mapping[str, Any] = {
    "learning_rate": 0.1,
    "value_learning_rate": 0.1,
    "n_step": 1,
    "target_sync": 20,
    "explore_temperature": 1.5,
    "explore_updates": 90,
}


class TokenTask(az.Task):
    """A task on a token MDP; subclasses say what each response pays."""

    metric = "expected score"
    sources = ("rollouts", "demonstrations", "preferences", "ratings")

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; the last one ends a response."""
        return 3

    @property
    def horizon(self) -> int:
        """The most tokens of a response."""
        raise NotImplementedError

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        """Returns what each token pays in each context, [S, V]."""
        raise NotImplementedError

    @cached_property
    def mdp(self) -> TokenMDP:
        """The language and what it pays."""
        import dataclasses

        sizes: dict[str, int] = {"vocab_size": self.vocab_size, "horizon": self.horizon}
        empty = testing.TokenMDP.random(0, **sizes, end_token=self.vocab_size - 1)
        return dataclasses.replace(empty, rewards=self.payments(empty))

    @cached_property
    def scores(self) -> np.ndarray[Any, Any]:
        """What each of the R responses is worth, [R]."""
        import numpy as np

        rewards = self.mdp.rewards
        return np.array([sum(rewards[s] for s in self.mdp.steps(r)) for r in self.mdp.responses])

    @property
    def range(self) -> tuple[float, float]:
        return float(self.scores.min()), float(self.scores.max())

    @property
    def optimum(self) -> float:
        return float(self.scores.max())

    @property
    def samples(self) -> int:
        return 3200

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"batch_size": 64, "max_new_tokens": self.horizon, "checkpoint_every": 50}

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        return {name: OPTIONS[name] for name in OPTIONS if name in config_class.model_fields}

    def policy(self) -> Policy:
        import numpy as np

        return self.mdp.policy(np.zeros(self.mdp.rewards.shape))

    def prompts(self) -> Sequence[Any]:
        return ["0"]

    def reward(self, seed: int) -> Callable[..., list[float]]:
        return self.mdp.score

    def rows(self, source: str, seed: int) -> Sequence[Any]:
        import numpy as np

        if source == "demonstrations":
            return [{"prompt": "0", "completion": self.texts[int(self.scores.argmax())]}]
        if source not in self.sources[1:]:
            return super().rows(source, seed)
        generator = np.random.default_rng([seed, zlib.crc32(source.encode())])
        if source == "ratings":
            drawn = self.draw(generator, (NUM_ROWS,))
            return [
                {"prompt": "0", "completion": self.texts[row], "rating": float(self.scores[row])}
                for row in drawn
            ]
        seen = self.draw(generator, (NUM_ROWS // 2, NUM_CANDIDATES))
        best = seen[np.arange(len(seen)), self.scores[seen].argmax(axis=1)]
        pairs = [(self.texts[row], self.draw_worse(generator, row)) for row in best]
        return [
            {"prompt": "0", "chosen": chosen, "rejected": self.texts[rejected]}
            for chosen, rejected in pairs
            if chosen and rejected is not None  # nobody prefers an empty text
        ]

    @cached_property
    def texts(self) -> list[str]:
        """Each response as the tokenizer writes it, without its end token."""
        end = self.vocab_size - 1
        return [" ".join(str(t) for t in r if t != end) for r in self.mdp.responses]

    @cached_property
    def weights(self) -> np.ndarray[Any, Any]:
        """How likely each response is in rows: of a policy that has learned something, [R]."""
        import numpy as np

        low, high = self.range
        weights: np.ndarray[Any, Any] = np.exp(
            (self.scores - high) / (high - low) / DRAW_TEMPERATURE
        )
        return weights / weights.sum()

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
        """Returns numbers of responses, of that shape."""
        return generator.choice(len(self.weights), size=shape, p=self.weights)

    def draw_worse(self, generator: np.random.Generator, row: int) -> int | None:
        """Returns the number of a response that is worse than another; None where none is."""
        left = self.weights * (self.scores < self.scores[row])
        if not left.any():
            return None
        return int(generator.choice(len(left), p=left / left.sum()))

    def log_probs(self, policy: Policy) -> np.ndarray[Any, Any]:
        """Returns the log-probability of each response under a policy, [R], in nats."""
        import torch

        buffer = az.RolloutBuffer()
        prompts = [self.mdp.prompt] * len(self.mdp.responses)
        buffer.append(prompts, self.mdp.responses, policy_version=0)
        with torch.no_grad():
            found = policy.evaluate(buffer.batch(device=policy.device)).log_probs
        numbers: np.ndarray[Any, Any] = found.double().sum(1).cpu().numpy()
        return numbers

    def evaluate(self, policy: Policy) -> float:
        import numpy as np

        probs = np.exp(self.log_probs(policy))
        return float(probs @ self.scores / probs.sum())  # float32 log-probs sum to nearly 1

    def kl(self, policy: Policy) -> float:
        import numpy as np

        log_probs = self.log_probs(policy)
        gap = log_probs - np.log(self.mdp.response_probs(self.mdp.rewards * 0))
        return max(0.0, float(np.exp(log_probs) @ gap))


class ChainConfig(az.TaskConfig):
    """Options of `chain`."""

    length: int = Field(4, ge=2, le=6, description="tokens of the right response, its end included")


class Chain(TokenTask):
    """One right response, 0 1 0 .. and the end, each token of which pays 1 / length."""

    Config = ChainConfig

    @property
    def horizon(self) -> int:
        return int(self.config.length)

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        paid = mdp.rewards * 0
        links = [t % 2 for t in range(self.horizon - 1)] + [self.vocab_size - 1]
        for step in mdp.steps(links):
            paid[step] = 1.0 / self.horizon
        return paid


class TreeConfig(az.TaskConfig):
    """Options of `tree`."""

    depth: int = Field(4, ge=2, le=6, description="most tokens of a response")
    seed: int = Field(0, ge=0, description="which response pays what")


class Tree(TokenTask):
    """Tokens pay normal random amounts, divided so that the best and worst response differ by 1."""

    Config = TreeConfig

    @property
    def horizon(self) -> int:
        return int(self.config.depth)

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        import numpy as np

        paid: np.ndarray[Any, Any] = np.random.default_rng(self.config.seed).normal(
            size=mdp.rewards.shape
        )
        totals = [sum(paid[step] for step in mdp.steps(row)) for row in mdp.responses]
        return paid / (max(totals) - min(totals))


class BanditConfig(az.TaskConfig):
    """Options of `bandit`."""

    arms: int = Field(10, ge=2, le=20, description="how many there are to choose from")
    spread: float = Field(1.0, ge=0, description="standard deviation of what an arm pays")
    seed: int = Field(0, ge=0, description="which arm pays what")


class Bandit(TokenTask):
    """One token, an arm; each pays its mean plus noise: Sutton and Barto 2018, section 2.3.

    The means are normal with mean 0 and deviation 1. A response without an arm pays as little as
    the worst arm.
    """

    Config = BanditConfig
    horizon = 1

    @property
    def vocab_size(self) -> int:
        """The arms and the end token."""
        return int(self.config.arms) + 1

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        import numpy as np

        paid = mdp.rewards * 0
        paid[0, :-1] = np.random.default_rng(self.config.seed).normal(size=self.config.arms)
        paid[0, -1] = paid[0, :-1].min()
        return paid

    def prompts(self) -> Sequence[Any]:
        return numbered_prompts()

    def reward(self, seed: int) -> Callable[..., list[float]]:
        return noisy_reward(self.mdp, seed, self.config.spread, is_noisy=bool)

    def true_reward(self) -> Callable[..., list[float]]:
        return self.mdp.score


class NoisyMaxConfig(az.TaskConfig):
    """Options of `noisy_max`."""

    loss: float = Field(1.0, gt=0, description="what a response that does not begin with 0 loses")
    spread: float = Field(3.0, ge=0, description="standard deviation of the noise, in score units")


class NoisyMax(TokenTask):
    """Responses of two tokens, of which the first should be 0; all others are noisy.

    The largest of several noisy estimates is above the largest value (van Hasselt 2010): who learns
    from maxima prefers another first token until it has seen enough of it, and who imitates the
    best of several responses prefers it for ever.
    """

    Config = NoisyMaxConfig
    vocab_size = 5
    horizon = 2

    @property
    def samples(self) -> int:
        return 9600

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        paid = mdp.rewards * 0
        paid[0, 1:] = -self.config.loss
        return paid

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        given = {**super().options(algorithm_id, config_class)}
        return {**given, **{n: MAXIMA[n] for n in MAXIMA if n in config_class.model_fields}}

    def prompts(self) -> Sequence[Any]:
        return numbered_prompts()

    def reward(self, seed: int) -> Callable[..., list[float]]:
        return noisy_reward(
            self.mdp, seed, self.config.spread, is_noisy=lambda text: text[:1] != "0"
        )

    def true_reward(self) -> Callable[..., list[float]]:
        return self.mdp.score


def numbered_prompts() -> list[dict[str, Any]]:
    """Returns the one prompt under many numbers, by which its noise is drawn."""
    return [{"prompt": "0", "draw": number} for number in range(NUM_DRAWS)]


def noisy_reward(
    mdp: TokenMDP, seed: int, spread: float, *, is_noisy: Callable[[str], bool]
) -> Callable[..., list[float]]:
    """Returns the score plus normal noise, which follows from seed, draw and response alone."""
    import numpy as np

    def noisy_score(completions: Sequence[str], draw: Sequence[int]) -> list[float]:
        """The n-th time that a call has a response to a draw, it has the noise of that n."""
        times: Counter[tuple[int, str]] = Counter()
        scores = mdp.score(completions)
        for row, key in enumerate(zip(draw, completions, strict=True)):
            if is_noisy(key[1]):
                numbers = [seed, key[0], times[key], zlib.crc32(key[1].encode())]
                scores[row] += np.random.default_rng(numbers).normal(scale=spread)
            times[key] += 1
        return scores

    return noisy_score


@az.hookimpl
def alignzoo_tasks() -> list[az.TaskSpec]:
    return [
        az.TaskSpec(
            id="bandit",
            target="alignzoo.plugins.token_tasks:Bandit",
            summary="arms that pay a mean plus noise; exact, optimum known",
        ),
        az.TaskSpec(
            id="chain",
            target="alignzoo.plugins.token_tasks:Chain",
            summary="one right response, paid token by token; exact, optimum 1",
            revision=2,
        ),
        az.TaskSpec(
            id="tree",
            target="alignzoo.plugins.token_tasks:Tree",
            summary="each token pays another amount in each context; exact, optimum known",
            revision=2,
        ),
        az.TaskSpec(
            id="noisy_max",
            target="alignzoo.plugins.token_tasks:NoisyMax",
            summary="noise makes the worse responses look better; exact, optimum 0",
            revision=2,
        ),
    ]
