"""The conformance kit for benchmark tasks."""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignzoo.errors import AlignzooError, ConfigError
from alignzoo.plugin_registry import Entry, registry
from alignzoo.testing.checks import Check, NotApplicable, fail, make_checks, require
from alignzoo.testing.records import RECORD_CHECKS, PluginSubject, plugin_cases

NUM_RESPONSES = 32  # of the initial policy, that rewards are asked about
TOLERANCE = 1e-4  # of a score, as a share of the range, and of a KL in nats
SOURCES = ("rollouts", "demonstrations", "preferences", "ratings")


class TaskSubject(PluginSubject):
    """One task, its initial policy, and what that policy says."""

    @cached_property
    def task(self) -> Any:
        """The task, made once; what it returns is asked for again where that matters."""
        return self.make()

    @cached_property
    def settings(self) -> Any:
        """The trainer's options on the task."""
        from alignzoo.benchmark.cells import trainer_settings

        return trainer_settings(self.task, self.entry.id)

    @cached_property
    def policy(self) -> Any:
        """The initial policy; nothing trains it."""
        return self.task.policy()

    def measure(self, policy: Any) -> Any:
        """Returns what a benchmark would measure."""
        from alignzoo.benchmark.measuring import Judge

        return Judge(self.task, self.policy, self.settings, seed=0).measure(policy)

    def prompts(self, name: str) -> list[Any]:
        """Returns the rows of `prompts` or `eval_prompts`."""
        from alignzoo.data import read_prompts

        given = list(getattr(self.task, name)())
        return list(read_prompts(given, name=name)) if given else []

    @cached_property
    def responses(self) -> tuple[list[Any], list[str]]:
        """Rows and the initial policy's responses to them; held-out ones where there are any."""
        from alignzoo.data import encode_prompts

        rows = (self.prompts("eval_prompts") or self.prompts("prompts"))[:NUM_RESPONSES]
        rows = (rows * NUM_RESPONSES)[:NUM_RESPONSES]
        encoded = encode_prompts(self.policy.tokenizer, rows)
        generation = self.policy.generate(
            [prompt.token_ids for prompt in encoded], max_new_tokens=self.settings.max_new_tokens
        )
        return rows, self.policy.decode(generation.token_ids)

    def scores(self, reward: Any) -> Any:
        """Returns the scores that a reward gives to `responses`, [n]; NaN where it has none."""
        from alignzoo.data import gather_columns
        from alignzoo.scoring import RewardSum

        rows, texts = self.responses
        prompts = [row.prompt for row in rows]
        return RewardSum.of(reward).score(prompts, texts, gather_columns(rows)).total

    def algorithm(self, source: str) -> str | None:
        """Returns the id of an installed algorithm that learns from `source`, ours first."""
        from alignzoo.benchmark.cells import make_algorithm

        for entry in sorted(registry().algorithms, key=lambda e: not e.plugin.first_party):
            try:
                made = make_algorithm(registry(), self.task, entry.id, {})
            except AlignzooError:  # required options, or a broken plugin: another will do
                continue
            if made.needs.source == source and not made.needs.replay:
                return entry.id
        return None


def make_subject(entry: Entry, options: Mapping[str, Any] | None = None) -> TaskSubject:
    """Returns what the checks of a task look at."""
    return TaskSubject(entry, options)


def the_metric_and_range_are_stated(subject: TaskSubject) -> None:
    """It says what its number is, between which bounds it lies, and the best where known."""
    task = subject.task
    require(
        isinstance(task.metric, str) and task.metric.strip(),
        f"its metric is {task.metric!r}; say in a few words what the final number is.",
    )
    low, high = task.range
    require(
        math.isfinite(low) and math.isfinite(high) and low < high,
        f"its range is {task.range!r}; return the least and the largest number a policy can get.",
    )
    require(
        task.optimum is None or low <= task.optimum <= high,
        f"its optimum {task.optimum!r} is outside its range {low} to {high}; correct one of them.",
    )


