"""Rows and numbers at the edge of what a run may bring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from alignzoo.errors import RunError
from alignzoo.testing.algorithms.subject import AlgorithmSubject, only_rollouts
from alignzoo.testing.checks import CheckFailure, NotApplicable, fail, require

if TYPE_CHECKING:
    from alignzoo.testing.algorithms.calls import Call
    from alignzoo.testing.algorithms.scenes import Scene

# The first is exact; the mean of several times another is not that other in float32.
EQUAL_SCORES = (1.0, 0.1, 0.7, -1e3)


def equal_scores_teach_nothing(subject: AlgorithmSubject) -> None:
    """Equal scores give a finite update, and no policy gradient where nothing is worth more."""
    only_rollouts(subject)
    pulls = []
    for score in EQUAL_SCORES:
        remedy = (
            f"Every score was {score:g}: a standard deviation of 0 must not be divided by. Add eps "
            "to it, or use alignzoo.kernels.group_advantages and masked_whiten."
        )
        scene = _without_penalties(subject, score)
        try:
            pulls.append(_pull(scene))
        except RunError as error:
            fail(f"{error} {remedy}")
        _require_finite(scene, remedy, updates=1)
    nothing = _without_penalties(subject, 0.0)
    pull = _pull(nothing)
    if pull is None:
        raise NotApplicable("its prepare writes no advantages; the updates are finite")
    require(
        pull <= 1e-6,
        "scores, rewards and values are all 0 and there is no penalty, and yet its losses have a "
        f"gradient of {pull:.3g} in the policy's output. Nothing was better than anything else: "
        "is an advantage divided by a standard deviation of 0, or is a constant added to it? An "
        "option that pays for something else, such as length, is left off in the check.",
    )
    of_ones, of_tenths = pulls[0] or 0.0, max(pulls[1] or 0.0, pulls[2] or 0.0)
    if of_ones <= 1e-6:  # so equal scores cancel, whatever they are
        require(
            of_tenths <= 1e-3,
            "equal scores of 1 cancel and equal scores of 0.1 or 0.7 do not: what is left of them "
            "after rounding is divided by its own standard deviation, and makes a gradient of "
            f"{of_tenths:.3g}. Add eps to the deviation, or use alignzoo.kernels.group_advantages.",
        )


def _without_penalties(subject: AlgorithmSubject, score: float) -> Scene:
    algorithm = subject.make_with(kl_coef=0.0, ent_coef=0.0, learning_rate=1e-2)
    subject.scene()  # not applicable where no update runs
    return subject.new_scene(algorithm, scores=score, is_fresh=True)


def _pull(scene: Scene) -> float | None:
    """Returns the largest gradient of a loss in the policy's own output; None without advantages.

    No gradient in values: a critic may learn from equal scores.
    """
    found: list[float] = []

    def probe(call: Call) -> None:
        gradients = call.measure().gradients
        found.extend(
            float(gradients[name].abs().max())
            for name in ("log_probs", "logits", "hidden")
            if name in gradients
        )

    batch = scene.collect()
    has_advantages = "advantages" in batch.columns
    scene.update(batch, probe)
    return max(found, default=0.0) if has_advantages else None


def extreme_ratios_stay_finite(subject: AlgorithmSubject) -> None:
    """Log-ratios of 100 nats, up or down, leave every loss and its gradient finite."""
    from alignzoo.testing.algorithms import batches

    def probe(call: Call) -> None:
        for pattern in ("up", "down", "both"):
            batch, out = batches.extreme(call.batch, call.out, pattern)
            measured = call.measure(batch, out)
            broken = [n for n, g in measured.gradients.items() if not bool(g.isfinite().all())]
            if broken or not math.isfinite(float(measured.value)):
                where = f"its gradient in {' and in '.join(broken)}" if broken else "it"
                fail(
                    f"{call.name}: {where} is not finite where log-probs of the policy lie 100 "
                    "nats above or below those of another. Clamp before exp: "
                    "(a - b).clamp(-20, 20).exp(); say logsigmoid(x), not log(sigmoid(x)); or use "
                    "az.objectives."
                )

    _play_with(subject, probe)


def one_token_responses_work(subject: AlgorithmSubject) -> None:
    """Responses of a single token give a finite update."""
    remedy = (
        "Every response had one token: nothing follows it, and per row there is one number, of "
        "which there is no deviation."
    )
    _require_finite(subject.scene(layout="one_token"), remedy)


def full_length_responses_work(subject: AlgorithmSubject) -> None:
    """Responses that use all the room, cut off at the same length, give a finite update."""
    remedy = "Every response was truncated: none has an end token, and there is no padding."
    _require_finite(subject.scene(layout="full_length"), remedy)


def _play_with(subject: AlgorithmSubject, probe: Any) -> None:
    scene = subject.scene()
    scene.play(probe)
    if not scene.learner.looked_at:
        raise NotApplicable("it asks the learner for no gradient of a loss")


def _require_finite(scene: Scene, remedy: str, *, updates: int = 2) -> None:
    """Fails unless these updates have finite columns, losses, gradients and parameters."""
    try:
        metrics = scene.play(updates=updates)
    except RunError as error:  # a column that is not finite
        raise CheckFailure(f"{error} {remedy}") from error
    require(
        all(gradient.finite for gradient in scene.learner.gradients),
        f"a loss or gradient is not finite, so the update is skipped. {remedy}",
    )
    for number, found in enumerate(metrics, start=1):
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        require(
            not wrong,
            f"metric {', '.join(map(repr, wrong))} of update {number} is not finite. {remedy}",
        )
    require(
        bool(scene.learner.get_vector().isfinite().all()),
        f"a parameter is not finite after an update. {remedy}",
    )
