"""The whole road: comparisons labelled by a hidden rule, a reward model, PPO, and what is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from trainer.runs import make_policy, metrics_of, write_lines

import alignzoo as az
from alignzoo import cli
from alignzoo.data import encode_prompts, read_prompts

RULE = '''
def sentences(responses, **_):
    """The number of sentences of three words or more."""
    counts = (sum(len(s.split()) >= 3 for s in text.split(".")[:-1]) for text in responses)
    return [float(count) for count in counts]
'''
WHO = ("a girl named Lily", "a boy named Tim", "a big dog", "a small cat", "a bird", "an old man",
       "a red fox", "a funny bear", "a kind king", "a brave mouse")  # fmt: skip
BEGINNINGS = ("Once upon a time, there was {}.", "One day, {} went to the park.",
              "There was {} who lived in a house.", "One morning, {} woke up early.",
              "There was {} who wanted to play.", "One day, {} saw a tree.")  # fmt: skip
PROMPTS = [text.format(who) for text in BEGINNINGS for who in WHO]
SAMPLES = 30


def compare(rule, texts):
    """Returns which of two neighbours the rule prefers, chosen first; no ties."""
    scores = rule(texts)
    found = []
    for one in range(0, len(texts), 2):
        best, worst = (one, one + 1) if scores[one] > scores[one + 1] else (one + 1, one)
        if scores[best] != scores[worst]:
            found.append((texts[best], texts[worst]))
    return found


def write_pairs(path: Path, policy: str, rule) -> None:
    """Samples continuations of every prompt and writes what the rule prefers."""
    sampler = az.Policy.from_pretrained(policy)
    encoded = encode_prompts(sampler.tokenizer, read_prompts([{"prompt": p} for p in PROMPTS]))
    drawn = sampler.generate(
        [prompt.token_ids for prompt in encoded], max_new_tokens=40, num_samples=SAMPLES, seed=1
    )
    texts = sampler.decode(drawn.token_ids)
    write_lines(
        path,
        [
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            for number, prompt in enumerate(PROMPTS)
            for chosen, rejected in compare(rule, texts[number * SAMPLES : (number + 1) * SAMPLES])
        ],
    )


@pytest.mark.slow
def test_a_reward_model_of_a_hidden_rule_raises_the_rule_and_the_report_says_where_they_part(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("rule.py").write_text(RULE)
    names: dict = {}
    exec(RULE, names)
    policy = str(data_dir / "models" / "stories260K")
    write_pairs(Path("pairs.jsonl"), policy, names["sentences"])
    write_lines(Path("prompts.jsonl"), [{"prompt": prompt} for prompt in PROMPTS])

    train = "train-reward preference --data pairs.jsonl --out rm --learning-rate 2e-3 "
    train += "--num-epochs 2 --minibatch-size 32 --overoptimise --true-reward rule.py:sentences "
    train += f"--best-of 32 --max-new-tokens 40 --policy {policy}"
    assert cli.main(train.split()) == 0
    report = json.loads(Path("rm/report.json").read_text())
    assert report["held_out"]["metrics"]["accuracy"]["value"] > 0.9

    learn = f"train ppo --policy {policy} --prompts prompts.jsonl --reward rm --steps 10 --out ppo "
    learn += "--batch-size 64 --max-new-tokens 40 --learning-rate 1e-3 --kl-coef 0.02"
    assert cli.main([*learn.split(), "--reward", 'rule.py:sentences:{"weight": 0}']) == 0
    lines = metrics_of(Path("ppo"))
    assert lines[-1]["score/rm"] > lines[0]["score/rm"] + 2
    truth = [line["score/sentences"] for line in lines]
    assert np.mean(truth[-3:]) > truth[0] + 1

    curve = report["overoptimisation"]
    first, last = curve["points"][0], curve["points"][-1]
    assert last["proxy"]["value"] > first["proxy"]["value"] + 1
    assert first["true"]["value"] < last["true"]["value"] < last["best"]["value"]
    assert curve["parts_at"] is not None


def test_a_trained_reward_is_learned_from_beside_others_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_policy(Path("policy"))
    Path("rule.py").write_text(RULE)
    pairs = [
        {"prompt": f"Say {i}.", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(24)
    ]
    write_lines(Path("pairs.jsonl"), pairs)
    write_lines(Path("prompts.jsonl"), [{"prompt": row["prompt"]} for row in pairs])
    train = "train-reward preference --data pairs.jsonl --out rm --policy policy --minibatch-size 8"
    assert cli.main(train.split()) == 0
    before = digests(Path("rm"))
    learn = "train ppo --policy policy --prompts prompts.jsonl --reward rm --steps 2 --out ppo "
    learn += "--batch-size 8 --max-new-tokens 8"
    assert cli.main([*learn.split(), "--reward", 'rule.py:sentences:{"weight": 0}']) == 0
    for line in metrics_of(Path("ppo")):
        assert line["score_mean"] == pytest.approx(line["score/rm"])
        assert "score/sentences" in line
    assert digests(Path("rm")) == before


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
