"""A token MDP's table of logits as a transformers causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from alignzoo.policy import Policy

if TYPE_CHECKING:
    from alignzoo.testing.token_mdp import TokenMDP


class TabularConfig(PretrainedConfig):
    """Sizes of a `TabularModel`; one layer, because its cache has one."""

    model_type = "alignzoo_tabular"

    def __init__(
        self,
        vocab_size: int = 3,
        hidden_size: int = 1,
        context_numbers: list[list[int]] | None = None,
        **rest: Any,
    ) -> None:
        """`context_numbers[t]` has the number of each context of t tokens, by its code."""
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = 1
        self.context_numbers = context_numbers or [[0]]
        super().__init__(**rest)


class TabularBackbone(PreTrainedModel):
    """Hidden states [b, L, S]: at each position the one-hot vector of the response so far.

    Position 0 is the prompt, whose context is the empty response. Contexts that no response has
    (after an end token, or the horizon) have the zero vector. A context's code is its tokens read
    as a number in base V.
    """

    config_class = TabularConfig

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.register_buffer("unused", torch.zeros(1), persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPast:
        tokens = input_ids
        if past_key_values is not None:  # the cache holds what was read so far
            keys = input_ids[:, None, :, None].float()
            tokens = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        states = self._states(tokens)[:, -input_ids.shape[1] :]
        hidden = nn.functional.one_hot(states + 1, self.config.hidden_size + 1)[..., 1:]
        return BaseModelOutputWithPast(
            last_hidden_state=hidden.float(), past_key_values=past_key_values
        )

    def _states(self, tokens: Tensor) -> Tensor:
        """Returns the context's number at each position, [b, L]; -1 where there is none."""
        config = self.config
        code = torch.zeros_like(tokens[:, 0])
        states = torch.full_like(tokens, -1)
        for position in range(min(tokens.shape[1], len(config.context_numbers))):
            if position > 0:
                code = code * config.vocab_size + tokens[:, position]
            states[:, position] = torch.tensor(config.context_numbers[position])[code]
        return states


class TabularModel(PreTrainedModel):
    """Logits [b, L, V]: the table's row of each position's context."""

    config_class = TabularConfig
    base_model_prefix = "model"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.model = TabularBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def forward(self, input_ids: Tensor, **options: Any) -> CausalLMOutputWithPast:
        hidden = self.model(input_ids, **options).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), hidden_states=(hidden,))


def make_policy(mdp: TokenMDP, logits: NDArray[Any]) -> Policy:
    """Returns the table [S, V] as a policy; see `TokenMDP.policy`."""
    config = TabularConfig(
        vocab_size=mdp.vocab_size,
        hidden_size=len(mdp.contexts),
        context_numbers=[_numbers_by_code(mdp, length) for length in range(mdp.horizon)],
        eos_token_id=mdp.end_token,
    )
    model = TabularModel(config)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.as_tensor(logits).T)
    model.generation_config = GenerationConfig(eos_token_id=mdp.end_token)
    return Policy(model, _make_tokenizer(mdp))


def _numbers_by_code(mdp: TokenMDP, length: int) -> list[int]:
    numbers = [-1] * mdp.vocab_size**length
    for number, context in enumerate(mdp.contexts):
        if len(context) == length:
            code = 0
            for token in context:
                code = code * mdp.vocab_size + token
            numbers[code] = number
    return numbers


def _make_tokenizer(mdp: TokenMDP) -> Any:
    """Returns a tokenizer whose tokens are the words "0", "1", ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {str(token): token for token in range(mdp.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = None if mdp.end_token is None else str(mdp.end_token)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
