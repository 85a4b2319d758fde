"""The library on a GPU: training, generation by CUDA graphs, precision, checkpoints.

What can be held without one is in tests/policy/test_static_decoding.py, test_precision.py and
tests/trainer/test_pretended_device.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy.cases import byte_prompts, roll_out, small_policy
from trainer.runs import make_policy, make_trainer

import alignzoo as az
from alignzoo import kernels
from alignzoo.policy import static

pytestmark = pytest.mark.gpu

PROMPTS = byte_prompts([5, 9, 3, 9, 7])
PRECISIONS = [{}, {"autocast": True}, {"dtype": "bfloat16"}]
EXACT = ("token_ids", "log_probs", "values")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def no_faults():
    """No kernel may have met data that it could not use."""
    yield
    kernels.check_faults()


def policy_on_gpu(seed=0, **options):
    policy = small_policy(seed)
    policy.model.to("cuda")
    policy.model.generation_config.eos_token_id = list(range(6, 36))  # rows end at every step
    return az.Policy(policy.model, policy.tokenizer, **options)


def sample(policy, decoding, **options):
    policy.decoding = decoding
    return policy.generate(
        PROMPTS, **{"num_samples": 4, "max_new_tokens": 48, "seed": 11} | options
    )


def assert_same_bits(found, expected):
    assert found.stop_reasons == expected.stop_reasons
    for name in EXACT:
        for a, b in zip(getattr(found, name) or [], getattr(expected, name) or [], strict=True):
            assert np.array_equal(a, b)


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS, ids=["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("id", ["ppo", "grpo", "sft", "dqn", "trpo"])
def test_three_updates(id, precision, folder, tmp_path):
    policy = az.Policy.from_pretrained(folder, device="cuda", **precision)
    trainer = make_trainer(policy, tmp_path, az.make(id), max_new_tokens=static.MIN_TOKENS)
    lines = trainer.run(3)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["skipped_updates"] == 0 for line in lines)
    assert all(p.device.type == "cuda" for p in policy.model.parameters())
    if trainer.algorithm.needs.source == "rollouts":
        assert policy.language_model.static.decoder is not None  # graphs were used


def test_the_first_update_is_that_of_the_cpu(folder, tmp_path):
    def line(device):
        policy = az.Policy.from_pretrained(folder, device=device)
        algorithm = az.make("sft", learning_rate=1e-5)
        return make_trainer(policy, tmp_path / device, algorithm).run(1)[0]

    there, here = line("cuda"), line("cpu")
    for name in ("loss", "grad_norm", "eval_loss"):
        assert there[name] == pytest.approx(here[name], rel=1e-3)


def test_a_run_goes_on_bitwise_on_the_same_gpu(folder, tmp_path):
    def run(out, steps, resume=False):
        policy = az.Policy.from_pretrained(folder, device="cuda")
        trainer = make_trainer(policy, tmp_path / out, az.make("ppo"), checkpoint_every=1)
        return [{**line, "seconds": 0} for line in trainer.run(steps, resume=resume)]

    whole = run("whole", 4)
    run("parts", 2)
    assert run("parts", 4, resume=True) == whole


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_checkpoint_goes_on_on_another_device(first, folder, tmp_path):
    def run(device, steps, resume=False):
        policy = az.Policy.from_pretrained(folder, device=device)
        trainer = make_trainer(policy, tmp_path, az.make("ppo"), checkpoint_every=1)
        return trainer, trainer.run(steps, resume=resume)

    second = "cuda" if first == "cpu" else "cpu"
    run(first, 2)
    trainer, lines = run(second, 3, True)
    assert len(lines) == 3
    state = trainer.learner.optimizer.state[trainer.learner.masters[0]]
    assert state["exp_avg"].device.type == second
    assert state["step"].device.type == "cpu"


def test_a_step_reads_the_gpu_at_most_twice():
    policy = policy_on_gpu()
    made = roll_out(policy, az.make("ppo", num_epochs=1), PROMPTS)
    (minibatch,) = made.learner.minibatches(made.batch, None, 1)
    made.learner.gradient(minibatch, made.learner.algorithm.loss)  # warm
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        made.learner.gradient(minibatch, made.learner.algorithm.loss)
    reads = [e.count for e in profile.key_averages() if e.key == "aten::_local_scalar_dense"]
    assert sum(reads) <= 2


# -- precision -----------------------------------------------------------------------------------


def test_masters_keep_steps_that_bfloat16_would_lose(folder, tmp_path):
    policy = az.Policy.from_pretrained(folder, device="cuda", dtype="bfloat16")
    start = [p.detach().clone() for p in policy.model.parameters()]
    trainer = make_trainer(policy, tmp_path / "run", az.make("sft", learning_rate=1e-6))
    trainer.run(3)
    learner = trainer.learner
    moved = [(m - s.float()).abs().max() for m, s in zip(learner.masters, start, strict=True)]
    assert all(float(x) > 0 for x in moved)
    for parameter, master in zip(learner.parameters, learner.masters, strict=True):
        assert master.dtype == torch.float32
        assert torch.equal(parameter, master.bfloat16())


@pytest.mark.parametrize("precision", [{}, {"autocast": True}], ids=["float32", "autocast"])
def test_statistics_are_those_of_the_cpu(precision):
    there, here = policy_on_gpu(**precision), small_policy()
    batch = roll_out(here, az.make("reinforce"), PROMPTS).batch
    exact = here.evaluate(batch)
    found = there.evaluate(batch.to("cuda"))
    for name in ("log_probs", "entropy"):
        assert getattr(found, name).dtype == torch.float32
        gap = (getattr(found, name).cpu() - getattr(exact, name)).abs().max()
        assert float(gap) < (0.3 if precision else 1e-2)


# -- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_a_graph_draws_the_tokens_of_its_step_bit_for_bit(autocast):
    policy = policy_on_gpu(autocast=autocast)
    policy.add_value_head().weight.data.fill_(0.1)
    expected = sample(policy, "static", values=True)
    found = sample(policy, "graph", values=True)
    assert len({len(row) for row in found.token_ids}) > 5
    assert len(policy.language_model.static.decoder.recordings) >= 2
    assert_same_bits(found, expected)
    assert_same_bits(sample(policy, "graph", values=True), expected)  # a replay of the same graphs


def test_a_graph_follows_weights_that_change_in_place():
    policy = policy_on_gpu()
    sample(policy, "graph")
    recordings = dict(policy.language_model.static.decoder.recordings)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.02)
    found = sample(policy, "graph", seed=5)
    now = policy.language_model.static.decoder.recordings
    assert all(now[size] is recording for size, recording in recordings.items())
    assert_same_bits(found, sample(policy, "static", seed=5))


def test_graphs_draw_from_what_the_training_forward_says():
    policy = policy_on_gpu()
    policy.decoding = "graph"
    batch = roll_out(policy, az.make("reinforce"), PROMPTS, max_new_tokens=48).batch
    gap = (policy.evaluate(batch).log_probs - batch.sampler_log_probs).abs()
    assert float(gap.max()) < 1e-2


def test_a_step_of_fixed_shape_never_waits():
    policy = policy_on_gpu()
    sample(policy, "graph")
    decoder = policy.language_model.static.decoder
    tokens = torch.ones(4, dtype=torch.int64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            decoder.step(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graphs_are_the_default_for_long_responses_alone():
    policy = policy_on_gpu()
    sample(policy, "auto", max_new_tokens=static.MIN_TOKENS - 1)
    assert policy.language_model.static.decoder is None
    sample(policy, "auto")
    decoder = policy.language_model.static.decoder
    assert all(isinstance(x, static.GraphRecording) for x in decoder.recordings.values())


# -- devices -------------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(az.ConfigError, match="device is 'cuda:99', but torch sees only cuda:0"):
        az.Policy.from_pretrained("tiny", device="cuda:99")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_gpu_than_the_first_trains(folder, tmp_path):
    policy = az.Policy.from_pretrained(folder, device="cuda:1")
    make_trainer(policy, tmp_path, az.make("ppo"), max_new_tokens=static.MIN_TOKENS).run(2)
    assert policy.device == torch.device("cuda", 1)
