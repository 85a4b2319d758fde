"""The policy an algorithm trains: language model, tokenizer, value head, frozen reference."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignzoo.errors import ConfigError
from alignzoo.policy.devices import find_device
from alignzoo.policy.generation import Generation, TokenIds, generate
from alignzoo.policy.language_model import LanguageModel, ShapeLogits, TokenStatistics
from alignzoo.policy.loading import add_adapter, load_model
from alignzoo.policy.static import Decoding

if TYPE_CHECKING:
    from alignzoo.rollout import RolloutBatch
    from alignzoo.steering import Steering


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy says about the responses of a batch; 0 where `response_mask` is False.

    Args:
        log_probs: [B, T] of the response tokens, in nats, at the sampling temperature.
        entropy: [B, T] of the distributions they came from, in nats.
        values: [B, T], V of the state before each token; None unless needed.
        logits: [B, T, V], the model's own, before `shape_logits`; None unless needed.
        hidden: [B, T, D], the states the tokens were predicted from; None unless needed.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None


class Policy:
    """A causal language model with what training adds to it."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        adapter: Any = None,
        autocast: bool = False,
        decoding: Decoding = "auto",
    ) -> None:
        """Wraps a transformers causal LM and its tokenizer; see `from_pretrained`.

        Args:
            adapter: its PeftModel, if any.
        """
        self.language_model = LanguageModel(model, autocast=autocast)
        self.decoding = decoding
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.value_head: nn.Linear | None = None
        self.shape_logits: ShapeLogits | None = None
        self.steering: Steering | None = None  # what shape_logits was loaded from
        self._reference: LanguageModel | None = None
        self._has_reference = False

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        seed: int = 0,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        lora_targets: str | list[str] = "all-linear",
        steering: bool = True,
        autocast: bool = False,
        decoding: Decoding = "auto",
    ) -> Policy:
        """Loads a policy.

        Args:
            source: a transformers folder, a hub id, or "tiny" for a small model made from scratch.
            dtype: "float32", "bfloat16" or "float16", of the weights.
            device: where it lives: "cpu", "cuda" or "cuda:N".
            seed: of the weights that are made rather than loaded ("tiny", LoRA).
            lora_rank: train LoRA adapters of this rank instead of the weights; 0 trains all.
            lora_alpha: their scale times their rank; default twice the rank.
            lora_targets: module names, or "all-linear".
            steering: apply the critic that lies beside a model which was trained with one.
            autocast: take matrix products in bfloat16, over float32 weights.
            decoding: how `generate` takes a step: "eager", "static" or "graph"; "auto" chooses
                (see `alignzoo.policy.static`).
        Raises:
            ConfigError: there is no causal language model there, its critic cannot be used, or
                there is no such device.
        """
        where = find_device(device)
        if autocast and dtype != "float32":
            raise ConfigError(
                f"autocast computes in bfloat16 over float32 weights, and dtype is '{dtype}'; "
                "leave one of the two out"
            )
        model, tokenizer = load_model(str(source), dtype=dtype, seed=seed)
        adapter = None
        if lora_rank:
            adapter = add_adapter(
                model, rank=lora_rank, alpha=lora_alpha, targets=lora_targets, seed=seed
            )
        model.to(where)
        policy = cls(model, tokenizer, adapter=adapter, autocast=autocast, decoding=decoding)
        if steering:
            from alignzoo.steering import load_steering

            policy.steering = load_steering(str(source), policy)
        return policy

    @classmethod
    def tiny(
        cls, seed: int = 0, *, width: int = 128, num_layers: int = 4, context_length: int = 1024
    ) -> Policy:
        """Makes a small Llama with random weights and a token per byte, such as tasks start from.

        Args:
            seed: of the weights.
            width: of the hidden states; a multiple of 32.
            num_layers: how many blocks.
            context_length: longest prompt and response together, in tokens.
        """
        from alignzoo.policy.tiny import make_model

        model, tokenizer = make_model(
            seed, width=width, num_layers=num_layers, context_length=context_length
        )
        return cls(model, tokenizer)

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.language_model.model

    @property
    def device(self) -> torch.device:
        return self.language_model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.dtype

    @property
    def autocast(self) -> bool:
        """Whether matrix products are taken in bfloat16, over float32 weights."""
        return self.language_model.autocast

    @property
    def context_length(self) -> int | None:
        """The most tokens a row may have, or None where the model sets no limit."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @property
    def end_token_ids(self) -> list[int]:
        """Tokens that end a response: the generation config's and the tokenizer's."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        known = {*listed, self.tokenizer.eos_token_id} - {None}
        return sorted(int(token) for token in known)

    @property
    def end_token_id(self) -> int:
        """The token demonstrations end with."""
        if self.tokenizer.eos_token_id is not None:
            return int(self.tokenizer.eos_token_id)
        if not self.end_token_ids:
            raise ConfigError(
                "the policy has no end token: set eos_token_id in its generation_config.json"
            )
        return self.end_token_ids[0]

    def decode(self, token_ids: Sequence[TokenIds]) -> list[str]:
        """Returns the texts of responses, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(
            [list(map(int, row)) for row in token_ids],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return texts

    def add_value_head(self) -> nn.Linear:
        """Adds V(s), a linear head in float32 that starts at exactly 0, and returns it."""
        head = nn.Linear(self.language_model.width, 1, device=self.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.value_head = head
        return head

    def equip(self, *, value_head: bool, reference: bool, shape_logits: ShapeLogits | None) -> None:
        """Gives the policy what one training needs; what an earlier one left is taken away.

        Args:
            value_head: a new one, that says 0.
            reference: the policy as it is now, frozen.
            shape_logits: applied to the logits wherever they are used.
        """
        self.value_head = None
        self._reference = None
        self._has_reference = False
        self.shape_logits = shape_logits
        if value_head:
            self.add_value_head()
        if reference:
            self.keep_reference()

    def keep_reference(self) -> None:
        """Freezes the policy as it is now as the reference of `reference_log_probs`.

        LoRA adapters that change nothing yet need no copy: the reference is the model below them.
        """
        self._has_reference = True
        if self.adapter is None or self._adapter_acts():
            self._reference = LanguageModel(
                copy.deepcopy(self.model).requires_grad_(False), autocast=self.autocast
            )

    def _adapter_acts(self) -> bool:
        """Whether some LoRA adapter has left its starting point, where its product is 0."""
        named = self.model.named_parameters()
        return any(bool(p.any()) for name, p in named if "lora_B" in name)

    @property
    def has_reference(self) -> bool:
        """Whether `reference_log_probs` can be asked for."""
        return self._has_reference

    @contextmanager
    def _reference_model(self) -> Iterator[LanguageModel]:
        if not self._has_reference:
            raise ConfigError("the policy keeps no reference; call keep_reference() first")
        if self._reference is not None:
            yield self._reference
        else:
            with self.adapter.disable_adapter():
                yield self.language_model

    @torch.no_grad()
    def reference_log_probs(self, batch: RolloutBatch, *, temperature: float = 1.0) -> Tensor:
        """Returns the frozen reference's log-probs of the responses, [B, T]."""
        with self._reference_model() as model:
            states = _ResponseStates(model, batch)
            return states.spread(states.statistics(temperature, entropy=False).log_probs)

    def evaluate(
        self,
        batch: RolloutBatch,
        *,
        temperature: float = 1.0,
        values: bool = False,
        detach_values: bool = False,
        logits: bool = False,
        hidden: bool = False,
    ) -> PolicyOutput:
        """Returns what the policy says about the responses of `batch`, differentiably."""
        value_head = self._require_value_head() if values else None
        states = _ResponseStates(self.language_model, batch)
        found = states.statistics(
            temperature, entropy=True, keep_logits=logits, shape_logits=self.shape_logits
        )
        assert found.entropy is not None
        return PolicyOutput(
            log_probs=states.spread(found.log_probs),
            entropy=states.spread(found.entropy),
            values=None if value_head is None else states.values(value_head, detach=detach_values),
            logits=None if found.logits is None else states.spread(found.logits),
            hidden=states.spread(states.packed) if hidden else None,
        )

    def _require_value_head(self) -> nn.Linear:
        if self.value_head is None:
            raise ConfigError("the policy has no value head; call add_value_head() first")
        return self.value_head

    @torch.no_grad()
    def final_values(self, batch: RolloutBatch) -> Tensor:
        """Returns V of the state after each row's last token, [B]."""
        head = self._require_value_head()
        hidden = self.language_model.states(batch.token_ids)
        last = batch.prompt_lengths + batch.response_lengths - 1
        rows = torch.arange(len(batch), device=hidden.device)
        values: Tensor = head(hidden[rows, last].float()).squeeze(-1)
        return values

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_new_tokens: int,
        num_samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        row_ids: NDArray[np.int64] | None = None,
        values: bool = False,
    ) -> Generation:
        """Samples `num_samples` responses to each prompt; see `Generation`.

        Args:
            prompts: R token id sequences of any lengths from 1 up.
            row_ids: the samples' numbers in the run, R * num_samples; a draw depends on the seed
                and its own number only. Default 0, 1, 2, ...
            values: also return V of the state each token was drawn from.
        Raises:
            ConfigError: a prompt is empty, or leaves no room in the model's context.
        """
        self._check_prompts(prompts, max_new_tokens)
        num_rows = len(prompts) * num_samples
        if num_rows == 0:
            return Generation([], [], [], [] if values else None)
        return generate(
            self.language_model,
            prompts,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            row_ids=np.arange(num_rows) if row_ids is None else row_ids,
            end_token_ids=self.end_token_ids,
            shape_logits=self.shape_logits,
            value_head=self._require_value_head() if values else None,
            decoding=self.decoding,
        )

    def _check_prompts(self, prompts: Sequence[TokenIds], max_new_tokens: int) -> None:
        limit = self.context_length
        for number, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise ConfigError(f"prompt {number} has no tokens; a model needs at least one")
            if limit is not None and len(prompt) + max_new_tokens > limit:
                raise ConfigError(
                    f"prompt {number} has {len(prompt)} tokens; with {max_new_tokens} new ones it "
                    f"exceeds the model's context of {limit}: shorten it or lower max_new_tokens"
                )

    def trained_modules(self, extra: nn.Module | None = None) -> dict[str, nn.Module]:
        """Returns what training changes, by name: the model, the value head, an algorithm's own."""
        parts: dict[str, nn.Module | None] = {
            "model": self.model,
            "value_head": self.value_head,
            "extra": extra,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def parameter_groups(
        self, *, value_learning_rate: float | Literal["auto"] | None
    ) -> list[dict[str, Any]]:
        """Returns two optimiser groups: the model, and the value head at a rate of its own.

        A step of Adam moves V by about the rate times the sum of |hidden state|; "auto" divides by
        the width, so that V follows as fast in any model. With None there is no rate of its own.
        """
        head = self._require_value_head()
        if value_learning_rate == "auto":
            value_learning_rate = 0.64 / head.in_features
        rate = {} if value_learning_rate is None else {"lr": value_learning_rate}
        model = {"params": list(self.model.parameters())}
        return [model, {"params": list(head.parameters()), **rate}]

    def snapshot(self) -> Policy:
        """Returns a frozen copy, without the reference; what shapes the logits is copied too."""
        twin = Policy(
            copy.deepcopy(self.model).requires_grad_(False),
            self.tokenizer,
            autocast=self.autocast,
            decoding=self.decoding,
        )
        if self.value_head is not None:
            twin.value_head = copy.deepcopy(self.value_head).requires_grad_(False)
        twin.shape_logits = copy.deepcopy(self.shape_logits)  # of a method, also its object
        return twin

    def fingerprint(self) -> str:
        """Returns a SHA-256 over the model's parameters, names included."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer in the transformers layout; LoRA adapters are merged in.

        A critic that was loaded with the model is written beside it again.
        """
        model = self.model
        if self.adapter is not None:
            model = copy.deepcopy(self.adapter).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.steering is not None:
            from alignzoo.steering import write_steering

            write_steering(folder, self, self.steering)


class _ResponseStates:
    """The states from which a batch's N unmasked response tokens are predicted.

    The state at position t - 1 predicts token t, and V(s_t) is read from that same state, so
    nothing here sees the token it speaks about.
    """

    def __init__(self, model: LanguageModel, batch: RolloutBatch) -> None:
        self.model = model
        self.mask = batch.response_mask  # [B, T]
        self.target = batch.action_positions  # [N], in [B * T]
        self.tokens = batch.response_ids.reshape(-1).index_select(0, self.target)  # [N]
        width = max(1, self.mask.shape[1])
        rows, steps = self.target // width, self.target % width
        seen = batch.token_ids[:, :-1]  # the state after the last token predicts nothing
        source = rows * seen.shape[1] + batch.prompt_lengths[rows] - 1 + steps  # in [B * (L - 1)]
        states, logits = model.forward(seen)
        self.packed = states.flatten(0, 1).index_select(0, source)  # [N, D]
        self.logits = None if logits is None else logits.flatten(0, 1).index_select(0, source)

    def statistics(self, temperature: float, *, entropy: bool, **options: Any) -> TokenStatistics:
        """Returns what the model's head says of the tokens; see `token_statistics`."""
        return self.model.token_statistics(
            self.packed,
            self.logits,
            self.tokens,
            temperature=temperature,
            entropy=entropy,
            **options,
        )

    def spread(self, values: Tensor) -> Tensor:
        """Returns [B, T, ...] from [N, ...]; 0 where the mask is False."""
        flat = values.new_zeros((self.mask.numel(), *values.shape[1:]))
        return flat.index_copy(0, self.target, values).view(*self.mask.shape, *values.shape[1:])

    def values(self, head: nn.Module, *, detach: bool) -> Tensor:
        """Returns V of the state before each token, [B, T]."""
        read = self.packed.detach() if detach else self.packed
        return self.spread(head(read.float()).squeeze(-1))
