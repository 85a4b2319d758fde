"""`alignzoo generate`: columns, order, log-probs, and draws that depend on the seed alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trainer.runs import TEXTS, flags, listing, make_policy, read_lines, write_lines

import alignzoo as az
from alignzoo import cli

CHAT = [{"role": "user", "content": "A word?"}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy") / "small", seed=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", [TEXTS[0], "x", TEXTS[1] * 4, TEXTS[0]])
    return tmp_path


def generate(policy, /, out="out.jsonl", **options):
    given = {"policy": policy, "prompts": "prompts.jsonl", "out": out, "max_new_tokens": 6}
    return cli.main(["generate", *flags({**given, **options})])


def generated(policy, /, **options):
    assert generate(policy, **options) == 0
    return read_lines(Path(options.get("out", "out.jsonl")))


def test_rows_stand_in_the_order_of_prompts_and_samples(policy, folder):
    rows = generated(policy, num_samples=3)
    prompts = [row["prompt"] for row in read_lines(folder / "prompts.jsonl")]
    assert [row["prompt"] for row in rows] == [prompt for prompt in prompts for _ in range(3)]
    assert [row["sample"] for row in rows] == [0, 1, 2] * len(prompts)
    for row in rows:
        assert list(row) == ["prompt", "completion", "sample", "log_prob", "stop_reason"]
        assert row["stop_reason"] in ("end", "length")
        assert row["log_prob"] < 0


def test_the_path_is_all_it_prints(policy, folder, capsys):
    capsys.readouterr()
    assert generate(policy) == 0
    assert capsys.readouterr() == ("out.jsonl\n", "")


def test_draws_depend_on_the_seed_alone(policy, folder):
    rows = generated(policy, num_samples=2, seed=3)
    assert generated(policy, num_samples=2, seed=3, out="again.jsonl") == rows
    assert generated(policy, num_samples=2, seed=4, out="other.jsonl") != rows


def test_the_samples_of_a_prompt_differ(policy, folder):
    assert len({row["completion"] for row in generated(policy, num_samples=4)[:4]}) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(batch_size, policy, folder):
    rows = generated(policy, num_samples=2, batch_size=8)
    others = generated(policy, num_samples=2, batch_size=batch_size, out="other.jsonl")
    assert [row.pop("log_prob") for row in others] == pytest.approx(
        [row.pop("log_prob") for row in rows], abs=1e-3
    )
    assert others == rows


def test_a_row_does_not_depend_on_the_other_prompts_after_it(policy, folder):
    rows = generated(policy)
    write_lines(folder / "prompts.jsonl", [TEXTS[0], "x"])
    fewer = generated(policy, out="fewer.jsonl")
    assert [row["completion"] for row in fewer] == [row["completion"] for row in rows[:2]]


def test_an_end_token_ends_a_completion(policy, folder):
    rows = generated(policy, num_samples=64, max_new_tokens=40)
    reasons = {row["stop_reason"] for row in rows}
    assert reasons == {"end", "length"}  # 262 tokens, one of which ends


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_the_log_prob_is_that_of_a_full_forward_at_the_temperature(
    temperature, policy, folder, monkeypatch
):
    drawn = []
    original = az.Policy.generate

    def watch(self, *arguments, **options):
        drawn.append(original(self, *arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(az.Policy, "generate", watch)
    rows = generated(policy, num_samples=2, temperature=temperature, max_new_tokens=12)
    loaded = az.Policy.from_pretrained(policy)
    responses = [ids for generation in drawn for ids in generation.token_ids]
    for row, response in zip(rows, responses, strict=True):
        prompt = loaded.tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([[*prompt, *response.tolist()]])
        with torch.no_grad():
            logits = loaded.model(input_ids=ids).logits[0].double() / temperature
        table = torch.log_softmax(logits, -1)
        places = range(len(prompt), ids.shape[1])
        expected = sum(float(table[place - 1, ids[0, place]]) for place in places)
        assert row["log_prob"] == pytest.approx(expected, abs=1e-3)


def test_temperature_zero_takes_the_likeliest_tokens(policy, folder):
    rows = generated(policy, temperature=0, num_samples=2, seed=1)
    others = generated(policy, temperature=0, num_samples=2, seed=2, out="other.jsonl")
    assert [row["completion"] for row in rows] == [row["completion"] for row in others]
    loaded = az.Policy.from_pretrained(policy)
    given = loaded.tokenizer(rows[0]["prompt"], return_tensors="pt")
    greedy = loaded.model.generate(**given, max_new_tokens=6, do_sample=False)
    written = greedy[:, given["input_ids"].shape[1] :]
    assert rows[0]["completion"] == loaded.decode(written.tolist())[0]


def test_top_k_of_one_is_greedy_too(policy, folder):
    greedy = generated(policy, temperature=0)
    cut = generated(policy, top_k=1, out="cut.jsonl")
    assert [row["completion"] for row in cut] == [row["completion"] for row in greedy]
    assert all(abs(row["log_prob"]) < 1e-6 for row in cut)  # nothing else could be drawn


def test_chat_prompts_come_back_as_messages(policy, folder):
    write_lines(folder / "prompts.jsonl", [{"prompt": CHAT, "note": "kept out"}])
    (row,) = generated(policy)
    assert row["prompt"] == CHAT


def test_any_language_is_written_as_it_is(policy, folder):
    write_lines(folder / "prompts.jsonl", ["从前有一只狗"])
    generated(policy)
    assert "从前有一只狗" in (folder / "out.jsonl").read_text(encoding="utf-8")


def test_the_file_is_replaced(policy, folder):
    (folder / "out.jsonl").write_text("old\n")
    assert len(generated(policy)) == 4


def test_a_failure_leaves_the_old_file(policy, folder, capsys):
    (folder / "out.jsonl").write_text("old\n")
    write_lines(folder / "prompts.jsonl", ["fine", "long " * 60])
    before = listing(folder)
    assert generate(policy) == 2
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": "nowhere.jsonl"}, ["no file nowhere.jsonl"]),
        ({"policy": "./nowhere"}, ["nowhere", "does not exist"]),
        ({"out": "no/folder/out.jsonl"}, ["no/folder/out.jsonl", "cannot be written"]),
        ({"max_new_tokens": 500}, ["prompts.jsonl, line 1", "context of 128"]),
        ({"num_samples": 0}, ["--num-samples", "greater than 0"]),
        ({"temperature": -1}, ["--temperature", "greater than or equal to 0"]),
        ({"top_p": 0}, ["--top-p", "greater than 0"]),
        ({"temprature": 1}, ["Did you mean '--temperature'?"]),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_line(options, said, policy, folder, capsys):
    capsys.readouterr()
    before = listing(folder)
    assert generate(policy, **options) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (line[:7], printed.out) == ("error: ", "")
    for part in said:
        assert part in line
    assert listing(folder) == before


def test_what_was_generated_can_be_scored(policy, folder, capsys):
    generated(policy)
    words = flags({"reward": "length", "data": "out.jsonl", "out": "scored.jsonl"})
    assert cli.main(["score", *words]) == 0
    rows = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "score"} for row in rows] == read_lines(
        folder / "out.jsonl"
    )
