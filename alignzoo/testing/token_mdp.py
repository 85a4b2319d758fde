"""A language so small that everything about it is known exactly.

Vocabulary of 3 to 5 tokens, responses of 2 to 4: all contexts and all responses can be listed, so
values, gradients, divergences and optimal policies follow by dynamic programming, without sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from alignzoo.policy import Policy

Floats = NDArray[np.float64]
Context = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenMDP:
    """A Markov decision process whose actions are tokens and whose states are what was written.

    A state s is a context: the response so far, a tuple of 0 to horizon - 1 tokens. An action a is
    the next token. The episode ends with `end_token`, where there is one, and after `horizon`
    tokens at the latest. S states, in the order of `contexts`; V actions.

    A policy is a table of logits [S, V]: pi(a | s) = softmax(logits[s])[a].

        J = E[sum_t gamma^t r(s_t, a_t)]
        Q(s, a) = r(s, a) + gamma V(s'),  V(s) = sum_a pi(a | s) Q(s, a),  A = Q - V

    Args:
        rewards: [S, V], received after token a in context s.
        vocab_size: V.
        horizon: most tokens of a response, T.
        end_token: the token that ends a response, or None.
        gamma: discount per token, in [0, 1].
    Raises:
        ValueError: rewards of another shape.
    """

    rewards: Floats
    vocab_size: int
    horizon: int
    end_token: int | None = None
    gamma: float = 1.0

    def __post_init__(self) -> None:
        expected = (len(self.contexts), self.vocab_size)
        if np.shape(self.rewards) != expected:
            raise ValueError(
                f"`rewards` is {list(np.shape(self.rewards))}; with {self.vocab_size} tokens and "
                f"{self.horizon} steps it must be {list(expected)}, one row per context"
            )

    @classmethod
    def random(
        cls,
        seed: int,
        *,
        vocab_size: int = 3,
        horizon: int = 3,
        end_token: int | None = None,
        gamma: float = 1.0,
        score_only: bool = False,
    ) -> TokenMDP:
        """Returns an MDP with normal rewards; `score_only` pays at the last token alone."""
        shape = (len(_contexts(vocab_size, horizon, end_token)), vocab_size)
        rewards = np.random.default_rng(seed).normal(size=shape)
        mdp = cls(rewards, vocab_size, horizon, end_token, gamma)
        if score_only:
            rewards[mdp.next_states >= 0] = 0.0
        return mdp

    # -- what there is --------------------------------------------------------------------------

    @cached_property
    def contexts(self) -> list[Context]:
        """The S contexts, shorter ones first."""
        return _contexts(self.vocab_size, self.horizon, self.end_token)

    @cached_property
    def numbers(self) -> dict[Context, int]:
        """The place of each context in `contexts`."""
        return {context: number for number, context in enumerate(self.contexts)}

    @cached_property
    def next_states(self) -> NDArray[np.int64]:
        """The state after token a in context s, [S, V]; -1 where the episode ends."""
        found = [
            [
                -1 if token == self.end_token else self.numbers.get((*context, token), -1)
                for token in range(self.vocab_size)
            ]
            for context in self.contexts
        ]
        return np.array(found, dtype=np.int64)

    @cached_property
    def responses(self) -> list[Context]:
        """Every whole response, the end token included."""
        return [
            (*context, token)
            for number, context in enumerate(self.contexts)
            for token in range(self.vocab_size)
            if self.next_states[number, token] < 0
        ]

    def steps(self, response: Sequence[int]) -> list[tuple[int, int]]:
        """Returns the (state, action) pairs of a response."""
        return [(self.numbers[tuple(response[:t])], token) for t, token in enumerate(response)]

    def ends(self, response: Sequence[int]) -> bool:
        """Returns whether a response stops at the end token rather than at the horizon."""
        return self.end_token is not None and response[-1] == self.end_token

    # -- under a policy -------------------------------------------------------------------------

    def log_probs(self, logits: ArrayLike) -> Floats:
        """Returns log pi(a | s), [S, V]."""
        table = np.asarray(logits, dtype=np.float64)
        table = table - table.max(axis=1, keepdims=True)
        log_probs: Floats = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
        return log_probs

    def probs(self, logits: ArrayLike) -> Floats:
        """Returns pi(a | s), [S, V]."""
        probs: Floats = np.exp(self.log_probs(logits))
        return probs

    def response_probs(self, logits: ArrayLike) -> Floats:
        """Returns the probability of each of `responses`, [R]; they sum to 1."""
        log_probs = self.log_probs(logits)
        totals = [sum(log_probs[step] for step in self.steps(row)) for row in self.responses]
        probs: Floats = np.exp(np.array(totals))
        return probs

    def visits(self, logits: ArrayLike) -> Floats:
        """Returns the probability that a response passes through each context, [S]."""
        probs = self.probs(logits)
        visits = np.zeros(len(self.contexts))
        visits[0] = 1.0
        for state, action, after in self._transitions():  # shorter contexts come first
            visits[after] += visits[state] * probs[state, action]
        return visits

    def q_values(self, logits: ArrayLike) -> Floats:
        """Returns Q(s, a), [S, V]."""
        probs = self.probs(logits)
        return self._backwards(lambda state, q: float(probs[state] @ q))

    def values(self, logits: ArrayLike) -> Floats:
        """Returns V(s), [S]."""
        values: Floats = (self.probs(logits) * self.q_values(logits)).sum(axis=1)
        return values

    def advantages(self, logits: ArrayLike) -> Floats:
        """Returns A(s, a) = Q - V, [S, V]."""
        q = self.q_values(logits)
        advantages: Floats = q - (self.probs(logits) * q).sum(axis=1, keepdims=True)
        return advantages

    def objective(self, logits: ArrayLike) -> float:
        """Returns J, the value of the empty context."""
        return float(self.values(logits)[0])

    def policy_gradient(self, logits: ArrayLike) -> Floats:
        """Returns dJ / dlogits, [S, V]: gamma^t times visits(s) pi(a | s) A(s, a).

        Sutton et al. 2000, theorem 1, for a softmax of a table. t is the context's length.
        """
        discount = self.gamma ** np.array([len(context) for context in self.contexts])
        weight = discount * self.visits(logits)
        gradient: Floats = weight[:, None] * self.probs(logits) * self.advantages(logits)
        return gradient

    # -- beside a reference ---------------------------------------------------------------------

    def kl(self, logits: ArrayLike, ref_logits: ArrayLike) -> float:
        """Returns KL(pi || ref) of whole responses, in nats."""
        gap = self.log_probs(logits) - self.log_probs(ref_logits)
        per_state = (self.probs(logits) * gap).sum(axis=1)
        return float(self.visits(logits) @ per_state)

    def penalised(self, logits: ArrayLike, ref_logits: ArrayLike, *, kl_coef: float) -> TokenMDP:
        """Returns the MDP with rewards r - kl_coef * log(pi / ref), taken at these logits.

        At gamma = 1 its J is J - kl_coef * KL(pi || ref), and its policy gradient at these logits
        is the gradient of that, because the penalty's own derivative has mean 0 in every state.
        """
        gap = self.log_probs(logits) - self.log_probs(ref_logits)
        rewards = self.rewards - kl_coef * gap
        return TokenMDP(rewards, self.vocab_size, self.horizon, self.end_token, self.gamma)

    # -- the best there is ----------------------------------------------------------------------

    def optimal_q_values(
        self, ref_logits: ArrayLike | None = None, *, kl_coef: float = 0.0
    ) -> Floats:
        """Returns Q* [S, V]: V*(s) is max_a Q*(s, a), or with a penalty the soft maximum
        kl_coef * log sum_a ref(a | s) e^{Q*(s, a) / kl_coef}.
        """
        if ref_logits is None or kl_coef == 0:
            return self._backwards(lambda _state, q: float(q.max()))
        log_ref = self.log_probs(ref_logits)
        return self._backwards(lambda state, q: _soft_maximum(log_ref[state], q, kl_coef))

    def optimal_logits(
        self, ref_logits: ArrayLike | None = None, *, kl_coef: float = 0.0
    ) -> Floats:
        """Returns the logits [S, V] of the policy that maximises J - kl_coef * KL(pi || ref).

        log ref(a | s) + Q*(s, a) / kl_coef (Ziebart 2010); without a penalty 0 at a best token and
        -inf elsewhere, ties going to the lower token.
        """
        q = self.optimal_q_values(ref_logits, kl_coef=kl_coef)
        if ref_logits is not None and kl_coef > 0:
            logits: Floats = self.log_probs(ref_logits) + q / kl_coef
            return logits
        best = np.full(q.shape, -np.inf)
        best[np.arange(len(q)), q.argmax(axis=1)] = 0.0
        return best

    # -- as a model -----------------------------------------------------------------------------

    @property
    def prompt(self) -> list[int]:
        """Token ids of the one prompt: the token 0, which carries no meaning."""
        return [0]

    def policy(self, logits: ArrayLike) -> Policy:
        """Returns a `Policy` that is this table: a causal language model with V tokens.

        Its hidden state is the context's one-hot vector and its head's weight is the table,
        transposed, so that a linear value head can hold any V(s). Text is the tokens' numbers
        with spaces between; the prompt is "0".
        """
        from alignzoo.testing.tabular_policy import make_policy

        return make_policy(self, np.asarray(logits, dtype=np.float64))

    def score(self, completions: Sequence[str]) -> list[float]:
        """Returns the summed reward of each response given as text: a reward for a trainer."""
        return [float(sum(self.rewards[s] for s in self.steps(self._read(c)))) for c in completions]

    def noisy_score(
        self, generator: np.random.Generator, *, spread: float = 1.0
    ) -> Callable[[Sequence[str]], list[float]]:
        """Returns a reward: `score` plus normal noise of mean 0 and this standard deviation.

        The noise leaves Q and Q* as they are. Learned from few responses, the largest of several
        estimates is above the largest value (van Hasselt 2010): what a maximum over-estimates.
        """

        def score(completions: Sequence[str]) -> list[float]:
            noise = generator.normal(scale=spread, size=len(completions))
            return [one + float(e) for one, e in zip(self.score(completions), noise, strict=True)]

        return score

    def _read(self, text: str) -> list[int]:
        """Returns the tokens of a decoded response, which has lost its end token."""
        tokens = [int(word) for word in text.split()]
        if len(tokens) < self.horizon and self.end_token is not None:
            tokens.append(self.end_token)
        return tokens

    # -- the machinery --------------------------------------------------------------------------

    def _transitions(self) -> list[tuple[int, int, int]]:
        """Returns (state, action, next state) wherever the episode goes on, in order of states."""
        return [
            (int(state), int(action), int(self.next_states[state, action]))
            for state, action in np.argwhere(self.next_states >= 0)
        ]

    def _backwards(self, value_of: Callable[[int, Floats], float]) -> Floats:
        """Returns Q [S, V], longest contexts first; `value_of(state, Q(state, .))` is V(state)."""
        q = np.array(self.rewards, dtype=np.float64)
        values = np.zeros(len(self.contexts))
        for state in reversed(range(len(self.contexts))):
            after = self.next_states[state]
            q[state] += self.gamma * np.where(after >= 0, values[after], 0.0)
            values[state] = value_of(state, q[state])
        return q


def _contexts(vocab_size: int, horizon: int, end_token: int | None) -> list[Context]:
    tokens = [token for token in range(vocab_size) if token != end_token]
    return [context for length in range(horizon) for context in product(tokens, repeat=length)]


def _soft_maximum(log_ref: Floats, q: Floats, kl_coef: float) -> float:
    exponents = log_ref + q / kl_coef
    top = exponents.max()
    return float(kl_coef * (top + np.log(np.exp(exponents - top).sum())))
