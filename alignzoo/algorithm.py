"""The algorithm contract: what an algorithm declares, what it computes, what it is given.

A data item's way is `Policy.generate -> RolloutBuffer -> RewardModel.score -> Algorithm.prepare ->
Learner (Algorithm.loss, step)`. An algorithm sees batches and a learner; it never sees the
optimiser, the reward or the files of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from alignzoo.config import AlgorithmConfig
from alignzoo.errors import ConfigError
from alignzoo.rollout.columns import Column as Column

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from alignzoo.policy import Policy, PolicyOutput
    from alignzoo.rollout import RolloutBatch, RolloutBuffer

Source = Literal["rollouts", "demonstrations", "preferences", "ratings"]


@dataclass(frozen=True)
class Needs:
    """What one configuration of an algorithm needs; anything not declared here is withheld.

    Args:
        source: which rows fill the buffer. "rollouts" are sampled from the policy and scored.
        values: a value head; fills `batch.values` and `out.values`.
        detach_values: the value head's gradient stops at the hidden states.
        ref_log_probs: `batch.ref_log_probs`, the frozen reference's log-probs of the responses.
        bootstrap_values: `batch.bootstrap_values`, V after the last token.
        logits: `out.logits` [B, T, V]; costs memory.
        hidden: `out.hidden` [B, T, D], the states from which the tokens were predicted.
        group_size: responses sampled per prompt.
        replay: how many past rollouts the buffer keeps.
        columns: the algorithm's own columns by name.
    """

    source: Source = "rollouts"
    values: bool = False
    detach_values: bool = False
    ref_log_probs: bool = False
    bootstrap_values: bool = False
    logits: bool = False
    hidden: bool = False
    group_size: int = 1
    replay: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict)


class Max(NamedTuple):
    """A metric that merges by its maximum."""

    value: float | Tensor


MetricValue = float | int | Max | tuple[Any, Any]


class Metrics:
    """Metrics under way: (sum, count) pairs and maxima, merged over micro-batches and workers.

    A plain number counts as a mean over one. Values may be 0-d tensors; they are read only when
    `result` is called, so that merging never waits for a device. What they were computed from is
    let go of at once.
    """

    def __init__(self, values: Mapping[str, MetricValue] | None = None) -> None:
        self.sums: dict[str, tuple[Any, Any]] = {}
        self.maxima: dict[str, Any] = {}
        for name, value in (values or {}).items():
            if isinstance(value, Max):
                self.maxima[name] = _without_graph(value.value)
            elif isinstance(value, tuple):
                total, count = value
                self.sums[name] = (_without_graph(total), _without_graph(count))
            else:
                self.sums[name] = (_without_graph(value), 1)

    def merge(self, other: Metrics) -> Metrics:
        """Adds `other` to this one and returns this one."""
        for name, (total, count) in other.sums.items():
            mine = self.sums.get(name, (0, 0))
            self.sums[name] = (mine[0] + total, mine[1] + count)
        for name, value in other.maxima.items():
            known = name in self.maxima
            self.maxima[name] = _larger(self.maxima[name], value) if known else value
        return self

    def result(self) -> dict[str, float]:
        """Returns the merged numbers; a mean or a maximum (-inf) over nothing is left out."""
        names = [*self.sums, *self.maxima]
        totals = [total for total, _ in self.sums.values()]
        counts = [count for _, count in self.sums.values()]
        numbers = read_numbers([*totals, *self.maxima.values(), *counts])
        values, weights = numbers[: len(names)], numbers[len(names) :]
        means = {
            name: value / weight
            for name, value, weight in zip(self.sums, values, weights, strict=False)
            if weight > 0
        }
        maxima = dict(zip(self.maxima, values[len(self.sums) :], strict=True))
        return means | {name: value for name, value in maxima.items() if value != -math.inf}


def read_numbers(values: Sequence[Any]) -> list[float]:
    """Returns numbers and 0-d tensors as floats; those on a device are waited for together."""
    places = [i for i, x in enumerate(values) if hasattr(x, "detach") and x.device.type != "cpu"]
    found = [0.0 if i in places else float(x) for i, x in enumerate(values)]
    if places:
        import torch

        together = torch.stack([values[i].detach().double().reshape(()) for i in places])
        for i, number in zip(places, together.tolist(), strict=True):
            found[i] = number
    return found


def _larger(a: Any, b: Any) -> Any:
    """Returns the larger of two numbers, NaN where one is NaN; never waits for a device."""
    if hasattr(a, "detach") or hasattr(b, "detach"):
        import torch

        device = (a if hasattr(a, "detach") else b).device
        a, b = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (a, b))
        return torch.maximum(a, b)
    return a if a >= b or math.isnan(a) else b


def _without_graph(value: Any) -> Any:
    """Returns a tensor apart from the graph it came from; other numbers as they are."""
    return value.detach() if hasattr(value, "detach") else value


@dataclass
class Loss:
    """What `Algorithm.loss` returns.

    Args:
        value: 0-d tensor: a sum over the rows at hand divided by `batch.num_tokens` or
            `batch.num_sequences`, so that it does not matter how a minibatch is split.
        metrics: (sum, count) pairs, `Max`, or plain numbers.
        stop: ends this update before the step is taken (target_kl).
    """

    value: Tensor
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    stop: bool = False

    def __add__(self, other: Loss) -> Loss:
        """Returns the sum of two terms, with the metrics of both."""
        if not isinstance(other, Loss):
            return NotImplemented
        twice = sorted(self.metrics.keys() & other.metrics.keys())
        if twice:
            raise ValueError(f"two terms of a loss both report {', '.join(twice)}; rename one")
        metrics = {**self.metrics, **other.metrics}
        return Loss(self.value + other.value, metrics, self.stop or other.stop)

    def __rmul__(self, factor: float) -> Loss:
        """Returns the term `factor` times as heavy; its metrics are those of the term itself."""
        return Loss(factor * self.value, self.metrics, self.stop)


LossFunction = Callable[["RolloutBatch", "PolicyOutput"], Loss]


@dataclass
class Gradient:
    """A minibatch's gradient, apart from the step that uses it; it can be applied once.

    Args:
        tensors: one per trained parameter, in the learner's order; None where unused.
        metrics: merged over micro-batches, `grad_norm` included.
        stop: some micro-batch's loss asked to end the update.
        finite: loss and gradient are finite.
        rows: the buffer rows it came from.
    """

    tensors: list[Tensor | None]
    metrics: Metrics
    stop: bool
    finite: bool
    rows: list[int]

    @property
    def approx_kl(self) -> float:
        """How far the policy is from the one that sampled, in nats a token; 0 if not reported."""
        return self.metrics.result().get("approx_kl", 0.0)


@dataclass
class StepResult:
    """What one optimiser step did: its metrics, whether to stop, whether it was skipped."""

    metrics: Metrics
    stop: bool = False
    skipped: bool = False


class Learner(Protocol):
    """The learner as an algorithm sees it, and nothing else."""

    @property
    def buffer(self) -> RolloutBuffer:
        """Past rollouts by version."""

    @property
    def temperature(self) -> float:
        """The sampling temperature; log-probs are taken at it, `out.logits` are before it."""

    def minibatches(
        self, batch: RolloutBatch, size: int | None, epochs: int
    ) -> Iterator[RolloutBatch]:
        """Yields shuffled minibatches of about `size` sequences; no group or pair is cut.

        With `size=None` each is the whole batch, in order.
        """

    def evaluate(
        self, batch: RolloutBatch, policy: Policy | None = None, *, needs: Needs | None = None
    ) -> PolicyOutput:
        """Returns the output of the policy, or of a snapshot, on `batch`, without autograd.

        Here and below `needs` stands in for the algorithm's own in this one call, where a part of
        an update looks at more: `dataclasses.replace(self.needs, logits=True)`.
        """

    def reference_log_probs(self, batch: RolloutBatch) -> Tensor:
        """Returns the frozen reference's log-probs of the responses, [B, T]."""

    def gradient(
        self, batch: RolloutBatch, loss: LossFunction, *, needs: Needs | None = None
    ) -> Gradient:
        """Returns the gradient of `loss` over the minibatch, micro-batch by micro-batch."""

    def hessian_vector(
        self,
        batch: RolloutBatch,
        loss: LossFunction,
        vector: Tensor,
        *,
        group: int | None = None,
        needs: Needs | None = None,
    ) -> Tensor:
        """Returns the Hessian of `loss` times `vector`, micro-batch by micro-batch.

        The loss must be in plain torch, such as of `out.logits`: the kernels differentiate once.
        """

    def apply(self, gradient: Gradient) -> StepResult:
        """Clips and takes one optimiser step, or skips it where the gradient is not finite."""

    def step(
        self, batch: RolloutBatch, loss: LossFunction, *, needs: Needs | None = None
    ) -> StepResult:
        """Takes one optimiser step: `apply(gradient(batch, loss))`."""

    def get_vector(self, group: int | None = None) -> Tensor:
        """Returns a copy of the trained parameters, or of one parameter group, as one vector."""

    def set_vector(self, vector: Tensor, group: int | None = None) -> None:
        """Writes the trained parameters, or one parameter group, from one vector."""

    def gradient_vector(self, gradient: Gradient, group: int | None = None) -> Tensor:
        """Returns a gradient as one vector in the order of `get_vector`; 0 where unused."""

    def snapshot(self) -> Policy:
        """Returns a frozen copy of the policy."""


