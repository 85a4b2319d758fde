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
from alignzoo.policy.cache import make_cache
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
    distinct = {tuple(int(token) for token in prompt): None for prompt in prompts}
    number = {prompt: i for i, prompt in enumerate(distinct)}
    origin = [number[tuple(int(token) for token in prompt)] for prompt in prompts]
    decoder = _Decoder(model, list(distinct), max_new_tokens, shape_logits)
    rows = torch.tensor(origin, device=model.device).repeat_interleave(num_samples)
    logits = decoder.prefill()[rows]
    hidden = decoder.hidden[rows]
    if rows.tolist() != list(range(len(distinct))):
        decoder.select(rows)

    num_rows = len(rows)
    tokens = torch.zeros((num_rows, max_new_tokens), dtype=torch.int64, device=model.device)
    log_probs = torch.zeros((num_rows, max_new_tokens), device=model.device)
    values = torch.zeros_like(log_probs) if value_head is not None else None
    lengths = torch.full((num_rows,), max_new_tokens, device=model.device)
    ends = torch.tensor(sorted(end_token_ids), dtype=torch.int64, device=model.device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=model.device)
    draw_ids = torch.as_tensor(row_ids, device=model.device)
    alive = torch.arange(num_rows, device=model.device)
    for step in range(max_new_tokens):
        try:
            drawn, drawn_log_probs = kernels.sample_tokens(
                logits,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                offset=step,
                row_ids=draw_ids[alive],
            )
        except ValueError as error:
            if not logits.isnan().any() and not logits.isposinf().any():
                raise ConfigError(f"generate: {error}") from error
            raise RunError(
                "the policy's logits are no longer finite: the model is damaged, or its training "
                "diverged; lower the learning rate (or max_grad_norm) and go back to an earlier "
                f"checkpoint ({error})"
            ) from error
        if value_head is not None and values is not None:
            values[alive, step] = value_head(hidden.float()).squeeze(-1)
        tokens[alive, step] = drawn
        log_probs[alive, step] = drawn_log_probs.float()
        finished = torch.isin(drawn, ends)
        if finished.any():
            lengths[alive[finished]] = step + 1
            ended[alive[finished]] = True
            going = (~finished).nonzero().squeeze(1)
            if len(going) == 0:
                break
            alive, drawn = alive[going], drawn[going]
            decoder.select(going)
        if step + 1 < max_new_tokens:
            logits = decoder.step(drawn)
            hidden = decoder.hidden
    counts = lengths.tolist()
    return Generation(
        token_ids=_cut(tokens, counts),
        log_probs=_cut(log_probs, counts),
        stop_reasons=["end" if end else "length" for end in ended.tolist()],
        values=None if values is None else _cut(values, counts),
    )


def _cut(padded: Tensor, counts: list[int]) -> list[NDArray[Any]]:
    """Returns the rows of [R, T], each at its own length."""
    return [row[:count].copy() for row, count in zip(padded.cpu().numpy(), counts, strict=True)]


class _Decoder:
    """The model's state between steps: cache, attention mask and positions of the live rows."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: list[tuple[int, ...]],
        max_new_tokens: int,
        shape_logits: ShapeLogits | None,
    ) -> None:
        self.model = model
        self.shape_logits = shape_logits
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self.width = int(self.lengths.max())
        self.is_ragged = int(self.lengths.min()) < self.width
        self.cache: Any = make_cache(model.model.config, self.width + max_new_tokens)
        self.num_steps = 0
        self.hidden: Tensor  # [b, D], the state after each row's last token
        padded = np.zeros((len(prompts), self.width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, self.width - len(prompt) :] = prompt  # left-padded: all end together
        self.token_ids = torch.from_numpy(padded).to(model.device)
        columns = torch.arange(self.width + max_new_tokens, device=model.device)
        self.mask = (columns >= (self.width - self.lengths)[:, None]).long()  # [b, P + T]

    def prefill(self) -> Tensor:
        """Returns the logits after each prompt, [b, V]."""
        positions = torch.arange(self.width, device=self.model.device)[None]
        positions = (positions - (self.width - self.lengths)[:, None]).clamp(min=0)
        return self._forward(self.token_ids, positions)

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the rows at these positions."""
        self.cache.batch_select_indices(rows)
        self.lengths, self.mask = self.lengths[rows], self.mask[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token [b] to each row and returns the logits after it, [b, V]."""
        positions = (self.lengths + self.num_steps)[:, None]
        self.num_steps += 1
        return self._forward(tokens[:, None], positions)

    def _forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        model = self.model
        inputs: dict[str, Any] = {
            "input_ids": token_ids,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if self.is_ragged:
            inputs["attention_mask"] = self.mask[:, : self.width + self.num_steps]
            if model.accepts_position_ids:
                inputs["position_ids"] = positions
        if not model.has_linear_head:
            out = model.model(**inputs, **model.last_logits_only, output_hidden_states=True)
            logits, self.hidden = out.logits[:, -1], out.hidden_states[-1][:, -1]
        else:
            self.hidden = model.backbone(**inputs).last_hidden_state[:, -1]
            logits = model.head(self.hidden)
        return logits if self.shape_logits is None else self.shape_logits(logits, self.hidden)
