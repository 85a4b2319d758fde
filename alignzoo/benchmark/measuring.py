"""What a trained policy is worth on a task: exactly where the task can say, else by sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import RunError

if TYPE_CHECKING:
    from alignzoo.data import EncodedPrompt
    from alignzoo.evaluation import ScoredResponses
    from alignzoo.policy import Policy
    from alignzoo.rollout import RolloutBuffer
    from alignzoo.run_options import TrainerOptions
    from alignzoo.task import Task

ROWS_AT_A_TIME = 64


class Measurement(NamedTuple):
    """The number a policy gets on a task, and how far it is from the initial policy, in nats.

    `kl` is None where the task neither knows it nor has held-out prompts to sample. `proxy` is the
    mean under the reward that is learned from, where responses are sampled and judged by another.
    """

    score: float
    kl: float | None
    proxy: float | None = None


class Judge:
    """Measures policies on one task, the same way at every call.

    One response to each held-out prompt is sampled, with the same random numbers for every
    algorithm of a seed. A response that cannot be scored counts as the least of the task's range.
    """

    def __init__(self, task: Task, initial: Policy, settings: TrainerOptions, *, seed: int) -> None:
        """`initial` is a frozen copy of the policy before training."""
        self.task, self.initial, self.settings, self.seed = task, initial, settings, seed
        self._prompts: list[EncodedPrompt] | None = None

    def measure(self, policy: Policy) -> Measurement:
        """Returns what a policy is worth; draws nothing from the run's own random streams.

        Raises:
            RunError: it is not finite.
        """
        import torch

        from alignzoo.random_streams import preserved_globals

        with preserved_globals(), torch.no_grad():
            score, kl, proxy = self.task.evaluate(policy), self.task.kl(policy), None
            if score is None or (kl is None and len(self.task.eval_prompts())):
                sampled = self._sample(policy)
                if score is None:
                    score, proxy = sampled.score, sampled.proxy
                kl = sampled.kl if kl is None else kl
        if not np.isfinite([score, kl or 0.0]).all():
            raise RunError(f"the policy's score is {score} and its KL {kl}; both must be finite")
        return Measurement(float(score), None if kl is None else float(kl), proxy)

    def _sample(self, policy: Policy) -> Measurement:
        from alignzoo.evaluation import append_responses, sample_and_score
        from alignzoo.random_streams import derive_seed
        from alignzoo.rollout import RolloutBuffer
        from alignzoo.scoring import RewardSum

        scored = sample_and_score(
            policy,
            RewardSum.of(self.task.true_reward()),
            self._encoded(policy),
            num_samples=1,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            seed=derive_seed(self.seed, "benchmark"),
        )
        total = scored.scores.total
        scores = np.where(np.isnan(total), self.task.range[0], total)
        buffer = RolloutBuffer()
        rows = append_responses(buffer, scored, group_size=1, version=0)
        own = sum(float(row.astype(np.float64).sum()) for row in scored.generation.log_probs)
        kl = (own - self._initial_log_prob(buffer, rows)) / len(rows)
        return Measurement(float(scores.mean()), kl, self._proxy(scored))

    def _proxy(self, scored: ScoredResponses) -> float | None:
        """Returns the mean of what can be scored; None where nothing can, or no other is hidden."""
        from alignzoo.data import gather_columns
        from alignzoo.scoring import RewardSum
        from alignzoo.task import Task

        if type(self.task).true_reward is Task.true_reward:
            return None
        rows = [prompt.row for prompt in scored.prompts]
        reward = RewardSum.of(self.task.reward(self.seed))
        found = reward.score([row.prompt for row in rows], scored.texts, gather_columns(rows)).total
        return float(np.nanmean(found)) if np.isfinite(found).any() else None

    def _encoded(self, policy: Policy) -> list[EncodedPrompt]:
        from alignzoo.data import encode_prompts, read_prompts

        if self._prompts is None:
            rows = read_prompts(self.task.eval_prompts(), name="eval_prompts")
            self._prompts = encode_prompts(policy.tokenizer, rows)
        return self._prompts

    def _initial_log_prob(self, buffer: RolloutBuffer, rows: NDArray[np.int64]) -> float:
        """Returns the initial policy's log-prob of all responses together, in nats."""
        total, temperature = 0.0, self.settings.temperature
        batch = buffer.batch(rows, device=self.initial.device)
        for part in batch.micro_batches(max_rows=ROWS_AT_A_TIME):
            out = self.initial.evaluate(part, temperature=temperature)
            total += float(out.log_probs.double().sum())
        return total
