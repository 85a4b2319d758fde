"""Makes the second workload's model: `python bench/rounds_sides/wide_model.py FOLDER`.

A Llama of width 256 with 4 layers and a vocabulary of 32,000, 11.4 million parameters with random
weights. Its tokenizer has one word per token. The end token has the first id that the model cannot
draw, so every response is as long as it may be, whoever samples it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared import PROMPT

VOCABULARY = 32_000


def make_model(folder: Path) -> int:
    """Writes model and tokenizer to `folder` and returns the number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *PROMPT.split(), "dog", "park", "sad", "scared", "cry"]
    words += [f"word{i}" for i in range(len(words), VOCABULARY)]
    vocabulary = {word: i for i, word in enumerate([*words, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=vocabulary["<pad>"],
            bos_token_id=None,
            eos_token_id=None,  # the tokenizer names it; here it would be out of range
        )
    )
    model.save_pretrained(folder)
    return model.num_parameters()


if __name__ == "__main__":
    print(make_model(Path(sys.argv[1])))
