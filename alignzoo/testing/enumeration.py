"""Every batch of a few responses of a token MDP, with its probability: expectations by listing.

What an algorithm does on average over all rollouts is a sum over these batches, so it can be held
to a formula without sampling.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import Any

import numpy as np
import torch

from alignzoo.algorithm import Algorithm
from alignzoo.learner import Learner, restrict
from alignzoo.rollout import RolloutBuffer
from alignzoo.testing.token_mdp import Floats, TokenMDP


class EveryBatch:
    """All batches of `size` responses, each through `Policy`, `Learner`, `prepare` and `loss`.

    They are drawn from the policy with `old_logits`, and learned from at `logits`; the model is the
    table itself. `rewards` are the MDP's, less `kl_coef` times the log-ratio of old to reference.
    Each batch is the first that the algorithm sees: what it remembers of another is forgotten.
    """

    def __init__(
        self,
        mdp: TokenMDP,
        logits: Any,
        algorithm: Algorithm,
        *,
        size: int,
        old_logits: Any = None,
        ref_logits: Any = None,
        kl_coef: float = 0.0,
        is_one_group: bool = True,
        values: Any = None,
    ) -> None:
        """Lists the batches.

        Args:
            size: responses of a batch.
            old_logits: [S, V], of the policy that draws them; default `logits`.
            ref_logits: [S, V], of the reference; default the policy that draws.
            is_one_group: a batch answers one prompt, or as many as it has responses.
            values: [S], what the critic says; default 0.
        """
        self.mdp, self.logits, self.algorithm, self.size = mdp, logits, algorithm, size
        self.old_log_probs = mdp.log_probs(logits if old_logits is None else old_logits)
        self.ref_log_probs = self.old_log_probs if ref_logits is None else mdp.log_probs(ref_logits)
        self.rewards = mdp.rewards - kl_coef * (self.old_log_probs - self.ref_log_probs)
        self.batches = list(combinations_with_replacement(mdp.responses, size))
        self.buffer = RolloutBuffer(algorithm.needs.columns)
        self.policy = mdp.policy(logits)
        critic = np.zeros(len(mdp.contexts)) if values is None else np.asarray(values)
        if algorithm.needs.values:
            head = self.policy.add_value_head()
            head.weight.data.copy_(torch.as_tensor(critic)[None])
        self.learner = Learner(self.policy, algorithm, self.buffer)
        self.first_state = algorithm.state_dict()
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
        tables |= {"sampler_log_probs": self.old_log_probs, "ref_log_probs": self.ref_log_probs}
        if algorithm.needs.values:
            tables["values"] = np.repeat(critic[:, None], mdp.vocab_size, axis=1)
        for name, table in tables.items():
            self.buffer.set(name, [[table[step] for step in mdp.steps(row)] for row in rows])

    def total(self, table: Any, response: Any) -> float:
        """Returns a table's sum over a response."""
        return float(sum(table[step] for step in self.mdp.steps(response)))

    def probability(self, batch: Any) -> float:
        """Returns how often the old policy draws these responses, in any order."""
        orders = factorial(self.size) / prod(factorial(n) for n in Counter(batch).values())
        return float(orders * np.exp(sum(self.total(self.old_log_probs, row) for row in batch)))

    def gradients(self) -> Iterator[tuple[float, Any, Floats]]:
        """Yields each batch's probability, responses, and minus the gradient [S, V] of its loss."""
        for number, responses in enumerate(self.batches):
            rows = range(number * self.size, (number + 1) * self.size)
            batch = self.buffer.batch(list(rows))
            self.algorithm.load_state_dict(copy.deepcopy(self.first_state))
            with torch.no_grad():
                self.algorithm.prepare(restrict(batch, self.algorithm, may_write=True))
            table = self.learner.gradient(batch, self.algorithm.loss).tensors[0]
            assert table is not None
            yield self.probability(responses), responses, -table.T.double().numpy()

    def expected_gradient(self) -> Floats:
        """Returns minus the expected gradient [S, V] of the algorithm's loss."""
        return sum(p * gradient for p, _, gradient in self.gradients())  # type: ignore[return-value]

    def expected_by_formula(self, loss: Callable[..., torch.Tensor]) -> Floats:
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
