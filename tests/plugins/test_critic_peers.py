"""a2c, ppo and trpo beside Stable-Baselines3 and sb3-contrib on one batch, to 1e-5.

The peers' own `train` runs on the same table: their observation is the context's one-hot vector,
their networks have no hidden layer, and their rollout buffer holds the responses one by one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alignzoo.plugins.trpo import conjugate_gradient
from learner.algorithm_cases import Enumeration, random_tables

import alignzoo as az
from alignzoo.learner import restrict
from alignzoo.testing import TokenMDP

pytestmark = [pytest.mark.peer("stable_baselines3"), pytest.mark.peer("sb3_contrib")]

MDP = TokenMDP.random(0, end_token=2)
NUM_TOKENS = sum(map(len, MDP.responses))
SAME = {"gamma": 0.9, "gae_lambda": 0.8, "normalize_advantage": False}
OURS = {"gamma": 0.9, "gae_lambda": 0.8, "whiten_advantages": "none", "kl_coef": 0.0}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tables():
    """Returns logits of the policy and of the one that sampled, [S, V], and values [S]."""
    logits, other = random_tables(MDP, 1)
    return logits, logits + 0.3 * other, np.random.default_rng(2).normal(size=len(MDP.contexts))


def ours(id, *, is_on_policy, **options):
    """Returns every response as a prepared batch of an algorithm of ours, and the case."""
    logits, sampler, values = tables()
    case = Enumeration(MDP, logits, az.make(id, **OURS | options), values=values)
    if not is_on_policy:
        case.set_table("old_log_probs", MDP.log_probs(sampler))
    batch = restrict(case.buffer.batch(), case.algorithm, may_write=True)
    case.algorithm.prepare(batch)
    return case, batch


def peer(kind, *, is_on_policy, **options):
    """Returns a peer's algorithm that holds the same networks and the same rollout."""
    import gymnasium
    from stable_baselines3.common.logger import configure

    class Nothing(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(MDP.contexts),))
        action_space = gymnasium.spaces.Discrete(MDP.vocab_size)

        def reset(self, **options):
            return np.zeros(len(MDP.contexts), dtype=np.float32), {}

    networks = {"net_arch": [], "optimizer_class": torch.optim.SGD}
    model = kind(
        "MlpPolicy", Nothing(), n_steps=NUM_TOKENS, policy_kwargs=networks, learning_rate=1e-9,
        device="cpu", **SAME | options,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    logits, sampler, values = tables()
    actor = torch.nn.Linear(*reversed(logits.T.shape), bias=False)
    actor.weight.data = torch.tensor(logits.T, dtype=torch.float32)
    model.policy.action_net = actor
    model.policy.value_net.weight.data = torch.tensor(values[None], dtype=torch.float32)
    model.policy.value_net.bias.data.zero_()
    fill(model.rollout_buffer, MDP.log_probs(logits if is_on_policy else sampler), values)
    return model


def fill(buffer, log_probs, values):
    """Puts the responses in one after the other."""
    buffer.reset()
    one_hot = np.eye(len(MDP.contexts), dtype=np.float32)
    for response in MDP.responses:
        for t, (state, token) in enumerate(MDP.steps(response)):
            buffer.add(
                one_hot[state][None], np.array([[token]]), np.array([MDP.rewards[state, token]]),
                np.array([t == 0]), torch.tensor([values[state]]),
                torch.tensor([log_probs[state, token]]),
            )  # fmt: skip
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))


def assert_equal_estimates(batch, buffer):
    """Advantages and returns, token by token; call it before the peer shuffles them."""
    mask = batch.response_mask
    for name in ("advantages", "returns"):
        found = getattr(batch, name)[mask].numpy()
        np.testing.assert_allclose(found, getattr(buffer, name).flatten(), **CLOSE)


def assert_equal_gradients(case, gradient, policy):
    actor = case.learner.gradient_vector(gradient, group=0)
    torch.testing.assert_close(actor, policy.action_net.weight.grad.flatten(), **CLOSE)
    critic = torch.cat([p.grad.flatten() for p in policy.value_net.parameters()])
    torch.testing.assert_close(case.learner.gradient_vector(gradient, group=1), critic, **CLOSE)


