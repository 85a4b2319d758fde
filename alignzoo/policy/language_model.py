"""A transformers causal language model seen as two parts: hidden states and a head."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignzoo import kernels

logger = logging.getLogger("alignzoo")

ShapeLogits = Callable[[Tensor, Tensor], Tensor]


class TokenStatistics(NamedTuple):
    """Of N tokens: log-probs in nats, [N]; if asked, entropies [N] and logits [N, V]."""

    log_probs: Tensor
    entropy: Tensor | None
    logits: Tensor | None


class LanguageModel:
    """Hidden states [b, L, D] from tokens [b, L]; log-probs of tokens from hidden states.

    Where the head is a plain linear layer, logits of a whole batch are never held in memory
    (`kernels.linear_token_log_probs`). A model that scales or caps its logits is found out by
    watching one forward pass; it takes the plain way, through its own logits.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        self.accepts_position_ids = (
            "position_ids" in inspect.signature(self.backbone.forward).parameters
        )
        can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.last_logits_only = {"logits_to_keep": 1} if can_keep else {}
        self.has_linear_head = self._probe_head()
        if not self.has_linear_head:
            logger.info(
                "%s changes its logits after the head; training holds them whole",
                type(model).__name__,
            )

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        if isinstance(self.head, nn.Linear):
            return self.head.in_features
        width: int = self.model.config.get_text_config().hidden_size
        return width

    @torch.no_grad()
    def _probe_head(self) -> bool:
        """Whether the model's logits are, bit for bit, a linear layer of the last hidden state."""
        if not isinstance(self.head, nn.Linear) or self.backbone is self.model:
            return False
        seen: dict[str, Tensor] = {}

        def watch(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["input"], seen["output"] = inputs[0], output

        tokens = torch.arange(4, device=self.device)[None] % self.head.weight.shape[0]
        handle = self.head.register_forward_hook(watch)
        try:
            logits = self.model(input_ids=tokens, use_cache=False).logits
        finally:
            handle.remove()
        last = self.backbone(input_ids=tokens, use_cache=False).last_hidden_state
        return (
            "input" in seen
            and torch.equal(seen["input"], last)
            and torch.equal(seen["output"].to(logits.dtype), logits)
        )

    def states(self, token_ids: Tensor) -> Tensor:
        """Returns hidden states [b, L, D], without logits as far as the model can do without."""
        if self.has_linear_head:
            return self.forward(token_ids)[0]
        options = {"use_cache": False, "output_hidden_states": True, **self.last_logits_only}
        hidden: Tensor = self.model(input_ids=token_ids, **options).hidden_states[-1]
        return hidden

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns hidden states [b, L, D], and logits [b, L, V] where the head is not linear.

        Rows are right-padded. Under a causal model no real token sees the padding, so no mask is
        needed, and a row's result does not depend on how far it was padded.
        """
        if self.has_linear_head:
            hidden: Tensor = self.backbone(input_ids=token_ids, use_cache=False).last_hidden_state
            return hidden, None
        out = self.model(input_ids=token_ids, use_cache=False, output_hidden_states=True)
        return out.hidden_states[-1], out.logits

    def token_statistics(
        self,
        hidden: Tensor,
        logits: Tensor | None,
        targets: Tensor,
        *,
        temperature: float,
        entropy: bool,
        keep_logits: bool = False,
        shape_logits: ShapeLogits | None = None,
    ) -> TokenStatistics:
        """Returns what is asked about `targets` [N] after hidden states [N, D].

        Log-probs and entropies are of the shaped logits, which the tokens are drawn from; the
        logits that are kept are the model's own, which an algorithm can shape itself.
        """
        options: dict[str, Any] = {"temperature": temperature, "entropy": entropy}
        if logits is None and (keep_logits or shape_logits is not None):
            logits = self.head(hidden)
        if logits is None:
            weight, bias = self.head.weight, self.head.bias
            found = kernels.linear_token_log_probs(hidden, weight, targets, bias=bias, **options)
        else:
            shaped = logits if shape_logits is None else shape_logits(logits, hidden)
            found = kernels.token_log_probs(shaped, targets, **options)
        log_probs, entropies = found if entropy else (found, None)
        return TokenStatistics(log_probs, entropies, logits if keep_logits else None)
