"""Small runs that take a fraction of a second, and what they leave behind, to be compared."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

import alignzoo as az
from alignzoo import cli
from alignzoo.policy.tiny import make_model

TEXTS = [f"{who} {did}" for who in ("The dog", "A cat", "One bird") for did in "abcdefgh"]
DEMONSTRATIONS = [{"prompt": f"{text} and", "completion": f" then {text[::-1]}"} for text in TEXTS]
SIZES = {"batch_size": 8, "max_new_tokens": 8, "eval_fraction": 0.25}


def make_policy(folder: Path, *, seed: int = 0) -> Path:
    """Writes a transformers folder of a model with 13 thousand random parameters."""
    model, tokenizer = make_model(seed, width=32, num_layers=1, context_length=128)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Writes JSON lines; a string is taken as a prompt."""
    dicts = ({"prompt": row} if isinstance(row, str) else row for row in rows)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dicts))
    return path


def count_vowels(prompts, completions):
    """A reward: the share of vowels among a completion's characters."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def make_trainer(policy: Any, out: Path, algorithm: Any = None, **options: Any) -> az.Trainer:
    """Returns a small trainer; what it trains on follows from the algorithm."""
    algorithm = algorithm if algorithm is not None else az.make("ppo", learning_rate=1e-3)
    if algorithm.needs.source == "rollouts":
        data: dict[str, Any] = {"prompts": TEXTS, "reward": count_vowels}
    else:
        data = {"data": DEMONSTRATIONS}
    policy = policy if isinstance(policy, az.Policy) else str(policy)
    return az.Trainer(policy=policy, algorithm=algorithm, out=out, **{**SIZES, **data, **options})


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """Returns metrics.jsonl; refuses NaN and Infinity, which are no JSON."""
    return read_lines(out / "metrics.jsonl")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines file, none where there is no file."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    if not path.exists():
        return []
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def outcome(out: Path) -> dict[str, Any]:
    """Returns all that an interrupted run must share with an uninterrupted one, to the bit."""
    metrics = [list({**line, "seconds": 0}.items()) for line in metrics_of(out)]
    files = {
        name: (out / name).read_bytes() if (out / name).exists() else None
        for name in ("samples.jsonl", "skipped.jsonl", "final/model.safetensors")
    }
    return {"metrics": metrics, **files}


def assert_same_outcome(left: Path, right: Path) -> None:
    """Compares two runs, the readable part first."""
    a, b = outcome(left), outcome(right)
    assert a["metrics"] == b["metrics"]
    for name in ("samples.jsonl", "skipped.jsonl"):
        assert a[name] == b[name], f"{name} differs"
    assert a["final/model.safetensors"] == b["final/model.safetensors"], "parameters differ"


def copy_run(source: Path, target: Path) -> Path:
    """Copies a run to a new folder."""
    shutil.copytree(source, target)
    return target


def listing(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder with its bytes, to show that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def saved_config(out: Path) -> dict[str, Any]:
    """Returns config.yaml."""
    return dict(yaml.safe_load((out / "config.yaml").read_text()))


def flags(options: Mapping[str, Any]) -> list[str]:
    """Returns options as command-line flags; a list gives its flag several times."""
    words: list[str] = []
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            words += ["--" + name.replace("_", "-"), str(item)]
    return words


def train(algorithm: str | None, *switches: str, **options: Any) -> int:
    """Runs `alignzoo train` in this process and returns its exit code."""
    words = [algorithm] if algorithm else []
    return cli.main(["train", *words, *flags(options), *switches])


def flip_byte(path: Path, *, seed: int = 0) -> None:
    """Alters one byte of a file, somewhere in its second half."""
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(content) // 2, len(content))
    content[place] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cuts a file to half its size."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
