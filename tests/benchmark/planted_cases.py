"""Algorithms planted among ours: one learns from noise, and one is ppo by another name."""

from __future__ import annotations

from typing import Any

import torch
from alignzoo.plugins.ppo import PPO

import alignzoo as az


class Shuffled(PPO):
    """PPO whose advantages belong to other responses of the batch."""

    saved = (*PPO.saved, "num_batches")
    num_batches = 0

    def prepare(self, batch):
        super().prepare(batch)
        generator = torch.Generator().manual_seed(self.num_batches)
        self.num_batches += 1
        batch.advantages = batch.advantages[torch.randperm(len(batch), generator=generator)]


class Copied(PPO):
    """PPO."""


@az.hookimpl
def alignzoo_algorithms() -> list[Any]:
    return [
        az.AlgorithmSpec(id=id, target=f"{__name__}:{name}", summary="for tests")
        for id, name in (("ppo_shuffled", "Shuffled"), ("ppo_copied", "Copied"))
    ]
