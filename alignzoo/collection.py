"""Where an update's batch comes from: responses sampled and scored.

`alignzoo.offline` reads them from a file. Both fill the same buffer and hand out the same kind of
batch; that is why one trainer serves algorithms that sample and algorithms that do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alignzoo import kernels
from alignzoo.algorithm import Algorithm, Metrics
from alignzoo.data import EncodedPrompt
from alignzoo.errors import ConfigError
from alignzoo.evaluation import (
    ScoredResponses,
    append_responses,
    evaluate_rollouts,
    sample_and_score,
    score_metrics,
)
from alignzoo.learner import restrict
from alignzoo.random_streams import derive_seed
from alignzoo.reward_scale import RewardScale
from alignzoo.rollout import last_action_positions
from alignzoo.training_data import Cursor, Dataset

if TYPE_CHECKING:
    from alignzoo.learner import Learner
    from alignzoo.rollout import RolloutBatch, RolloutBuffer
    from alignzoo.run_options import TrainerOptions
    from alignzoo.scoring import RewardSum


NUM_SAMPLES = 8  # lines of samples.jsonl a time


@dataclass
class Collected:
    """What one update learns from.

    Args:
        batch: None where nothing can be learned; `fault` then says why.
        metrics: of the rollout, before any learning.
        samples: lines for samples.jsonl.
        num_samples: responses sampled or read, dropped ones included.
        num_tokens: their tokens.
        num_unscorable: rows that left because their score was NaN or None.
        culprits: rows to write beside the fault.
    """

    batch: RolloutBatch | None
    metrics: Metrics
    samples: list[dict[str, Any]] = field(default_factory=list)
    num_samples: int = 0
    num_tokens: int = 0
    num_unscorable: int = 0
    fault: str | None = None
    culprits: list[dict[str, Any]] = field(default_factory=list)


class Source(Protocol):
    """Fills the buffer for one update."""

    def collect(self, step: int) -> Collected:
        """Returns the batch of update `step`, from 1."""

    def evaluate(self, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Returns the held-out metrics, empty where nothing is held out, and lines to read."""

    def describe(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns readable lines for buffer rows of the last batch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns where the source stands."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state_dict` stood."""


class RolloutSource:
    """Samples responses to prompts, scores them, and fills the columns an algorithm needs."""

    def __init__(
        self,
        learner: Learner,
        algorithm: Algorithm,
        reward: RewardSum,
        prompts: Dataset[EncodedPrompt],
        options: TrainerOptions,
    ) -> None:
        self.learner = learner
        self.policy = learner.policy
        self.algorithm = algorithm
        self.needs = algorithm.needs
        self.reward = reward
        self.prompts = prompts.train
        self.held_out = prompts.held_out
        self.options = options
        self.cursor = Cursor(len(self.prompts), options.seed)
        self.scale = RewardScale(options.reward_scale, options.reward_clip)
        self.num_sampled = 0
        self.lines: dict[int, dict[str, Any]] = {}
        check_batch_size(options.batch_size, self.needs.group_size)

    def collect(self, step: int) -> Collected:
        """Samples until the batch is full or the refills are used up, then fills its columns."""
        collected = Collected(None, Metrics())
        self.lines = {}
        kept: list[int] = []
        may_drop = type(self.algorithm).keep is not Algorithm.keep
        for _ in range(1 + (self.options.max_refills if may_drop else 0)):
            missing = self.options.batch_size - len(kept)
            if missing < self.needs.group_size:
                break
            rows = self._sample(missing // self.needs.group_size, step, collected)
            if collected.fault is not None:
                self._drop_all_but([])
                return collected
            kept += self._keep(rows).tolist()
        self._drop_all_but(kept)
        if may_drop:
            collected.metrics.merge(Metrics({"kept_fraction": (len(kept), len(self.lines))}))
        if not kept:  # an algorithm may find nothing worth learning; a reward must score something
            if collected.num_unscorable == collected.num_samples:
                collected.fault = "no response could be scored"
                collected.culprits = list(self.lines.values())
            return collected
        collected.samples = [self.lines[row] for row in kept[:NUM_SAMPLES]]
        collected.batch = self._fill(np.array(kept, dtype=np.int64), collected.metrics)
        return collected

    def _drop_all_but(self, kept: list[int]) -> None:
        """Lets rows that are not learned from leave the buffer, which has no rewards for them."""
        self.learner.buffer.drop(sorted(self.lines.keys() - set(kept)))

    def _sample(self, num_groups: int, step: int, collected: Collected) -> NDArray[np.int64]:
        """Samples and scores groups, stores them, and returns the rows that have a score."""
        options, group = self.options, self.needs.group_size
        scored = sample_and_score(
            self.policy,
            self.reward,
            [self.prompts[i] for i in self.cursor.take(num_groups)],
            num_samples=group,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=derive_seed(options.seed, "sampling"),
            row_ids=self.num_sampled + np.arange(num_groups * group),
            values=self.needs.values and not self._recomputes(),
        )
        rows = append_responses(self.learner.buffer, scored, group_size=group, version=step)
        self.num_sampled += len(rows)
        self.lines |= {
            int(row): scored.sample(i, step=step, split="train") for i, row in enumerate(rows)
        }
        return self._check_scores(scored, rows, collected)

    def _check_scores(
        self, scored: ScoredResponses, rows: NDArray[np.int64], collected: Collected
    ) -> NDArray[np.int64]:
        totals = scored.scores.total
        self.scale.observe(totals)
        unscorable = np.isnan(totals)
        infinite = np.abs(totals) > np.finfo(np.float32).max  # rewards are float32
        lengths = [len(tokens) for tokens in scored.generation.token_ids]
        collected.num_samples += len(lengths)
        collected.num_tokens += sum(lengths)
        collected.num_unscorable += int(unscorable.sum())
        for name, value in score_metrics(scored.scores).items():
            count = int(np.isfinite(totals).sum())
            collected.metrics.merge(Metrics({name: (value * count, count)}))
        truncated = sum(reason == "length" for reason in scored.generation.stop_reasons)
        collected.metrics.merge(
            Metrics(
                {
                    "response_length_mean": (sum(lengths), len(lengths)),
                    "truncated_fraction": (truncated, len(lengths)),
                }
            )
        )
        if infinite.any():
            collected.fault = f"{int(infinite.sum())} of {len(rows)} scores are infinite"
            collected.culprits = [
                {**self.lines[int(row)], "score": str(total)}
                for row, total in zip(rows[infinite], totals[infinite], strict=True)
            ]
        return rows[~unscorable]

    def _keep(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(rows) == 0:
            return rows
        batch = self.learner.buffer.batch(rows, device=self.policy.device)
        kept = self.algorithm.keep(restrict(batch, self.algorithm))
        if kept is None:
            return rows
        kept = torch.as_tensor(kept, dtype=torch.bool)
        if kept.shape != (len(rows),):
            raise ConfigError(
                f"{type(self.algorithm).__name__}.keep returns a mask of shape "
                f"{tuple(kept.shape)}; expected [B] = {(len(rows),)}"
            )
        chosen: NDArray[np.int64] = rows[kept.cpu().numpy()]
        return chosen

    @torch.no_grad()
    def _fill(self, rows: NDArray[np.int64], metrics: Metrics) -> RolloutBatch:
        """Fills log-probs, values and rewards, lets the algorithm prepare, and stores it all."""
        buffer, learner, needs = self.learner.buffer, self.learner, self.needs
        self._scale_scores(rows, metrics)
        batch = buffer.batch(rows, device=self.policy.device)
        old_log_probs = batch.sampler_log_probs
        if self._recomputes():
            out = learner.evaluate(batch)
            old_log_probs = out.log_probs
            if needs.values:  # else they came with the sample, from the same states
                buffer.set("values", out.values, rows)
        buffer.set("old_log_probs", old_log_probs, rows)
        if needs.bootstrap_values:
            buffer.set("bootstrap_values", learner.bootstrap_values(batch), rows)
        penalty = None
        if self.policy.has_reference:
            ref_log_probs = learner.reference_log_probs(batch)
            buffer.set("ref_log_probs", ref_log_probs, rows)
            mask = batch.response_mask
            penalty = kernels.kl_penalty(old_log_probs, ref_log_probs, estimator="k1")
            penalty = torch.where(mask, penalty, 0.0)
            kl = float(penalty.double().sum()) + 0.0  # never -0.0
            metrics.merge(Metrics({"kl": (kl, len(rows))}))
        buffer.set("rewards", self._rewards(batch, penalty), rows)
        return prepare_batch(learner, buffer, rows)

    def _scale_scores(self, rows: NDArray[np.int64], metrics: Metrics) -> None:
        """Puts what is learned from in the place of the raw scores; metrics have those already."""
        if not self.scale.acts:
            return
        raw = self.learner.buffer.batch(rows).scores.double().numpy()
        scaled, clipped = self.scale.apply(raw)
        self.learner.buffer.set("scores", scaled, rows)
        metrics.merge(Metrics({"reward_clip_frac": (clipped * len(rows), len(rows))}))

    def _recomputes(self) -> bool:
        choice, policy = self.options.old_log_probs, self.policy
        is_rounded = policy.dtype != torch.float32 or policy.autocast
        return choice == "recompute" or (choice == "auto" and is_rounded)

    def _rewards(self, batch: RolloutBatch, penalty: torch.Tensor | None) -> torch.Tensor:
        """Returns [B, T]: minus kl_coef times k1 per token, plus the score at the last action."""
        rewards = torch.zeros(batch.response_mask.shape, device=batch.response_mask.device)
        coef = self.algorithm.kl_coef
        if penalty is not None and self.algorithm.config.kl_in == "reward" and coef:
            rewards -= coef * penalty
        last = last_action_positions(batch)
        rewards[torch.arange(len(batch), device=rewards.device), last] += batch.scores
        return rewards

    def evaluate(self, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Returns the metrics of one response to each held-out prompt, and the first of them."""
        if not self.held_out:
            return {}, []
        metrics, scored = evaluate_rollouts(
            self.learner,
            self.reward,
            self.held_out,
            max_new_tokens=self.options.max_new_tokens,
            temperature=self.options.temperature,
            seed=self.options.seed,
        )
        rows = range(min(NUM_SAMPLES, len(scored.texts)))
        return metrics, [scored.sample(row, step=step, split="held-out") for row in rows]

    def describe(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns prompt, response and score of buffer rows of the last batch."""
        return [self.lines[row] for row in rows if row in self.lines]

    def state_dict(self) -> dict[str, Any]:
        """Returns how many prompts were taken and how many responses sampled."""
        return {
            "position": self.cursor.position,
            "num_sampled": self.num_sampled,
            "reward_scale": self.scale.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state_dict` stood."""
        self.cursor.position = state["position"]
        self.num_sampled = state["num_sampled"]
        self.scale.load_state_dict(state["reward_scale"])


def prepare_batch(learner: Learner, buffer: RolloutBuffer, rows: NDArray[np.int64]) -> RolloutBatch:
    """Returns filled rows as a batch, after the algorithm prepared it and the buffer took that."""
    batch = buffer.batch(rows, device=learner.policy.device)
    view = restrict(batch, learner.algorithm, may_write=True)
    learner.algorithm.prepare(view)
    buffer.write_back(view)
    return batch


def check_batch_size(batch_size: int, group_size: int) -> None:
    """Checks that whole groups fill a batch.

    Raises:
        ConfigError: they do not; the message names both.
    """
    if batch_size % group_size:
        raise ConfigError(
            f"batch_size is {batch_size} and group_size is {group_size}; batch_size counts "
            "responses and must be a multiple of the group size"
        )
