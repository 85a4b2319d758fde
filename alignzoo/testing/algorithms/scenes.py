"""A scene: an algorithm, a policy small enough to be quick, the real learner, and made-up rows."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignzoo import kernels
from alignzoo.algorithm import Algorithm
from alignzoo.collection import prepare_batch
from alignzoo.learner import restrict
from alignzoo.policy import Policy
from alignzoo.policy.tiny import make_model
from alignzoo.random_streams import global_state, seed_globals, set_global_state
from alignzoo.rollout import RolloutBatch, RolloutBuffer, last_action_positions
from alignzoo.testing.algorithms.calls import Probe, WatchedLearner, models_that_run
from alignzoo.testing.algorithms.rows import Layout, Rows, make_rows

SPREAD = 0.3  # of the weights: next-token distributions are far from flat
DRIFT = 0.015  # of the weights, between a rollout and what is learned from it: ratios far from 1


@functools.cache
def _first_model() -> Any:
    """Returns a model of 13 thousand parameters and its tokenizer, made once and copied."""
    model, tokenizer = make_model(0, width=32, num_layers=1, context_length=64)
    _add_noise(model, SPREAD, seed=0)
    return model, tokenizer


@torch.no_grad()
def _add_noise(model: torch.nn.Module, spread: float, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * spread
        parameter.add_(noise.to(parameter.dtype))


def new_policy(dtype: torch.dtype = torch.float32) -> Policy:
    """Returns the kit's policy, the same on every call."""
    model, tokenizer = _first_model()
    return Policy(copy.deepcopy(model).to(dtype), tokenizer)


