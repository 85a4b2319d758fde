"""Makes a workload's model: `python bench/rounds_sides/wide_model.py FOLDER [WORKLOAD]`.

That of `wide`, if no other is named: a Llama of width 256 with 4 layers and a vocabulary of 32,000,
11.4 million parameters with random weights. Its tokenizer has one word per token. The end token has
the first id that the model cannot draw, so every response is as long as it may be, whoever samples
it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared import PROMPT

SHAPES = {
    "wide": {
        "vocab_size": 32_000,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    },
    "half_billion": {
        "vocab_size": 128_256,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "half_billion_tried": {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def make_model(folder: Path, workload: str = "wide") -> int:
    """Writes model and tokenizer to `folder` and returns the number of parameters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *PROMPT.split(), "dog", "park", "sad", "scared", "cry"]
    shape = SHAPES[workload]
    words += [f"word{i}" for i in range(len(words), shape["vocab_size"])]
    vocabulary = {word: i for i, word in enumerate([*words, "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            **shape,
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
    print(make_model(Path(sys.argv[1]), *sys.argv[2:]))
