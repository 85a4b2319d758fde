"""Scores that a language model with a scalar head says of a text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from alignzoo.plugins.preference.comparisons import Comparison

import alignzoo as az
from alignzoo import scalar_model

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("alignzoo")


def fit_language_model(
    comparisons: Sequence[Comparison], config: Any, seed: int
) -> tuple[scalar_model.ScalarModel, dict[str, float]]:
    """Returns the trained model, and measures of the last pass over the data."""
    model = scalar_model.ScalarModel.create(config, seed=seed)
    encoded = [
        model.encode([scalar_model.Text(c.prompt, (r,), c.where) for r in c.responses])
        for c in comparisons
    ]
    kept = [i for i, texts in enumerate(encoded) if all_differ(texts)]
    if len(kept) < len(encoded):
        lost = next(
            c for c, texts in zip(comparisons, encoded, strict=True) if not all_differ(texts)
        )
        logger.warning(
            "%d of %d comparisons are dropped: two of their responses are the same tokens once "
            "cut to %s (first: %s)",
            len(encoded) - len(kept),
            len(encoded),
            model.max_length,
            lost.where,
        )
    texts = [text for i in kept for text in encoded[i]]
    measures = model.fit(
        texts,
        ranking_loss,
        seed=seed,
        groups=[i for i in kept for _ in encoded[i]],
        columns={
            "margins": [comparisons[i].margin for i in kept for _ in encoded[i]],
            "reversed_share": [comparisons[i].reversed for i in kept for _ in encoded[i]],
        },
    )
    model.offset = float(np.mean(model.score(texts)))
    return model, {**measures, "comparisons": float(len(kept))}


def all_differ(texts: Sequence[scalar_model.EncodedText]) -> bool:
    """Returns whether no two texts are the same tokens."""
    return len({(*text.prompt_ids, -1, *text.response_ids) for text in texts}) == len(texts)


def ranking_loss(batch: az.RolloutBatch, values: Tensor) -> az.Loss:
    """Returns the loss of rankings whose rows stand side by side, best first."""
    scores, total, count = values.sum(1), values.new_zeros(()), 0
    wins = gaps = values.new_zeros(())
    pairs = 0
    for rows in tables_of(batch.group_ids):  # [G, K]
        share, given = batch.reversed_share[rows[:, 0]], scores[rows]
        moved = given.clone()
        moved[:, 0] = given[:, 0] - batch.margins[rows[:, 0]]
        losses = (1 - share) * ranking_losses(moved) + share * ranking_losses(moved.flip(1))
        total, count = total + losses.sum(), count + len(rows)
        above = pair_gaps(given.detach()[share < 0.5])
        wins = wins + (above > 0).sum() + 0.5 * (above == 0).sum()
        gaps, pairs = gaps + above.sum(), pairs + above.numel()
    metrics = {
        "loss": (total.detach(), count),
        "accuracy": (wins, pairs),
        "margin": (gaps, pairs),
    }
    return az.Loss(total / (batch.num_sequences / 2), metrics)


def tables_of(group_ids: Tensor) -> Iterator[Tensor]:
    """Yields, for each length K, the rows [G, K] of the groups of that length."""
    import torch

    sizes = torch.unique_consecutive(group_ids, return_counts=True)[1]
    starts = sizes.cumsum(0) - sizes
    for size in sizes.unique().tolist():
        yield starts[sizes == size][:, None] + torch.arange(size, device=group_ids.device)


def ranking_losses(scores: Tensor) -> Tensor:
    """Returns -log P of each ranking, [G] from scores [G, K]."""
    later = scores.flip(1).logcumsumexp(1).flip(1)
    losses: Tensor = (later - scores)[:, :-1].sum(1)
    return losses


def pair_gaps(scores: Tensor) -> Tensor:
    """Returns how far every response lies above every worse one, [G, K (K - 1) / 2]."""
    import torch

    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    return scores[:, first] - scores[:, second]


def score_texts(
    model: scalar_model.ScalarModel, prompts: Sequence[Any], responses: Sequence[str]
) -> list[float]:
    """Returns the model's number for each response."""
    texts = [
        scalar_model.Text(prompt, (response,))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return [float(numbers[0]) for numbers in model.score(model.encode(texts))]
