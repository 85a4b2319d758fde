"""A run that was stopped and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from alignzoo.plugins.reinforce import Reinforce
from trainer.faults import SkippingReinforce
from trainer.runs import (
    DEMONSTRATIONS,
    TEXTS,
    assert_same_outcome,
    copy_run,
    count_vowels,
    listing,
    make_policy,
    make_trainer,
    metrics_of,
    outcome,
    read_lines,
    saved_config,
)

import alignzoo as az
from alignzoo.algorithm import Column
from alignzoo.run_config import check_unchanged

STOP, END = 3, 6


class Restless(Reinforce):
    """Draws from every global generator, replays old rollouts and trains a part of its own."""

    @property
    def needs(self):
        return az.Needs(replay=2, columns={"noise": Column("sequence", "float32")})

    def build(self, policy):
        self.part = torch.nn.Linear(3, 1)
        return self.part

    def parameter_groups(self, policy, extra):
        return [{"params": [*policy.model.parameters(), *extra.parameters()]}]

    def prepare(self, batch):
        super().prepare(batch)
        drawn = random.random() + np.random.random() + float(torch.rand(()))
        batch.noise = torch.full((len(batch),), drawn)

    def update(self, batch, learner):
        metrics = super().update(batch, learner)
        past = learner.buffer.batch(learner.buffer.rows())
        seen = az.Metrics(
            {"noise": (past.noise.double().sum(), len(past)), "replayed": float(len(past))}
        )
        return metrics.merge(seen)

    def loss(self, batch, out):
        loss = super().loss(batch, out)
        extra = batch.noise[:, None].expand(-1, 3) + torch.rand(len(batch), 3)
        own = self.part(extra).square().sum() / batch.num_sequences
        return az.Loss(loss.value + own, {**loss.metrics, "own_loss": own.detach()})


def make_restless(out, policy, **options):
    algorithm = Restless(Restless.Config(learning_rate=1e-3))
    return make_trainer(policy, out, algorithm, **options)


def make_ppo(out, policy, **options):
    algorithm = az.make(
        "ppo",
        learning_rate=1e-3,
        kl_target=0.05,
        kl_horizon=50,
        minibatch_size=4,
        group_size=2,
        warmup_steps=9,
        schedule="cosine",
        decay_steps=20,
    )
    return make_trainer(policy, out, algorithm, **options)


def make_reinforce(out, policy, **options):
    algorithm = az.make("reinforce", learning_rate=1e-3, baseline="moving")
    return make_trainer(policy, out, algorithm, **options)


def make_sft(out, policy, **options):
    return make_trainer(policy, out, az.make("sft", learning_rate=1e-3), **options)


def make_bfloat16(out, policy, **options):
    low = az.Policy.from_pretrained(policy, dtype="bfloat16")
    return make_trainer(low, out, az.make("ppo", learning_rate=1e-3), **options)


MAKERS = {
    "ppo": make_ppo,
    "reinforce": make_reinforce,
    "sft": make_sft,
    "bfloat16": make_bfloat16,
    "restless": make_restless,
}
OPTIONS = {"eval_every": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy):
    """For each kind: a run of END updates, and one of STOP that has ended."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            MAKERS[kind](folder / "whole", policy, **OPTIONS).run(END)
            MAKERS[kind](folder / "first", policy, **OPTIONS).run(STOP)
            made[kind] = folder / "whole", folder / "first"
        return made[kind]

    return get


