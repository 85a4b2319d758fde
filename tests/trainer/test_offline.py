"""Preferences and ratings in a run: how they become rows, and what is refused.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from trainer.runs import (
    DEMONSTRATIONS,
    TEXTS,
    assert_same_outcome,
    copy_run,
    count_vowels,
    make_trainer,
    metrics_of,
    train,
    write_lines,
)

import alignzoo as az
from alignzoo.data import read_preferences
from alignzoo.errors import DataError
from alignzoo.training_data import split_by_prompt

PREFERENCES = [
    {"prompt": f"{text} and", "chosen": f" then {text[::-1]}", "rejected": f" {text} again"}
    for text in TEXTS
]
RATINGS = [
    {"prompt": f"{text} and", "completion": f" then {text[: i % 9]}", "rating": i % 5}
    for i, text in enumerate(TEXTS)
]


def make_dpo(out, policy, **options):
    algorithm = az.make("dpo", learning_rate=1e-3, minibatch_size=4, num_epochs=2)
    return make_trainer(policy, out, algorithm, **{"data": PREFERENCES, **options})


def make_kto(out, policy, **options):
    algorithm = az.make("kto", learning_rate=1e-3, source="ratings", threshold=2.5)
    return make_trainer(policy, out, algorithm, **{"data": RATINGS, **options})


# -- rows --------------------------------------------------------------------------------------


def test_pairs_lie_side_by_side_the_chosen_one_first(policy, tmp_path):
    trainer = make_dpo(tmp_path / "run", policy, eval_fraction=0)
    seen = set()
    for step in (1, 2, 3, 4):
        batch = trainer.source.collect(step).batch
        assert len(batch) == 8
        assert batch.pair_labels.tolist() == [1, 0] * 4
        assert batch.group_ids[::2].tolist() == batch.group_ids[1::2].tolist()
        assert len(set(batch.group_ids.tolist())) == 4
        ids = batch.token_ids.tolist()
        texts = trainer.policy.decode(ids)
        starts = batch.prompt_lengths.tolist()
        for row in range(0, 8, 2):
            assert ids[row][: starts[row]] == ids[row + 1][: starts[row + 1]]
            (pair,) = [p for p in PREFERENCES if texts[row].startswith(p["prompt"] + p["chosen"])]
            assert texts[row + 1].startswith(pair["prompt"] + pair["rejected"])
            seen.add(pair["prompt"])
    assert len(seen) == 16  # of 24, none twice: the order is shuffled, and walked through


def test_a_rating_is_the_rows_score(policy, tmp_path):
    trainer = make_kto(tmp_path / "run", policy, eval_fraction=0)
    batch = trainer.source.collect(1).batch
    texts = trainer.policy.decode(batch.token_ids.tolist())
    for text, score in zip(texts, batch.scores.tolist(), strict=True):
        matches = [r for r in RATINGS if text.startswith(r["prompt"] + r["completion"])]
        assert score in {float(r["rating"]) for r in matches}
    assert batch.pair_labels.tolist() == [-1] * 8


def test_the_reference_is_the_policy_before_the_run(policy, tmp_path):
    trainer = make_dpo(tmp_path / "run", policy, eval_fraction=0)
    trainer.run(2)
    batch = trainer.source.collect(3).batch
    still = az.Policy.from_pretrained(str(policy))
    expected = still.evaluate(batch).log_probs.detach()
    np.testing.assert_allclose(batch.ref_log_probs, expected, atol=1e-5)
    assert float((trainer.policy.evaluate(batch).log_probs.detach() - expected).abs().max()) > 1e-3


def test_a_prompts_pairs_are_on_one_side():
    rows = read_preferences([row for row in PREFERENCES for _ in range(3)][:-1] + PREFERENCES[:1])
    rows = [type(row)(row.prompt, f"{row.chosen}{i}", row.rejected) for i, row in enumerate(rows)]
    learned, held_out = split_by_prompt(rows, 0.25)
    assert held_out
    assert not {row.prompt for row in learned} & {row.prompt for row in held_out}
    assert len(learned) + len(held_out) == len(rows)


# -- held-out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_dpo, make_kto])
def test_held_out_rows_are_measured_by_the_algorithms_own_loss(make, policy, tmp_path):
    out = tmp_path / "run"
    trainer = make(out, policy, eval_every=2)
    lines = trainer.run(4)
    own = {"loss", "chosen_log_probs", "rejected_log_probs"}
    assert {f"eval_{name}" for name in own} <= lines[1].keys()
    assert "eval_loss" not in lines[2]
    start = 0.5 if make is make_kto else np.log(2)  # the policy is its reference
    assert trainer.baseline["eval_loss"] == pytest.approx(start, abs=1e-6)
    if make is make_dpo:
        assert trainer.baseline["eval_accuracy"] == 0.5  # correctness.md #26: ties count one half


def test_an_evaluation_leaves_the_algorithm_as_it_was(policy, tmp_path):
    class Counting(type(az.make("dpo"))):  # type: ignore[misc]
        count = 0

        def prepare(self, batch):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    algorithm = Counting(az.make("dpo").config)
    make_trainer(policy, tmp_path / "run", algorithm, data=PREFERENCES, eval_every=1).run(3)
    assert algorithm.count == 3


# -- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_dpo, make_kto])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(make, policy, tmp_path):
    # correctness.md #17.
    options = {"eval_every": 2, "checkpoint_every": 2}
    make(tmp_path / "whole", policy, **options).run(6)
    make(tmp_path / "first", policy, **options).run(3)
    out = copy_run(tmp_path / "first", tmp_path / "run")
    make(out, policy, **options).run(6, resume=True)
    assert_same_outcome(out, tmp_path / "whole")
    assert metrics_of(out)[-1]["samples"] == 48


# -- what is refused ---------------------------------------------------------------------------


def test_an_odd_batch_of_pairs_is_refused_by_both_names(policy, tmp_path):
    with pytest.raises(az.ConfigError, match="batch_size is 7 and DPO learns from preferences"):
        make_dpo(tmp_path / "run", policy, batch_size=7)
    make_kto(tmp_path / "run", policy, batch_size=7)


@pytest.mark.parametrize(
    ("id", "given", "message"),
    [
        ("dpo", {"prompts": TEXTS}, "DPO learns from preferences and has no use for prompts; give "
         "it data with the columns prompt, chosen, rejected instead"),
        ("dpo", {}, "DPO learns from preferences; give it data with the columns prompt, chosen"),
        ("dpo", {"data": PREFERENCES, "reward": count_vowels}, "no use for reward; leave it out"),
        ("ppo", {"data": PREFERENCES}, "PPO learns from rollouts and has no use for data; give it "
         "prompts and reward instead"),
        ("ppo", {"prompts": TEXTS}, "PPO learns from rollouts; give it prompts and reward"),
        ("ppo", {"prompts": TEXTS, "reward": count_vowels, "eval_data": PREFERENCES},
         "no use for eval_data; leave it out"),
    ],
)  # fmt: skip
def test_what_is_missing_or_of_no_use_is_named_with_what_to_give(
    id, given, message, policy, tmp_path
):
    with pytest.raises(az.ConfigError, match=re.escape(message)):
        az.Trainer(
            policy=str(policy), algorithm=az.make(id), out=tmp_path / "run", batch_size=8, **given
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("id", "options", "data", "message"),
    [
        ("dpo", {}, DEMONSTRATIONS, "data[0]: no column 'chosen'; the columns are 'prompt', "
         "'completion'. Preferences need"),
        ("kto", {"source": "ratings"}, PREFERENCES, "data[0]: no column 'completion'; the columns "
         "are 'prompt', 'chosen', 'rejected'. Ratings need"),
        ("sft", {}, PREFERENCES, "data[0]: no column 'completion'; the columns are 'prompt', "
         "'chosen', 'rejected'. Expected"),
    ],
)  # fmt: skip
def test_data_of_another_kind_says_what_it_has_and_what_is_needed(
    id, options, data, message, policy, tmp_path
):
    with pytest.raises(DataError, match=re.escape(message)):
        make_trainer(policy, tmp_path / "run", az.make(id, **options), data=data)


def test_an_algorithm_of_an_unknown_source_is_refused(policy, tmp_path):
    class Dreaming(az.Algorithm):
        @property
        def needs(self):
            return az.Needs(source="dreams")  # type: ignore[arg-type]

    with pytest.raises(az.ConfigError, match="Dreaming learns from 'dreams'; expected one of roll"):
        make_trainer(policy, tmp_path / "run", Dreaming(az.AlgorithmConfig()), prompts=TEXTS)


# -- the command -------------------------------------------------------------------------------


def test_the_command_trains_on_a_file_of_preferences(policy, tmp_path, capsys):
    data = write_lines(tmp_path / "pairs.jsonl", PREFERENCES)
    out = tmp_path / "run"
    options = {"policy": policy, "data": data, "out": out, "steps": 2, "batch_size": 8}
    assert train("dpo", **options) == 0
    assert "eval_loss" in capsys.readouterr().out
    assert metrics_of(out)[-1]["accuracy"] >= 0


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("dpo", {"prompts": "FILE"}, "dpo learns from preferences and has no use for --prompts; "
         "give it --data with the columns prompt, chosen, rejected instead"),
        ("ppo", {"data": "FILE", "reward": "length"}, "ppo learns from rollouts and has no use for "
         "--data; give it --prompts and --reward instead"),
        ("dpo", {"data": "FILE", "batch_size": 7}, "batch_size is 7 and dpo learns from pref"),
        ("sft", {"data": "FILE"}, "FILE, line 1: no column 'completion'; the columns are"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(id, options, message, policy, tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PREFERENCES))
    options = {k: str(v).replace("FILE", str(data)) for k, v in options.items()}
    assert train(id, policy=policy, out=tmp_path / "run", **options) == 2
    said = capsys.readouterr().err
    assert message.replace("FILE", str(data)) in said
    assert len(said.strip().splitlines()) == 1
