"""NaN and infinite losses, gradients and scores: skipped, counted, written down, survived."""

from __future__ import annotations

import math

import pytest
import torch
from alignzoo.plugins.reinforce import Reinforce
from trainer.faults import Scripted, SkippingReinforce
from trainer.runs import TEXTS, make_trainer, metrics_of, read_lines

import alignzoo as az
from alignzoo.errors import PluginError, RunError

STEPS = 5


def faulty(policy, out, faults, **options):
    config = SkippingReinforce.Config(learning_rate=1e-2, num_epochs=2)
    return make_trainer(
        policy, out, SkippingReinforce(config, faults=faults), eval_fraction=0, **options
    )


def scripted(policy, out, changes, **options):
    algorithm = options.pop("algorithm", None) or az.make("ppo", learning_rate=1e-2)
    reward = Scripted(changes)
    return make_trainer(policy, out, algorithm, reward=reward, eval_fraction=0, **options)


def replaced(rows, value):
    return lambda scores: [value if i in rows else score for i, score in enumerate(scores)]


def everything(value):
    return lambda scores: [value] * len(scores)


def assert_finite(trainer):
    for module in trainer.policy.trained_modules(trainer.learner.extra).values():
        for name, parameter in module.named_parameters():
            assert torch.isfinite(parameter).all(), name


@pytest.mark.parametrize("fault", ["nan loss", "inf loss", "inf gradient", "nan gradient"])
def test_what_is_not_finite_is_skipped_and_counted(fault, policy, tmp_path):
    trainer = faulty(policy, tmp_path / "run", {2: fault, 4: fault})
    lines = trainer.run(STEPS)
    assert_finite(trainer)
    assert [line["skipped_updates"] for line in lines] == [0, 1, 1, 2, 2]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    skipped = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert {row["step"] for row in skipped} == {2, 4}
    assert len(skipped) == 16  # every row of both batches
    for row in skipped:
        assert row["reason"] == "a loss or gradient was not finite"
        assert row["prompt"] in TEXTS
        assert isinstance(row["response"], str)
        assert math.isfinite(row["score"])
    assert metrics_of(tmp_path / "run") == lines


def test_a_skipped_update_changes_no_parameter_nor_the_optimiser(policy, tmp_path):
    trainer = faulty(policy, tmp_path / "run", {2: "inf gradient", 3: "nan loss"})
    seen = []
    trainer.observers.append(lambda step, metrics: seen.append(trainer.learner.state_tensors()))
    copies = []
    trainer.observers.append(
        lambda step, metrics: copies.append({k: v.clone() for k, v in seen[-1].items()})
    )
    trainer.run(4)
    for name, tensor in copies[0].items():
        assert torch.equal(tensor, copies[1][name]), name
        assert torch.equal(tensor, copies[2][name]), name
    assert any(not torch.equal(copies[2][name], copies[3][name]) for name in copies[0])


def test_the_run_goes_on_learning_after_a_fault(policy, tmp_path):
    trainer = faulty(policy, tmp_path / "run", {2: "nan loss"})
    lines = trainer.run(3)
    assert "grad_norm" not in lines[1] or lines[1]["grad_norm"] is None
    assert lines[2]["grad_norm"] > 0


def test_too_many_in_a_row_end_the_run(policy, tmp_path):
    trainer = faulty(
        policy, tmp_path / "run", dict.fromkeys(range(2, 9), "nan loss"), max_skipped=2
    )
    with pytest.raises(RunError) as caught:
        trainer.run(9)
    for part in (
        "3 updates in a row",
        "not finite",
        "max_skipped is 2",
        "skipped.jsonl",
        "lower the learning rate",
    ):
        assert part in str(caught.value)
    assert [line["skipped_updates"] for line in metrics_of(tmp_path / "run")] == [0, 1, 2, 3]
    assert_finite(trainer)


def test_only_those_in_a_row_count_against_the_limit(policy, tmp_path):
    faults = dict.fromkeys([1, 2, 4, 5, 7, 8], "nan loss")
    lines = faulty(policy, tmp_path / "run", faults, max_skipped=2).run(9)
    assert lines[-1]["skipped_updates"] == 6


def test_none_in_a_row_may_be_the_limit(policy, tmp_path):
    with pytest.raises(RunError, match=r"1 updates? in a row"):
        faulty(policy, tmp_path / "run", {2: "nan loss"}, max_skipped=0).run(3)


