"""Batches with given numbers, and every response of a token MDP as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from policy.cases import roll_out

import alignzoo as az
from alignzoo.learner import Learner, restrict
from alignzoo.testing import TokenMDP


def make_batch(
    algorithm: Any, columns: Mapping[str, Any], lengths: Sequence[int], **given: Any
) -> Any:
    """Returns rows of these lengths with these columns, as `prepare` and `loss` are given them.

    Args:
        columns: padded [B, T] (what lies in the padding is ignored) or [B].
        given: more arguments of `RolloutBuffer.append`.
    """
    buffer = az.RolloutBuffer(algorithm.needs.columns, float_dtype="float64")
    responses = [[7] * length for length in lengths]
    buffer.append([[1]] * len(lengths), responses, policy_version=0, **given)
    for name, values in columns.items():
        buffer.set(name, np.asarray(values, dtype=np.float64))
    return restrict(buffer.batch(), algorithm, may_write=True)


def outputs(**values: Any) -> az.PolicyOutput:
    """Returns a policy's output with these numbers, float64; log-probs and values are leaves."""
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    for name in ("log_probs", "values"):
        if name in tensors:
            tensors[name].requires_grad_()
    tensors.setdefault("entropy", torch.zeros_like(tensors["log_probs"]))
    return az.PolicyOutput(**tensors)


class Enumeration:
    """Every response of an MDP once, and gradients weighted by their probabilities.

    The model is the table itself; all of it goes through `Policy`, `Learner`, `prepare` and
    `loss` as in a run. `old_log_probs` are the policy's own, so every ratio is 1.
    """

    def __init__(
        self,
        mdp: TokenMDP,
        logits: Any,
        algorithm: Any,
        *,
        values: Any = None,
        ref_logits: Any = None,
        rewards: Any = None,
    ) -> None:
        """`values` [S]: the critic; `rewards` [S, V] in place of the MDP's own."""
        self.mdp, self.logits, self.algorithm = mdp, logits, algorithm
        self.policy = mdp.policy(logits)
        if algorithm.needs.values:
            head = self.policy.add_value_head()
            head.weight.data.copy_(torch.as_tensor(values)[None])
        self.buffer = az.RolloutBuffer(algorithm.needs.columns)
        self.learner = Learner(self.policy, algorithm, self.buffer)
        ended = np.array([mdp.ends(response) for response in mdp.responses])
        self.buffer.append(
            [mdp.prompt] * len(mdp.responses),
            mdp.responses,
            policy_version=0,
            terminated=ended,
            truncated=~ended,
        )
        paid = mdp.rewards if rewards is None else rewards
        self.set_table("rewards", paid)
        self.set_table("old_log_probs", mdp.log_probs(logits))
        if ref_logits is not None:
            self.set_table("ref_log_probs", mdp.log_probs(ref_logits))
        if algorithm.needs.values:
            self.set_table("values", np.repeat(np.asarray(values)[:, None], mdp.vocab_size, axis=1))

    def set_table(self, name: str, table: Any) -> None:
        """Fills a token column from a table [S, V]."""
        rows = [[table[step] for step in self.mdp.steps(row)] for row in self.mdp.responses]
        self.buffer.set(name, rows)

    def row_gradient(self, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """Returns minus the gradient [S, V] of the loss of a batch of rows, summed over tokens."""
        batch = self.buffer.batch(list(rows))
        self.algorithm.prepare(restrict(batch, self.algorithm, may_write=True))
        gradient = self.learner.gradient(batch, self.algorithm.loss)
        table = gradient.tensors[0]
        assert table.shape == (self.mdp.vocab_size, len(self.mdp.contexts))
        return -table.T.double().numpy() * batch.num_tokens

    def expected_gradient(self) -> np.ndarray[Any, Any]:
        """Returns its expectation over responses, each alone in its batch."""
        probs = self.mdp.response_probs(self.logits)
        return sum(p * self.row_gradient([row]) for row, p in enumerate(probs))


def random_tables(mdp: TokenMDP, seed: int) -> tuple[Any, Any]:
    """Returns logits of a policy and of a reference, [S, V]."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=mdp.rewards.shape), generator.normal(size=mdp.rewards.shape)


def learn(
    mdp: TokenMDP, algorithm: Any, *, seed: int, steps: int, batch_size: int = 64
) -> np.ndarray[Any, Any]:
    """Returns the logits [S, V] after a run from the flat policy, which is also the reference."""
    policy = mdp.policy(np.zeros(mdp.rewards.shape))
    run = roll_out(
        policy,
        algorithm,
        [mdp.prompt],
        reward=lambda completions: mdp.score(completions),
        batch_size=batch_size,
        max_new_tokens=mdp.horizon,
        seed=seed,
    )
    batch = run.batch
    for step in range(1, steps + 1):
        run.learner.begin_update(step)
        metrics = algorithm.update(restrict(batch, algorithm, may_write=True), run.learner)
        algorithm.after_update(step, metrics.result())
        batch = run.source.collect(step + 1).batch
    return policy.model.lm_head.weight.detach().double().T.numpy()


def shortfall(mdp: TokenMDP, logits: Any, *, kl_coef: float) -> float:
    """Returns how far value minus divergence is from its optimum, as a share of best minus worst.

    The divergence is to the flat policy; the worst is the least value a policy can have.
    """
    flat = np.zeros(mdp.rewards.shape)
    best = mdp.optimal_logits(flat, kl_coef=kl_coef)
    negated = TokenMDP(-mdp.rewards, mdp.vocab_size, mdp.horizon, mdp.end_token, mdp.gamma)
    worst = -negated.objective(negated.optimal_logits())

    def value(table: Any) -> float:
        penalty = kl_coef * mdp.kl(table, flat) if kl_coef else 0.0  # 0 * log 0 is no number
        return mdp.objective(table) - penalty

    return (value(best) - value(logits)) / (value(best) - worst)