@pytest.mark.parametrize("kind", MAKERS)
def test_a_longer_run_goes_on_as_if_it_had_never_stopped(kind, runs, policy, tmp_path):
    whole, first = runs(kind)
    out = copy_run(first, tmp_path / "run")
    lines = MAKERS[kind](out, policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(out, whole)
    assert lines == metrics_of(out)
    assert saved_config(out)["steps"] == END


@pytest.mark.parametrize("kind", ["ppo", "sft"])
def test_what_the_last_update_measured_is_not_what_a_longer_run_keeps(kind, runs):
    whole, first = runs(kind)
    measured = "eval_loss" if kind == "sft" else "eval_score_mean"
    assert measured in metrics_of(first)[-1]
    assert measured not in metrics_of(whole)[STOP - 1]


def test_an_observer_that_stops_a_run_leaves_one_that_goes_on_alike(runs, policy, tmp_path):
    whole, _ = runs("ppo")
    stopped = make_ppo(
        tmp_path / "run", policy, **OPTIONS, observers=[lambda step, metrics: step == STOP]
    )
    assert len(stopped.run(END)) == STOP
    make_ppo(tmp_path / "run", policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(tmp_path / "run", whole)


def test_the_same_trainer_may_go_on(runs, policy, tmp_path):
    whole, _ = runs("ppo")
    out = tmp_path / "run"
    trainer = make_ppo(out, policy, **OPTIONS, observers=[lambda step, metrics: step == STOP])
    assert len(trainer.run(END)) == STOP
    assert len(trainer.run(END, resume=True)) == END
    assert_same_outcome(out, whole)


def test_what_was_written_after_the_checkpoint_is_cut_back(runs, policy, tmp_path):
    whole, first = runs("ppo")
    out = copy_run(first, tmp_path / "run")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "score_mean": 99.0, "seconds": 1.0}\n{"step": 5, "score')
    with (out / "samples.jsonl").open("a") as file:
        file.write('{"step": 4, "prompt": "never"}\n')
    (out / "skipped.jsonl").write_text('{"step": 4, "reason": "never"}\n')
    make_ppo(out, policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(out, whole)


def test_a_run_without_a_checkpoint_starts_again(runs, policy, tmp_path):
    whole, first = runs("ppo")
    out = copy_run(first, tmp_path / "run")
    for path in sorted((out / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    make_ppo(out, policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(out, whole)


def test_a_finished_run_resumed_as_long_as_it_was_stays_as_it_is(runs, policy, tmp_path):
    whole, _ = runs("ppo")
    out = copy_run(whole, tmp_path / "run")
    make_ppo(out, policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(out, whole)
    assert (out / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_run_killed_after_its_last_update_still_gets_its_model(runs, policy, tmp_path):
    whole, _ = runs("ppo")
    out = copy_run(whole, tmp_path / "run")
    (out / "final" / "model.safetensors").unlink()
    (out / "report.html").unlink()
    make_ppo(out, policy, **OPTIONS).run(END, resume=True)
    assert_same_outcome(out, whole)
    assert (out / "report.html").exists()


def test_an_update_skipped_right_after_resuming_reads_the_same(policy, tmp_path):
    def make(out):
        config = SkippingReinforce.Config(learning_rate=1e-3, warmup_steps=20)
        algorithm = SkippingReinforce(config, faults={STOP + 1: "nan loss"})
        return make_trainer(policy, out, algorithm)

    make(tmp_path / "whole").run(END)
    make(tmp_path / "parts").run(STOP)
    resumed = make(tmp_path / "parts")
    resumed.run(END, resume=True)
    assert read_lines(tmp_path / "whole" / "skipped.jsonl")
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")


def test_the_order_of_evaluation_does_not_touch_training(runs, policy, tmp_path):
    whole, _ = runs("ppo")
    options = {**OPTIONS, "eval_every": 100}
    make_ppo(tmp_path / "run", policy, **options).run(END)
    trained = [
        [item for item in line if not item[0].startswith("eval_")]
        for line in outcome(whole)["metrics"]
    ]
    here = outcome(tmp_path / "run")
    assert [[i for i in line if not i[0].startswith("eval_")] for line in here["metrics"]] == (
        trained
    )
    assert here["final/model.safetensors"] == outcome(whole)["final/model.safetensors"]


def test_another_seed_is_another_run(runs, policy, tmp_path):
    whole, _ = runs("reinforce")
    make_reinforce(tmp_path / "run", policy, **OPTIONS, seed=1).run(END)
    assert outcome(tmp_path / "run") != outcome(whole)


CHANGES = {
    "a prompt more": ({"prompts": [*TEXTS, "One more"]}, "data.fingerprint"),
    "prompts in another order": ({"prompts": TEXTS[::-1]}, "data.fingerprint"),
    "a column of the data": (
        {"prompts": [{"prompt": text, "answer": 1} for text in TEXTS]},
        "data.fingerprint",
    ),
    "held-out prompts": ({"eval_prompts": ["A new one"]}, "data.fingerprint"),
    "batch size": ({"batch_size": 4}, "options.batch_size = 8 and is now 4"),
    "seed": ({"seed": 1}, "options.seed = 0 and is now 1"),
    "temperature": ({"temperature": 0.5}, "options.temperature = 1.0 and is now 0.5"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run_is_not_resumed(change, runs, policy, tmp_path):
    _, first = runs("reinforce")
    out = copy_run(first, tmp_path / "run")
    before = listing(out)
    options, named = CHANGES[change]
    changed = make_reinforce(out, policy, **{**OPTIONS, **options})
    with pytest.raises(az.ConfigError) as caught:
        changed.run(END, resume=True)
    assert named in str(caught.value)
    saved = saved_config(first)["data"]["fingerprint"]
    for value in (saved, changed.config["data"]["fingerprint"]):
        assert "data" not in named or value in str(caught.value)
    assert listing(out) == before


def test_a_changed_option_of_the_algorithm_is_named_with_both_values(runs, policy, tmp_path):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    changed = make_trainer(policy, out, az.make("reinforce", learning_rate=2e-3), **OPTIONS)
    with pytest.raises(az.ConfigError, match=r"learning_rate = 0\.001 and is now 0\.002"):
        changed.run(END, resume=True)


def test_another_algorithm_is_not_resumed(runs, policy, tmp_path):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    with pytest.raises(az.ConfigError, match=r"Reinforce.*PPO"):
        make_ppo(out, policy, **OPTIONS).run(END, resume=True)


def test_another_policy_is_not_resumed(runs, tmp_path):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    other = make_policy(tmp_path / "other", seed=1)
    with pytest.raises(az.ConfigError, match=r"policy\.fingerprint"):
        make_reinforce(out, other, **OPTIONS).run(END, resume=True)


def test_changed_demonstrations_are_not_resumed(runs, policy, tmp_path):
    out = copy_run(runs("sft")[1], tmp_path / "run")
    altered = [*DEMONSTRATIONS[:-1], {**DEMONSTRATIONS[-1], "completion": " other"}]
    with pytest.raises(az.ConfigError, match=r"data\.fingerprint"):
        make_sft(out, policy, **OPTIONS, data=altered).run(END, resume=True)


def owned(version, revision=1):
    """What config.yaml says of a run whose algorithm and reward are someone else's plugins."""
    owner = {"distribution": "alignzoo-theirs", "version": version, "revision": revision}
    return {"algorithm": {"id": "theirs", **owner}, "rewards": [{"reward": "theirs", **owner}]}


def test_another_version_of_the_same_revision_is_resumed_with_a_warning(caplog):
    check_unchanged(owned("1.5"), owned("1.6"))
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "resumed under version 1.6 of algorithm, was 1.5",
        "resumed under version 1.6 of rewards[0], was 1.5",
    ]


def test_another_revision_is_refused_of_algorithm_and_reward():
    with pytest.raises(az.ConfigError, match=r"algorithm\.revision = 1 and is now 2"):
        check_unchanged(owned("1.5"), owned("1.5", revision=2))
    changed = {**owned("1.5"), "rewards": owned("1.5", revision=2)["rewards"]}
    with pytest.raises(az.ConfigError, match=r"rewards\[0\]\.revision = 1 and is now 2"):
        check_unchanged(owned("1.5"), changed)


def test_allow_changed_goes_on_and_records_what_is_new(runs, policy, tmp_path):
    _, first = runs("reinforce")
    out = copy_run(first, tmp_path / "run")
    changed = make_reinforce(out, policy, **OPTIONS, prompts=[*TEXTS, "One more"])
    lines = changed.run(END, resume=True, allow_changed=True)
    assert [line["step"] for line in lines] == list(range(1, END + 1))
    fingerprint = changed.config["data"]["fingerprint"]
    assert saved_config(out)["data"]["fingerprint"] == fingerprint
    assert fingerprint != saved_config(first)["data"]["fingerprint"]
    make_reinforce(out, policy, **OPTIONS, prompts=[*TEXTS, "One more"]).run(END, resume=True)


def test_another_thread_count_is_a_warning_naming_both(runs, policy, tmp_path, caplog):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        lines = make_reinforce(out, policy, **OPTIONS).run(STOP + 1, resume=True)
    assert len(lines) == STOP + 1
    messages = [r.getMessage() for r in caplog.records if "threads" in r.getMessage()]
    assert len(messages) == 1
    assert str(before) in messages[0]
    assert str(before + 1) in messages[0]


def test_the_same_environment_is_no_warning(runs, policy, tmp_path, caplog):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        make_reinforce(out, policy, **OPTIONS).run(STOP + 1, resume=True)
    assert not caplog.records


def test_steps_may_not_shrink(runs, policy, tmp_path):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    before = listing(out)
    with pytest.raises(az.ConfigError, match=r"steps is 2, but the run has made 3"):
        make_reinforce(out, policy, **OPTIONS).run(STOP - 1, resume=True)
    assert listing(out) == before


def test_a_folder_that_holds_a_run_is_not_written_over(runs, policy, tmp_path):
    out = copy_run(runs("reinforce")[1], tmp_path / "run")
    before = listing(out)
    with pytest.raises(az.ConfigError, match="already holds a run"):
        make_reinforce(out, policy, **OPTIONS).run(END)
    assert listing(out) == before


def test_there_must_be_a_run_to_resume(policy, tmp_path):
    with pytest.raises(az.ConfigError, match="holds no run to resume"):
        make_reinforce(tmp_path / "nothing", policy).run(END, resume=True)
    assert not (tmp_path / "nothing").exists()


def test_lora_resumes_bitwise(policy, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs peft")

    def make(out):
        adapted = az.Policy.from_pretrained(policy, lora_rank=2, seed=3)
        return make_trainer(adapted, out, az.make("ppo", learning_rate=1e-2))

    make(tmp_path / "whole").run(4)
    make(tmp_path / "parts").run(2)
    make(tmp_path / "parts").run(4, resume=True)
    assert_same_outcome(tmp_path / "parts", tmp_path / "whole")


def test_a_reward_sees_the_same_batches_after_resuming(policy, tmp_path):
    def run(out, steps, **options):
        seen = []

        def watch(prompts, completions):
            seen.append((prompts, completions))
            return count_vowels(prompts, completions)

        algorithm = az.make("reinforce", learning_rate=1e-3)
        trainer = make_trainer(policy, out, algorithm, reward=watch, eval_fraction=0)
        trainer.run(steps, **options)
        return seen

    whole = run(tmp_path / "whole", 4)
    parts = run(tmp_path / "parts", 2) + run(tmp_path / "parts", 4, resume=True)
    assert parts == whole