def test_those_in_a_row_are_counted_across_a_resume(policy, tmp_path):
    faults = dict.fromkeys(range(2, 9), "nan loss")
    options = {"max_skipped": 3, "checkpoint_every": 1}
    faulty(policy, tmp_path / "run", faults, **options).run(3)
    with pytest.raises(RunError, match="4 updates in a row"):
        faulty(policy, tmp_path / "run", faults, **options).run(9, resume=True)
    assert len(metrics_of(tmp_path / "run")) == 5


def test_an_infinite_score_skips_the_update_and_names_its_row(policy, tmp_path):
    changes = {1: replaced({3}, math.inf), 3: replaced({0, 7}, -math.inf)}
    trainer = scripted(policy, tmp_path / "run", changes)
    lines = trainer.run(STEPS)
    assert_finite(trainer)
    assert [line["skipped_updates"] for line in lines] == [0, 1, 1, 2, 2]
    skipped = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert [(row["step"], row["score"]) for row in skipped] == [
        (2, "inf"),
        (4, "-inf"),
        (4, "-inf"),
    ]
    assert "1 of 8 scores are infinite" in skipped[0]["reason"]
    for row in skipped:
        assert row["prompt"] in TEXTS
        assert isinstance(row["response"], str)


def test_the_mean_score_of_a_skipped_update_is_of_its_finite_scores(policy, tmp_path):
    changes = {0: lambda scores: [math.inf, *range(7)], 1: everything(math.inf)}
    lines = scripted(policy, tmp_path / "run", changes).run(3)
    assert lines[0]["score_mean"] == 3.0
    assert lines[1].get("score_mean") is None
    assert lines[2]["score_mean"] is not None


def test_tokens_of_a_skipped_update_count(policy, tmp_path):
    lines = scripted(policy, tmp_path / "run", {1: everything(math.inf)}).run(3)
    tokens = [line["tokens"] for line in lines]
    assert tokens[0] < tokens[1] < tokens[2]


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_cannot_be_scored_leaves_statistics_and_loss(value, policy, tmp_path):
    kept = {}

    class Watching(SkippingReinforce):
        def prepare(self, batch):
            kept[self.number + 1] = batch.scores.tolist()
            super().prepare(batch)

    algorithm = Watching(Watching.Config(learning_rate=1e-3), faults={})
    changes = {
        1: lambda scores: [value, value, 1.0, 2.0, 3.0, value, 4.0, 5.0],
        2: replaced({5}, value),
    }
    lines = scripted(policy, tmp_path / "run", changes, algorithm=algorithm).run(4)
    assert [line["unscorable"] for line in lines] == [0, 3, 4, 4]
    assert [line["skipped_updates"] for line in lines] == [0, 0, 0, 0]
    assert kept[2] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert lines[1]["score_mean"] == 3.0
    assert [len(scores) for scores in kept.values()] == [8, 5, 7, 8]


def test_an_unscorable_row_counts_its_tokens(policy, tmp_path):
    run = {}
    for name, changes in (("all", {}), ("some", {0: replaced({0, 1}, None)})):
        run[name] = scripted(policy, tmp_path / name, changes).run(1)[0]
    assert run["all"]["tokens"] == run["some"]["tokens"]


def test_nothing_scorable_is_a_skipped_update(policy, tmp_path):
    trainer = scripted(policy, tmp_path / "run", {1: everything(None)})
    lines = trainer.run(3)
    assert [line["skipped_updates"] for line in lines] == [0, 1, 1]
    assert [line["unscorable"] for line in lines] == [0, 8, 8]
    assert lines[1].get("score_mean") is None
    assert len(read_lines(tmp_path / "run" / "skipped.jsonl")) == 8


def test_nothing_scorable_for_too_long_ends_the_run(policy, tmp_path):
    reward = lambda prompts, completions: [None] * len(completions)  # noqa: E731
    algorithm = az.make("ppo", learning_rate=1e-3)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, reward=reward, max_skipped=1)
    with pytest.raises(RunError, match="2 updates in a row"):
        trainer.run(5)


def test_an_algorithm_that_keeps_nothing_has_had_no_fault(policy, tmp_path):
    class Choosy(Reinforce):
        def keep(self, batch):
            return torch.zeros(len(batch), dtype=torch.bool)

    trainer = make_trainer(
        policy, tmp_path / "run", Choosy(Choosy.Config()), max_refills=1, max_skipped=0
    )
    lines = trainer.run(3)
    assert [line["kept_fraction"] for line in lines] == [0.0] * 3
    assert [line["samples"] for line in lines] == [16, 32, 48]  # two draws of 8 an update
    assert lines[-1]["skipped_updates"] == 0
    assert all("grad_norm" not in line for line in lines)


