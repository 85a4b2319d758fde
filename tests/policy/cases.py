"""Policies small enough to test with, and rollouts of them filled as a run fills them."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from alignzoo.collection import RolloutSource
from alignzoo.data import EncodedPrompt, PromptRow
from alignzoo.learner import Learner
from alignzoo.policy import Policy
from alignzoo.policy.tiny import make_model
from alignzoo.rollout import RolloutBuffer
from alignzoo.run_options import TrainerOptions
from alignzoo.scoring import RewardSum
from alignzoo.training_data import Dataset

STORIES = [
    "Once upon a time, there was a little girl named Lily.",
    "The dog",
    "One day, a boy went to the park with his mom and his dad. He was",
    "Tom and Ben",
]


def small_policy(seed: int = 0, *, dtype: torch.dtype = torch.float32, spread: float = 0.3) -> Any:
    """Returns a Llama of 20 thousand parameters whose next-token distributions are far from flat.

    Args:
        spread: standard deviation of its weights.
    """
    model, tokenizer = make_model(seed, width=32, num_layers=2, context_length=64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, spread, generator=generator)
    return Policy(model.to(dtype), tokenizer)


@functools.cache
def _load_stories(folder: str, dtype: str) -> Any:
    return Policy.from_pretrained(folder, dtype=dtype)


def stories_folder() -> Path:
    """Returns where the pretrained model lies; skips the test where it does not."""
    folder = os.environ.get("ALIGNZOO_DATA")
    path = Path(folder or "") / "models" / "stories260K"
    if not folder or not path.is_dir():
        pytest.skip("ALIGNZOO_DATA names no folder with the real data")
    return path


def stories_policy(dtype: str = "float32") -> Any:
    """Returns a fresh copy of the pretrained model of 260 thousand parameters."""
    loaded = _load_stories(str(stories_folder()), dtype)
    return Policy(copy.deepcopy(loaded.model), loaded.tokenizer)


def stories_prompts(policy: Any) -> list[list[int]]:
    """Returns four prompts of different lengths."""
    return [policy.tokenizer.encode(text) for text in STORIES]


def byte_prompts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Returns prompts of the small policy: random byte tokens after the start token."""
    generator = np.random.default_rng(seed)
    return [[1, *generator.integers(6, 262, size=n - 1).tolist()] for n in lengths]


def length_reward(completions: Sequence[str]) -> list[float]:
    """Returns a score that differs from response to response."""
    return [len(text) / 10 + (hash_of(text) % 7) / 3 for text in completions]


def hash_of(text: str) -> int:
    """Returns a number that depends on every character, the same in every process."""
    return sum((i + 1) * ord(character) for i, character in enumerate(text))


def roll_out(
    policy: Any,
    algorithm: Any,
    prompts: Sequence[Sequence[int]],
    *,
    reward: Callable[..., Any] = length_reward,
    micro_batch_size: int | None = None,
    **options: Any,
) -> SimpleNamespace:
    """Collects one rollout as a run does; returns learner, source, batch, metrics, collected."""
    needs = algorithm.needs
    if needs.values and policy.value_head is None:
        policy.add_value_head()
    if algorithm.config.kl_in != "none" and not policy.has_reference:
        policy.keep_reference()
    settings = TrainerOptions(
        **{"batch_size": len(prompts), "max_new_tokens": 12, "seed": 3} | options
    )
    learner = Learner(
        policy,
        algorithm,
        RolloutBuffer(needs.columns),
        temperature=settings.temperature,
        micro_batch_size=micro_batch_size,
        seed=settings.seed,
    )
    rows = [
        EncodedPrompt(list(ids), PromptRow(f"prompt {number}"))
        for number, ids in enumerate(prompts)
    ]
    source = RolloutSource(
        learner, algorithm, RewardSum.of(reward), Dataset(rows, [], fingerprint=""), settings
    )
    collected = source.collect(1)
    learner.begin_update(1)
    return SimpleNamespace(
        learner=learner,
        source=source,
        collected=collected,
        batch=collected.batch,
        metrics=collected.metrics.result(),
    )


def plain_log_probs(model: Any, batch: Any, *, temperature: float = 1.0) -> torch.Tensor:
    """Returns log-probs [B, T] row by row without padding: log_softmax(logits / temperature).

    The plainest reading of the definition: the logits at position t - 1 score token t.
    """
    result = torch.zeros(batch.response_mask.shape)
    for row in range(len(batch)):
        start, length = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
        tokens = batch.token_ids[row, : start + length]
        with torch.no_grad():
            logits = model(input_ids=tokens[None], use_cache=False).logits[0].float()
        scores = torch.log_softmax(logits[start - 1 : -1] / temperature, -1)
        picked = scores.gather(1, tokens[start:, None]).squeeze(1)
        result[row, :length] = torch.where(batch.response_mask[row, :length], picked, 0.0)
    return result


def demonstrations(rows: Sequence[tuple[list[int], list[int]]], **columns: Any) -> RolloutBuffer:
    """Returns a buffer of (prompt, response) rows."""
    buffer = RolloutBuffer()
    buffer.append(
        [prompt for prompt, _ in rows],
        [response for _, response in rows],
        policy_version=0,
        **columns,
    )
    return buffer
