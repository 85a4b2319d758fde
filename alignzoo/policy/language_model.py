"""A transformers causal language model seen as two parts: hidden states and a head."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignzoo import kernels
from alignzoo.policy.static import StaticDecoders

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

    Statistics are float32 or wider whatever the weights are, and so are hidden states of float32
    weights under autocast.
    """

    def __init__(self, model: Any, *, autocast: bool = False) -> None:
        """Wraps a model; with `autocast` its matrix products are taken in bfloat16."""
        self.model = model.eval()
        self.autocast = autocast
        self.backbone = model.base_model
        self.head = model.get_output_embeddings()
        self.accepts_position_ids = (
            "position_ids" in inspect.signature(self.backbone.forward).parameters
        )
        can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.last_logits_only = {"logits_to_keep": 1} if can_keep else {}
        self.static = StaticDecoders(self)
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

    def computing(
        self, *, enabled: bool = True, keep_casts: bool = True
    ) -> AbstractContextManager[Any]:
        """Returns the context of a forward pass, which matters under autocast.

        Args:
            enabled: False is the context of what lies between two, in the dtypes that it has.
            keep_casts: weights are cast to bfloat16 once in the outermost context, not at each
                use.
        """
        if not self.autocast:
            return nullcontext()
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=keep_casts)

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
        with self.computing():
            hidden: Tensor = self.model(input_ids=token_ids, **options).hidden_states[-1]
        return hidden

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns hidden states [b, L, D], and logits [b, L, V] where the head is not linear.

        Rows are right-padded. Under a causal model no real token sees the padding, so no mask is
        needed, and a row's result does not depend on how far it was padded.
        """
        with self.computing():
            if self.has_linear_head:
                out = self.backbone(input_ids=token_ids, use_cache=False)
                return out.last_hidden_state, None
            out = self.model(input_ids=token_ids, use_cache=False, output_hidden_states=True)
        return out.hidden_states[-1], out.logits

    def last_logits(
        self, inputs: dict[str, Any], *, keep_casts: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Returns logits [b, V] and hidden states [b, D] after each row's last token."""
        with self.computing(keep_casts=keep_casts):
            if not self.has_linear_head:
                out = self.model(**inputs, **self.last_logits_only, output_hidden_states=True)
                return out.logits[:, -1], out.hidden_states[-1][:, -1]
            hidden = self.backbone(**inputs).last_hidden_state[:, -1]
            return self.head(hidden), hidden

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
            with self.computing():
                logits = self.head(hidden)
        if logits is None:
            weight, bias = self.head.weight, self.head.bias
            if self.autocast:
                hidden, weight = hidden.bfloat16(), weight.bfloat16()
                bias = None if bias is None else bias.bfloat16()
            found = kernels.linear_token_log_probs(hidden, weight, targets, bias=bias, **options)
        else:
            shaped = logits if shape_logits is None else shape_logits(logits, hidden)
            found = kernels.token_log_probs(shaped, targets, **options)
        log_probs, entropies = found if entropy else (found, None)
        return TokenStatistics(log_probs, entropies, logits if keep_logits else None)
