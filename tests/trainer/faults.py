"""Algorithms and rewards that fail on purpose, at chosen updates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from alignzoo.plugins.reinforce import Reinforce, ReinforceConfig

import alignzoo as az


class SkippingReinforce(Reinforce):
    """`reinforce` with a fault at chosen updates.

    Args:
        faults: by update, from 1: "nan loss", "inf loss", "inf gradient" or "nan gradient".
    """

    def __init__(self, config: ReinforceConfig, *, faults: Mapping[int, str]) -> None:
        super().__init__(config)
        self.faults = dict(faults)
        self.number = 0

    def after_update(self, step, metrics):
        self.number = step

    def loss(self, batch, out):
        loss = super().loss(batch, out)
        fault = self.faults.get(self.number + 1)
        zero = (out.log_probs - out.log_probs.detach()).sum()
        change = {
            None: lambda: 0.0,
            "nan loss": lambda: math.nan * zero,
            "inf loss": lambda: math.inf + zero,
            "inf gradient": lambda: InfiniteGradient.apply(zero, math.inf),
            "nan gradient": lambda: InfiniteGradient.apply(zero, math.nan),
        }[fault]
        return az.Loss(loss.value + change(), loss.metrics)

    def state_dict(self):
        return {**super().state_dict(), "number": self.number}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.number = state["number"]


class InfiniteGradient(torch.autograd.Function):
    """The identity, whose gradient is what it is told."""

    @staticmethod
    def forward(ctx, value, gradient):
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx, _):
        return torch.tensor(ctx.gradient), None


class Scripted:
    """A reward whose scores are `count_vowels`-like, but for chosen calls.

    Args:
        changes: by call, from 0: what to do with the list of scores.
    """

    def __init__(self, changes) -> None:
        self.changes = dict(changes)
        self.calls = 0

    def __call__(self, prompts, completions):
        scores = [float(len(set(text))) for text in completions]
        change = self.changes.get(self.calls, lambda scores: scores)
        self.calls += 1
        return change(scores)
