"""Small tokenizers made here, one of each kind, and where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["hello world, hello you", "the dog runs in the park", "user assistant system\n\n"]


def byte_level_tokenizer(*, bos: bool = False, special: tuple[str, ...] = ()) -> Any:
    """Returns a byte-level BPE tokenizer: no space is put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def plain() -> Any:
    """Byte-level, BOS before a text, no chat template."""
    return byte_level_tokenizer(bos=True)


@pytest.fixture
def chatml() -> Any:
    """Byte-level, no BOS, a template whose turns end with <|im_end|> and a line break."""
    tokenizer = byte_level_tokenizer(special=("<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def spaced() -> Any:
    """SentencePiece in kind: a space before every text, bytes for what it lacks, BOS and EOS."""
    pieces = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"dogrunhelpa"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocabulary, merges=[], byte_fallback=True, unk_token=None)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def real_data() -> Path:
    """The folder that ALIGNZOO_DATA names."""
    folder = os.environ.get("ALIGNZOO_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ALIGNZOO_DATA names no folder with the real data")
    return Path(folder)
