"""Loading models: a folder, a hub id, adapters, or the built-in tiny one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alignzoo.errors import ConfigError
from alignzoo.policy.tiny import make_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(source: str, *, dtype: str, seed: int) -> tuple[Any, Any]:
    """Returns a transformers model and its tokenizer.

    Raises:
        ConfigError: an unknown dtype, or no causal language model at `source`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is '{dtype}'; expected one of {', '.join(DTYPES)}")
    if source == "tiny":
        model, tokenizer = make_model(seed)
        model.to(DTYPES[dtype])
        return model, tokenizer
    if source.startswith("~"):
        source = str(Path(source).expanduser())
    folder = Path(source)
    if folder.exists() or source.startswith(("/", ".")) or source.count("/") > 1:
        _check_folder(folder)
    if (folder / "adapter_config.json").exists():
        return _load_with_adapter(source, DTYPES[dtype])
    return _load_pretrained(source, DTYPES[dtype])


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise ConfigError(f"policy folder '{folder}' does not exist")
    if not folder.is_dir():
        raise ConfigError(f"policy '{folder}' is a file; expected a transformers model folder")
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(
            f"policy '{folder}' is no model folder: it has no config.json; give a folder that "
            "save_pretrained wrote, a hub id, or 'tiny'"
        )


def _load_pretrained(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # transformers raises many types; each means there is no model here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"policy '{source}' is no causal language model that transformers can load: {reason}"
        ) from error
    return model, tokenizer


def _load_with_adapter(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Merges the adapters, so that the policy as loaded is also the reference below new ones."""
    peft = _peft()
    try:
        adapted = peft.AutoPeftModelForCausalLM.from_pretrained(source, dtype=dtype)
    except Exception as error:
        raise ConfigError(
            f"policy '{source}' holds adapters that peft cannot load: {error}"
        ) from error
    model = adapted.merge_and_unload()
    base = adapted.peft_config["default"].base_model_name_or_path
    from transformers import AutoTokenizer

    has_tokenizer = (Path(source) / "tokenizer_config.json").exists()
    return model, AutoTokenizer.from_pretrained(source if has_tokenizer else base)


def add_adapter(
    model: Any, *, rank: int, alpha: float | None, targets: str | list[str], seed: int
) -> Any:
    """Puts LoRA adapters into `model`, in place, and returns the PeftModel that holds them."""
    peft = _peft()
    if isinstance(targets, str) and targets != "all-linear":
        targets = [name.strip() for name in targets.split(",")]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"lora_targets is {targets!r}: {error}") from error


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "LoRA needs the peft library, which is not installed: pip install 'alignzoo[lora]'"
        ) from error
    return peft
