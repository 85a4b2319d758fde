"""How far the sampler's log-probs are from those of one full forward, and the ratios that follow.

A key-value cache changes the shapes of attention and products, and with them the rounding: the
log-probs of the same tokens differ between decoding and training. So an importance ratio taken
against the sampler's is not 1 before the first step. Scoring the responses again with the training
forward makes it so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import alignzoo as az
from alignzoo import kernels

HERE = Path(__file__).parent
Row = dict[str, Any]


def measure(small: bool) -> list[Row]:
    """One row for each model and number type."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in _models(Path(folder)).items():
            for dtype in ("float32", "bfloat16"):
                if model is None:
                    rows.append(
                        {
                            "model": name,
                            "dtype": dtype,
                            "absent": "ALIGNZOO_DATA: not set",
                        }
                    )
                else:
                    rows.append(
                        {
                            "model": name,
                            "dtype": dtype,
                            **_mismatch(model, dtype, small),
                        }
                    )
    return rows


def _models(folder: Path) -> dict[str, Path | None]:
    data = os.environ.get("ALIGNZOO_DATA")
    stories = Path(data) / "models" / "stories260K" if data else None
    wide = folder / "wide"
    script = HERE.parent / "rounds_sides" / "wide_model.py"
    subprocess.run([sys.executable, str(script), str(wide)], check=True, capture_output=True)
    return {"stories260K": stories, "Llama of 11.4 million random weights": wide}


def _mismatch(model: Path, dtype: str, small: bool) -> Row:
    policy = az.Policy.from_pretrained(model, dtype=dtype)
    prompt = policy.tokenizer("Once upon a time, there was a")["input_ids"]
    num_samples, length = (8, 16) if small else (64, 128)
    made = policy.generate([prompt], num_samples=num_samples, max_new_tokens=length, seed=0)
    buffer = az.RolloutBuffer()
    prompts = [prompt] * num_samples
    buffer.append(prompts, made.token_ids, policy_version=0, sampler_log_probs=made.log_probs)
    batch = buffer.batch()
    mask, sampled = batch.response_mask, batch.sampler_log_probs
    with torch.no_grad():
        scored = policy.evaluate(batch).log_probs
    trained = policy.evaluate(batch).log_probs.detach()  # with gradients, as an update does
    split = torch.zeros_like(trained)
    for i, part in enumerate(batch.micro_batches(max_rows=8)):
        log_probs = policy.evaluate(part).log_probs.detach()
        split[8 * i : 8 * i + 8, : log_probs.shape[1]] = log_probs
    gaps = (sampled - scored).abs()[mask]
    return {
        "tokens": int(mask.sum()),
        "max_difference": float(gaps.max()),
        "mean_difference": float(gaps.mean()),
        "ratio_sampler": _ratio(trained, sampled, mask),
        "ratio_rescored": _ratio(trained, scored, mask),
        "ratio_rescored_in_minibatches_of_8": _ratio(split, scored, mask),
    }


def _ratio(new: torch.Tensor, old: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """The largest distance of a ratio from 1, and what PPO would report of it at its first step."""
    _, stats = kernels.policy_loss(new, old, torch.ones_like(new), mask, clip_range=0.2)
    largest = torch.expm1((new - old).double()[mask]).abs().max()
    return {
        "max_distance_from_1": float(largest),
        "approx_kl": float(stats["approx_kl"]),
    }
