"""One step of decoding after another: what the model remembers of the rows that are alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignzoo.policy.cache import make_cache
from alignzoo.policy.language_model import LanguageModel


class Decoder:
    """The model's state between steps: cache, attention mask and positions of the live rows."""

    check_every = 1  # steps between looks at which rows have ended

    def __init__(
        self,
        model: LanguageModel,
        prompts: list[tuple[int, ...]],
        max_new_tokens: int,
    ) -> None:
        self.model = model
        lengths = [len(prompt) for prompt in prompts]
        self.lengths = torch.tensor(lengths, device=model.device)
        self.width = max(lengths)
        self.is_ragged = min(lengths) < self.width
        self.cache: Any = make_cache(model.model.config, self.width + max_new_tokens)
        self.num_steps = 0
        padded = np.zeros((len(prompts), self.width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, self.width - len(prompt) :] = prompt  # left-padded: all end together
        self.token_ids = torch.from_numpy(padded).to(model.device)
        columns = torch.arange(self.width + max_new_tokens, device=model.device)
        self.mask = (columns >= (self.width - self.lengths)[:, None]).long()  # [b, P + T]

    def prefill(self) -> tuple[Tensor, Tensor]:
        """Returns logits [b, V] and hidden states [b, D] after each prompt."""
        positions = torch.arange(self.width, device=self.model.device)[None]
        positions = (positions - (self.width - self.lengths)[:, None]).clamp(min=0)
        return self._forward(self.token_ids, positions)

    def can_drop(self, count: int, going: int) -> bool:
        """Whether it pays to go on with `going` of `count` rows: it always does."""
        return going < count

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the rows at these positions."""
        self.cache.batch_select_indices(rows)
        self.lengths, self.mask = self.lengths[rows], self.mask[rows]

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends one token [b] to each row; returns logits [b, V] and hidden states [b, D]."""
        positions = (self.lengths + self.num_steps)[:, None]
        self.num_steps += 1
        return self._forward(tokens[:, None], positions)

    def _forward(self, token_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        inputs: dict[str, Any] = {
            "input_ids": token_ids,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if self.is_ragged:
            inputs["attention_mask"] = self.mask[:, : self.width + self.num_steps]
            if self.model.accepts_position_ids:
                inputs["position_ids"] = positions
        return self.model.last_logits(inputs)
