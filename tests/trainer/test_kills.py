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
    """At any moment from config.yaml on: start-up, resuming, updates, checkpoints, the report."""
    steps = 150
    draw = random.Random(1)
    out = tmp_path / "killed"
    words = options(tmp_path, policy, out, steps=steps, checkpoint_every=2)
    kinds = {"early": 0, "writing": 0, "late": 0}
    for number in range(30):
        kind = draw.choice(list(kinds)) if number else "early"
        done = len((out / "metrics.jsonl").read_bytes().splitlines()) if number else 0
        moment = {
            "early": after_seconds(draw.uniform(0, 1.5) if number else 0.0),
            "writing": while_writing_checkpoint(min(done + draw.randrange(1, 5), steps - 20)),
            "late": after_update(done + draw.randrange(1, 5), delay=draw.random() / 20),
        }[kind]
        assert kill_at(words, out, moment), f"kill {number} came too late"
        kinds[kind] += 1
        words = ["--resume", "--out", str(out)]
    assert min(kinds.values()) >= 5
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
