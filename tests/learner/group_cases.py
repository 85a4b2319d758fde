"""Every batch of a few responses of a token MDP, with its probability, as one group or apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import Any

import numpy as np
import torch

import alignzoo as az
from alignzoo.learner import Learner, restrict
from alignzoo.testing import TokenMDP


class EveryBatch:
    """All batches of `size` responses, each through `Policy`, `Learner`, `prepare` and `loss`.

    They are drawn from the policy with `old_logits`, and learned from at `logits`; the model is the
    table itself. `rewards` are the MDP's, less `kl_coef` times the log-ratio of old to reference.
    """

    def __init__(
        self,
        mdp: TokenMDP,
        logits: Any,
        algorithm: Any,
        *,
        size: int,
        old_logits: Any = None,
        ref_logits: Any = None,
        kl_coef: float = 0.0,
        is_one_group: bool = True,
    ) -> None:
        self.mdp, self.logits, self.algorithm, self.size = mdp, logits, algorithm, size
        self.old_log_probs = mdp.log_probs(logits if old_logits is None else old_logits)
        self.ref_log_probs = self.old_log_probs if ref_logits is None else mdp.log_probs(ref_logits)
        self.rewards = mdp.rewards - kl_coef * (self.old_log_probs - self.ref_log_probs)
        self.batches = list(combinations_with_replacement(mdp.responses, size))
        self.buffer = az.RolloutBuffer(algorithm.needs.columns)
        self.learner = Learner(mdp.policy(logits), algorithm, self.buffer)
        rows = [response for batch in self.batches for response in batch]
        ended = np.array([mdp.ends(response) for response in rows])
        numbers = np.arange(len(rows))
        self.buffer.append(
            [mdp.prompt] * len(rows),
            rows,
            policy_version=0,
            terminated=ended,
            truncated=~ended,
            group_ids=numbers // size if is_one_group else numbers,
            scores=np.array([self.total(mdp.rewards, response) for response in rows]),
        )
        tables = {"rewards": self.rewards, "old_log_probs": self.old_log_probs}
        tables["ref_log_probs"] = self.ref_log_probs
        for name, table in tables.items():
            self.buffer.set(name, [[table[step] for step in mdp.steps(row)] for row in rows])

    def total(self, table: Any, response: Any) -> float:
        """Returns a table's sum over a response."""
        return float(sum(table[step] for step in self.mdp.steps(response)))

    def probability(self, batch: Any) -> float:
        """Returns how often the old policy draws these responses, in any order."""
        orders = factorial(self.size) / prod(factorial(n) for n in Counter(batch).values())
        return float(orders * np.exp(sum(self.total(self.old_log_probs, row) for row in batch)))

    def gradients(self) -> Iterator[tuple[float, Any, np.ndarray[Any, Any]]]:
        """Yields each batch's probability, responses, and minus the gradient [S, V] of its loss."""
        for number, responses in enumerate(self.batches):
            rows = range(number * self.size, (number + 1) * self.size)
            batch = self.buffer.batch(list(rows))
            self.algorithm.prepare(restrict(batch, self.algorithm, may_write=True))
            table = self.learner.gradient(batch, self.algorithm.loss).tensors[0]
            assert table is not None
            yield self.probability(responses), responses, -table.T.double().numpy()

    def expected_gradient(self) -> np.ndarray[Any, Any]:
        """Returns minus the expected gradient [S, V] of the algorithm's loss."""
        return sum(p * gradient for p, _, gradient in self.gradients())  # type: ignore[return-value]

    def expected_by_formula(self, loss: Callable[..., torch.Tensor]) -> np.ndarray[Any, Any]:
        """Returns the same of another loss, by autograd in float64.

        Args:
            loss: takes one list each of the responses' log-probs, old log-probs and reference
                log-probs, [T] per response, and their rewards; returns a 0-d tensor.
        """
        table = torch.tensor(np.asarray(self.logits, dtype=np.float64), requires_grad=True)
        log_probs = torch.log_softmax(table, 1)
        old, ref, rewards = map(
            torch.as_tensor, (self.old_log_probs, self.ref_log_probs, self.rewards)
        )
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            steps = [tuple(zip(*self.mdp.steps(response), strict=True)) for response in batch]
            picked = [[x[s, a] for s, a in steps] for x in (log_probs, old, ref, rewards)]
            total = total + self.probability(batch) * loss(*picked)
        (gradient,) = torch.autograd.grad(total, table)
        return -gradient.numpy()


def cosine(a: Any, b: Any) -> float:
    """Returns the cosine of the angle between two gradients."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def score_missed(mdp: TokenMDP, logits: Any) -> float:
    """Returns how far the expected score is from the best, as a share of best minus worst."""
    scores = [sum(mdp.rewards[step] for step in mdp.steps(row)) for row in mdp.responses]
    return float((max(scores) - mdp.objective(logits)) / (max(scores) - min(scores)))
