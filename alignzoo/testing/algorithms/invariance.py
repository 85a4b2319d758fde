"""What an update must not depend on: padding, masked tokens, how rows are split and ordered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alignzoo.testing.algorithms.subject import AlgorithmSubject
from alignzoo.testing.checks import NotApplicable, require

if TYPE_CHECKING:
    from torch import Tensor

    from alignzoo.algorithm import Loss
    from alignzoo.rollout import RolloutBatch
    from alignzoo.testing.algorithms.calls import Call, Measured

WIDER = 3  # tokens of padding more
BY_COUNTS = (
    "Divide sums by batch.num_tokens or batch.num_sequences (or use az.objectives.mean): they "
    "count the whole minibatch, padding and masked tokens left out."
)
BY_MASK = (
    "Take sums and means over batch.response_mask alone: (x * mask).sum() / mask.sum(), "
    "x[mask].mean(), or alignzoo.kernels with mask=batch.response_mask."
)


def padding_changes_nothing(subject: AlgorithmSubject) -> None:
    """More padding at the end of every row changes neither prepare nor any loss."""
    from alignzoo.testing.algorithms import batches

    _compare_prepared(
        subject, lambda batch: batches.widened(batch, WIDER), lambda column: column, BY_MASK
    )

    def probe(call: Call) -> None:
        wide = call.measure(
            batches.widened(call.batch, WIDER), batches.widened_output(call.out, WIDER)
        )
        width = call.batch.response_mask.shape[1]
        _compare(call, wide, lambda gradient: gradient[:, :width], "more padding", BY_COUNTS)

    _look_at_losses(subject, probe)


def masked_tokens_change_nothing(subject: AlgorithmSubject) -> None:
    """What lies under response_mask, in the middle of a response too, changes nothing."""
    from alignzoo.testing.algorithms import batches

    _compare_shifted(subject)

    def probe(call: Call) -> None:
        mask = call.batch.response_mask
        for sign in (1, -1):
            spoiled = call.measure(*batches.poisoned(call.batch, call.out, sign))

            def under_mask(gradient: Tensor) -> Tensor:
                return gradient * mask.view(*mask.shape, *[1] * (gradient.ndim - 2))

            spoiled.metrics.clear()  # the learner's own promise is 0 there; it is the loss we teach
            _compare(call, spoiled, under_mask, "junk under the mask", BY_MASK)

    _look_at_losses(subject, probe)


def masked_tokens_have_no_gradient(subject: AlgorithmSubject) -> None:
    """No loss has a gradient in what the policy says of masked tokens."""
    from alignzoo.testing.algorithms import batches
    from alignzoo.testing.algorithms.calls import OWN_PARAMETERS

    def probe(call: Call) -> None:
        mask = call.batch.response_mask
        spoiled = call.measure(*batches.poisoned(call.batch, call.out, 1))
        for name in call.measured.gradients:
            if name == OWN_PARAMETERS:
                continue
            for gradient in (call.measured.gradients[name], spoiled.gradients[name]):
                wrong = gradient[~mask].abs()
                require(
                    not wrong.numel() or float(wrong.max()) == 0,
                    f"{call.name}: d loss / d out.{name} is {float(wrong.max()):.3g} at a masked "
                    f"token. {BY_MASK}",
                )

    _look_at_losses(subject, probe)


def splitting_changes_nothing(subject: AlgorithmSubject) -> None:
    """How a minibatch is split into micro-batches does not change its gradient."""
    from alignzoo.testing.algorithms.calls import relative_gap

    found = []
    for size in (None, 2):
        scene = subject.scene(micro_batch_size=size)
        scene.play(updates=1)
        learner = scene.learner
        found.append([learner.gradient_vector(gradient) for gradient in learner.gradients[:1]])
    if not found[0]:
        raise NotApplicable("it takes no gradient from the learner")
    gap = relative_gap(found[0][0], found[1][0])
    require(
        gap < 1e-4,
        f"the gradient of a minibatch changes by {gap:.1%} (as a vector) when it is taken two rows "
        f"at a time. {BY_COUNTS} What couples the rows of a minibatch belongs into update or "
        "prepare.",
    )


def row_order_changes_nothing(subject: AlgorithmSubject) -> None:
    """The rows of a batch in another order give the same numbers in that order."""
    from alignzoo.testing.algorithms import batches

    def probe(call: Call) -> None:
        order = _other_order(call.batch)
        back = sorted(range(len(order)), key=order.__getitem__)
        batch, out = batches.part(call.batch, call.out, order)
        _compare(
            call,
            call.measure(batch, out),
            lambda gradient: gradient[back],
            "another order of the rows",
            "Find a row's group and pair by batch.group_ids and batch.pair_labels, not by its "
            "place.",
        )

    order = _other_order(subject.prepared.rollout)
    back = sorted(range(len(order)), key=order.__getitem__)
    _compare_prepared(
        subject,
        lambda batch: batch.select(order),
        lambda column: column[back],
        "Compare rows by batch.group_ids, not by their places.",
    )
    _look_at_losses(subject, probe)


def _other_order(batch: RolloutBatch) -> list[int]:
    """Returns the places of the rows, last first; pairs stay side by side, the chosen one first."""
    places = range(len(batch))
    if bool((batch.pair_labels >= 0).all()):
        return [place for pair in reversed(places[::2]) for place in (pair, pair + 1)]
    return list(reversed(places))


# -- comparing -------------------------------------------------------------------------------------


def _look_at_losses(subject: AlgorithmSubject, probe: Callable[[Call], Loss | None]) -> None:
    """Plays two updates with a probe on every loss."""
    scene = subject.scene()
    scene.play(probe)
    if not scene.learner.looked_at:
        raise NotApplicable("it asks the learner for no gradient of a loss")


def _compare(
    call: Call,
    changed: Measured,
    back: Callable[[Tensor], Tensor],
    by: str,
    remedy: str,
) -> None:
    """Fails where a loss says something else of another form of its batch."""
    from alignzoo.testing.algorithms.calls import OWN_PARAMETERS, Measured, first_difference

    gradients = {n: g if n == OWN_PARAMETERS else back(g) for n, g in changed.gradients.items()}
    difference = first_difference(
        call.measured, Measured(changed.value, gradients, changed.metrics)
    )
    require(difference is None, f"{call.name}, by {by}: {difference}. {remedy}")


def _compare_prepared(
    subject: AlgorithmSubject,
    change: Callable[[RolloutBatch], RolloutBatch],
    back: Callable[[Tensor], Tensor],
    remedy: str,
) -> None:
    """Fails where `prepare` writes something else into another form of the rollout."""
    from alignzoo.testing.algorithms.calls import relative_gap
    from alignzoo.testing.algorithms.scenes import prepared

    changed = prepared(subject.scene(), change).columns
    for name, column in subject.prepared.columns.items():
        require(name in changed, f"prepare writes '{name}' for one form of a rollout alone")
        other = back(changed[name])
        if column.ndim == 2:
            other = other[:, : column.shape[1]]
        gap = relative_gap(column, other)
        require(gap < 1e-4, f"prepare writes another '{name}': it changes by {gap:.1%}. {remedy}")


def _compare_shifted(subject: AlgorithmSubject) -> None:
    """Fails where masked tokens between others change what `prepare` writes for those."""
    from alignzoo.testing.algorithms import batches

    if subject.prepared.models:  # whose tokens would be in another order too
        return
    _, order = batches.shifted(subject.prepared.rollout)

    def back(column: Tensor) -> Tensor:
        moved = column.new_zeros(column.shape)
        return moved.scatter(1, order, column) if column.ndim == 2 else column

    remedy = (
        "Masked tokens between those that the policy chose count as if they were not there: "
        "alignzoo.kernels.gae, discounted_returns and their kin skip them with mask=."
    )
    _compare_prepared(subject, lambda batch: batches.shifted(batch)[0], back, remedy)
