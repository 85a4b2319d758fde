"""One step of decoding after another: what the model remembers of the rows that are alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignzoo.policy.cache import make_cache
from alignzoo.policy.language_model import LanguageModel, ShapeLogits


class Decoder:
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
