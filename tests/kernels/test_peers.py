"""The same inputs through other frameworks' own functions, each dialect named. Golden, not law."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from kernel_bounds import assert_exact_to
from kernel_cases import make_mask
from peers import peer

from alignzoo import kernels

pytestmark = pytest.mark.peer

CLIPS = {"clip_range": 0.2, "clip_range_high": 0.3}


def token_batch(seed: int, num_rows: int = 8, length: int = 17) -> list[torch.Tensor]:
    """Three [B, T] tensors in float64 and a ragged mask."""
    rng = np.random.default_rng(seed)
    mask = make_mask("right_padded", (num_rows, length), rng)
    mask[:, 0] = True
    return [torch.from_numpy(x) for x in (*rng.normal(size=(3, num_rows, length)) * 0.3, mask)]


def grad_of(loss: torch.Tensor, leaf: torch.Tensor) -> np.ndarray:
    return torch.autograd.grad(loss, leaf)[0].numpy()


# verl: masks are floats, tool tokens are carried over, GRPO divides by std (ddof 1) + 1e-6.


@pytest.fixture
def verl() -> Any:
    return peer("verl", "verl.trainer.ppo.core_algos")


@pytest.fixture
def actor_config(verl: Any) -> Any:
    return importlib.import_module("verl.workers.config").ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=8,
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.3,
        clip_ratio_c=3.0,
    )


def test_gae_then_whitening_is_verl_gae_with_tool_tokens(verl):
    rewards, values, _, mask = token_batch(0)
    mask &= torch.from_numpy(np.random.default_rng(1).random(mask.shape) < 0.8)
    theirs, their_returns = verl.compute_gae_advantage_return(
        rewards, values, mask.double(), gamma=0.98, lam=0.9
    )
    advantages, returns = kernels.gae(rewards, values, gamma=0.98, gae_lambda=0.9, mask=mask)
    whitened, _ = kernels.masked_whiten(advantages, mask)
    # verl's masked mean divides by the count + 1e-8
    assert_exact_to(whitened, (theirs * mask).numpy(), 1e-8)
    assert_exact_to(returns, (their_returns * mask).numpy(), 1e-12)


@pytest.mark.parametrize("is_normalised", [True, False])
def test_group_advantages_are_verl_grpo_and_dr_grpo(verl, is_normalised):
    rng = np.random.default_rng(2)
    scores, group_ids = torch.from_numpy(rng.normal(size=(24, 1))), np.repeat(np.arange(6), 4)
    theirs, _ = verl.compute_grpo_outcome_advantage(
        scores.clone(), torch.ones(24, 1), group_ids, norm_adv_by_std_in_grpo=is_normalised
    )
    ours = kernels.group_advantages(
        scores[:, 0], torch.from_numpy(group_ids), mode="grpo" if is_normalised else "dr_grpo"
    )
    assert_exact_to(ours, theirs[:, 0].numpy(), 1e-12)


def test_group_advantages_are_verl_rloo(verl):
    rng = np.random.default_rng(3)
    scores, group_ids = torch.from_numpy(rng.normal(size=(24, 1))), np.repeat(np.arange(6), 4)
    theirs, _ = verl.compute_rloo_outcome_advantage(scores.clone(), torch.ones(24, 1), group_ids)
    ours = kernels.group_advantages(scores[:, 0], torch.from_numpy(group_ids), mode="rloo")
    assert_exact_to(ours, theirs[:, 0].numpy(), 1e-12)


@pytest.mark.parametrize(
    ("aggregate", "theirs"),
    [("token_mean", "token-mean"), ("sequence_mean", "seq-mean-token-mean")],
)
def test_policy_loss_is_verl_vanilla_with_dual_clip(verl, actor_config, aggregate, theirs):
    new, old, advantages, mask = token_batch(4)
    new, old = 3 * new, 3 * old
    new.requires_grad_()
    their_loss, metrics = verl.compute_policy_loss_vanilla(
        old, new, advantages, mask.double(), theirs, actor_config
    )
    options = CLIPS | {"dual_clip": 3.0, "aggregate": aggregate}
    loss, stats = kernels.policy_loss(new, old, advantages, mask, **options)
    # verl divides a row by its length + 1e-8, and every masked mean by its count + 1e-8.
    bound = 1e-7
    assert_exact_to(loss, their_loss.detach().numpy(), bound)
    assert_exact_to(torch.from_numpy(grad_of(loss, new)), grad_of(their_loss, new), bound)
    both_clips = metrics["actor/pg_clipfrac"] + metrics["actor/pg_clipfrac_lower"]
    assert float(stats["clip_frac"]) == pytest.approx(both_clips, abs=1e-7)


def test_policy_loss_is_verl_cispo(verl, actor_config):
    new, old, advantages, mask = token_batch(5)
    new.requires_grad_()
    theirs, _ = verl.compute_policy_loss_cispo(
        old, new, advantages, mask.double(), "token-mean", actor_config
    )
    loss, _ = kernels.policy_loss(new, old, advantages, mask, kind="cispo", **CLIPS)
    assert_exact_to(loss, theirs.detach().numpy(), 1e-12)
    assert_exact_to(torch.from_numpy(grad_of(loss, new)), grad_of(theirs, new), 1e-12)


def test_policy_loss_is_verl_gspo_where_a_row_has_one_advantage(verl, actor_config):
    new, old, advantages, mask = token_batch(6)
    advantages = advantages[:, :1].expand_as(new).contiguous()
    new.requires_grad_()
    theirs, _ = verl.compute_policy_loss_gspo(
        old, new, advantages, mask.double(), "seq-mean-token-mean", actor_config
    )
    options = CLIPS | {"level": "sequence", "aggregate": "sequence_mean"}
    loss, _ = kernels.policy_loss(new, old, advantages, mask, **options)
    assert_exact_to(loss, theirs.detach().numpy(), 1e-7)
    assert_exact_to(torch.from_numpy(grad_of(loss, new)), grad_of(theirs, new), 1e-7)


def test_value_loss_is_verl_value_loss(verl):
    values, old, returns, mask = token_batch(7)
    theirs, clip_frac = verl.compute_value_loss(values, returns, old, mask.double(), 0.1)
    loss, stats = kernels.value_loss(values, old, returns, mask, clip_range=0.1)
    assert_exact_to(loss, theirs.numpy(), 1e-12)
    assert float(stats["clip_frac"]) == pytest.approx(float(clip_frac), abs=1e-7)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_penalty_is_verl_kl_penalty(verl, estimator):
    log_probs, ref_log_probs, _, _ = token_batch(8)
    theirs = verl.kl_penalty_forward(log_probs, ref_log_probs, estimator)
    ours = kernels.kl_penalty(log_probs, ref_log_probs, estimator=estimator)
    assert_exact_to(ours, theirs.numpy(), 1e-12)  # verl's k3 has lost some digits below the largest


def test_masked_whiten_is_verl_masked_whiten(verl):
    x, _, _, mask = token_batch(9)
    functional = importlib.import_module("verl.utils.torch_functional")
    for shift_mean in (True, False):
        theirs = functional.masked_whiten(x, mask.double(), shift_mean) * mask
        ours, _ = kernels.masked_whiten(x, mask, shift_mean=shift_mean)
        # verl's masked mean divides by the count + 1e-8
        assert_exact_to(ours, theirs.numpy(), 1e-8)


# TRL: plain log-softmax and entropy; GRPO's eps is 1e-4.


def test_token_log_probs_are_trl_selective_log_softmax_and_entropy():
    trl = peer("trl", "trl.trainer.utils")
    rng = np.random.default_rng(10)
    logits = torch.from_numpy(rng.normal(size=(4, 9, 513)))
    targets = torch.from_numpy(rng.integers(0, 513, (4, 9)))
    log_probs, entropy = kernels.token_log_probs(logits, targets, entropy=True)
    assert_exact_to(log_probs, trl.selective_log_softmax(logits, targets).numpy(), 1e-12)
    assert_exact_to(entropy, trl.entropy_from_logits(logits).numpy(), 1e-12)


@pytest.mark.parametrize(("beta", "direction"), [(0, "reverse"), (1, "forward")])
def test_kl_divergence_is_trl_distillation_loss_at_either_end(beta, direction):
    # F.kl_div(student, teacher) is KL(teacher || student).
    trl = peer("trl", "trl.experimental.gkd")
    student, teacher = torch.from_numpy(np.random.default_rng(14).normal(size=(2, 4, 9, 513)))
    student.requires_grad_()
    options = {"temperature": 0.9}
    theirs = trl.GKDTrainer.generalized_jsd_loss(
        student, teacher, beta=beta, reduction="sum", **options
    )
    ours = kernels.kl_divergence(student, teacher, direction=direction, **options).sum()
    assert_exact_to(ours, theirs.detach().numpy(), 1e-12)
    assert_exact_to(torch.from_numpy(grad_of(ours, student)), grad_of(theirs, student), 1e-11)


# torchrl: [B, T, 1], `done` cuts the sum, `terminated` the bootstrap, values after each step given.


@pytest.fixture
def torchrl() -> Any:
    return peer("torchrl", "torchrl.objectives.value.functional")


def episodes(seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """One batch of episodes twice: our arguments, and the columns that torchrl takes."""
    rewards, values, next_values, _ = token_batch(seed, num_rows=5, length=40)
    rng = np.random.default_rng(seed)
    terminated, truncated = torch.from_numpy(rng.random((2, 5, 40)) < 0.1)
    truncated[:, -1] = True
    done = terminated | truncated
    after = torch.where(done, next_values, torch.roll(values, -1, dims=1))
    ours = {"rewards": rewards, "values": values, "terminated": terminated, "truncated": truncated}
    theirs = {"state_value": values, "next_state_value": after, "reward": rewards, "done": done}
    columns = {name: x[..., None] for name, x in theirs.items()}
    return ours | {"next_values": next_values}, columns | {"terminated": terminated[..., None]}


# torchrl's discounts are float32
FLOAT32_DISCOUNTS = 1e-6


def test_gae_is_torchrl_gae_with_truncation(torchrl):
    ours, theirs = episodes(11)
    expected = torchrl.generalized_advantage_estimate(0.97, 0.9, **theirs)
    for one, other in zip(kernels.gae(gamma=0.97, gae_lambda=0.9, **ours), expected, strict=True):
        assert_exact_to(one, other[..., 0].numpy(), FLOAT32_DISCOUNTS)


def test_td_lambda_returns_are_torchrl_td_lambda_returns(torchrl):
    ours, theirs = episodes(15)
    del theirs["state_value"]
    expected = torchrl.td_lambda_return_estimate(0.97, 0.9, **theirs)
    returns = kernels.td_lambda_returns(gamma=0.97, td_lambda=0.9, **ours)
    assert_exact_to(returns, expected[..., 0].numpy(), FLOAT32_DISCOUNTS)


def test_vtrace_is_torchrl_vtrace_with_one_limit_for_both_rhos(torchrl):
    ours, theirs = episodes(16)
    new, old, _, _ = token_batch(17, num_rows=5, length=40)
    expected = torchrl.vtrace_advantage_estimate(
        0.97, new[..., None], old[..., None], **theirs, rho_thresh=1.2, c_thresh=0.9
    )
    options = {"gamma": 0.97, "clip_rho": 1.2, "clip_c": 0.9, "clip_pg_rho": 1.2}
    targets, advantages = kernels.vtrace(new, old, **ours, **options)
    for one, other in zip((advantages, targets), expected, strict=True):
        assert_exact_to(one, other[..., 0].numpy(), FLOAT32_DISCOUNTS)


def test_td_targets_are_torchrl_td0_returns(torchrl):
    ours, theirs = episodes(18)
    del theirs["state_value"]
    expected = torchrl.td0_return_estimate(0.97, **theirs)[..., 0]
    after = theirs["next_state_value"][..., 0]
    targets = kernels.td_targets(ours["rewards"], after, gamma=0.97, terminated=ours["terminated"])
    assert_exact_to(targets, expected.numpy(), FLOAT32_DISCOUNTS)


# SB3: time first, `episode_starts` of the next step is this step's end, float32 throughout.


def test_gae_is_stable_baselines3_rollout_buffer():
    buffers = peer("stable-baselines3", "stable_baselines3.common.buffers")
    spaces = importlib.import_module("gymnasium.spaces")
    rng = np.random.default_rng(13)
    num_steps, num_envs = 50, 4
    box = spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(num_steps, box, box, gae_lambda=0.9, gamma=0.97, n_envs=num_envs)
    rewards, values = rng.normal(size=(2, num_steps, num_envs)).astype(np.float32)
    ends = rng.random((num_steps, num_envs)) < 0.1
    last_values = rng.normal(size=num_envs).astype(np.float32)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[1:] = ends[:-1]
    buffer.compute_returns_and_advantage(torch.from_numpy(last_values), ends[-1])
    advantages, returns = kernels.gae(
        rewards.T,
        values.T,
        gamma=0.97,
        gae_lambda=0.9,
        terminated=ends.T,
        bootstrap=last_values,
    )
    assert_exact_to(advantages, buffer.advantages.T, 1e-6)
    assert_exact_to(returns, buffer.returns.T, 1e-6)


@pytest.mark.parametrize("n_step", [1, 3, 7])
def test_td_targets_are_those_of_stable_baselines3_n_step_buffer(n_step):
    # Observations are the numbers of the states, so that they say whose value is wanted.
    buffers = peer("stable-baselines3", "stable_baselines3.common.buffers")
    spaces = importlib.import_module("gymnasium.spaces")
    rng = np.random.default_rng(19)
    box = spaces.Box(-1, 1, (1,))
    buffer = buffers.NStepReplayBuffer(41, box, box, n_steps=n_step, gamma=0.97, n_envs=1)
    rewards, after = rng.normal(size=(2, 40)).astype(np.float32)
    terminated = rng.random(40) < 0.15
    for t in range(40):
        step = np.array([[t]], np.float32)
        buffer.add(step, step, step, rewards[t : t + 1], terminated[t : t + 1], [{}])
    batch = buffer._get_samples(np.arange(40))
    value = torch.from_numpy(after)[batch.next_observations.long()]
    expected = batch.rewards + (1 - batch.dones) * batch.discounts * value
    targets = kernels.td_targets(rewards, after, gamma=0.97, terminated=terminated, n_step=n_step)
    assert_exact_to(targets, expected[:, 0].numpy(), 1e-6)
