"""kill -9 at random moments, checkpoint writing included; the resumed run is bitwise the whole."""

from __future__ import annotations

import json
import random

import pytest
from trainer.kills import (
    after_seconds,
    after_update,
    finish,
    kill_at,
    num_lines,
    while_resuming,
    while_writing_checkpoint,
)
from trainer.runs import TEXTS, assert_same_outcome, flags, metrics_of, write_lines

REWARD = "keywords:" + json.dumps({"include": ["e", "th"], "min_words": 2, "max_words": 9})


def options(tmp_path, policy, out, *, steps, **more):
    given = {
        "policy": policy,
        "prompts": tmp_path / "prompts.jsonl",
        "reward": REWARD,
        "out": out,
        "steps": steps,
        "batch_size": 8,
        "max_new_tokens": 12,
        "learning_rate": 1e-3,
        "kl_target": 0.05,
        "eval_fraction": 0.25,
        "eval_every": 3,
        "checkpoint_every": 1,
        "threads": 1,
        **more,
    }
    return ["ppo", *flags(given)]


@pytest.fixture
def whole(tmp_path, policy):
    """Makes the uninterrupted run of as many updates as asked for; returns its folder."""
    write_lines(tmp_path / "prompts.jsonl", TEXTS)

    def make(steps, **more):
        out = tmp_path / "whole"
        finish(options(tmp_path, policy, out, steps=steps, **more))
        assert len(metrics_of(out)) == steps
        return out

    return make


def test_three_kills_leave_no_trace(tmp_path, policy, whole):
    steps = 60
    draw = random.Random(0)
    out = tmp_path / "killed"
    first = options(tmp_path, policy, out, steps=steps)
    again = ["--resume", "--out", str(out)]
    assert kill_at(first, out, after_update(draw.randrange(2, 8), delay=draw.random() / 20))
    assert kill_at(again, out, while_writing_checkpoint(draw.randrange(15, 25)))
    assert kill_at(again, out, after_update(draw.randrange(30, 40), delay=draw.random() / 20))
    assert len(metrics_of(out)) < steps
    finish(again)
    assert_same_outcome(out, whole(steps))


@pytest.mark.slow
def test_thirty_kills_leave_no_trace(tmp_path, policy, whole):
    """At any moment from config.yaml on: resuming, updates, checkpoints, evaluations."""
    steps = 200
    draw = random.Random(1)
    out = tmp_path / "killed"
    words = options(tmp_path, policy, out, steps=steps, checkpoint_every=2)
    assert kill_at(words, out, after_seconds(0.0, last=1))
    words = ["--resume", "--out", str(out)]
    kinds = ["any time", "resuming", "writing", "updating"] * 8
    draw.shuffle(kinds)
    for kind in kinds[:29]:
        done = num_lines(out / "metrics.jsonl")
        soon = min(done + draw.randrange(1, 6), steps - 20)
        moment = {
            "any time": after_seconds(draw.uniform(0, 6), last=steps - 20),
            "resuming": while_resuming(out, delay=draw.random() / 50),
            "writing": while_writing_checkpoint(soon),
            "updating": after_update(soon, delay=draw.random() / 20),
        }[kind]
        assert kill_at(words, out, moment), f"ended before the kill ({kind})"
    finish(words)
    assert_same_outcome(out, whole(steps, checkpoint_every=2))


@pytest.mark.slow
def test_a_real_model_survives_kills(tmp_path, data_dir, whole):
    model = data_dir / "models" / "stories260K"
    more = {"batch_size": 16, "max_new_tokens": 24, "eval_fraction": 0}
    out = tmp_path / "killed"
    write_lines(tmp_path / "prompts.jsonl", ["Once upon a time, there was a"])
    words = options(tmp_path, model, out, steps=12, **more)
    draw = random.Random(2)
    for step in (2, 5, 8):
        assert kill_at(words, out, after_update(step, delay=draw.random() / 5))
        words = ["--resume", "--out", str(out)]
    finish(words)
    unbroken = tmp_path / "unbroken"
    finish(options(tmp_path, model, unbroken, steps=12, **more))
    assert_same_outcome(out, unbroken)
