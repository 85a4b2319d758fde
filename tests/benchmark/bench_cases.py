"""Tasks and algorithms that a benchmark's tests run, and a way to run one cell."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, run_cell
from alignzoo.testing import TokenMDP

UNTIMED = ("seconds", "peak_memory")
MDP = TokenMDP(np.array([[1.0, 0.0, 0.0]]), vocab_size=3, horizon=1, end_token=2)


class Coin(az.Task):
    """One token, known exactly; it has no rows."""

    metric = "probability of the token that pays"
    range = (0.0, 1.0)
    samples = 64
    settings: ClassVar = {"batch_size": 16, "max_new_tokens": 1}

    def policy(self):
        return MDP.policy(np.zeros((1, 3)))

    def prompts(self):
        return ["0"]

    def reward(self, seed):
        return MDP.score

    def options(self, algorithm_id, config_class):
        return {"learning_rate": 0.1}

    def evaluate(self, policy):
        return float(policy.model.lm_head.weight[:, 0].softmax(0)[0])


class Drawn(Coin):
    """The same, measured by one response to each of 200 held-out prompts."""

    def evaluate(self, policy):
        return None

    def eval_prompts(self):
        return ["1"] * 200


class MadeConfig(az.TaskConfig):
    """Options of a task that has something to make."""

    fails: bool = Field(False, description="whether it cannot")


class Made(Coin):
    """The coin, with something to make before any run."""

    Config = MadeConfig

    def prepare(self):
        print("not for standard output")
        if self.config.fails:
            raise RuntimeError("no room")


class Reinforce(az.Algorithm):
    """Plain REINFORCE, from another plugin."""

    def prepare(self, batch):
        batch.advantages = batch.scores[:, None] * batch.response_mask

    def loss(self, batch, out):
        value = -(batch.advantages * out.log_probs * batch.response_mask).sum()
        return az.Loss(value / batch.num_tokens)


class Picky(Reinforce):
    """Drops every response that is not right, so that batches are filled again."""

    def keep(self, batch):
        return batch.scores > 0.5


class Raising(Reinforce):
    """Fails in its third update."""

    saved = ("count",)

    def __init__(self, config):
        super().__init__(config)
        self.count = 0

    def loss(self, batch, out):
        if self.count == 2:
            raise ZeroDivisionError("no third update")
        return super().loss(batch, out)

    def after_update(self, step, metrics):
        self.count = step


class Killed(Reinforce):
    """Ends its process without a word."""

    def loss(self, batch, out):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


ALGORITHMS = {"plain": Reinforce, "picky": Picky, "raising": Raising, "killed": Killed}
TASKS = {"coin": Coin, "drawn": Drawn, "made": Made}


@az.hookimpl
def alignzoo_algorithms() -> list[Any]:
    return [
        az.AlgorithmSpec(id=id, target=f"{__name__}:{cls.__name__}", summary="for tests")
        for id, cls in ALGORITHMS.items()
    ]


@az.hookimpl
def alignzoo_tasks() -> list[Any]:
    return [
        az.TaskSpec(id=id, target=f"{__name__}:{cls.__name__}", summary="for tests")
        for id, cls in TASKS.items()
    ]


def run(algorithm, out, *, task="coin", seed=0, budget=64, **given):
    """Returns the row of one cell."""
    amount = budget if isinstance(budget, Budget) else Budget("samples", budget)
    return run_cell(az.registry(), Cell(task, algorithm, seed, amount, 1, given), out)


def untimed(row):
    """Returns a row without what another run of it measures anew."""
    return {name: value for name, value in row.items() if name not in UNTIMED}
