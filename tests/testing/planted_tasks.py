"""Small tasks for the kit: right ones, and ones with a single bug each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

import alignzoo as az
from alignzoo.testing import TokenMDP

MDP = TokenMDP(np.array([[1.0, 0.0, 0.0]]), vocab_size=3, horizon=1, end_token=2)
GOING_ON = np.random.default_rng(0)


class Exact(az.Task):
    """One token, known exactly."""

    metric = "probability of the token that pays"
    sources = ("rollouts", "preferences")
    range = (0.0, 1.0)
    optimum = 1.0
    samples = 640
    settings: ClassVar = {"batch_size": 16, "max_new_tokens": 1}

    def policy(self):
        return MDP.policy(np.zeros((1, 3)))

    def prompts(self):
        return ["0"]

    def reward(self, seed):
        return MDP.score

    def rows(self, source, seed):
        if source != "preferences":
            return super().rows(source, seed)
        return [{"prompt": "0", "chosen": "0", "rejected": "1"}] * 40

    def evaluate(self, policy):
        return float(policy.model.lm_head.weight[:, 0].softmax(0)[0])


class Sampled(Exact):
    """The same, measured by sampling."""

    def eval_prompts(self):
        return ["1"] * 20

    def evaluate(self, policy):
        return None


SHARED = MDP.policy(np.zeros((1, 3)))


class OtherPolicy(Exact):
    def policy(self):
        return MDP.policy(GOING_ON.normal(size=(1, 3)))


class OnePolicy(Exact):
    def policy(self):
        return SHARED


class TrainedOnHeldOut(Sampled):
    def eval_prompts(self):
        return ["1", "0"]


class NothingHeldOut(Exact):
    def evaluate(self, policy):
        return None


class NoPrompts(Exact):
    def prompts(self):
        return []


class ScoresOutside(Exact):
    def reward(self, seed):
        return lambda completions: [10 * score + 2 for score in MDP.score(completions)]


class RangeReversed(Exact):
    range = (1.0, 0.0)


class OptimumOutside(Exact):
    optimum = 2.0


class NoiseGoesOn(Exact):
    def reward(self, seed):
        return lambda completions: [s + GOING_ON.normal() for s in MDP.score(completions)]


class RowsDiffer(Exact):
    def rows(self, source, seed):
        rows = [dict(row) for row in super().rows(source, seed)]
        return [*rows, {"prompt": "0", "chosen": "0", "rejected": f"1 {GOING_ON.integers(10**9)}"}]


class SourceForgotten(Exact):
    sources = ("rollouts",)


class SourceWithoutRows(Exact):
    sources = ("rollouts", "ratings")


class UnknownOption(Exact):
    def options(self, algorithm_id, config_class):
        return {"learning_rat": 0.1}


class UnknownSetting(Exact):
    settings: ClassVar = {"batchsize": 16}


class SetsTheSeed(Exact):
    settings: ClassVar = {"batch_size": 16, "max_new_tokens": 1, "seed": 3}


class MeasuredByChance(Exact):
    def evaluate(self, policy):
        return float(GOING_ON.random())


class MeasuringTrains(Exact):
    def evaluate(self, policy):
        policy.model.lm_head.weight.data += 0.0 * GOING_ON.random() + 1e-3
        return 0.5


class FarFromItself(Exact):
    def kl(self, policy):
        return 0.7


class FailsInARun(Exact):
    def reward(self, seed):
        def score(prompts, completions):
            if len(completions) == 16:
                raise OSError("no judge")
            return MDP.score(completions)

        return score


PLANTED: dict[type, str] = {
    OtherPolicy: "the_policy_is_the_same",
    OnePolicy: "the_policy_is_the_same",
    TrainedOnHeldOut: "prompts_are_disjoint",
    NothingHeldOut: "prompts_are_disjoint",
    NoPrompts: "prompts_are_disjoint",
    ScoresOutside: "the_reward_scores_in_range",
    RangeReversed: "the_metric_and_range_are_stated",
    OptimumOutside: "the_metric_and_range_are_stated",
    NoiseGoesOn: "the_same_call_returns_the_same",
    RowsDiffer: "rows_are_what_sources_says",
    SourceForgotten: "rows_are_what_sources_says",
    SourceWithoutRows: "rows_are_what_sources_says",
    UnknownOption: "options_suit_every_algorithm",
    UnknownSetting: "the_settings_are_the_trainers",
    SetsTheSeed: "the_settings_are_the_trainers",
    MeasuredByChance: "the_evaluation_is_repeatable",
    MeasuringTrains: "the_evaluation_is_repeatable",
    FarFromItself: "the_evaluation_is_repeatable",
    FailsInARun: "a_run_of_two_updates_works",
}
RIGHT: tuple[type, ...] = (Exact, Sampled)


def spec(cls: type) -> az.TaskSpec:
    return az.TaskSpec(id=cls.__name__, target=f"{__name__}:{cls.__name__}", summary="a task")


@az.hookimpl
def alignzoo_tasks() -> list[Any]:
    make: Callable[[type], Any] = spec
    return [make(cls) for cls in (*RIGHT, *PLANTED)]