def the_settings_are_the_trainers(subject: TaskSubject) -> None:
    """Its settings are options of the trainer, and its budget has room for an update."""
    require(
        subject.task.samples >= subject.settings.batch_size,
        f"its budget is {subject.task.samples} samples and its batch_size "
        f"{subject.settings.batch_size}; a run needs one update at least.",
    )


def options_suit_every_algorithm(subject: TaskSubject) -> None:
    """The options it gives an algorithm are options of that algorithm, within their bounds."""
    from alignzoo.config import build_config

    for entry in registry().algorithms:
        try:
            config_class = registry().load(entry).Config
        except AlignzooError:  # broken, which is no fault of the task
            continue
        options = dict(subject.task.options(entry.id, config_class))
        required = {n for n, field in config_class.model_fields.items() if field.is_required()}
        if not required <= options.keys():
            continue
        try:
            build_config(config_class, options, entry.id)
        except ConfigError as error:
            fail(f"of its options for {entry.id}: {error}; give only those in model_fields.")


def the_policy_is_the_same(subject: TaskSubject) -> None:
    """Every call returns a policy of its own, with the same parameters."""
    first, second, third = subject.policy, subject.task.policy(), subject.make().policy()
    require(
        first is not second and first.model is not second.model,
        "two calls of policy() returned the same model, so one run would train on where another "
        "ended; make a new one at every call.",
    )
    require(
        first.fingerprint() == second.fingerprint() == third.fingerprint(),
        "two calls of policy() returned other parameters; draw them from a fixed seed.",
    )


def prompts_are_disjoint(subject: TaskSubject) -> None:
    """There are prompts, and none of them is held out too."""
    import torch

    from alignzoo.data import prompt_key

    prompts, held_out = subject.prompts("prompts"), subject.prompts("eval_prompts")
    require(prompts, "prompts() is empty; return at least one.")
    if not held_out:
        with torch.no_grad():
            exact = subject.task.evaluate(subject.policy)
        require(
            exact is not None,
            "eval_prompts() is empty and evaluate() returns None, so nothing can be measured; "
            "write one of the two.",
        )
    seen = {prompt_key(row) for row in prompts}
    both = [row.prompt for row in held_out if prompt_key(row) in seen]
    require(
        not both,
        f"{len(both)} of the held-out prompts are trained on, such as {str(both[:1])[:120]}; "
        "leave them out of one of the two.",
    )


def the_same_call_returns_the_same(subject: TaskSubject) -> None:
    """Prompts, rows and scores follow from the options and the seed alone."""
    other = subject.make()
    for name in ("prompts", "eval_prompts"):
        require(
            list(getattr(subject.task, name)()) == list(getattr(other, name)()),
            f"two calls of {name}() differ; draw from a generator with a fixed seed.",
        )
    for seed in (0, 1):
        require(
            _same(subject.scores(subject.task.reward(seed)), subject.scores(other.reward(seed))),
            f"two rewards of seed {seed} score the same responses differently; draw noise from the "
            "seed and the row, never from a generator that goes on.",
        )


def _same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second, equal_nan=True))


def the_reward_scores_in_range(subject: TaskSubject) -> None:
    """The true reward's scores of the initial policy's responses lie within the range."""
    low, high = subject.task.range
    slack = TOLERANCE * (high - low)
    scores = subject.scores(subject.task.true_reward())
    known = scores[~np.isnan(scores)]
    require(len(known), "true_reward() could score none of the initial policy's responses.")
    outside = [float(s) for s in known if not low - slack <= s <= high + slack]
    require(
        not outside,
        f"true_reward() gave {outside[:3]}, outside the range {low} to {high}; correct `range`, or "
        "the reward.",
    )


