"""The learner: optimiser, schedule, clipping, precision. Algorithms see it through a protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignzoo.algorithm import (
    Algorithm,
    Gradient,
    LossFunction,
    Max,
    Metrics,
    Needs,
    StepResult,
    read_numbers,
)
from alignzoo.policy import Policy, PolicyOutput
from alignzoo.random_streams import stream
from alignzoo.rollout.columns import WRITABLE
from alignzoo.tensors import join, join_outputs, join_vector, split_like, total_norm

if TYPE_CHECKING:
    from alignzoo.config import AlgorithmConfig
    from alignzoo.rollout import RolloutBatch, RolloutBuffer

MICRO_BATCH_TOKENS = 16_384
HALVES = (torch.bfloat16, torch.float16)


class Learner:
    """Turns an algorithm's losses into optimiser steps.

    Weights below float32 have float32 masters that the optimiser steps on. Each parameter group is
    clipped to `max_grad_norm` on its own, so that a value head with a rate of its own does not
    scale down the policy's gradient.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        buffer: RolloutBuffer,
        *,
        temperature: float = 1.0,
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.algorithm = algorithm
        self._buffer = buffer
        self.temperature = temperature
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.needs: Needs = algorithm.needs
        self.extra = algorithm.build(policy)
        self.num_steps = 0
        self.update_number = 0
        self.num_passes = 0  # over batches, in this update
        self.is_on_policy = True  # no step was taken since the rollout
        self.skipped_rows: list[int] = []  # of this update's steps that were not finite
        self._make_optimizer()

    @property
    def buffer(self) -> RolloutBuffer:
        """Past rollouts by version."""
        return self._buffer

    def set_buffer(self, buffer: RolloutBuffer) -> None:
        """Goes on with another buffer, read from a checkpoint."""
        self._buffer = buffer

    def _make_optimizer(self) -> None:
        config: AlgorithmConfig = self.algorithm.config
        groups = self.algorithm.parameter_groups(self.policy, self.extra)
        if groups is None:
            modules = self.policy.trained_modules(self.extra).values()
            groups = [{"params": [p for module in modules for p in module.parameters()]}]
        self.parameters: list[nn.Parameter] = []
        self.masters: list[Tensor] = []
        self.group_slices: list[slice] = []
        optimizer_groups: list[dict[str, Any]] = []
        for group in groups:
            trained = [p for p in group["params"] if p.requires_grad]
            masters = [p if p.dtype == torch.float32 else p.detach().float() for p in trained]
            start = len(self.parameters)
            self.parameters += trained
            self.masters += masters
            self.group_slices.append(slice(start, len(self.parameters)))
            optimizer_groups.append({**group, "params": masters})
        self.optimizer = torch.optim.AdamW(
            optimizer_groups, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.peak_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def begin_update(self, number: int) -> None:
        """Tells the learner that a new rollout is here; its shuffles depend on this number."""
        self.update_number = number
        self.num_passes = 0
        self.is_on_policy = True
        self.skipped_rows = []

    def minibatches(
        self, batch: RolloutBatch, size: int | None, epochs: int
    ) -> Iterator[RolloutBatch]:
        """Yields shuffled minibatches of about `size` sequences; no group or pair is cut.

        With `size=None` each is the whole batch, in order. Every pass of an update has a shuffle of
        its own, whichever call makes it.
        """
        for _ in range(epochs):
            shuffle = stream(self.seed, "shuffling", self.update_number, self.num_passes)
            self.num_passes += 1
            yield from batch.minibatches(size, generator=shuffle)

    def micro_batches(self, batch: RolloutBatch) -> Iterator[RolloutBatch]:
        """Yields the minibatch in pieces that fit in memory, in order; counts stay the whole's."""
        if self.micro_batch_size is not None:
            yield from batch.micro_batches(max_rows=self.micro_batch_size)
        else:
            yield from batch.micro_batches(max_tokens=MICRO_BATCH_TOKENS)

    def forward(
        self, batch: RolloutBatch, policy: Policy | None = None, *, needs: Needs | None = None
    ) -> PolicyOutput:
        """Returns a policy's output on the rows at hand, with what the algorithm needs."""
        needs = needs or self.needs
        return (policy or self.policy).evaluate(
            batch,
            temperature=self.temperature,
            values=needs.values,
            detach_values=needs.detach_values,
            logits=needs.logits,
            hidden=needs.hidden,
        )

    @torch.no_grad()
    def evaluate(
        self, batch: RolloutBatch, policy: Policy | None = None, *, needs: Needs | None = None
    ) -> PolicyOutput:
        """Returns a policy's output on `batch`, without autograd, in the same micro-batches.

        Args:
            policy: what `snapshot` returned; default the policy that is trained.
            needs: what to look at in this call; default the algorithm's own.
        """
        pieces = [self.forward(micro, policy, needs=needs) for micro in self.micro_batches(batch)]
        return join_outputs(pieces, batch.response_mask.shape[1])

    def reference_log_probs(self, batch: RolloutBatch) -> Tensor:
        """Returns the reference's log-probs [B, T], in the same micro-batches."""
        pieces = [
            self.policy.reference_log_probs(micro, temperature=self.temperature)
            for micro in self.micro_batches(batch)
        ]
        return join(pieces, batch.response_mask.shape[1])

    def bootstrap_values(self, batch: RolloutBatch) -> Tensor:
        """Returns V of the state after each row's last token, [B]."""
        return torch.cat([self.policy.final_values(micro) for micro in self.micro_batches(batch)])

    def gradient(
        self, batch: RolloutBatch, loss: LossFunction, *, needs: Needs | None = None
    ) -> Gradient:
        """Returns the gradient of `loss` over the minibatch, micro-batch by micro-batch."""
        metrics = Metrics()
        stop = False
        losses: list[Tensor] = []
        sums: list[Tensor | None] = [None] * len(self.parameters)
        self._clear_gradients()
        for micro in self.micro_batches(batch):
            out = self.forward(micro, needs=needs)
            if self.is_on_policy:
                metrics.merge(sampler_mismatch(micro, out, self.update_number))
            result = loss(self._restricted(micro), out)
            metrics.merge(Metrics(result.metrics))
            stop = stop or result.stop
            losses.append(result.value.detach())
            if result.value.requires_grad:
                result.value.backward()
            self._take_halves(sums)
        sums = [p.grad if g is None else g for p, g in zip(self.parameters, sums, strict=True)]
        self._clear_gradients()
        norm = total_norm([g for g in sums if g is not None])
        metrics.merge(Metrics({"grad_norm": (norm.double(), 1)}))
        # One read: a device is waited for once a minibatch.
        finite = all(math.isfinite(number) for number in read_numbers([*losses, norm]))
        return Gradient(sums, metrics, stop, finite, batch.row_numbers)

    def _take_halves(self, sums: list[Tensor | None]) -> None:
        """Adds a micro-batch's gradients below float32 to `sums`, in float32, and clears them."""
        for i, parameter in enumerate(self.parameters):
            gradient, total = parameter.grad, sums[i]
            if gradient is not None and parameter.dtype in HALVES:
                sums[i] = gradient.float() if total is None else total.add_(gradient)
                parameter.grad = None

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _restricted(self, batch: RolloutBatch) -> RolloutBatch:
        return restrict(batch, self.algorithm)

    def apply(self, gradient: Gradient) -> StepResult:
        """Clips and takes one optimiser step, or skips it where the gradient is not finite."""
        if not gradient.finite:
            self.skipped_rows += gradient.rows
            return StepResult(Metrics(), stop=True, skipped=True)
        for master, tensor in zip(self.masters, gradient.tensors, strict=True):
            master.grad = None if tensor is None else tensor.to(master.dtype)
        limit = self.algorithm.config.max_grad_norm
        for group in self.group_slices:
            torch.nn.utils.clip_grad_norm_(self.masters[group], limit)
        self._set_rates(self.num_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._copy_masters()
        self.num_steps += 1
        self.is_on_policy = False
        return StepResult(gradient.metrics, stop=gradient.stop)

    def step(
        self, batch: RolloutBatch, loss: LossFunction, *, needs: Needs | None = None
    ) -> StepResult:
        """Takes one optimiser step, unless the loss says stop or is not finite."""
        gradient = self.gradient(batch, loss, needs=needs)
        if gradient.stop:
            return StepResult(gradient.metrics, stop=True)
        return self.apply(gradient)

    def _set_rates(self, step: int) -> None:
        """Sets the learning rates of optimiser step `step`, from 0."""
        factor = schedule_factor(self.algorithm.config, step)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)

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

        Pearlmutter 1994: the gradient of (gradient . vector), by a second backward pass. torch's
        fused attention has none, so attention is made of plain operations here; the loss must be
        so too. A vector is in the order of `get_vector`.
        """
        parameters = self.parameters[self._slice(group)]
        pieces = split_like(vector, parameters)
        product = torch.zeros_like(vector)
        for micro in self.micro_batches(batch):
            with sdpa_kernel(SDPBackend.MATH):
                value = loss(self._restricted(micro), self.forward(micro, needs=needs)).value
            first = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
            along = [(g * v).sum() for g, v in zip(first, pieces, strict=True) if g is not None]
            second = torch.autograd.grad(torch.stack(along).sum(), parameters, allow_unused=True)
            product += join_vector(second, parameters)
        return product

    def _slice(self, group: int | None) -> slice:
        return slice(None) if group is None else self.group_slices[group]

    def get_vector(self, group: int | None = None) -> Tensor:
        """Returns a copy of the trained parameters, or of one group, as one float32 vector."""
        masters = self.masters[self._slice(group)]
        return join_vector([master.detach() for master in masters], masters)

    def set_vector(self, vector: Tensor, group: int | None = None) -> None:
        """Writes the trained parameters, or one group, from one vector."""
        masters = self.masters[self._slice(group)]
        with torch.no_grad():
            for master, piece in zip(masters, split_like(vector, masters), strict=True):
                master.copy_(piece)
        self._copy_masters()
        self.is_on_policy = False

    def gradient_vector(self, gradient: Gradient, group: int | None = None) -> Tensor:
        """Returns a gradient as one float32 vector in the order of `get_vector`."""
        where = self._slice(group)
        return join_vector(gradient.tensors[where], self.masters[where])

    def snapshot(self) -> Policy:
        """Returns a frozen copy of the policy."""
        return self.policy.snapshot()

    def state_tensors(self) -> dict[str, Tensor]:
        """Returns everything a checkpoint keeps: trained modules, masters, optimiser moments."""
        tensors = dict(self._module_tensors())
        for i, (parameter, master) in enumerate(zip(self.parameters, self.masters, strict=True)):
            if master is not parameter:
                tensors[f"master.{i}"] = master
            for key, value in self.optimizer.state.get(master, {}).items():
                tensors[f"optimizer.{i}.{key}"] = value
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], num_steps: int) -> None:
        """Restores what `state_tensors` returned, and the place in the schedule.

        It may have been written on another device; a tensor goes where its parameter is.
        """
        with torch.no_grad():
            for name, tensor in self._module_tensors():
                tensor.copy_(tensors[name])
            for i, (parameter, master) in enumerate(
                zip(self.parameters, self.masters, strict=True)
            ):
                if master is not parameter:
                    master.copy_(tensors[f"master.{i}"])
                prefix = f"optimizer.{i}."
                state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                if state:
                    self.optimizer.state[master] = {
                        key: value.to(master.device) if value.ndim else value  # steps: on the CPU
                        for key, value in state.items()
                    }
        self.num_steps = num_steps
        if num_steps:
            self._set_rates(num_steps - 1)

    def _module_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields what training may change: of the model only what trains, of other parts all."""
        for name, module in self.policy.trained_modules(self.extra).items():
            for key, parameter in module.named_parameters():
                if name != "model" or parameter.requires_grad:
                    yield f"{name}.{key}", parameter.detach()
            for key, buffer in module.named_buffers():
                yield f"{name}.{key}", buffer


def schedule_factor(config: AlgorithmConfig, step: int) -> float:
    """Returns what the peak learning rate is multiplied by at optimiser step `step`, from 0.

    It depends on the step, never on the length of the run, so that a longer run starts alike.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant" or config.decay_steps is None:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / config.decay_steps)
    if config.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def readable_columns(needs: Needs) -> frozenset[str]:
    """Returns the columns an algorithm with these needs may read; all others are withheld."""
    by_source = {
        "rollouts": {
            "sampler_log_probs",
            "old_log_probs",
            "terminated",
            "truncated",
            "scores",
            "rewards",
        },
        "demonstrations": set(),
        "preferences": {"pair_labels"},
        "ratings": {"scores"},
    }
    optional = {"values", "ref_log_probs", "bootstrap_values"}
    declared = {name for name in optional if getattr(needs, name)}
    return frozenset(by_source[needs.source] | declared | WRITABLE | set(needs.columns))


def restrict(batch: RolloutBatch, algorithm: Algorithm, *, may_write: bool = False) -> RolloutBatch:
    """Returns a view of `batch` that shows what the algorithm declared, and nothing else."""
    writable = WRITABLE | set(algorithm.needs.columns) if may_write else frozenset()
    return batch.restrict(
        type(algorithm).__name__,
        readable=readable_columns(algorithm.needs),
        writable=frozenset(writable),
    )


def sampler_mismatch(batch: RolloutBatch, out: PolicyOutput, version: int) -> Metrics:
    """Returns how far the sampler's log-probs are from the training forward's, in nats a token.

    Rows of other versions are left out: their gap is the policy's own drift.
    """
    if "sampler_log_probs" not in batch.columns:
        return Metrics()
    mask = batch.response_mask & (batch.policy_version == version)[:, None]
    if mask.numel() == 0:
        return Metrics()
    gap = (out.log_probs.detach() - batch.sampler_log_probs).abs()
    return Metrics(
        {
            "sampler_mismatch": (torch.where(mask, gap, 0.0).double().sum(), mask.sum()),
            "sampler_mismatch_max": Max(torch.where(mask, gap, -math.inf).max()),
        }
    )
