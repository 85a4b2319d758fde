"""The tables that are not a kernel beside its peers: sizes, overheads, decoding, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import module
from time_logits import torch_sample
from timing import Clock, Options, Run, median_interval, pair, significant
from workloads import Rows, Tokens, Update

from alignzoo import kernels
from alignzoo.kernels import linear, torch_ops

HERE = Path(__file__).parent
Row = dict[str, Any]

TOKEN_SIZES = [8_192, 16_384, 65_536, 262_144, 1_048_576]
VOCABULARIES = [1_024, 4_096, 16_384, 32_768, 131_072]
LOGITS = 1 << 24  # in each set of rows of the second table


def _seconds(run: Run, rounds: int) -> dict[str, float]:
    clock = Clock(run)
    return median_interval([clock.seconds() for _ in range(rounds)])


def token_sizes(options: Options, small: bool) -> list[Row]:
    """Nanoseconds a token of scans and losses over the number of tokens, in rows of 512 and one."""
    rows = []
    for name, make in {
        "gae": _gae,
        "vtrace": _vtrace,
        "policy_loss": _policy,
        "k3": _k3,
    }.items():
        for length in (512, None):
            found = []
            for size in TOKEN_SIZES[: 2 if small else None]:
                width = length or size
                seconds = _seconds(make(size // width, width), options.rounds)["median"]
                found.append(significant(1e9 * seconds / size))
            rows.append(_scaling_row(name, f"rows of {length}" if length else "one row", found))
    return rows


def _gae(num_rows: int, length: int) -> Run:
    x = Tokens(num_rows, length)
    n = x.copies
    return lambda i: kernels.gae(
        x.rewards[i % n],
        x.values[i % n],
        gamma=0.99,
        gae_lambda=0.95,
        mask=x.masks[i % n],
    )


def _vtrace(num_rows: int, length: int) -> Run:
    x, y = Tokens(num_rows, length), Update(num_rows, length)
    new = [z.detach() for z in y.new]
    n = min(x.copies, y.copies)
    return lambda i: kernels.vtrace(
        new[i % n],
        y.old[i % n],
        x.rewards[i % n],
        x.values[i % n],
        gamma=0.99,
        mask=x.masks[i % n],
    )


def _policy(num_rows: int, length: int) -> Run:
    x = Update(num_rows, length)
    n = x.copies
    return lambda i: kernels.policy_loss(
        x.new[i % n], x.old[i % n], x.advantages[i % n], x.mask, clip_range=0.2
    )


def _k3(num_rows: int, length: int) -> Run:
    x = Update(num_rows, length)
    n, new = x.copies, [y.detach() for y in x.new]
    return lambda i: kernels.kl_penalty(new[i % n], x.ref[i % n], estimator="k3")


def _scaling_row(kernel: str, shape: str, found: list[float]) -> Row:
    """Whether every size costs at most twice what the largest, out of any cache, does."""
    return {
        "kernel": kernel,
        "shape": shape,
        "nanoseconds": found,
        "worst_over_largest": significant(max(found) / found[-1], 3),
        "met": max(found) <= 2 * found[-1],
    }


def vocabularies(options: Options, small: bool) -> list[Row]:
    """Nanoseconds a logit of the row kernels over the vocabulary, the number of logits fixed."""
    rows = []
    for name, make in ROW_KERNELS.items():
        found = []
        for vocabulary in VOCABULARIES[: 2 if small else None]:
            x = Rows((LOGITS >> (4 if small else 0)) // vocabulary, vocabulary)
            seconds = _seconds(make(x), options.rounds)["median"]
            found.append(significant(1e9 * seconds / (x.num_rows * vocabulary)))
        rows.append(_scaling_row(name, f"{LOGITS} logits", found))
    return rows


ROW_KERNELS: dict[str, Callable[[Rows], Run]] = {
    "token_log_probs": lambda x: (
        lambda i: kernels.token_log_probs(x.logits[i % x.copies], x.targets)
    ),
    "token_log_probs, entropy": lambda x: (
        lambda i: kernels.token_log_probs(x.logits[i % x.copies], x.targets, entropy=True)
    ),
    "sample_tokens": lambda x: lambda i: kernels.sample_tokens(x.logits[i % x.copies], seed=i),
    "max_and_gather": lambda x: lambda i: kernels.max_and_gather(x.logits[i % x.copies], x.targets),
    "kl_divergence": lambda x: (
        lambda i: kernels.kl_divergence(x.logits[i % x.copies], x.logits[(i + 1) % x.copies])
    ),
}


def overhead(options: Options, small: bool) -> list[Row]:
    """Microseconds of calls with next to nothing to compute: checks, intake, results."""
    rewards, values, after = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2)
    mask = torch.ones(2, 4, dtype=torch.bool)
    plain = {"mask": mask.numpy(), "bootstrap": after.numpy()}
    numpy_rewards, numpy_values = rewards.numpy(), values.numpy()
    log_probs, old, advantages = -torch.rand(3, 2, 4)
    leaf = log_probs.clone().requires_grad_()
    scan = {"gamma": 0.99, "gae_lambda": 0.95}
    empty = (None, None)
    runs: dict[str, tuple[Run, float | None]] = {
        "gae, four tensors, direct": (
            lambda _: kernels.gae(rewards, values, mask=mask, bootstrap=after, **scan),
            2.0,
        ),
        "gae, four tensors, torch dispatch": (
            lambda _: torch_ops.gae(
                rewards, values, 0.99, 0.95, mask, *empty, after, *empty, "carry"
            ),
            10.0,
        ),
        "gae, four NumPy arrays": (
            lambda _: kernels.gae(numpy_rewards, numpy_values, **plain, **scan),
            None,
        ),
        "policy_loss, four tensors, no gradient": (
            lambda _: kernels.policy_loss(log_probs, old, advantages, mask, clip_range=0.2),
            None,
        ),
        "policy_loss, four tensors, forward and backward": (
            lambda _: torch.autograd.grad(
                kernels.policy_loss(leaf, old, advantages, mask, clip_range=0.2)[0],
                leaf,
            ),
            None,
        ),
        "torch.add of two tensors": (lambda _: torch.add(rewards, values), None),
    }
    rows = []
    for name, (run, aim) in runs.items():
        found = _seconds(run, options.rounds)
        found = {key: significant(1e6 * value) for key, value in found.items()}
        met = None if aim is None else found["median"] <= aim
        rows.append({"call": name, **found, "aim": aim, "met": met})
    return rows


def decoding(options: Options, small: bool) -> list[Row]:
    """What drawing 32 tokens takes beside the step that computes their logits."""
    model = make_decoder(vocabulary=3200 if small else 32_000)
    token_ids = torch.randint(100, (32, 65))
    with torch.inference_mode():
        cache = model(input_ids=token_ids[:, :-1], use_cache=True).past_key_values
        logits = model(input_ids=token_ids[:, -1:], past_key_values=cache).logits[:, -1].float()
        cache.crop(-1)

    @torch.inference_mode()
    def step(_: int) -> Any:
        out = model(input_ids=token_ids[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)
        return out

    draws: dict[str, tuple[Run, float | None]] = {
        "sample_tokens": (
            lambda i: kernels.sample_tokens(logits, seed=1, offset=i),
            0.1,
        ),
        "sample_tokens, top_k 50, top_p 0.9": (
            lambda i: kernels.sample_tokens(logits, seed=1, offset=i, top_k=50, top_p=0.9),
            None,
        ),
        "torch softmax, multinomial, log_softmax": (
            lambda _: torch_sample(logits),
            None,
        ),
    }
    rows = []
    for name, (draw, aim) in draws.items():
        times = pair(step, draw, options).describe()
        rows.append(
            {
                "draw": name,
                "share_of_step": {key: times[key] for key in ("median", "low", "high")},
                "draw_us": times["other_us"],
                "step_us": times["ours_us"],
                "parameters": model.num_parameters(),
                "aim": aim,
                "met": None if aim is None else times["median"] <= aim,
            }
        )
    return rows


def make_decoder(vocabulary: int) -> Any:
    """A Llama of 11.4 million random weights, as in `bench/rounds.py`'s second workload."""
    transformers = module("transformers", "transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


def memory(options: Options, small: bool) -> list[Row]:
    """Peak memory of log-probs and their gradients from hidden states, in processes of their own.

    torch at once holds three times [N, V]; at the full size that is more than most machines have,
    so it is measured at a quarter of the rows. TRL's peak does not depend on their number.
    """
    sizes = (1024, 8000, 128) if small else (16_384, 128_000, 512)
    fewer = (sizes[0] // 4, *sizes[1:])
    plans = [("alignzoo", sizes), ("trl", fewer), ("torch", fewer)]
    rows: list[Row] = []
    for side, (num_rows, vocabulary, width) in plans:
        row: Row = {
            "side": side,
            "rows": num_rows,
            "vocabulary": vocabulary,
            "width": width,
        }
        command = [sys.executable, str(HERE / "memory_side.py"), side]
        command += [
            str(num_rows),
            str(vocabulary),
            str(width),
            str(torch.get_num_threads()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            row["peak_extra_mb"] = significant(int(done.stdout) / 2**20)
            row["logits_mb"] = significant(4 * num_rows * vocabulary / 2**20)
            if side == "alignzoo":
                chunk_rows = min(num_rows, linear.rows_per_chunk(None, vocabulary, 4))
                row["chunk_mb"] = significant(4 * chunk_rows * vocabulary / 2**20)
        else:
            lines = done.stderr.strip().splitlines()
            row["absent"] = lines[-1] if lines else f"ended with {done.returncode}"
        rows.append(row)
    return rows


SECTIONS: dict[str, Callable[[Options, bool], list[Row]]] = {
    "tokens": token_sizes,
    "vocabularies": vocabularies,
    "overhead": overhead,
    "decoding": decoding,
    "memory": memory,
}
