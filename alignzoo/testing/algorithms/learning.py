"""Whether it learns what it says, on languages where the best answer is known exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignzoo.testing.algorithms.subject import AlgorithmSubject, only_rollouts
from alignzoo.testing.checks import NotApplicable, require

if TYPE_CHECKING:
    from alignzoo.algorithm import Algorithm
    from alignzoo.testing.token_mdp import TokenMDP

SEEDS = (0, 1, 2)
UPDATES = 15
LEAST_SHARE = 0.15  # of the way from the first policy to the best one
ENOUGH = 0.4  # of the way: no need to go on
# What suits a table of logits. An algorithm that lacks one of these options does without.
TABLE_OPTIONS = {
    "learning_rate": 0.1,
    "value_learning_rate": 0.1,
    "kl_coef": 0.0,
    "weight_decay": 0.0,
    "warmup_steps": 0,
}
TOLERANCE = 1e-5  # relative, of an expected gradient as a vector


def improves_on_the_token_mdp(subject: AlgorithmSubject) -> None:
    """It comes nearer to the best policy of a small language, from three seeds."""
    from alignzoo.testing.algorithms.lessons import Lesson

    subject.scene()  # not applicable where no update runs
    shares = []
    for seed in SEEDS:
        lesson = Lesson(subject.make_with(**TABLE_OPTIONS), seed)
        start = lesson.value()
        share = 0.0
        for number in range(1, UPDATES + 1):
            lesson.learn()
            if number % 5 == 0:
                share = (lesson.value() - start) / (lesson.best - start)
                if share > ENOUGH:
                    break
        shares.append(share)
    told = ", ".join(f"{share:+.0%}" for share in shares)
    require(
        min(shares) >= LEAST_SHARE,
        f"after {UPDATES} updates it went {told} of the way from the flat policy to the best one "
        f"(seeds {', '.join(map(str, SEEDS))}); each should be {LEAST_SHARE:.0%} or more. "
        + _advice(shares),
    )


def _advice(shares: list[float]) -> str:
    if max(shares) < -0.02:
        return (
            "It moves away from what is rewarded: is the sign of the loss right? It is minimised."
        )
    if max(map(abs, shares)) < 0.02:
        return "It hardly moves: does the loss reach out.log_probs, and is its scale sensible?"
    return (
        "Are responses reinforced by what they themselves were worth? An option that slows it down "
        "can be set for the check: options={...}, or `alignzoo check ID --OPTION VALUE`."
    )


def expected_gradient_is_exact(subject: AlgorithmSubject) -> None:
    """Where it says `unbiased`, its expected gradient is that of the expected reward, exactly."""
    from alignzoo.algorithm import Algorithm

    if not subject.make().unbiased:
        raise NotApplicable("it does not say that it is unbiased with these options")
    only_rollouts(subject)
    require(
        type(subject.make()).loss is not Algorithm.loss,
        "it says it is unbiased and has no `loss` to take the gradient of; write loss, or leave "
        "`unbiased` out.",
    )
    mdp, algorithm, size = _small_mdp(subject)
    found, exact = _expected_gradients(mdp, algorithm, size)
    shares = {"1": 1.0, f"1/{mdp.horizon} (a mean over tokens)": 1.0 / mdp.horizon}
    gaps = [_gap(found, share * exact) for share in shares.values()]
    fit = float((found * exact).sum() / (exact * exact).sum())
    require(
        min(gaps) <= TOLERANCE,
        f"over all batches of {size} responses of a small language the expected gradient is "
        f"{fit:.6g} times the policy gradient, and {_gap(found, fit * exact):.2%} of it point "
        f"elsewhere; it should be {' or '.join(shares)} times, exactly. A baseline must not "
        "depend on the response it is taken from (leave it out of its own mean), advantages must "
        "not be divided by a deviation, and all tokens of all responses must weigh the same. If "
        "that is meant, do not say `unbiased`.",
    )


def _small_mdp(subject: AlgorithmSubject) -> tuple[TokenMDP, Algorithm, int]:
    """Returns a language without an end, an algorithm, and a size of batch that can be listed."""
    from alignzoo.testing.token_mdp import TokenMDP

    algorithm = subject.make_with(ent_coef=0.0)
    if algorithm.needs.group_size > 3:
        algorithm = subject.make_with(ent_coef=0.0, group_size=3)
    size = algorithm.needs.group_size
    if size > 8:
        raise NotApplicable(f"batches of groups of {size} are too many to be listed")
    horizon = 3 if size <= 3 else 2
    mdp = TokenMDP.random(0, vocab_size=2, horizon=horizon, score_only=True)
    return mdp, algorithm, max(size, 2)


def _expected_gradients(mdp: TokenMDP, algorithm: Algorithm, size: int) -> tuple[Any, Any]:
    """Returns minus the expected gradient of the loss, and the policy gradient, both [S, V]."""
    import numpy as np

    from alignzoo.testing.enumeration import EveryBatch

    draws = np.random.default_rng(0)
    logits, values = draws.normal(size=mdp.rewards.shape), draws.normal(size=len(mdp.contexts))
    every = EveryBatch(
        mdp,
        logits,
        algorithm,
        size=size,
        values=values,
        is_one_group=algorithm.needs.group_size > 1,
    )
    return every.expected_gradient(), mdp.policy_gradient(logits)


def _gap(one: Any, other: Any) -> float:
    import numpy as np

    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)), 1e-12)
    return float(np.linalg.norm(one - other)) / size