def rows_are_what_sources_says(subject: TaskSubject) -> None:
    """`rows` returns each kind that `sources` names, the same for a seed, and refuses others."""
    from alignzoo.training_data import KINDS

    task = subject.task
    unknown = sorted(set(task.sources) - set(SOURCES))
    require(not unknown, f"sources names {unknown}; known are {', '.join(SOURCES)}.")
    for source in SOURCES[1:]:
        if source in task.sources:
            rows = list(task.rows(source, 0))
            KINDS[source].read(rows, name=f"rows('{source}', 0)")
            require(
                rows == list(subject.make().rows(source, 0)),
                f"two calls of rows('{source}', 0) differ; draw from a generator with that seed.",
            )
            continue
        try:
            task.rows(source, 0)
        except ConfigError:
            continue
        fail(f"rows('{source}', 0) returned rows, and sources does not name '{source}'; add it.")


def the_evaluation_is_repeatable(subject: TaskSubject) -> None:
    """The initial policy gets the same number every time, within the range, and KL 0."""
    low, high = subject.task.range
    before = subject.policy.fingerprint()
    first, second = (subject.measure(subject.policy) for _ in range(2))
    other = subject.measure(subject.task.policy())
    require(
        first == second == other,
        f"the initial policy was measured as {first}, {second} and {other}; measure exactly, or "
        "on fixed prompts with fixed random numbers.",
    )
    slack = TOLERANCE * (high - low)
    require(
        low - slack <= first.score <= high + slack,
        f"the initial policy gets {first.score}, outside the range {low} to {high}.",
    )
    require(
        first.kl is None or abs(first.kl) <= TOLERANCE,
        f"the KL of the initial policy to itself is {first.kl} nats; it must be 0.",
    )
    require(
        subject.policy.fingerprint() == before,
        "measuring changed the policy's parameters; measure a copy, without autograd.",
    )


def a_run_of_two_updates_works(subject: TaskSubject) -> None:
    """A run of two updates works from each of its sources, twice with the same result."""
    from alignzoo.benchmark import Budget, Cell, run_cell

    ran, budget = 0, Budget("samples", 2 * subject.settings.batch_size)
    for source in subject.task.sources:
        id = subject.algorithm(source)
        if id is None:
            continue
        cell = Cell(_name(subject), id, 0, budget, 1, {})
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            rows = [run_cell(registry(), cell, Path(folder) / name) for name in ("a", "b")]
        for row in rows:
            require(row["status"] == "ok", f"{id} failed on it: {row['error']}")
            row.pop("seconds"), row.pop("peak_memory")
        require(
            rows[0] == rows[1],
            f"two runs of {id} with one seed differ: scores {rows[0]['score']} and "
            f"{rows[1]['score']}; make policy(), reward(seed) and rows(source, seed) repeatable.",
        )
        ran += 1
    if not ran:
        raise NotApplicable("no installed algorithm learns from what it has")


def _name(subject: TaskSubject) -> str:
    """Returns how a benchmark asks for it, options included."""
    entry = subject.entry
    owner = entry.plugin.distribution or entry.plugin.name
    name = f"{owner}:{entry.id}" if len(registry().matches("task", entry.id)) > 1 else entry.id
    return f"{name}:{json.dumps(subject.options)}" if subject.options else name


CHECKS: Sequence[Check[TaskSubject]] = make_checks(
    [
        *RECORD_CHECKS,
        the_metric_and_range_are_stated,
        the_settings_are_the_trainers,
        options_suit_every_algorithm,
        the_policy_is_the_same,
        prompts_are_disjoint,
        the_same_call_returns_the_same,
        the_reward_scores_in_range,
        rows_are_what_sources_says,
        the_evaluation_is_repeatable,
        a_run_of_two_updates_works,
    ]
)


def task_checks(
    id: str,
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Any]:
    """Returns a pytest case for each check of the task `id`, or `distribution:id`.

        @pytest.mark.parametrize("check", task_checks("chain"))
        def test_conformance(check):
            check()

    Args:
        options: of the task.
        expected_failures: names of checks that are known to fail, each with the reason.
    Raises:
        ConfigError: `expected_failures` names no check.
    """
    return plugin_cases(
        "task", id, CHECKS, make_subject, options=options, expected_failures=expected_failures
    )