@pytest.mark.parametrize("options", [{"advantages": "gae"}, {"gae_lambda": 1.0}])
def test_a2c_is_that_of_stable_baselines(options):
    # Its value loss is the mean square, ours half of it: vf_coef 0.5 there is 1 here.
    from stable_baselines3 import A2C

    case, batch = ours("a2c", is_on_policy=True, vf_coef=1.0, ent_coef=0.1, **options)
    gae_lambda = {"gae_lambda": options.get("gae_lambda", 0.8)}
    model = peer(
        A2C, is_on_policy=True, vf_coef=0.5, ent_coef=0.1, max_grad_norm=1e9, use_rms_prop=False,
        **gae_lambda,
    )  # fmt: skip
    assert_equal_estimates(batch, model.rollout_buffer)
    gradient = case.learner.gradient(batch, case.algorithm.loss)
    model.train()
    assert_equal_gradients(case, gradient, model.policy)
    metrics, theirs = gradient.metrics.result(), model.logger.name_to_value
    assert metrics["policy_loss"] == pytest.approx(theirs["train/policy_loss"], rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(theirs["train/value_loss"] / 2, rel=1e-5)
    assert metrics["entropy"] == pytest.approx(-theirs["train/entropy_loss"], rel=1e-5)


@pytest.mark.parametrize("is_normalised", [False, True])
def test_ppo_is_that_of_stable_baselines(is_normalised):
    # Its clip fraction counts ratios out of range, ours the clips that act: not compared.
    from stable_baselines3 import PPO

    options = {"whiten_advantages": "full"} if is_normalised else {}
    case, batch = ours("ppo", is_on_policy=False, vf_coef=1.0, ent_coef=0.1, **options)
    model = peer(
        PPO, is_on_policy=False, vf_coef=0.5, ent_coef=0.1, max_grad_norm=1e9, n_epochs=1,
        batch_size=NUM_TOKENS, normalize_advantage=is_normalised,
    )  # fmt: skip
    if not is_normalised:
        assert_equal_estimates(batch, model.rollout_buffer)
    gradient = case.learner.gradient(batch, case.algorithm.loss)
    model.train()
    assert_equal_gradients(case, gradient, model.policy)
    metrics, theirs = gradient.metrics.result(), model.logger.name_to_value
    expected = theirs["train/policy_gradient_loss"]
    assert metrics["policy_loss"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert metrics["value_loss"] == pytest.approx(theirs["train/value_loss"] / 2, rel=1e-5)
    assert metrics["approx_kl"] == pytest.approx(theirs["train/approx_kl"], rel=1e-5)
    assert metrics["clip_frac"] > 0.0


def test_conjugate_gradient_is_that_of_sb3_contrib():
    # Which starts from noise of 1e-4, so both go on to the end.
    from sb3_contrib.common.utils import conjugate_gradient_solver

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix, g = root @ root.T + torch.eye(12, dtype=torch.float64), root[0]
    theirs = conjugate_gradient_solver(lambda v: matrix @ v, g, max_iter=40, residual_tol=1e-20)
    found = conjugate_gradient(lambda v: matrix @ v, g, steps=40, tolerance=1e-10)
    torch.testing.assert_close(found.x, theirs, **CLOSE)


@pytest.mark.parametrize("max_kl", [0.01, 0.3])
def test_a_step_of_trpo_is_that_of_sb3_contrib(max_kl):
    # Its line search bounds KL(new || old), ours KL(old || new) as in the paper; the Hessian at the
    # old policy is the same, and here the full step or the same shorter one satisfies both.
    from sb3_contrib import TRPO

    case, batch = ours(
        "trpo", is_on_policy=True, max_kl=max_kl, damping=1.0, cg_steps=60, cg_tolerance=1e-6,
        backtrack=0.8, fisher_fraction=1.0,
    )  # fmt: skip
    model = peer(
        TRPO, is_on_policy=True, target_kl=max_kl, cg_damping=1.0, cg_max_steps=60,
        line_search_shrinking_factor=0.8, batch_size=NUM_TOKENS, n_critic_updates=1,
    )  # fmt: skip
    assert_equal_estimates(batch, model.rollout_buffer)
    start = case.learner.get_vector(0)
    metrics = case.algorithm.update(batch, case.learner).result()
    model.train()
    moved = model.policy.action_net.weight.detach().flatten() - start
    torch.testing.assert_close(case.learner.get_vector(0) - start, moved, **CLOSE)
    assert float(moved.norm()) > 0.05
    theirs = model.logger.name_to_value
    assert metrics["surrogate_after"] == pytest.approx(theirs["train/policy_objective"], abs=1e-5)