class Scene:
    """One algorithm with everything a run gives it; two scenes alike do the same, to the bit.

    The policy has moved since it was its reference, and the critic says something, so that no
    quantity an algorithm may mistake for another is equal to it.

    Args:
        algorithm: learns here; no other scene may have it.
        layout: of the rows; see `make_rows`.
        scores: of the rows; default all different.
        dtype: of the model's weights.
        micro_batch_size: rows per forward pass; default all that fit.
        is_fresh: policy and reference are one, and the critic says 0.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        layout: Layout = "mixed",
        scores: Any = None,
        dtype: torch.dtype = torch.float32,
        micro_batch_size: int | None = None,
        is_fresh: bool = False,
    ) -> None:
        self.algorithm, self.layout, self.scores = algorithm, layout, scores
        self.number = 0
        self._random = _seeded_state()
        with self.draws():
            self.policy = new_policy(dtype)
            self._equip(is_fresh)
            self.buffer = RolloutBuffer(
                algorithm.needs.columns, keep_versions=1 + algorithm.needs.replay
            )
            self.learner = WatchedLearner(
                self.policy, algorithm, self.buffer, micro_batch_size=micro_batch_size
            )

    def _equip(self, is_fresh: bool) -> None:
        needs, config = self.algorithm.needs, self.algorithm.config
        steers = type(self.algorithm).shape_logits is not Algorithm.shape_logits
        samples = needs.source == "rollouts"
        self.policy.equip(
            value_head=needs.values,
            reference=needs.ref_log_probs or (samples and config.kl_in != "none"),
            shape_logits=self.algorithm.shape_logits if steers else None,
        )
        if is_fresh:
            return
        _add_noise(self.policy.model, DRIFT, seed=1)
        if self.policy.value_head is not None:
            _add_noise(self.policy.value_head, SPREAD, seed=2)

    @contextmanager
    def draws(self) -> Iterator[None]:
        """Global random numbers drawn inside are the scene's own."""
        outside = global_state()
        set_global_state(self._random)
        try:
            yield
        finally:
            self._random = global_state()
            set_global_state(outside)

    # -- rows -----------------------------------------------------------------------------------

    def fill(self) -> RolloutBatch:
        """Returns the next rollout with every column it needs, and nothing prepared."""
        self.number += 1
        algorithm, buffer = self.algorithm, self.buffer
        rows = make_rows(algorithm.needs, self.layout, self.number, scores=self.scores)
        numbers = np.asarray(self._append(rows), dtype=np.int64)
        with self.draws(), torch.no_grad():
            batch = buffer.batch(numbers)
            if self.policy.has_reference:
                buffer.set("ref_log_probs", self.learner.reference_log_probs(batch), numbers)
            if algorithm.needs.source == "rollouts" or algorithm.needs.values:
                self._fill_own(buffer.batch(numbers), numbers)
        return buffer.batch(numbers)

    def _append(self, rows: Rows) -> range:
        source = self.algorithm.needs.source
        stops = {"terminated": rows.terminated, "truncated": ~rows.terminated}
        return self.buffer.append(
            rows.prompts,
            rows.responses,
            policy_version=self.number,
            response_masks=rows.masks,
            group_ids=rows.group_ids,
            pair_labels=rows.pair_labels,
            scores=rows.scores if source in ("rollouts", "ratings") else None,
            **(stops if source == "rollouts" else {}),
        )

    def _fill_own(self, batch: RolloutBatch, numbers: Any) -> None:
        """Fills what comes from the policy itself, and the rewards."""
        buffer, needs = self.buffer, self.algorithm.needs
        out = self.learner.evaluate(batch)
        if needs.values:
            buffer.set("values", out.values, numbers)
        if needs.source != "rollouts":
            return
        for name in ("sampler_log_probs", "old_log_probs"):
            buffer.set(name, out.log_probs.clamp(max=0.0), numbers)
        if needs.bootstrap_values:
            buffer.set("bootstrap_values", self.learner.bootstrap_values(batch), numbers)
        buffer.set("rewards", self._rewards(batch, out.log_probs), numbers)

    def _rewards(self, batch: RolloutBatch, log_probs: Tensor) -> Tensor:
        """Returns [B, T]: the score at the last action, less a KL penalty that acts there."""
        rewards = torch.zeros(batch.response_mask.shape)
        if self.policy.has_reference and self.algorithm.config.kl_in == "reward":
            penalty = kernels.kl_penalty(log_probs, batch.ref_log_probs, estimator="k1")
            rewards -= self.algorithm.kl_coef * penalty
        rewards[torch.arange(len(batch)), last_action_positions(batch)] += batch.scores
        return rewards * batch.response_mask

    def collect(self) -> RolloutBatch:
        """Returns the next rollout, prepared, as an update is given it."""
        numbers = np.asarray(self.fill().row_numbers, dtype=np.int64)
        with self.draws():
            return prepare_batch(self.learner, self.buffer, numbers)

    def drift(self) -> None:
        """Moves the policy away from the one that wrote the last rollout."""
        _add_noise(self.policy.model, DRIFT, seed=100 + self.number)

    # -- learning -------------------------------------------------------------------------------

    def update(self, batch: RolloutBatch, probe: Probe | None = None) -> dict[str, float]:
        """Lets the algorithm learn from a prepared rollout and returns its metrics.

        Args:
            probe: is shown each loss, and may return one to use in its place.
        """
        self.learner.probe = probe
        with self.draws():
            self.learner.begin_update(self.number)
            view = restrict(batch, self.algorithm, may_write=True)
            metrics = self.algorithm.update(view, self.learner).result()
            self.algorithm.after_update(self.number, {"kl": 0.1, **metrics})
        self.learner.probe = None
        return metrics

    def play(
        self, probe: Probe | None = None, *, updates: int = 2, drift: bool = True
    ) -> list[dict[str, float]]:
        """Collects and learns `updates` times, each time from a policy that has moved on."""
        metrics = []
        for _ in range(updates):
            batch = self.collect()
            if drift:
                self.drift()
            metrics.append(self.update(batch, probe))
        return metrics


class Prepared(NamedTuple):
    """What `prepare` wrote into a rollout, by name, and the kinds of model that it asked."""

    rollout: RolloutBatch
    columns: dict[str, Tensor]
    models: list[str]


def prepared(
    scene: Scene, change: Callable[[RolloutBatch], RolloutBatch] = lambda batch: batch
) -> Prepared:
    """Returns what the algorithm of a fresh scene prepares, of its rollout in another form."""
    rollout = scene.fill()
    view = restrict(change(rollout), scene.algorithm, may_write=True)
    with scene.draws(), models_that_run() as models:
        scene.algorithm.prepare(view)
    return Prepared(rollout, {name: getattr(view, name) for name in view.written}, models)


def _seeded_state() -> dict[str, Any]:
    outside = global_state()
    seed_globals(0)
    state = global_state()
    set_global_state(outside)
    return state
