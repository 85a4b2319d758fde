"""A policy's hidden states as features of a response."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError
from alignzoo.reward import Prompt

logger = logging.getLogger("alignzoo")


class HiddenStates:
    """The mean of the last layer's states over a response's tokens, and the state at its end.

    Each row goes through the model by itself, so it cannot depend on its mates. Prompts are
    encoded as the sampler sees them, by the chat template where they are messages. Where prompt
    and response are longer than the context, the beginning of the prompt is left out, then the end
    of the response. An empty response has mean 0, and the prompt's last state. The policy is not
    saved along: its fingerprint is, and another model in its place is refused.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.expected: str | None = None  # fingerprint of the policy that was fitted with
        self._policy: Any = None

    @property
    def policy(self) -> Any:
        """The policy, loaded when it is first used.

        Raises:
            DataError: it is not the one these features were fitted with.
        """
        if self._policy is None:
            from alignzoo.policy import Policy

            policy = Policy.from_pretrained(self.source, steering=False)
            found = policy.fingerprint()
            if self.expected not in (None, found):
                raise DataError(
                    f"policy {self.source} is not the model this reward was trained with: its "
                    "weights differ. Put that one back, or train the reward again."
                )
            self.expected, self._policy = found, policy
        return self._policy

    def fit(self) -> None:
        """Takes the policy as it is now."""
        self.expected = self._policy = None
        self.expected = self.policy.fingerprint()

    @property
    def width(self) -> int:
        """The number of columns: twice the model's width."""
        return 2 * int(self.policy.language_model.width)

    def transform(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float64]:
        """Returns [B, 2 D]."""
        rows = np.zeros((len(responses), self.width))
        num_cut = 0
        for row, prompt, response in zip(rows, prompts, responses, strict=True):
            prompt_ids, ids = self._encode(prompt, response)
            limit = self.policy.context_length or len(prompt_ids) + len(ids)
            num_cut += len(prompt_ids) + len(ids) > limit
            ids = ids[:limit]
            prompt_ids = prompt_ids[max(0, len(prompt_ids) + len(ids) - limit) :]
            row[:] = self._states(prompt_ids, ids)
        if num_cut:
            logger.warning(
                "%d of %d rows exceed the context of %s and are cut",
                num_cut,
                len(rows),
                self.source,
            )
        return rows

    def _encode(self, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
        from alignzoo.data.encode import encode_continuation, encode_prompt

        tokenizer = self.policy.tokenizer
        start = [token for token in [tokenizer.bos_token_id] if token is not None]
        prompt_ids = encode_prompt(tokenizer, prompt, where="prompt") if prompt else start
        return prompt_ids, encode_continuation(tokenizer, response)

    def _states(self, prompt_ids: list[int], ids: list[int]) -> NDArray[np.float64]:
        import torch

        if not prompt_ids and not ids:
            return np.zeros(self.width)
        policy = self.policy
        with torch.inference_mode():
            tokens = torch.tensor([[*prompt_ids, *ids]], device=policy.device)
            states = policy.language_model.states(tokens)[0].double().cpu().numpy()  # [L, D]
        mean = states[len(prompt_ids) :].mean(0) if ids else np.zeros(states.shape[1])
        return np.concatenate([mean, states[-1]])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns the policy's fingerprint."""
        return {"fingerprint": self.expected}, {}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes what `state` returned."""
        self.expected, self._policy = settings["fingerprint"], None

    def names(self) -> list[str]:
        """Returns a name for each column."""
        width = self.width // 2
        return [f"{what} {i}" for what in ("mean state", "last state") for i in range(width)]
