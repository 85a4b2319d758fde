"""Every pair of responses of a token MDP, and the exact optimum of what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import alignzoo as az
from alignzoo.learner import Learner, restrict
from alignzoo.testing import TokenMDP

Floats = NDArray[np.float64]
Objective = Callable[[torch.Tensor], torch.Tensor]  # of the responses' log-probs [R]


class AllPairs:
    """Every ordered pair of different responses, as often as Bradley and Terry would draw it.

    Responses are drawn alike; i is chosen before j with probability sigmoid(r_i - r_j). A pair is
    there once and its gradient is multiplied by twice that, so that the mean over pairs is the
    expectation. All else goes through `Policy`, `Learner`, `update` and `loss` as in a run.
    """

    def __init__(self, mdp: TokenMDP, algorithm: Any, *, logits: Any, ref_logits: Any) -> None:
        self.mdp, self.algorithm = mdp, algorithm
        count = len(mdp.responses)
        self.pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        self.returns = np.array(
            [sum(mdp.rewards[step] for step in mdp.steps(row)) for row in mdp.responses]
        )
        self.lengths = torch.tensor([len(row) for row in mdp.responses])
        self.policy = mdp.policy(ref_logits)
        self.policy.keep_reference()
        with torch.no_grad():
            self.policy.model.lm_head.weight.copy_(torch.as_tensor(logits).T)
        self.buffer = az.RolloutBuffer(algorithm.needs.columns)
        rows = [row for pair in self.pairs for row in pair]
        self.buffer.append(
            [mdp.prompt] * len(rows),
            [mdp.responses[row] for row in rows],
            policy_version=0,
            group_ids=np.arange(len(rows)) // 2,
            pair_labels=[1, 0] * len(self.pairs),
        )
        self.learner = Learner(self.policy, algorithm, self.buffer)
        self.batch = self.buffer.batch()
        self.buffer.set("ref_log_probs", self.learner.reference_log_probs(self.batch))
        self.batch = restrict(self.buffer.batch(), algorithm, may_write=True)
        self.unweighted = algorithm.loss
        algorithm.loss = self.loss

    @property
    def weights(self) -> torch.Tensor:
        """Twice the probability of each pair's label, [P]."""
        returns = torch.as_tensor(self.returns)
        chosen, rejected = torch.tensor(self.pairs).T
        return 2 * torch.sigmoid(returns[chosen] - returns[rejected])

    def loss(self, batch: Any, out: Any) -> Any:
        """Returns the algorithm's loss with the gradient of each pair times its weight."""
        weights = self.weights[batch.rows // 2, None].to(out.log_probs.dtype)
        kept = out.log_probs * weights + (out.log_probs * (1 - weights)).detach()
        return self.unweighted(batch, replace(out, log_probs=kept))

    def update(self) -> np.ndarray[Any, Any]:
        """Lets the algorithm learn and returns the responses' probabilities [R]."""
        self.algorithm.update(self.batch, self.learner)
        logits = self.policy.model.lm_head.weight.detach().double().T.numpy()
        return self.mdp.response_probs(logits)

    def gradient(self) -> torch.Tensor:
        """Returns the gradient of the expected loss in the table, [S, V]."""
        found = self.learner.gradient(self.batch, self.algorithm.loss).tensors[0]
        assert found is not None
        return found.T.double()

    def expected(self, pair_loss: Callable[[Any, Any], torch.Tensor]) -> torch.Tensor:
        """Returns the expectation of a loss of pairs, i chosen before j, 0-d."""
        chosen, rejected = torch.tensor(self.pairs).T
        return (self.weights * pair_loss(chosen, rejected)).mean()


def response_log_probs(mdp: TokenMDP, logits: torch.Tensor) -> torch.Tensor:
    """Returns the responses' log-probs [R] from a table of logits, differentiably."""
    table = logits.log_softmax(1)
    return torch.stack([sum(table[step] for step in mdp.steps(row)) for row in mdp.responses])


def minimise(mdp: TokenMDP, objective: Objective, start: Any) -> tuple[float, Floats]:
    """Returns the least value of an objective in float64 and the probabilities [R] it is at."""
    logits = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=400, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        optimiser.zero_grad()
        value = objective(response_log_probs(mdp, logits))
        value.backward()
        return value

    optimiser.step(evaluate)  # type: ignore[arg-type]
    log_probs = response_log_probs(mdp, logits.detach())
    return float(objective(log_probs)), log_probs.exp().numpy()