def test_unscorable_rows_of_a_group_leave_the_others(policy, tmp_path):
    algorithm = az.make("ppo", learning_rate=1e-3, group_size=4, minibatch_size=4)
    changes = {0: replaced({0, 1, 2}, None), 1: replaced({0, 1, 2, 3}, None)}
    lines = scripted(policy, tmp_path / "run", changes, algorithm=algorithm).run(3)
    assert [line["unscorable"] for line in lines] == [3, 7, 7]
    assert lines[-1]["skipped_updates"] == 0


def test_an_unscorable_part_makes_the_sum_unscorable(policy, tmp_path):
    rewards = [Scripted({0: replaced({0}, None)}), (Scripted({0: replaced({1}, None)}), 0.5)]
    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, reward=rewards, eval_fraction=0)
    assert trainer.run(1)[0]["unscorable"] == 2


def test_unscorable_held_out_responses_leave_the_evaluation(policy, tmp_path):
    def reward(prompts, completions):
        return [None if prompt == TEXTS[0] else 1.0 for prompt in prompts]

    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(
        policy,
        tmp_path / "run",
        algorithm,
        reward=reward,
        prompts=TEXTS[1:],
        eval_prompts=TEXTS[:2],
    )
    assert trainer.run(1)[0]["eval_score_mean"] == 1.0


def test_an_infinite_held_out_score_is_no_json_infinity(policy, tmp_path):
    def reward(prompts, completions):
        return [math.inf if prompt == TEXTS[0] else 1.0 for prompt in prompts]

    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(
        policy,
        tmp_path / "run",
        algorithm,
        reward=reward,
        prompts=TEXTS[1:],
        eval_prompts=TEXTS[:1],
    )
    trainer.run(1)
    assert metrics_of(tmp_path / "run")[0].get("eval_score_mean") is None
    assert [row["score"] for row in read_lines(tmp_path / "run" / "samples.jsonl")] == [None, None]


def test_a_metric_that_is_not_finite_is_null(policy, tmp_path):
    class Odd(SkippingReinforce):
        def loss(self, batch, out):
            loss = super().loss(batch, out)
            odd = {"odd": math.nan, "huge": az.Max(math.inf)}
            return az.Loss(loss.value, {**loss.metrics, **odd})

    algorithm = Odd(Odd.Config(learning_rate=1e-3), faults={})
    make_trainer(policy, tmp_path / "run", algorithm).run(1)
    (line,) = metrics_of(tmp_path / "run")
    assert line["odd"] is None
    assert line["huge"] is None


def test_a_fault_in_supervised_learning_names_the_rows_of_the_file(policy, tmp_path):
    class Faulty(type(az.make("sft"))):
        number = 0

        def loss(self, batch, out):
            Faulty.number += torch.is_grad_enabled()  # held-out rows are measured without
            loss = super().loss(batch, out)
            return az.Loss(loss.value * (math.nan if Faulty.number == 2 else 1.0), loss.metrics)

    trainer = make_trainer(policy, tmp_path / "run", Faulty(Faulty.Config(learning_rate=1e-3)))
    lines = trainer.run(3)
    assert_finite(trainer)
    assert [line["skipped_updates"] for line in lines] == [0, 1, 1]
    skipped = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert len(skipped) == 8
    assert all(row["row"].startswith("data[") for row in skipped)


def test_a_reward_that_raises_on_the_way_leaves_a_run_to_resume(policy, tmp_path):
    def fail(scores):
        raise ConnectionError("the judge is away")

    options = {"checkpoint_every": 1}
    with pytest.raises(PluginError, match="judge is away"):
        scripted(policy, tmp_path / "run", {2: fail}, **options).run(4)
    assert len(metrics_of(tmp_path / "run")) == 2
    scripted(policy, tmp_path / "run", {}, **options).run(4, resume=True)
    whole = scripted(policy, tmp_path / "whole", {}, **options).run(4)
    assert [line["score_mean"] for line in metrics_of(tmp_path / "run")] == [
        line["score_mean"] for line in whole
    ]


@pytest.mark.parametrize("learning_rate", [1e6, 1e9, 1e12])
@pytest.mark.parametrize("id", ["ppo", "reinforce", "sft"])
def test_a_policy_that_diverged_says_what_to_do(id, learning_rate, policy, tmp_path):
    algorithm = az.make(id, learning_rate=learning_rate)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, max_skipped=3)
    with pytest.raises(RunError, match="learning rate"):
        trainer.run(20)
    assert_finite(trainer)
