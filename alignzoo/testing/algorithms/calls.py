"""What a loss says of one batch, taken apart: its value, its gradient in every output, its metrics.

A check looks at the losses that an update asks for while it runs, so that algorithms which write
their own `update` are held to the same as those that only write `loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignzoo.algorithm import Gradient, Loss, LossFunction, Metrics, Needs
from alignzoo.errors import PluginError
from alignzoo.learner import Learner
from alignzoo.policy import PolicyOutput
from alignzoo.random_streams import preserved_globals
from alignzoo.tensors import join_vector

if TYPE_CHECKING:
    from alignzoo.rollout import RolloutBatch

CALLS_A_LOSS = 2  # how often a check looks at one and the same loss function

OWN_PARAMETERS = "its own parameters"  # the place of a gradient in parts that `build` made
OUTPUTS = tuple(field.name for field in fields(PolicyOutput))


@dataclass(frozen=True)
class Measured:
    """What a loss said: value 0-d; gradients in `out` by name, and in parts of its own.

    A gradient is zeros where the loss does not depend on that output.
    """

    value: Tensor
    gradients: dict[str, Tensor]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Call:
    """A loss an update asks for: the function, the rows at hand and the policy's output.

    `is_curvature` where its second derivative is wanted.
    """

    loss: LossFunction
    batch: RolloutBatch
    out: PolicyOutput
    learner: WatchedLearner
    is_curvature: bool = False

    @property
    def name(self) -> str:
        """What messages call the loss."""
        name = getattr(self.loss, "__qualname__", type(self.loss).__name__)
        return str(name).replace(".<locals>", "")

    @cached_property
    def measured(self) -> Measured:
        """What the loss says of the batch as it is."""
        return self.measure()

    def run(self, batch: RolloutBatch | None = None, out: PolicyOutput | None = None) -> Loss:
        """Returns what the loss function returns, checked to be a loss."""
        result = self.loss(batch or self.batch, out or self.out)
        value = getattr(result, "value", None)
        if not isinstance(result, Loss) or not isinstance(value, Tensor) or value.ndim:
            raise PluginError(
                f"{self.name} returns {describe(result)}; expected az.Loss(value, metrics) with a "
                "tensor of no dimensions for a value"
            )
        return result

    def measure(
        self, batch: RolloutBatch | None = None, out: PolicyOutput | None = None
    ) -> Measured:
        """Returns the loss of `batch` and `out`, of which the gradient is taken; nothing is kept.

        Random numbers are drawn as they would be drawn now, and then as if they never had been.
        """
        parts = vars(out or self.out)
        leaves = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in parts.items()
            if tensor is not None
        }
        parameters = self.learner.parameters
        with preserved_globals(), torch.enable_grad():
            result = self.run(batch, PolicyOutput(**leaves))
            wanted = [*leaves.values(), *parameters]
            found: Any = [None] * len(wanted)
            if result.value.requires_grad:
                found = torch.autograd.grad(result.value, wanted, allow_unused=True)
        gradients = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=False)
        }
        gradients[OWN_PARAMETERS] = join_vector(found[len(leaves) :], parameters)
        return Measured(result.value.detach(), gradients, Metrics(result.metrics).result())


Probe = Callable[[Call], "Loss | None"]


class WatchedLearner(Learner):
    """A learner that shows a check every loss before it is used.

    Its optimiser is plain gradient descent, so that a rounding error stays one: Adam would make a
    step of full length out of a gradient that is nothing but rounding.
    """

    probe: Probe | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gradients: list[Gradient] = []
        self.looked_at: dict[str, int] = {}

    def _make_optimizer(self) -> None:
        super()._make_optimizer()
        groups = [{"params": g["params"], "lr": g["lr"]} for g in self.optimizer.param_groups]
        plain = torch.optim.SGD(groups, lr=self.algorithm.config.learning_rate)
        self.optimizer = plain  # type: ignore[assignment]

    def gradient(
        self, batch: RolloutBatch, loss: LossFunction, *, needs: Needs | None = None
    ) -> Gradient:
        found = super().gradient(batch, self._watched(loss), needs=needs)
        self.gradients.append(found)
        return found

    def hessian_vector(
        self, batch: RolloutBatch, loss: LossFunction, vector: Tensor, **options: Any
    ) -> Tensor:
        watched = self._watched(loss, is_curvature=True)
        return super().hessian_vector(batch, watched, vector, **options)

    def _watched(self, loss: LossFunction, is_curvature: bool = False) -> LossFunction:
        def watched(batch: RolloutBatch, out: PolicyOutput) -> Loss:
            call = Call(loss, batch, out, self, is_curvature)
            seen = self.looked_at.get(call.name, 0)
            if self.probe is None or seen >= CALLS_A_LOSS:
                return call.run()
            self.looked_at[call.name] = seen + 1
            return self.probe(call) or call.run()

        return watched


def describe(value: Any) -> str:
    """Returns what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Loss):
        return f"az.Loss whose value is {describe(value.value)}"
    return f"{value!r}" if value is None else f"a {type(value).__name__}"


def relative_gap(a: Tensor, b: Tensor) -> float:
    """Returns |a - b| over the longer of the two, as vectors; 0 where both are nothing."""
    a, b = a.double().flatten(), b.double().flatten()
    gap, size = float((a - b).norm()), max(float(a.norm()), float(b.norm()))
    return 0.0 if gap <= 1e-8 else gap / size


def first_difference(one: Measured, other: Measured, *, tolerance: float = 1e-4) -> str | None:
    """Returns in what two measurements differ, in words; None where they agree.

    Args:
        tolerance: relative, of the value and of each gradient as a vector.
    """
    a, b = float(one.value), float(other.value)
    if not abs(a - b) <= tolerance * (0.1 + max(abs(a), abs(b))):  # also where one is NaN
        return f"the loss is {a:.6g} and becomes {b:.6g}"
    for name, gradient in one.gradients.items():
        gap = relative_gap(gradient, other.gradients[name])
        if not gap <= tolerance:
            place = name if name == OWN_PARAMETERS else f"out.{name}"
            return f"the loss stays, its gradient in {place} changes by {gap:.1%}"
    for name in sorted(one.metrics.keys() & other.metrics.keys()):
        a, b = one.metrics[name], other.metrics[name]
        if (a == a or b == b) and not abs(a - b) <= 10 * tolerance * (0.1 + max(abs(a), abs(b))):
            return f"metric '{name}' is {a:.6g} and becomes {b:.6g}"
    return None


@contextmanager
def models_that_run() -> Iterator[list[str]]:
    """Collects the kinds of module whose forward is called inside."""
    seen: list[str] = []

    def note(module: torch.nn.Module, _inputs: Any) -> None:
        seen.append(type(module).__name__)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
