"""An algorithm that learns on a token MDP, with the real sampler, learner and optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignzoo.algorithm import Algorithm
from alignzoo.collection import RolloutSource
from alignzoo.data import EncodedPrompt, PromptRow
from alignzoo.learner import Learner, restrict
from alignzoo.offline import fill_examples
from alignzoo.random_streams import preserved_globals, seed_globals, stream
from alignzoo.rollout import RolloutBatch, RolloutBuffer
from alignzoo.run_options import TrainerOptions
from alignzoo.scoring import RewardSum
from alignzoo.testing.token_mdp import TokenMDP
from alignzoo.training_data import Dataset

BATCH_SIZE = 64


class Lesson:
    """One algorithm, from the flat policy, on the random language of a seed.

    Algorithms that do not sample are given what the true scores say: the best response as a
    demonstration, pairs of which the better one was chosen, or ratings between 0 and 1.
    """

    def __init__(self, algorithm: Algorithm, seed: int) -> None:
        self.algorithm, self.seed = algorithm, seed
        self.mdp = TokenMDP.random(seed, vocab_size=3, horizon=3, end_token=2)
        rewards = self.mdp.rewards
        self.scores = np.array(
            [sum(rewards[step] for step in self.mdp.steps(row)) for row in self.mdp.responses]
        )
        self.best = float(self.scores.max())
        self.number = 0
        needs = algorithm.needs
        steers = type(algorithm).shape_logits is not Algorithm.shape_logits
        with preserved_globals():
            seed_globals(seed)
            self.policy = self.mdp.policy(np.zeros(rewards.shape))
            self.policy.equip(
                value_head=needs.values,
                reference=needs.ref_log_probs or algorithm.kl_coef > 0,
                shape_logits=algorithm.shape_logits if steers else None,
            )
            self.buffer = RolloutBuffer(needs.columns, keep_versions=1 + needs.replay)
            self.learner = Learner(self.policy, algorithm, self.buffer, seed=seed)
        self.source = self._rollouts() if needs.source == "rollouts" else None
        every = RolloutBuffer()
        every.append([self.mdp.prompt] * len(self.scores), self.mdp.responses, policy_version=0)
        self.every = every.batch()

    def _rollouts(self) -> RolloutSource:
        size = self.algorithm.needs.group_size
        options = TrainerOptions(
            batch_size=size * max(1, BATCH_SIZE // size),
            max_new_tokens=self.mdp.horizon,
            seed=self.seed,
        )
        prompt = EncodedPrompt(self.mdp.prompt, PromptRow("0"))
        data = Dataset([prompt], [], fingerprint="")

        def score(completions: Any) -> list[float]:
            return self.mdp.score(completions)

        return RolloutSource(self.learner, self.algorithm, RewardSum.of(score), data, options)

    def value(self) -> float:
        """Returns the policy's expected score, exactly; a critic that steers it is counted in."""
        with torch.no_grad():
            log_probs = self.policy.evaluate(self.every).log_probs.double().sum(1).numpy()
        return float(np.exp(log_probs) @ self.scores)

    def learn(self) -> None:
        """Makes one update, on responses of its own or on the next rows."""
        self.number += 1
        with preserved_globals():
            seed_globals(self.seed * 1000 + self.number)
            batch = self._rows() if self.source is None else self.source.collect(self.number).batch
            if batch is None:  # its keep dropped every row
                return
            self.learner.begin_update(self.number)
            view = restrict(batch, self.algorithm, may_write=True)
            metrics = self.algorithm.update(view, self.learner).result()
            self.algorithm.after_update(self.number, metrics)

    def _rows(self) -> RolloutBatch:
        """Returns the next rows for an algorithm that does not sample."""
        draws = stream(self.seed, "rows", self.number)
        source, scores = self.algorithm.needs.source, self.scores
        given: dict[str, Any] = {}
        if source == "demonstrations":
            chosen = np.full(BATCH_SIZE, scores.argmax())
        elif source == "preferences":
            pairs = [draws.permutation(len(scores))[:2] for _ in range(BATCH_SIZE // 2)]
            chosen = np.concatenate([pair[np.argsort(-scores[pair])] for pair in pairs])
            given["pair_labels"] = [1, 0] * len(pairs)
            given["group_ids"] = np.arange(BATCH_SIZE) // 2
        else:
            chosen = draws.integers(len(scores), size=BATCH_SIZE)
            spread = scores.max() - scores.min()
            given["scores"] = (scores[chosen] - scores.min()) / spread
        rows = self.buffer.append(
            [self.mdp.prompt] * len(chosen),
            [self.mdp.responses[row] for row in chosen],
            policy_version=self.number,
            **given,
        )
        return fill_examples(self.learner, self.buffer, np.asarray(rows, dtype=np.int64))
