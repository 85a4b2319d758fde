"""Sampling responses: one prefill per distinct prompt, a key-value cache, one kernel per step.

The rows of a batch do not touch each other: a row's draws depend on its logits, the seed, the step
and its own number, so a finished row leaves the batch and its mates go on unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignzoo import kernels
from alignzoo.errors import ConfigError, RunError
from alignzoo.policy.decoder import Decoder
from alignzoo.policy.language_model import LanguageModel, ShapeLogits

StopReason = Literal["end", "length"]
TokenIds = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Generation:
    """R responses, in the order of the prompts; the samples of one prompt are neighbours.

    Args:
        token_ids: R arrays of int64; an end token, where one was drawn, is the last.
        log_probs: R arrays of float32, of the distribution each token was drawn from, in nats.
        stop_reasons: "end" where an end token was drawn, "length" where the limit was reached.
        values: R arrays of float32, V of the state each token was drawn from; None unless asked.
    """

    token_ids: list[NDArray[np.int64]]
    log_probs: list[NDArray[np.float32]]
    stop_reasons: list[StopReason]
    values: list[NDArray[np.float32]] | None = None


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[TokenIds],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    row_ids: NDArray[np.int64],
    end_token_ids: Sequence[int],
    shape_logits: ShapeLogits | None = None,
    value_head: nn.Module | None = None,
) -> Generation:
    """Samples `num_samples` responses to each prompt (token ids, at least one each)."""
    keys = [tuple(int(token) for token in prompt) for prompt in prompts]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    decoder = Decoder(model, list(number), max_new_tokens, shape_logits)
    rows = torch.tensor([number[key] for key in keys], device=model.device)
    rows = rows.repeat_interleave(num_samples)
    logits = decoder.prefill()[rows]
    hidden = decoder.hidden[rows]
    if rows.tolist() != list(range(len(number))):
        decoder.select(rows)
    responses = _Responses(len(rows), max_new_tokens, end_token_ids, model.device)
    draw_ids = torch.as_tensor(row_ids, device=model.device)
    for step in range(max_new_tokens):
        drawn, log_probs = _draw(
            logits,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            offset=step,
            row_ids=draw_ids[responses.alive],
        )
        values = None if value_head is None else value_head(hidden.float()).squeeze(-1)
        going = responses.add(drawn, log_probs, values)
        if len(going) == 0 or step + 1 == max_new_tokens:
            break
        if len(going) < len(drawn):
            drawn = drawn[going]
            decoder.select(going)
        logits = decoder.step(drawn)
        hidden = decoder.hidden
    return responses.generation()


def _draw(logits: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Returns `kernels.sample_tokens`, with errors that say what a user can do."""
    try:
        drawn: tuple[Tensor, Tensor] = kernels.sample_tokens(logits, **options)
        return drawn
    except ValueError as error:
        if not logits.isnan().any() and not logits.isposinf().any():
            raise ConfigError(f"generate: {error}") from error
        raise RunError(
            "the policy's logits are no longer finite: the model is damaged, or its training "
            "diverged; lower the learning rate (or max_grad_norm) and go back to an earlier "
            f"checkpoint ({error})"
        ) from error


class _Responses:
    """The responses under way, [R, T] each, and which rows are alive."""

    def __init__(
        self, num_rows: int, limit: int, end_token_ids: Sequence[int], device: torch.device
    ) -> None:
        self.tokens = torch.zeros((num_rows, limit), dtype=torch.int64, device=device)
        self.log_probs = torch.zeros((num_rows, limit), device=device)
        self.values: Tensor | None = None
        self.lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.alive = torch.arange(num_rows, device=device)
        self.ends = torch.tensor(sorted(end_token_ids), dtype=torch.int64, device=device)
        self.num_steps = 0

    def add(self, drawn: Tensor, log_probs: Tensor, values: Tensor | None) -> Tensor:
        """Takes one token of each live row; returns the positions of those that go on."""
        alive, step = self.alive, self.num_steps
        self.tokens[alive, step] = drawn
        self.log_probs[alive, step] = log_probs.float()
        if values is not None:
            if self.values is None:
                self.values = torch.zeros_like(self.log_probs)
            self.values[alive, step] = values
        self.num_steps += 1
        self.lengths[alive] = self.num_steps
        finished = torch.isin(drawn, self.ends)
        self.ended[alive] = finished
        going = (~finished).nonzero().squeeze(1)
        self.alive = alive[going]
        return going

    def generation(self) -> Generation:
        """Returns each row at its own length."""
        counts = self.lengths.tolist()
        return Generation(
            token_ids=_cut(self.tokens, counts),
            log_probs=_cut(self.log_probs, counts),
            stop_reasons=["end" if end else "length" for end in self.ended.tolist()],
            values=None if self.values is None else _cut(self.values, counts),
        )


def _cut(padded: Tensor, counts: list[int]) -> list[NDArray[Any]]:
    """Returns the rows of [R, T], each at its own length."""
    return [row[:count].copy() for row, count in zip(padded.cpu().numpy(), counts, strict=True)]
