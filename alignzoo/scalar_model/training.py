"""The learner's side of a scalar model: its rows, its loss, its optimiser steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignzoo.algorithm import Algorithm, Loss, Metrics, Needs
from alignzoo.config import AlgorithmConfig
from alignzoo.errors import RunError
from alignzoo.random_streams import stream
from alignzoo.rollout import Column, RolloutBuffer, splits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignzoo.policy import Policy, PolicyOutput
    from alignzoo.rollout import RolloutBatch
    from alignzoo.scalar_model.config import ScalarConfig
    from alignzoo.scalar_model.texts import EncodedText

MAX_SKIPPED = 5

# From rows and their numbers [B, T], which are 0 but at the end of a segment.
ScalarLoss = Callable[["RolloutBatch", "Tensor"], Loss]


class _TrainingConfig(AlgorithmConfig):
    """What the learner is told of the reward's options."""

    head_learning_rate: float | None = Field(None, description="of the scalar head")


class _Training(Algorithm):
    """A value head over the model, and a loss of its values."""

    def __init__(
        self, config: AlgorithmConfig, loss: ScalarLoss, columns: Mapping[str, Column]
    ) -> None:
        super().__init__(config)
        self._loss, self._columns = loss, columns

    @property
    def needs(self) -> Needs:
        return Needs(source="ratings", values=True, columns=self._columns)

    def parameter_groups(self, policy: Policy, extra: nn.Module | None) -> list[dict[str, Any]]:
        return policy.parameter_groups(value_learning_rate=self.config.head_learning_rate)

    def loss(self, batch: RolloutBatch, out: PolicyOutput) -> Loss:
        assert out.values is not None
        return self._loss(batch, out.values)


def train(
    policy: Policy, config: ScalarConfig, buffer: RolloutBuffer, loss: ScalarLoss, *, seed: int
) -> dict[str, float]:
    """Takes every optimiser step and returns the means of the loss's metrics over the last pass.

    Raises:
        RunError: more than 5 steps in a row had gradients that are not finite.
    """
    from alignzoo.learner import Learner
    from alignzoo.progress import Progress

    group_ids = buffer.column("group_ids").copy()
    num_steps = config.num_epochs * -(-len(buffer) // config.minibatch_size)
    training = _Training(_learner_config(config, num_steps), loss, buffer.own_columns)
    learner = Learner(policy, training, buffer, micro_batch_size=config.micro_batch_size, seed=seed)
    metrics = Metrics()
    step = skipped = 0
    with Progress(num_steps, description="fit") as progress:
        for epoch in range(config.num_epochs):
            metrics = Metrics()
            shuffle = stream(seed, "shuffling", epoch)
            for rows in splits.cut_groups(group_ids, config.minibatch_size, shuffle):
                result = learner.step(buffer.batch(rows, device=str(policy.device)), training.loss)
                step, skipped = step + 1, skipped + 1 if result.skipped else 0
                if skipped > MAX_SKIPPED:
                    raise RunError(
                        f"the gradient was not finite in {skipped} steps in a row; lower "
                        "learning_rate, or use dtype float32"
                    )
                metrics.merge(result.metrics)
                progress.update(step, result.metrics.result())
    return metrics.result()


def _learner_config(config: ScalarConfig, num_steps: int) -> AlgorithmConfig:
    return _TrainingConfig(
        learning_rate=config.learning_rate,
        head_learning_rate=config.head_learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        decay_steps=max(1, num_steps - config.warmup_steps),
    )


def fill_buffer(
    texts: Sequence[EncodedText],
    groups: Sequence[int] | None,
    columns: Mapping[str, Sequence[float]],
    targets: Sequence[Sequence[float]] | None,
) -> RolloutBuffer:
    """Returns the texts as rows of a buffer that carry loss where a number is read."""
    given: dict[str, Any] = dict(columns)
    schema = {name: Column("sequence") for name in columns}
    if targets is not None:
        schema["segment_targets"] = Column("token")
        given["segment_targets"] = [
            text.spread(row) for text, row in zip(texts, targets, strict=True)
        ]
    labels = range(len(texts)) if groups is None else groups
    buffer = RolloutBuffer(schema)
    buffer.append(
        [text.prompt_ids for text in texts],
        [text.response_ids for text in texts],
        response_masks=[text.mask for text in texts],
        policy_version=0,
        group_ids=labels,
        pair_labels=_block_labels(labels),
        **given,
    )
    return buffer


def _block_labels(groups: Sequence[int]) -> list[int]:
    """Returns labels that make each group of several rows a block that no micro-batch cuts."""
    sizes = Counter(groups)
    is_first = [row == 0 or groups[row - 1] != label for row, label in enumerate(groups)]
    return [
        int(first) if sizes[label] > 1 else -1
        for label, first in zip(groups, is_first, strict=True)
    ]
