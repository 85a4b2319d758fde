"""Tasks on languages so small that a policy's value is known exactly: `chain`, `tree`, `noisy_max`.

    chain      one response is right; each of its tokens that comes first, in order, pays its share
    tree       each token pays an amount of its own, in each context another
    noisy_max  responses that begin with 0 pay 0; all others pay a little less, and noise hides it
               of those that begin with 1 (after Sutton and Barto 2018, example 6.7)

The policy is a table of logits, flat at first. What it is worth, and its KL to the flat policy, are
sums over all responses: nothing is sampled, and critics that steer are counted in.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

import alignzoo as az
from alignzoo import testing

if TYPE_CHECKING:
    import numpy as np

    from alignzoo import Policy
    from alignzoo.testing import TokenMDP

NUM_DRAWS = 8192  # prompts of noisy_max, which differ in their noise alone
NUM_ROWS = 2048  # responses in the rows that algorithms learn from which do not sample


class TokenTask(az.Task):
    """A task on a token MDP; subclasses say what each response pays."""

    metric = "expected score"
    sources = ("rollouts", "demonstrations", "preferences", "ratings")
    vocab_size: ClassVar[int] = 3  # the last token ends a response

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
    def settings(self) -> Mapping[str, Any]:
        return {"batch_size": 64, "max_new_tokens": self.horizon, "checkpoint_every": 50}

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        wanted = {"learning_rate": 0.1, "value_learning_rate": 0.1, "kl_coef": 0.0}
        return {name: wanted[name] for name in wanted if name in config_class.model_fields}

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
        drawn = self.draw(generator)
        judged = self.judge(drawn, generator)
        texts = [self.texts[row] for row in drawn]
        if source == "ratings":
            rated = zip(texts, judged.tolist(), strict=True)
            return [{"prompt": "0", "completion": text, "rating": score} for text, score in rated]
        pairs = []
        for i in range(0, NUM_ROWS, 2):
            worse, better = sorted((i, i + 1), key=lambda row: float(judged[row]))
            if judged[worse] < judged[better] and texts[worse] != texts[better]:
                pairs.append({"prompt": "0", "chosen": texts[better], "rejected": texts[worse]})
        return pairs

    @cached_property
    def texts(self) -> list[str]:
        """Each response as the tokenizer writes it, without its end token."""
        end = self.vocab_size - 1
        return [" ".join(str(t) for t in r if t != end) for r in self.mdp.responses]

    def draw(self, generator: np.random.Generator) -> np.ndarray[Any, Any]:
        """Returns the numbers of responses that have a text, all as likely, [NUM_ROWS]."""
        written = [row for row, text in enumerate(self.texts) if text]
        return generator.choice(written, size=NUM_ROWS)

    def judge(self, rows: np.ndarray[Any, Any], generator: np.random.Generator) -> Any:
        """Returns the scores that people give to responses by number, [NUM_ROWS]."""
        return self.scores[rows]

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

        paid = np.random.default_rng(self.config.seed).normal(size=mdp.rewards.shape)
        totals = [sum(paid[step] for step in mdp.steps(row)) for row in mdp.responses]
        return paid / (max(totals) - min(totals))


class NoisyMaxConfig(az.TaskConfig):
    """Options of `noisy_max`."""

    loss: float = Field(0.2, gt=0, description="what a response that does not begin with 0 loses")
    spread: float = Field(1.0, ge=0, description="standard deviation of the noise, in score units")


class NoisyMax(TokenTask):
    """Responses of two tokens, of which the first should be 0; what follows a 1 is noisy.

    The largest of several noisy estimates is above the largest value (van Hasselt 2010): who learns
    from maxima, or imitates the best of several, prefers the 1 until it has seen enough of it.
    """

    Config = NoisyMaxConfig
    vocab_size = 5
    horizon = 2

    def payments(self, mdp: TokenMDP) -> np.ndarray[Any, Any]:
        paid = mdp.rewards * 0
        paid[0, 1:] = -self.config.loss
        return paid

    def options(
        self, algorithm_id: str, config_class: type[az.AlgorithmConfig]
    ) -> Mapping[str, Any]:
        given = dict(super().options(algorithm_id, config_class))
        if "n_step" in config_class.model_fields:
            given["n_step"] = 1  # with a sum over all steps there is no maximum to take
        return given

    def prompts(self) -> Sequence[Any]:
        return [{"prompt": "0", "draw": number} for number in range(NUM_DRAWS)]

    def reward(self, seed: int) -> Callable[..., list[float]]:
        import numpy as np

        def noisy_score(completions: Sequence[str], draw: Sequence[int]) -> list[float]:
            """The n-th time that a call has a response to a draw, it has the noise of that n."""
            times: Counter[tuple[int, str]] = Counter()
            scores = self.mdp.score(completions)
            for row, key in enumerate(zip(draw, completions, strict=True)):
                if key[1].startswith("1"):
                    numbers = [seed, key[0], times[key], zlib.crc32(key[1].encode())]
                    scores[row] += np.random.default_rng(numbers).normal(scale=self.config.spread)
                times[key] += 1
            return scores

        return noisy_score

    def true_reward(self) -> Callable[..., list[float]]:
        return self.mdp.score

    def judge(self, rows: np.ndarray[Any, Any], generator: np.random.Generator) -> Any:
        noise = generator.normal(scale=self.config.spread, size=len(rows))
        return self.scores[rows] + noise * [self.texts[row].startswith("1") for row in rows]


@az.hookimpl
def alignzoo_tasks() -> list[az.TaskSpec]:
    return [
        az.TaskSpec(
            id="chain",
            target="alignzoo.plugins.token_tasks:Chain",
            summary="one right response, paid token by token; exact, optimum 1",
        ),
        az.TaskSpec(
            id="tree",
            target="alignzoo.plugins.token_tasks:Tree",
            summary="each token pays another amount in each context; exact, optimum known",
        ),
        az.TaskSpec(
            id="noisy_max",
            target="alignzoo.plugins.token_tasks:NoisyMax",
            summary="noise makes the worse responses look better; exact, optimum 0",
        ),
    ]
