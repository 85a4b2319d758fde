"""Runs on a pretended CUDA device: where tensors lie, and how often the host waits for one."""

from __future__ import annotations

import logging

import pytest
import torch
from policy.cases import byte_prompts
from pretend_cuda import Counts, CudaTensor, DeviceMixError, pretend_cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from trainer.runs import TEXTS, make_trainer, metrics_of

import alignzoo as az
from alignzoo.policy.tiny import make_model

PREFERENCES = [{"prompt": t, "chosen": t[::-1], "rejected": "no " + t} for t in TEXTS]
RATINGS = [{"prompt": t, "completion": t[::-1], "label": i % 2 == 0} for i, t in enumerate(TEXTS)]
ALGORITHMS = sorted(
    entry.id for entry in az.registry().algorithms if entry.plugin.distribution == "alignzoo"
)
# What makes two short updates pass through every part of an update.
QUICK = ("dpo", "dqn", "ppo")
OPTIONS = {"ppg": {"policy_phases": 2}, "dqn": {"target_sync": 2}, "ddqn": {"target_sync": 2}}


def slow(id):
    return pytest.param(id, marks=pytest.mark.slow)


def make_policy(device="cpu", seed=0):
    model, tokenizer = make_model(seed, width=32, num_layers=1, context_length=128)
    return az.Policy(model.to(device), tokenizer)


def trainer_of(algorithm, out, device, **options):
    more = {"preferences": {"data": PREFERENCES}, "ratings": {"data": RATINGS}}
    data = more.get(algorithm.needs.source, {})
    return make_trainer(make_policy(device), out, algorithm, **{**data, **options})


@pytest.fixture(autouse=True)
def plain_attention():
    """Attention of plain operations, on either device."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


# -- the device itself -------------------------------------------------------------------------


def test_a_mix_of_devices_is_refused():
    with pretend_cuda():
        x = torch.ones(3, device="cuda")
        assert isinstance(x, CudaTensor)
        assert x.device == torch.device("cuda", 0)
        with pytest.raises(DeviceMixError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(DeviceMixError, match="same device"):
            x.index_select(0, torch.tensor([1]))
        with pytest.raises(DeviceMixError, match="kernels"):
            az.kernels.kl_penalty(x, torch.ones(3), estimator="k1")
        with pytest.raises(RuntimeError):
            x.numpy()
        assert (x + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]


def test_what_waits_for_the_device_is_counted():
    with pretend_cuda() as counts:
        x = torch.arange(4, device="cuda")
        y = (x * 2).sum() + x[torch.ones(1, dtype=torch.int64, device="cuda")]
        assert counts == Counts()
        x + torch.tensor([1, 2, 3, 4], device="cuda")
        assert counts == Counts(upload=1)
        assert int(y) == 13
        x[x > 1].cpu()
        assert counts == Counts(upload=1, item=1, nonzero=1, download=1)
        assert counts.waits == 3


def test_gradients_are_those_of_the_cpu():
    def gradient(device):
        model = make_policy(device).model
        tokens = torch.arange(12, device=device).view(2, 6) + 6
        model(input_ids=tokens, use_cache=False).logits.square().mean().backward()
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return model.lm_head.weight.grad.cpu()

    with pretend_cuda():
        there = gradient("cuda")
    assert torch.allclose(there, gradient("cpu"), rtol=1e-5, atol=1e-8)


# -- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [id if id in QUICK else slow(id) for id in ALGORITHMS])
def test_an_algorithm_learns_there_what_it_learns_on_the_cpu(id, tmp_path):
    options = {**OPTIONS.get(id, {}), "learning_rate": 1e-5}
    with pretend_cuda():
        trainer_of(az.make(id, **options), tmp_path / "there", "cuda").run(2)
    trainer_of(az.make(id, **options), tmp_path / "here", "cpu").run(2)
    for there, here in zip(*map(metrics_of, (tmp_path / "there", tmp_path / "here")), strict=True):
        del there["seconds"], here["seconds"]
        assert there == pytest.approx(here, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_checkpoint_goes_on_on_another_device(first, tmp_path, caplog):
    def run(device, steps, resume=False):
        algorithm = az.make("ppo", learning_rate=1e-5)
        trainer = trainer_of(algorithm, tmp_path / "run", device, checkpoint_every=1)
        with caplog.at_level(logging.WARNING, "alignzoo"):
            return trainer, trainer.run(steps, resume=resume)

    def run_there(*arguments):
        with pretend_cuda():
            return run("cuda", *arguments)

    if first == "cuda":
        run_there(1)
        _, lines = run("cpu", 2, True)
    else:
        run("cpu", 1)
        trainer, lines = run_there(2, True)
        state = trainer.learner.optimizer.state[trainer.learner.masters[0]]
        assert isinstance(state["exp_avg"], CudaTensor)
        assert state["step"].device.type == "cpu"  # as AdamW keeps it
    assert "environment.device" in caplog.text
    stayed = trainer_of(az.make("ppo", learning_rate=1e-5), tmp_path / "stayed", "cpu").run(2)
    for line, expected in zip(lines, stayed, strict=True):
        assert line == pytest.approx({**expected, "seconds": line["seconds"]}, rel=1e-3, abs=1e-4)


def test_draws_of_plugins_go_on_where_they_stopped():
    from alignzoo.random_streams import global_state, set_global_state

    with pretend_cuda():
        state = global_state()
        assert len(state["cuda"]) == 1
        set_global_state(state)
        assert global_state() == state
    set_global_state(state)  # of a device that is not here
    assert global_state()["cuda"] == []


# -- waiting -------------------------------------------------------------------------------------


def test_a_step_waits_for_the_device_a_few_times_however_many_numbers_it_reports(tmp_path):
    with pretend_cuda() as counts:
        trainer = trainer_of(az.make("ppo", minibatch_size=8, num_epochs=1), tmp_path, "cuda")
        collected = trainer.source.collect(1)
        learner = trainer.learner
        learner.begin_update(1)
        (minibatch,) = learner.minibatches(collected.batch, None, 1)
        counts.clear()
        learner.gradient(minibatch, trainer.algorithm.loss)
        # transformers looks once whether the rows are packed; whether all is finite is one more.
        assert counts.waits <= 2, dict(counts)


def test_a_token_is_drawn_with_at_most_two_waits(tmp_path):
    policy_prompts = byte_prompts([5, 9, 3])

    def waits(num_tokens):
        with pretend_cuda() as counts:
            policy = make_policy("cuda")
            policy.model.generation_config.eos_token_id = []
            policy.tokenizer.eos_token = None
            counts.clear()
            found = policy.generate(policy_prompts, max_new_tokens=num_tokens)
            assert [len(row) for row in found.token_ids] == [num_tokens] * 3
            return counts.waits

    assert (waits(12) - waits(2)) / 10 <= 2


def test_reading_metrics_waits_once():
    with pretend_cuda() as counts:
        numbers = torch.rand(8, device="cuda")
        values = {f"x{i}": (x, 1) for i, x in enumerate(numbers)}
        metrics = az.algorithm.Metrics({**values, "top": az.algorithm.Max(numbers[0])})
        metrics.merge(az.algorithm.Metrics({"top": az.algorithm.Max(numbers[1])}))
        counts.clear()
        found = metrics.result()
        assert counts.waits == 1
        expected = numbers.tolist()
    assert [found[f"x{i}"] for i in range(8)] == expected
    assert found["top"] == max(expected[:2])
