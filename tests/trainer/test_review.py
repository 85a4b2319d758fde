"""What readers found: state that outlives a run, options without effect, rows that should go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import alignzoo as az
from alignzoo.training_data import split_by_prompt


def small_trainer(policy: az.Policy, algorithm: az.Algorithm, out: Path, **options):
    settings = {"reward": lambda completions: [float(len(c)) for c in completions], **options}
    return az.Trainer(
        policy=policy,
        algorithm=algorithm,
        prompts=["a", "b"],
        out=out,
        batch_size=4,
        max_new_tokens=4,
        **settings,
    )


def test_a_new_run_takes_away_what_an_earlier_one_left_on_the_policy(tmp_path):
    policy = az.Policy.from_pretrained("tiny")
    small_trainer(policy, az.make("ppo"), tmp_path / "one").run(1)
    lines = small_trainer(policy, az.make("reinforce", kl_in="none"), tmp_path / "two").run(1)
    assert policy.value_head is None
    assert "kl" not in lines[0]


def test_the_reference_of_trained_adapters_is_the_policy_as_it_is(tmp_path):
    pytest.importorskip("peft")
    policy = az.Policy.from_pretrained("tiny", lora_rank=2)
    small_trainer(policy, az.make("reinforce", learning_rate=1e-2), tmp_path / "one").run(2)
    lines = small_trainer(policy, az.make("reinforce"), tmp_path / "two").run(1)
    assert abs(lines[0]["kl"]) < 1e-4


def test_a_trainer_without_a_checkpoint_cannot_go_back(tmp_path):
    def fails_late(completions):
        calls.append(0)
        return [1.0] * len(completions) if len(calls) < 3 else "broken"

    calls: list[int] = []
    trainer = small_trainer(
        az.Policy.from_pretrained("tiny"), az.make("reinforce"), tmp_path / "run", reward=fails_late
    )
    with pytest.raises(az.ConfigError):
        trainer.run(5)
    with pytest.raises(az.ConfigError, match="make a new Trainer"):
        trainer.run(5, resume=True)


def test_the_same_trainer_resumes_from_its_checkpoint(tmp_path):
    def lines(stop: bool, out: Path):
        calls = []

        def reward(completions):
            calls.append(0)
            if stop and len(calls) == 4:
                raise KeyboardInterrupt
            return [float(len(c)) for c in completions]

        trainer = small_trainer(
            az.Policy.from_pretrained("tiny"),
            az.make("ppo", learning_rate=1e-3),
            out,
            reward=reward,
            checkpoint_every=2,
        )
        if stop:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(5)
        return [{**line, "seconds": 0} for line in trainer.run(5, resume=stop)]

    assert lines(True, tmp_path / "stopped") == lines(False, tmp_path / "whole")


def test_a_python_run_is_not_resumed_with_another_reward(tmp_path):
    policy = az.Policy.from_pretrained("tiny")
    first = small_trainer(policy, az.make("reinforce"), tmp_path, reward=az.make_reward("length"))
    first.run(1)
    other = az.make_reward("length", target=10)
    again = small_trainer(
        az.Policy.from_pretrained("tiny"), az.make("reinforce"), tmp_path, reward=other
    )
    with pytest.raises(az.ConfigError, match="rewards"):
        again.run(2, resume=True)


def test_rows_without_a_score_leave_the_buffer(tmp_path):
    trainer = small_trainer(
        az.Policy.from_pretrained("tiny"),
        az.make("reinforce"),
        tmp_path / "run",
        reward=lambda completions: [None, 1.0, 2.0, 3.0],
    )
    trainer.run(1)
    assert len(trainer.buffer) == 3
    assert trainer.buffer.batch().rewards.shape[0] == 3


def test_a_score_too_large_for_float32_skips_the_update(tmp_path):
    lines = small_trainer(
        az.Policy.from_pretrained("tiny"),
        az.make("reinforce"),
        tmp_path / "run",
        reward=lambda completions: [1e39, 1.0, 2.0, 3.0],
    ).run(1)
    assert lines[0]["skipped_updates"] == 1


def test_passes_of_one_update_are_shuffled_anew_whoever_asks():
    from alignzoo.learner import Learner
    from alignzoo.rollout import RolloutBuffer

    buffer = RolloutBuffer()
    batch = buffer.batch(buffer.append([[1]] * 8, [[2]] * 8, policy_version=0))
    learner = Learner(az.Policy.from_pretrained("tiny"), az.make("sft"), buffer)
    first = [part.row_numbers for part in learner.minibatches(batch, 2, 1)]
    second = [part.row_numbers for part in learner.minibatches(batch, 2, 1)]
    learner.begin_update(0)
    assert [part.row_numbers for part in learner.minibatches(batch, 2, 1)] == first
    assert first != second


def test_a_penalty_that_the_loss_does_not_have_is_refused(tmp_path):
    class NoPenalty(az.Algorithm):
        pass

    algorithm = NoPenalty(az.AlgorithmConfig(kl_in="loss", kl_coef=0.1))
    with pytest.raises(az.ConfigError, match="kl_in"):
        small_trainer(az.Policy.from_pretrained("tiny"), algorithm, tmp_path / "run")


def test_a_state_that_json_cannot_hold_is_told_at_once(tmp_path):
    class Heavy(az.Algorithm):
        def state_dict(self):
            return {"weights": torch.zeros(2)}

    with pytest.raises(az.ConfigError, match="JSON"):
        small_trainer(
            az.Policy.from_pretrained("tiny"), Heavy(az.AlgorithmConfig()), tmp_path / "run"
        )


def test_options_of_the_trainer_fail_like_all_others(tmp_path):
    with pytest.raises(az.ConfigError, match="batch_size"):
        az.Trainer(
            policy="tiny", algorithm=az.make("sft"), data=[], out=tmp_path / "run", batch_size=0
        )


@pytest.mark.parametrize("first", range(40))
def test_something_is_always_held_out_of_twenty_prompts(first):
    rows = [SimpleNamespace(prompt=f"prompt {first * 100 + i}") for i in range(20)]
    train, held_out = split_by_prompt(rows, 0.1)
    assert held_out
    assert len(train) + len(held_out) == 20


def test_lora_targets_are_module_names():
    pytest.importorskip("peft")
    policy = az.Policy.from_pretrained("tiny", lora_rank=2, lora_targets="q_proj,v_proj")
    trained = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("q_proj" in name or "v_proj" in name for name in trained)
    with pytest.raises(az.ConfigError, match="lora_targets"):
        az.Policy.from_pretrained("tiny", lora_rank=2, lora_targets="nothing")


def test_a_model_without_a_key_value_cache_is_refused_by_name():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(
        MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    policy = az.Policy(model, az.Policy.from_pretrained("tiny").tokenizer)
    with pytest.raises(az.ConfigError, match="mamba"):
        policy.generate([[1, 2]], max_new_tokens=2)


def test_wrong_sampling_options_are_not_called_divergence():
    policy = az.Policy.from_pretrained("tiny")
    with pytest.raises(az.ConfigError, match="top_p"):
        policy.generate([[1, 2]], max_new_tokens=2, top_p=2.0)


def test_the_fingerprint_takes_scalars():
    policy = az.Policy.from_pretrained("tiny")
    policy.model.register_buffer("scale", torch.tensor(1.0))
    assert len(policy.fingerprint()) == 64
    assert np.isscalar(policy.context_length)
