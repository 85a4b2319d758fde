"""The loop: collect, learn, measure, save; and go on bitwise where a run was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignzoo import kernels
from alignzoo.algorithm import Algorithm, Metrics, check_state
from alignzoo.checkpoint import Checkpoint, read_latest_checkpoint, write_checkpoint
from alignzoo.collection import Collected, RolloutSource, Source
from alignzoo.config import build_config
from alignzoo.errors import ConfigError, RunError
from alignzoo.learner import Learner, restrict
from alignzoo.model_card import model_card
from alignzoo.offline import OfflineSource
from alignzoo.policy import Policy
from alignzoo.progress import Progress
from alignzoo.random_streams import (
    global_state,
    preserved_globals,
    seed_globals,
    set_global_state,
)
from alignzoo.report import write_report
from alignzoo.rollout import RolloutBuffer
from alignzoo.run_config import check_unchanged, describe_run
from alignzoo.run_counts import RunCounts
from alignzoo.run_folder import RunFolder
from alignzoo.run_options import TrainerOptions
from alignzoo.scoring import RewardSum
from alignzoo.steering import Steering, check_unsteered, write_steering
from alignzoo.training_data import Dataset, check_source, load_examples, load_prompts

if TYPE_CHECKING:
    import torch

Observer = Callable[[int, Mapping[str, Any]], bool | None]


class Trainer:
    """Trains a policy by an algorithm and keeps a folder that says everything about the run.

    An update is one rollout and all learning from it; an offline algorithm takes the
    next rows of its data instead. Each is one line of `metrics.jsonl`.
    """

    def __init__(
        self,
        *,
        policy: Policy | str,
        algorithm: Algorithm,
        out: str | Path,
        reward: Any = None,
        prompts: Any = None,
        data: Any = None,
        eval_prompts: Any = None,
        eval_data: Any = None,
        seed: int = 0,
        batch_size: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        eval_every: int = 10,
        eval_fraction: float = 0.1,
        max_eval_rows: int = 128,
        max_length: int | None = None,
        old_log_probs: Literal["auto", "sampler", "recompute"] = "auto",
        micro_batch_size: int | None = None,
        reward_scale: Literal["none", "batch", "running"] = "none",
        reward_clip: float | None = None,
        max_refills: int = 3,
        max_skipped: int = 5,
        checkpoint_every: int = 10,
        keep_checkpoints: int = 2,
        observers: Sequence[Observer] = (),
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes objects, never ids.

        Args:
            policy: a `Policy`, or what `Policy.from_pretrained` takes.
            algorithm: what `az.make` returns.
            out: folder of the run; must not hold another, unless it is resumed.
            reward: a reward, a function, or a list of them; summed.
            prompts: file, hub id, or list of prompts, for algorithms that sample.
            data: file, hub id, or list of demonstrations, preferences or ratings, for algorithms
                that do not.
            eval_prompts: held-out prompts; else `eval_fraction` of `prompts` is held out.
            eval_data: held-out rows of that kind; else `eval_fraction` of `data` is held out.
            observers: called as `observer(step, metrics)` after each update; True ends the run.
            record: what else config.yaml says, such as plugin owners.

        The other options are those of `alignzoo.run_options.TrainerOptions`.
        """
        options = {
            "seed": seed,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "eval_every": eval_every,
            "eval_fraction": eval_fraction,
            "max_eval_rows": max_eval_rows,
            "max_length": max_length,
            "old_log_probs": old_log_probs,
            "micro_batch_size": micro_batch_size,
            "reward_scale": reward_scale,
            "reward_clip": reward_clip,
            "max_refills": max_refills,
            "max_skipped": max_skipped,
            "checkpoint_every": checkpoint_every,
            "keep_checkpoints": keep_checkpoints,
        }
        self.options = build_config(TrainerOptions, options, "Trainer")
        self.policy = (
            policy if isinstance(policy, Policy) else Policy.from_pretrained(policy, seed=seed)
        )
        check_unsteered(self.policy)
        self.algorithm = algorithm
        self.observers = list(observers)
        self.folder = RunFolder(out)
        source = algorithm.needs.source
        given = {
            "prompts": prompts,
            "reward": reward,
            "eval_prompts": eval_prompts,
            "data": data,
            "eval_data": eval_data,
        }
        check_source(type(algorithm).__name__, source, batch_size, given)
        self.reward: RewardSum | None = None
        self.dataset: Dataset[Any]
        if source == "rollouts":
            self.reward = RewardSum.of(reward)
            self.dataset = load_prompts(self.policy, prompts, eval_prompts, self.options)
        else:
            self.dataset = load_examples(self.policy, source, data, eval_data, self.options)
        self.config = describe_run(self, record or {})
        with preserved_globals():
            seed_globals(seed)
            self._prepare_learning()

    def _prepare_learning(self) -> None:
        needs, options = self.algorithm.needs, self.options
        samples = needs.source == "rollouts"
        config = self.algorithm.config
        if config.kl_in == "loss" and config.kl_coef and not needs.ref_log_probs:
            raise ConfigError(
                f"{self._name} has no KL penalty in its loss; expected kl_in to be reward or none"
            )
        steers = type(self.algorithm).shape_logits is not Algorithm.shape_logits
        self.policy.equip(
            value_head=needs.values,
            reference=needs.ref_log_probs or (samples and config.kl_in != "none"),
            shape_logits=self.algorithm.shape_logits if steers else None,
        )
        self.buffer = self._make_buffer()
        self.learner = Learner(
            self.policy,
            self.algorithm,
            self.buffer,
            temperature=options.temperature if samples else 1.0,
            micro_batch_size=options.micro_batch_size,
            seed=options.seed,
        )
        self.source: Source = self._make_source()
        check_state(self.algorithm)
        self.step = 0
        self.counts = RunCounts()
        self.is_stopped = False

    def _make_buffer(self) -> RolloutBuffer:
        needs = self.algorithm.needs
        return RolloutBuffer(needs.columns, keep_versions=1 + needs.replay)

    def _make_source(self) -> Source:
        if self.reward is not None:
            return RolloutSource(
                self.learner, self.algorithm, self.reward, self.dataset, self.options
            )
        return OfflineSource(self.learner, self.dataset, self.options)

    def run(
        self, steps: int, *, resume: bool = False, allow_changed: bool = False
    ) -> list[dict[str, Any]]:
        """Trains until update `steps` and returns the lines of metrics.jsonl.

        Args:
            resume: go on from the newest whole checkpoint of the folder.
            allow_changed: go on although dataset, options, policy or plugins differ.
        Raises:
            ConfigError: the folder holds a run already, or what is resumed differs.
            RunError: more than `max_skipped` updates in a row could not be used.
        """
        self.is_stopped = False
        seed_globals(self.options.seed)
        if not resume:
            self.folder.create({**self.config, "steps": steps})
        try:
            if resume:
                self._resume(steps, allow_changed)
            else:
                self._write_first_samples()
            self._loop(steps)
        except BaseException:
            if not resume and self.step == 0:
                self.folder.remove()  # nothing was learned; the same command may be given again
            raise
        self._finish()
        return self.folder.read("metrics.jsonl")

    @property
    def _name(self) -> str:
        algorithm = self.config["algorithm"]
        return str(algorithm.get("id", type(self.algorithm).__name__))

    def _loop(self, steps: int) -> None:
        if self.step >= steps:
            return
        with Progress(steps, self.step, self._name) as progress:
            notes = list(self.dataset.notes)
            while self.step < steps and not self.is_stopped:
                progress.update(self.step + 1, self._update(steps))
                while notes:  # not before something was done: bad input is one line, the error
                    progress.note(notes.pop(0))
            if self.is_stopped:
                progress.note(f"an observer ended the run after update {self.step}")

    def _update(self, steps: int) -> dict[str, Any]:
        """Makes one update, writes its line, and a checkpoint where one is due."""
        start = time.perf_counter()
        step = self.step + 1
        collected = self.source.collect(step)
        collected_at = time.perf_counter()
        metrics = collected.metrics
        if collected.batch is not None:
            metrics.merge(self._learn(step, collected))
        self.counts.add(collected)
        if collected.fault is not None:
            self._write_skipped(step, collected)
        self.step = step
        line = self._line(metrics)
        learned_at = time.perf_counter()
        if self._evaluates_at(step) or step == steps:
            line |= self._evaluate(step, collected)
        line["seconds"] = time.perf_counter() - start
        self.folder.append("metrics.jsonl", [line])
        self.folder.append(
            "timings.jsonl",
            [
                {
                    "step": step,
                    "collect": collected_at - start,
                    "learn": learned_at - collected_at,
                    "evaluate": time.perf_counter() - learned_at,
                }
            ],
        )
        known = {name: value for name, value in line.items() if value is not None}
        self.algorithm.after_update(step, known)
        for observer in self.observers:
            self.is_stopped = observer(step, known) is True or self.is_stopped
        skipped = self.folder.path / "skipped.jsonl"
        self.counts.check_progress(self.options.max_skipped, skipped)
        if step % self.options.checkpoint_every == 0 or step == steps or self.is_stopped:
            self._write_checkpoint()
        return line

    def _evaluates_at(self, step: int) -> bool:
        return step == 1 or step % self.options.eval_every == 0

    def _learn(self, step: int, collected: Collected) -> Metrics:
        assert collected.batch is not None
        self.learner.begin_update(step)
        batch = restrict(collected.batch, self.algorithm, may_write=True)
        metrics = self.algorithm.update(batch, self.learner)
        if batch.device.type == "cuda":
            _check_faults(batch.device)
        if self.learner.skipped_rows:
            collected.fault = "a loss or gradient was not finite"
            collected.culprits = self.source.describe(self.learner.skipped_rows)
        return metrics

    def _write_skipped(self, step: int, collected: Collected) -> None:
        rows = collected.culprits or [{}]
        self.folder.append(
            "skipped.jsonl", [{**row, "step": step, "reason": collected.fault} for row in rows]
        )

    def _line(self, metrics: Metrics) -> dict[str, Any]:
        """Returns one line of metrics.jsonl; what is not finite is null."""
        values = _finite(metrics.result())
        if self.algorithm.needs.source == "rollouts":
            values["unscorable"] = self.counts.num_unscorable
            if self.algorithm.kl_coef:
                values["kl_coef"] = self.algorithm.kl_coef
        return {
            "step": self.step,
            **values,
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "samples": self.counts.num_samples,
            "tokens": self.counts.num_tokens,
            "skipped_updates": self.counts.num_skipped,
        }

    def _evaluate(self, step: int, collected: Collected | None) -> dict[str, Any]:
        """Returns the held-out metrics and writes samples."""
        metrics, samples = self.source.evaluate(step)
        if not samples and collected is not None:
            samples = collected.samples
        self.folder.append("samples.jsonl", samples)
        return _finite(metrics)

    def _write_first_samples(self) -> None:
        self.baseline = self._evaluate(0, None)
        if self.baseline:
            self.folder.write_config({**self.folder.read_config(), "baseline": self.baseline})

    def _write_checkpoint(self) -> None:
        self.folder.sync()
        write_checkpoint(
            self.folder.checkpoints,
            self.step,
            {
                "source": self.source.state_dict(),
                "algorithm": self.algorithm.state_dict(),
                "optimizer_steps": self.learner.num_steps,
                "counts": self.counts.state_dict(),
                "baseline": self.baseline,
                "random": global_state(),
            },
            self.learner.state_tensors(),
            write_more=self._write_buffer,
            keep=self.options.keep_checkpoints,
        )

    def _write_buffer(self, folder: Path) -> None:
        if self.algorithm.needs.replay:
            self.buffer.save(folder / "buffer")

    def _resume(self, steps: int, allow_changed: bool) -> None:
        saved = self.folder.read_config()
        if not allow_changed:
            check_unchanged(saved, self.config)
        checkpoint = read_latest_checkpoint(self.folder.checkpoints)
        if checkpoint is None and self.step:
            raise ConfigError(
                f"this trainer has made {self.step} updates and the folder has no checkpoint to go "
                "back to; make a new Trainer and resume with that"
            )
        if checkpoint is not None and checkpoint.step > steps:
            raise ConfigError(
                f"steps is {steps}, but the run has made {checkpoint.step}; steps may only grow"
            )
        # First, so that a kill in between leaves the number of steps that the lines are cut for.
        self.folder.write_config({**saved, **self.config, "steps": steps})
        if checkpoint is None:
            self.folder.cut_back(-1)
            self._write_first_samples()
        else:
            self._restore(checkpoint)
            is_regular = steps == checkpoint.step or self._evaluates_at(checkpoint.step)
            self.folder.cut_back(checkpoint.step, keep_evaluation=is_regular)

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.learner.load_state(checkpoint.tensors, state["optimizer_steps"])
        has_replay = bool(self.algorithm.needs.replay)
        self.buffer = (
            RolloutBuffer.load(checkpoint.folder / "buffer") if has_replay else self._make_buffer()
        )
        self.learner.set_buffer(self.buffer)
        self.source.load_state_dict(state["source"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.counts.load_state_dict(state["counts"])
        self.baseline = state["baseline"]
        set_global_state(state["random"])
        self.step = checkpoint.step

    def _finish(self) -> None:
        """Writes final/ and report.html."""
        self.policy.save(self.folder.final)
        if self.policy.shape_logits is not None:
            steering = Steering(self.algorithm, self.learner.extra)
            write_steering(self.folder.final, self.policy, steering)
        card = model_card(
            self.folder.read_config(),
            self.folder.read("metrics.jsonl"),
            steered=self.policy.shape_logits is not None,
        )
        (self.folder.final / "README.md").write_text(card, encoding="utf-8")
        write_report(self.folder.path)


def _check_faults(device: torch.device) -> None:
    """Checks once an update that kernels on a device met nothing they could not use.

    Raises:
        RunError: they did; on the CPU the call itself would have raised.
    """
    try:
        kernels.check_faults(device.index)
    except ValueError as error:
        raise RunError(str(error)) from error


def _finite(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Returns the metrics with None, which JSON can hold, for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
