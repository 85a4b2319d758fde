"""Runs on real models and data, where ALIGNZOO_DATA names them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from trainer.runs import metrics_of, train, write_lines

import alignzoo as az
from alignzoo.data import encode_demonstrations, read_demonstrations
from alignzoo.policy.tiny import make_model

STORY = "Once upon a time, there was a"
KEYWORDS = {
    "include": ["dog", "park"],
    "avoid": ["sad", "scared", "cry"],
    "min_words": 20,
    "max_words": 45,
}
CHINESE = {"include": ["知道", "我"], "min_words": 4, "max_words": 24, "unit": "characters"}


def stories(data_dir):
    return str(data_dir / "models" / "stories260K")


def first_lines(path: Path, count: int) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, count)]


def last_five(out: Path, name: str) -> float:
    values = [line[name] for line in metrics_of(out)[-5:]]
    return sum(values) / len(values)


def test_instruction_tuning_lowers_the_held_out_loss(data_dir, tmp_path):
    rows = first_lines(data_dir / "instruct_train.jsonl", 240)
    assert set(rows[0]) >= {"instruction", "input", "output"}
    trainer = az.Trainer(
        policy=stories(data_dir),
        algorithm=az.make("sft", learning_rate=2e-3),
        data=rows,
        out=tmp_path / "run",
        batch_size=8,
        max_length=160,
        max_eval_rows=24,
        eval_every=100,
    )
    lines = trainer.run(10)
    assert lines[-1]["eval_loss"] < trainer.baseline["eval_loss"] - 0.1
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_dialogue_is_trained_on_each_assistant_turn(data_dir, tmp_path):
    rows = first_lines(data_dir / "kdconv_zh_dialogues.jsonl", 3)
    policy = az.Policy.from_pretrained("tiny")
    demonstrations = read_demonstrations(rows)
    encoded, report = encode_demonstrations(
        policy.tokenizer, demonstrations, end_ids=policy.end_token_ids
    )
    assert not report.describe()
    end = policy.end_token_id
    end = policy.end_token_id
    for row, demonstration in zip(rows, encoded, strict=True):
        said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        pairs = zip(demonstration.response_ids, demonstration.response_mask, strict=True)
        learned = [token for token, carries in pairs if carries]
        grouped = itertools.groupby(learned, key=lambda token: token == end)
        assert policy.decode([list(turn) for is_end, turn in grouped if not is_end]) == said
        assert learned.count(end) == len(said)
    trainer = az.Trainer(
        policy=policy,
        algorithm=az.make("sft", learning_rate=1e-3),
        data=rows,
        out=tmp_path / "run",
        batch_size=2,
        max_length=400,
    )
    lines = trainer.run(2)
    assert 0 < lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["tokens"] < 4 * 400


@pytest.mark.slow
def test_instruction_tuning_on_all_of_the_instructions(data_dir, tmp_path):
    options = {
        "policy": stories(data_dir),
        "data": data_dir / "instruct_train.jsonl",
        "out": tmp_path / "run",
        "steps": 30,
        "batch_size": 16,
        "max_length": 256,
        "learning_rate": 1e-3,
        "warmup_steps": 5,
        "eval_every": 10,
    }
    assert train("sft", **options) == 0
    losses = [line["eval_loss"] for line in metrics_of(tmp_path / "run") if "eval_loss" in line]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.5


def align(data_dir, out, algorithm, seed, **options):
    given = {
        "policy": stories(data_dir),
        "prompts": write_lines(out.parent / "prompts.jsonl", [STORY]),
        "reward": "keywords:" + json.dumps(KEYWORDS),
        "steps": 40,
        "batch_size": 64,
        "max_new_tokens": 64,
        "learning_rate": 1e-3,
        "seed": seed,
        "out": out,
    }
    assert train(algorithm, **{**given, **options}) == 0


@pytest.mark.slow  # bench/real_runs.py and bench/zoo.py have more seeds and every algorithm
@pytest.mark.parametrize(
    ("algorithm", "options"), [("ppo", {}), ("reinforce", {"baseline": "batch"})]
)
def test_a_real_model_learns_what_the_reward_asks(algorithm, options, data_dir, tmp_path):
    out = tmp_path / "run"
    align(data_dir, out, algorithm, 0, **options)
    assert metrics_of(out)[0]["score_mean"] < 0.7
    assert last_five(out, "score_mean") >= 0.95
    assert last_five(out, "kl") < 30
    assert _words_of_final(out) >= 0.9


def _words_of_final(out: Path) -> float:
    """Returns the mean score of stories that plain transformers generates from final/."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "final")
    tokenizer = AutoTokenizer.from_pretrained(out / "final")
    given = tokenizer([STORY] * 32, return_tensors="pt")
    torch.manual_seed(0)
    written = model.generate(**given, max_new_tokens=64, do_sample=True, top_k=0, top_p=1.0)
    texts = tokenizer.batch_decode(
        written[:, given["input_ids"].shape[1] :], skip_special_tokens=True
    )
    scores = az.make_reward("keywords", **KEYWORDS).score(prompts=[STORY] * 32, responses=texts)
    return float(sum(scores)) / len(scores)


@pytest.mark.slow
def test_chinese_keywords_are_learned_by_a_model_from_scratch(data_dir, tmp_path):
    """A small `tiny` learns dialogues by `sft`, then to say what it knows by `ppo`."""
    model, tokenizer = make_model(0, width=64, num_layers=1, context_length=512)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    dialogues = first_lines(data_dir / "kdconv_zh_dialogues.jsonl", 300)
    pairs = [
        {"prompt": a["content"], "completion": b["content"]}
        for row in dialogues
        for a, b in itertools.pairwise(row["messages"])
        if b["role"] == "assistant" and len(b["content"]) < 30
    ]
    tuned = tmp_path / "sft"
    write_lines(tmp_path / "pairs.jsonl", pairs)
    options = {"policy": tmp_path / "model", "out": tuned, "steps": 300, "batch_size": 32}
    sft = {"data": tmp_path / "pairs.jsonl", "learning_rate": 3e-3, "eval_every": 300}
    assert train("sft", **options, **sft) == 0
    write_lines(tmp_path / "asked.jsonl", [pair["prompt"] for pair in pairs[:200]])
    out = tmp_path / "ppo"
    given = {"policy": tuned / "final", "prompts": tmp_path / "asked.jsonl", "out": out}
    reward = "keywords:" + json.dumps(CHINESE, ensure_ascii=False)
    sizes = {"steps": 40, "batch_size": 48, "max_new_tokens": 72, "eval_every": 40}
    assert train("ppo", reward=reward, learning_rate=1e-3, **given, **sizes) == 0
    lines = metrics_of(out)
    assert lines[-1]["eval_score_mean"] >= lines[0]["eval_score_mean"] + 0.2
