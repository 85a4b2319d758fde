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
from alignzoo.policy.static import Decoding, StaticDecoder, choose

DAMAGED = (
    "the policy's logits are no longer finite: the model is damaged, or its training diverged; "
    "lower the learning rate (or max_grad_norm) and go back to an earlier checkpoint"
)
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
    decoding: Decoding = "auto",
) -> Generation:
    """Samples `num_samples` responses to each prompt (token ids, at least one each)."""
    record = choose(model, decoding, max_new_tokens)
    keys = [tuple(int(token) for token in prompt) for prompt in prompts]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    chosen = np.repeat([number[key] for key in keys], num_samples)
    rows = torch.from_numpy(chosen).to(model.device)
    responses = _Responses(len(rows), row_ids, max_new_tokens, end_token_ids, model.device)
    with model.computing():  # weights are cast once, not at every step
        prefilled = Decoder(model, list(number), 0 if record else max_new_tokens)
        logits, hidden = (x[rows] for x in prefilled.prefill())
        decoder: Decoder | StaticDecoder = prefilled
        if record is not None:
            decoder = model.static.start(prefilled, rows, max_new_tokens, record=record)
        elif chosen.tolist() != list(range(len(number))):
            prefilled.select(rows)
        del prefilled  # its cache, where it is not the one that goes on
        for step in range(1, max_new_tokens + 1):
            with model.computing(enabled=False):
                if shape_logits is not None:
                    logits = shape_logits(logits, hidden)
                drawn, log_probs = _draw(
                    logits,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    seed=seed,
                    offset=step - 1,
                    row_ids=responses.row_ids,
                )
                values = None if value_head is None else value_head(hidden.float()).squeeze(-1)
            responses.add(drawn, log_probs, values)
            if step == max_new_tokens:
                break
            if step % decoder.check_every == 0:
                going = responses.going()
                if len(going) == 0:
                    break
                if decoder.can_drop(len(drawn), len(going)):
                    drawn = drawn[going]
                    decoder.select(going)
                    responses.keep(going)
            logits, hidden = decoder.step(drawn)
    return responses.generation()


def _draw(logits: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Returns `kernels.sample_tokens`, with errors that say what a user can do."""
    try:
        drawn: tuple[Tensor, Tensor] = kernels.sample_tokens(logits, **options)
        return drawn
    except ValueError as error:
        if not logits.isnan().any() and not logits.isposinf().any():
            raise ConfigError(f"generate: {error}") from error
        raise RunError(f"{DAMAGED} ({error})") from error


class _Responses:
    """The responses under way, [R, T] each, and the rows that are still in the batch."""

    def __init__(
        self,
        num_rows: int,
        row_ids: NDArray[np.int64],
        limit: int,
        end_token_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self.tokens = torch.zeros((num_rows, limit), dtype=torch.int64, device=device)
        self.log_probs = torch.zeros((num_rows, limit), device=device)
        self.values: Tensor | None = None
        self.lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.ends = torch.tensor(sorted(end_token_ids), dtype=torch.int64, device=device)
        self.num_steps = 0
        self.rows = torch.arange(num_rows, device=device)  # of [R], in the batch
        self.row_ids = torch.as_tensor(row_ids, device=device)  # of them: what their draws go by

    def add(self, drawn: Tensor, log_probs: Tensor, values: Tensor | None) -> None:
        """Takes one token of each row in the batch; of one that has ended, nothing."""
        rows, step = self.rows, self.num_steps
        ended = self.ended[rows]
        self.tokens[rows, step] = drawn.masked_fill(ended, 0)
        self.log_probs[rows, step] = log_probs.float().masked_fill(ended, 0)
        if values is not None:
            if self.values is None:
                self.values = torch.zeros_like(self.log_probs)
            self.values[rows, step] = values.masked_fill(ended, 0)
        self.num_steps += 1
        self.lengths[rows] += (~ended).long()
        self.ended[rows] = ended | (drawn[:, None] == self.ends).any(1)

    def going(self) -> Tensor:
        """Returns the positions in the batch of rows that have not ended. Waits for a device."""
        return (~self.ended[self.rows]).nonzero().squeeze(1)

    def keep(self, positions: Tensor) -> None:
        """Leaves the rows at these positions in the batch."""
        self.rows, self.row_ids = self.rows[positions], self.row_ids[positions]

    def generation(self) -> Generation:
        """Returns each row at its own length.

        Raises:
            RunError: a row was drawn from logits that are not finite; on a device this is not
                known before.
        """
        counts = self.lengths.tolist()
        log_probs = _cut(self.log_probs, counts)
        if any(np.isnan(row).any() for row in log_probs):
            raise RunError(DAMAGED)
        return Generation(
            token_ids=_cut(self.tokens, counts),
            log_probs=log_probs,
            stop_reasons=["end" if end else "length" for end in self.ended.tolist()],
            values=None if self.values is None else _cut(self.values, counts),
        )


def _cut(padded: Tensor, counts: list[int]) -> list[NDArray[Any]]:
    """Returns the rows of [R, T], each at its own length."""
    return [row[:count].copy() for row, count in zip(padded.cpu().numpy(), counts, strict=True)]
