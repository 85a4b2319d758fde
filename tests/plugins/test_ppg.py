"""PPG: by hand, beside PPO, and what each phase may change.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import Enumeration, learn, make_batch, random_tables, shortfall
from policy.cases import byte_prompts, roll_out, small_policy
from trainer.runs import assert_same_outcome, copy_run, make_policy, make_trainer, metrics_of

import alignzoo as az
from alignzoo.learner import restrict
from alignzoo.testing import TokenMDP

SEPARATE = {"networks": "separate"}


def metrics_of_loss(loss):
    return az.Metrics(loss.metrics).result()


# -- the joint loss ----------------------------------------------------------------------------


def output(logits, values):
    made = [torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (logits, values)]
    zeros = torch.zeros(made[1].shape, dtype=torch.float64)
    return az.PolicyOutput(zeros, zeros, values=made[1], logits=made[0])


def test_the_example_worked_by_hand():
    # One token out of two. Teacher (1/2, 1/2), policy (3/4, 1/4); V_aux 0.6, return 1; beta 2.
    #   KL(old || policy) = 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3)
    #   1/2 (0.6 - 1)^2 = 0.08,   L = 0.08 + 2 * 1/2 log(4/3) = 0.08 + log(4/3)
    #   by the logits 2 (policy - old) = (1/2, -1/2), by the value 0.6 - 1 = -0.4
    algorithm = az.make("ppg", beta_clone=2.0)
    batch = make_batch(algorithm, {"returns": [[1.0]]}, [1])
    out, old = output([[[math.log(3), 0.0]]], [[0.6]]), output([[[0.0, 0.0]]], [[0.0]])
    loss = algorithm.joint_loss(batch, out, old, temperature=1.0)
    assert float(loss.value.detach()) == pytest.approx(0.08 + math.log(4 / 3), abs=1e-12)
    loss.value.backward()
    assert out.logits.grad.flatten().tolist() == pytest.approx([0.5, -0.5], abs=1e-12)
    assert float(out.values.grad) == pytest.approx(-0.4, abs=1e-12)
    assert metrics_of_loss(loss) == pytest.approx(
        {"aux_value_loss": 0.08, "aux_kl": 0.5 * math.log(4 / 3)}
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_joint_loss_is_that_of_the_distributions_drawn_from(temperature):
    # 1/2 mean (V - R)^2 + beta mean KL(old || policy), by torch.distributions; correctness.md #1,
    # and #7: what lies under the mask is not looked at.
    generator = np.random.default_rng(0)
    mask = [[True, False, True], [True, True, False]]
    algorithm = az.make("ppg", beta_clone=0.3)
    returns = generator.normal(size=(2, 3))
    batch = make_batch(
        algorithm, {"returns": returns}, [3, 2], response_masks=[mask[0], [True] * 2]
    )
    new, was, values = (generator.normal(size=s) for s in [(2, 3, 5), (2, 3, 5), (2, 3)])
    loss = algorithm.joint_loss(
        batch, output(new, values), output(was, values), temperature=temperature
    )
    old, policy = (
        torch.distributions.Categorical(logits=torch.tensor(x / temperature)) for x in (was, new)
    )
    chosen = torch.tensor(mask)
    kl = torch.distributions.kl_divergence(old, policy)[chosen].mean()
    error = 0.5 * (torch.tensor(values - returns)[chosen] ** 2).mean()
    assert float(loss.value.detach()) == pytest.approx(float(error + 0.3 * kl), rel=1e-9)


def test_openais_coefficients_are_the_defaults_but_for_how_often_and_how_much():
    # github.com/openai/phasic-policy-gradient, train.py and ppo.py.
    config = az.make("ppg").config
    assert (config.beta_clone, config.aux_epochs, config.clip_range) == (1.0, 6, 0.2)
    theirs = az.make(
        "ppg", networks="separate", policy_phases=32, num_epochs=1, aux_minibatch_size=4,
        learning_rate=5e-4, gamma=0.999, gae_lambda=0.95, ent_coef=0.01,
    )  # fmt: skip
    assert theirs.needs.replay == 31


# -- beside PPO --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "num_epochs": 3, "minibatch_size": 3, "ent_coef": 0.1, "kl_in": "loss", "gamma": 0.9,
            "gae_lambda": 0.8, "whiten_advantages": "full", "aggregate": "sequence_mean",
            "clip_range": 1e-4, "clip_range_high": 1e-3, "vf_coef": 0.2,
            "bootstrap_truncated": True, "value_learning_rate": None, "target_kl": 1e-4,
        },
    ],
)  # fmt: skip
def test_with_no_auxiliary_phase_and_shared_networks_it_is_ppo_to_the_bit(
    options, folder, tmp_path
):
    # correctness.md #21: parameters, metrics and samples of a run.
    for id, more in (("ppo", {}), ("ppg", {"aux_epochs": 0})):
        algorithm = az.make(id, **{"learning_rate": 1e-3} | options | more)
        make_trainer(folder, tmp_path / id, algorithm).run(3)
    assert_same_outcome(tmp_path / "ppo", tmp_path / "ppg")


def test_until_its_first_auxiliary_phase_it_is_ppo_and_then_no_longer(folder, tmp_path):
    runs = {}
    for id, more in (("ppo", {}), ("ppg", {"policy_phases": 2})):
        algorithm = az.make(id, learning_rate=1e-3, **more)
        make_trainer(folder, tmp_path / id, algorithm).run(3)
        runs[id] = metrics_of(tmp_path / id)
    same = {"score_mean", "kl", "policy_loss", "value_loss", "grad_norm"}
    for update in (0, 1):
        assert {k: runs["ppo"][update][k] for k in same} == {
            k: runs["ppg"][update][k] for k in same
        }
    assert runs["ppo"][2]["policy_loss"] != runs["ppg"][2]["policy_loss"]
    assert [("aux_kl" in line) for line in runs["ppg"]] == [False, True, False]


def test_advantages_skip_masked_tokens_and_go_on_in_the_value_of_truncated_rows_alone():
    # correctness.md #6 and #7. gamma 0.5, lambda 1: the last tokens return 2 + 0.5 * (0, 4), the
    # first 1 + 0.5 * that; values 0.5 and 0.25. The tool's token in between does not count.
    nan = math.nan
    algorithm = az.make("ppg", gamma=0.5, bootstrap_truncated=True, whiten_advantages="none")
    columns = {
        "rewards": [[1, nan, 2]] * 2, "values": [[0.5, nan, 0.25]] * 2,
        "bootstrap_values": [8.0, 4.0],
    }  # fmt: skip
    ends = {"terminated": [True, False], "truncated": [False, True]}
    masks = [[True, False, True]] * 2
    batch = make_batch(algorithm, columns, [3, 3], response_masks=masks, **ends)
    algorithm.prepare(batch)
    assert batch.returns.tolist() == [[2.0, 0.0, 2.0], [3.0, 0.0, 4.0]]
    assert batch.advantages.tolist() == [[1.5, 0.0, 1.75], [2.5, 0.0, 3.75]]


# -- phases ------------------------------------------------------------------------------------


def phasic_run(updates, **options):
    """Returns algorithm and run after `updates`, and what every auxiliary step was given."""
    algorithm = az.make("ppg", **{"learning_rate": 3e-3, "policy_phases": 3} | options)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2, 4]))
    run.learner.buffer.keep_versions = 1 + algorithm.needs.replay
    steps, phases = [], []
    step, phase = run.learner.step, algorithm._auxiliary_phase

    def record_step(batch, loss, **more):
        result = step(batch, loss, **more)
        steps.append((sorted(batch.policy_version.tolist()), result.metrics.result()))
        return result

    def record_phase(*arguments):
        phases.append((updates_made, run.learner.get_vector(0)))
        return phase(*arguments)

    run.learner.step, algorithm._auxiliary_phase = record_step, record_phase
    batch = run.batch
    for updates_made in range(1, updates + 1):
        run.learner.begin_update(updates_made)
        metrics = algorithm.update(restrict(batch, algorithm, may_write=True), run.learner)
        if updates_made < updates:
            batch = run.source.collect(updates_made + 1).batch
    return algorithm, run, steps, phases, metrics.result()


@pytest.mark.parametrize("networks", ["shared", "separate"])
def test_an_auxiliary_phase_learns_from_every_rollout_since_the_last(networks):
    _, _, steps, phases, metrics = phasic_run(7, aux_epochs=2, networks=networks)
    assert [number for number, _ in phases] == [3, 6]
    assert len(steps) == 2 * 2 * 3  # phases, epochs, minibatches of as many rows as an update has
    for first, versions in ((0, [1, 2, 3]), (6, [4, 5, 6])):
        for epoch in (first, first + 3):
            seen = sorted(v for rows, _ in steps[epoch : epoch + 3] for v in rows)
            assert seen == sorted(versions * 4)
    assert "aux_kl" not in metrics


def test_auxiliary_steps_may_have_a_size_of_their_own():
    _, _, steps, _, _ = phasic_run(3, aux_epochs=1, aux_minibatch_size=6)
    assert [len(rows) for rows, _ in steps] == [6, 6]


def test_the_teacher_is_the_policy_as_the_phase_begins():
    _, run, steps, phases, metrics = phasic_run(3, aux_epochs=3)
    assert steps[0][1]["aux_kl"] == pytest.approx(0.0, abs=1e-7)
    assert steps[-1][1]["aux_kl"] > 1e-6
    assert not torch.equal(run.learner.get_vector(0), phases[0][1])
    mean = sum(one["aux_kl"] for _, one in steps) / len(steps)
    assert metrics["aux_kl"] == pytest.approx(mean, rel=0.2)


def test_the_phase_improves_the_value_and_the_divergence_holds_the_policy():
    moved, errors = {}, {}
    for beta in (0.0, 30.0):
        options = {"beta_clone": beta, "value_learning_rate": 0.01}
        _, _, steps, _, _ = phasic_run(3, aux_epochs=6, **options)
        errors[beta] = [one["aux_value_loss"] for _, one in steps]
        moved[beta] = steps[-1][1]["aux_kl"]
    for seen in errors.values():
        assert sum(seen[-3:]) < 0.9 * sum(seen[:3])
    assert moved[30.0] < 0.5 * moved[0.0]


def trunk_gradient(algorithm, run, **more):
    run.learner.policy.value_head.weight.data.normal_(0, 1)
    gradient = run.learner.gradient(run.batch, more.pop("loss"), **more)
    return float(run.learner.gradient_vector(gradient, group=0).norm())


def test_the_value_loss_reaches_the_trunk_in_the_auxiliary_phase_alone():
    algorithm = az.make("ppg", policy_phases=1, kl_coef=0.0, aux_epochs=1, beta_clone=0.0)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    run.batch.advantages = torch.zeros_like(run.batch.advantages)
    assert trunk_gradient(algorithm, run, loss=algorithm.loss) == 0.0
    seen = []
    step = run.learner.step

    def record(batch, loss, needs):
        seen.append(trunk_gradient(algorithm, run, loss=loss, needs=needs))
        return step(batch, loss, needs=needs)

    run.learner.step = record
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    assert len(seen) == 1
    assert seen[0] > 0.0


def test_a_run_without_auxiliary_phases_keeps_no_rollouts():
    assert az.make("ppg", aux_epochs=0).needs.replay == 0
    assert az.make("ppg", policy_phases=5).needs.replay == 4
    assert az.make("ppg", policy_phases=1).needs.replay == 0


# -- a critic of its own -----------------------------------------------------------------------


def test_a_separate_critic_starts_as_the_policy_and_its_values_make_the_advantages():
    algorithm = az.make("ppg", **SEPARATE, whiten_advantages="none", bootstrap_truncated=True)
    policy = small_policy(3)
    torch.nn.init.normal_(policy.add_value_head().weight)
    run = roll_out(policy, algorithm, byte_prompts([3, 5, 2]))
    torch.testing.assert_close(run.batch.critic_values, run.batch.values, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        policy.value_head.weight.mul_(-3.0)  # what the auxiliary head says does not matter
        algorithm.critic.value_head.bias.add_(2.0)
    batch = run.source.collect(2).batch
    assert float((batch.critic_values - batch.values)[batch.response_mask].abs().min()) > 0.0
    torch.testing.assert_close(batch.returns, batch.advantages + batch.critic_values)
    after = algorithm.critic.final_values(batch) * batch.truncated
    last = batch.response_lengths - 1
    rows = torch.arange(len(batch))
    expected = batch.rewards[rows, last] + after
    torch.testing.assert_close(batch.returns[rows, last], expected, rtol=1e-4, atol=1e-4)


def test_explained_variance_is_that_of_the_network_that_makes_the_advantages():
    algorithm = az.make("ppg", **SEPARATE, kl_coef=0.0)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2]))
    mask = run.batch.response_mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    run.batch.critic_values = run.batch.returns + 0.1 * noise
    returns, values = run.batch.returns[mask].numpy(), run.batch.critic_values[mask].numpy()
    metrics = algorithm.update(restrict(run.batch, algorithm), run.learner).result()
    expected = 1 - (returns - values).var() / returns.var()
    assert metrics["explained_variance"] == pytest.approx(expected, rel=1e-4)


def test_what_is_frozen_in_the_policy_is_frozen_in_its_critic():
    algorithm, policy = az.make("ppg", **SEPARATE), small_policy(3)
    policy.model.get_input_embeddings().weight.requires_grad_(False)
    roll_out(policy, algorithm, byte_prompts([3, 5]))
    critic = algorithm.critic.model
    assert not critic.get_input_embeddings().weight.requires_grad
    assert [p.requires_grad for p in critic.parameters()] == [
        p.requires_grad for p in policy.model.parameters()
    ]


def test_the_critic_values_a_rollout_piece_by_piece(monkeypatch):
    # correctness.md #11.
    found = []
    for limit in (10_000, 1):
        monkeypatch.setattr("alignzoo.plugins.ppg.CRITIC_TOKENS", limit)
        policy = small_policy(3)
        torch.nn.init.ones_(policy.add_value_head().weight)
        algorithm = az.make("ppg", **SEPARATE, bootstrap_truncated=True)
        found.append(roll_out(policy, algorithm, byte_prompts([3, 5, 2, 4])).batch)
    whole, pieces = found
    assert float(whole.critic_values.std()) > 0.1
    torch.testing.assert_close(pieces.critic_values, whole.critic_values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pieces.returns, whole.returns, rtol=1e-4, atol=1e-4)


def test_in_the_policy_phase_the_critic_learns_and_the_auxiliary_head_does_not():
    algorithm = az.make("ppg", **SEPARATE, learning_rate=1e-2, kl_coef=0.0)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2]))
    torch.nn.init.normal_(algorithm.critic.value_head.weight)
    run.batch.advantages = torch.zeros_like(run.batch.advantages)
    before = [run.learner.get_vector(group) for group in range(4)]
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    changed = [
        not torch.equal(run.learner.get_vector(group), was) for group, was in enumerate(before)
    ]
    assert changed == [False, False, True, True]  # policy, its head, critic, its head


def test_in_the_auxiliary_phase_both_learn_the_returns():
    _, _, steps, _, metrics = phasic_run(3, **SEPARATE, value_learning_rate=0.02)
    for name in ("aux_value_loss", "aux_critic_loss"):
        seen = [one[name] for _, one in steps]
        assert sum(seen[-3:]) < 0.9 * sum(seen[:3])
    assert {"aux_value_loss", "aux_critic_loss", "aux_kl", "aux_grad_norm"} <= metrics.keys()


def test_the_critic_follows_the_rates_of_the_policy_and_its_head():
    algorithm = az.make("ppg", **SEPARATE, learning_rate=1e-4, value_learning_rate=3e-2)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    assert run.learner.peak_rates == [1e-4, 3e-2, 1e-4, 3e-2]
    shared = az.make("ppg", learning_rate=1e-4, value_learning_rate=3e-2)
    run = roll_out(small_policy(3), shared, byte_prompts([3, 5]))
    assert run.learner.peak_rates == [1e-4, 3e-2]


def test_a_run_with_a_critic_of_its_own_goes_on_to_the_bit(folder, tmp_path):
    # correctness.md #17, stopped between two auxiliary phases.
    def trainer(out):
        algorithm = az.make("ppg", **SEPARATE, learning_rate=1e-3, policy_phases=2, aux_epochs=2)
        return make_trainer(folder, out, algorithm, checkpoint_every=1)

    trainer(tmp_path / "whole").run(4)
    trainer(tmp_path / "part").run(3)
    again = copy_run(tmp_path / "part", tmp_path / "again")
    trainer(again).run(4, resume=True)
    assert_same_outcome(tmp_path / "whole", again)


# -- the exact gradient ------------------------------------------------------------------------


def unbiased(**options):
    return az.make("ppg", whiten_advantages="none", **options)


@pytest.mark.parametrize("networks", ["shared", "separate"])
@pytest.mark.parametrize("critic", ["exact", "random"])
def test_at_ratio_1_and_lambda_1_the_expected_gradient_is_exact_whatever_the_critic(
    critic, networks
):
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    exact = mdp.values(logits)
    values = exact if critic == "exact" else np.random.default_rng(2).normal(size=exact.shape)
    case = Enumeration(mdp, logits, unbiased(networks=networks), values=values)
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


@pytest.mark.parametrize("networks", ["shared", "separate"])
def test_with_the_exact_critic_it_is_exact_at_any_lambda(networks):
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = unbiased(networks=networks, gae_lambda=0.5)
    case = Enumeration(mdp, logits, algorithm, values=mdp.values(logits))
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "options"), [*((seed, {}) for seed in range(5)), (0, SEPARATE)])
def test_it_reaches_the_optimum_of_value_minus_divergence(seed, options):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "ppg", learning_rate=0.2, value_learning_rate=0.1, kl_coef=0.2, policy_phases=5,
        aux_epochs=1, schedule="linear", decay_steps=80, **options,
    )  # fmt: skip
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=30, batch_size=96)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.1}, {"gae_lambda": -0.1}, {"clip_range": 0}, {"clip_range_high": 0},
        {"vf_coef": -1}, {"value_learning_rate": 0}, {"ent_coef": -1}, {"target_kl": 0},
        {"group_size": 0}, {"networks": "dual"}, {"policy_phases": 0}, {"aux_epochs": -1},
        {"aux_minibatch_size": 0}, {"beta_clone": -0.1}, {"beta_clone": float("nan")},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"ppg: option '{name}' is"):
        az.make("ppg", **wrong)