class Algorithm:
    """Base of every algorithm. Subclasses set `Config` and write `prepare` and `loss`.

    Attributes:
        saved: names of attributes that a resumed run needs, JSON-able.
        metrics: names of its own metrics, each with one line that says what it is; the names of
            `alignzoo.report.metric_names` are known to all.
        examples: numbers worked by hand, which `alignzoo check` computes again. Each has the
            options, what goes in and what must come out; `alignzoo.testing.algorithms.examples`
            says under which names.
    """

    Config: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig
    saved: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[Mapping[str, str]] = {}
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config: Any = config

    @property
    def needs(self) -> Needs:
        """What this configuration needs."""
        return Needs()

    @property
    def unbiased(self) -> bool:
        """Whether the expected gradient of the first step is that of the expected reward.

        A claim of this configuration, up to the mean over a response's tokens; `alignzoo check`
        holds it to every response of a small token MDP.
        """
        return False

    @property
    def kl_coef(self) -> float:
        """The KL weight in force; the trainer reads it when it fills `rewards`."""
        coef: float = self.config.kl_coef
        return coef if self.config.kl_in != "none" else 0.0

    @property
    def loss_kl_coef(self) -> float:
        """The KL weight in force where the penalty is in the loss, else 0."""
        return self.kl_coef if self.config.kl_in == "loss" else 0.0

    def build(self, policy: Policy) -> nn.Module | None:
        """Returns parts beyond policy and value head, or None."""
        return None

    def parameter_groups(
        self, policy: Policy, extra: nn.Module | None
    ) -> list[dict[str, Any]] | None:
        """Returns optimiser groups, `{"params": [...], "lr": ...}`; None trains everything."""
        return None

    def keep(self, batch: RolloutBatch) -> torch.Tensor | None:
        """Returns which rows to keep, bool [B]; dropped ones are sampled again. None keeps all."""
        return None

    def prepare(self, batch: RolloutBatch) -> None:
        """Writes advantages, returns, weights and own columns; once per rollout, no autograd."""

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> Loss:
        """Returns the loss of the rows at hand."""
        raise NotImplementedError

    def update(self, batch: RolloutBatch, learner: Learner) -> Metrics:
        """Learns from one rollout: `num_epochs` passes over minibatches of `loss`."""
        metrics = Metrics()
        config = self.config
        for minibatch in learner.minibatches(batch, config.minibatch_size, config.num_epochs):
            result = learner.step(minibatch, self.loss)
            metrics.merge(result.metrics)
            if result.stop:
                break
        return metrics

    def shape_logits(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """Returns the logits to sample from: [.., V] from logits [.., V] and hidden [.., D]."""
        return logits

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adapts what changes between updates: target networks, coefficients."""

    def state_dict(self) -> dict[str, Any]:
        """Returns JSON-able state that a resumed run needs; modules are saved by the trainer.

        By default the attributes that the class names in `saved`.
        """
        return {name: getattr(self, name) for name in self.saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


def check_state(algorithm: Algorithm) -> None:
    """Checks now what the first checkpoint would trip over.

    Raises:
        ConfigError: the algorithm's `state_dict` is not JSON-able.
    """
    try:
        json.dumps(algorithm.state_dict())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(algorithm).__name__}.state_dict returns what JSON cannot hold ({error}); keep "
            "tensors in the module that `build` returns"
        ) from error
