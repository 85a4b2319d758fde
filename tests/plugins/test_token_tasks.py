"""The exact tasks: against the oracle, and every algorithm of the zoo on them."""

from __future__ import annotations

import numpy as np
import pytest

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, run_cell
from alignzoo.learner import Learner
from alignzoo.testing import TokenMDP, task_checks

IDS = ["bandit", "chain", "tree", "noisy_max"]
ALGORITHMS = [entry.id for entry in az.registry().algorithms if entry.plugin.first_party]


def make(id, **options):
    return az.registry().build("task", id, options)


def run(task, algorithm, out, *, budget, seed=0):
    row = run_cell(
        az.registry(), Cell(task, algorithm, seed, Budget("samples", budget), 1, {}), out
    )
    assert row["status"] == "ok", row["error"]
    return row


@pytest.mark.parametrize("check", task_checks("chain"))
def test_chain_conforms(check):
    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", [check for id in IDS if id != "chain" for check in task_checks(id)]
)
def test_the_others_conform(check):
    check()


@pytest.mark.parametrize("id", IDS)
def test_a_policy_is_worth_what_the_oracle_says(id):
    task = make(id)
    mdp = task.mdp
    logits = np.random.default_rng(0).normal(size=mdp.rewards.shape)
    policy = mdp.policy(logits)
    assert task.evaluate(policy) == pytest.approx(mdp.objective(logits), abs=1e-5)
    assert task.kl(policy) == pytest.approx(mdp.kl(logits, mdp.rewards * 0), abs=1e-5)
    best = np.where(np.isneginf(mdp.optimal_logits()), -100.0, 0.0)
    assert task.evaluate(mdp.policy(best)) == pytest.approx(task.optimum, abs=1e-5)


@pytest.mark.parametrize("id", IDS)
def test_the_range_ends_at_the_worst_and_the_best_policy(id):
    task = make(id)
    mdp = task.mdp
    negated = TokenMDP(-mdp.rewards, mdp.vocab_size, mdp.horizon, mdp.end_token)
    assert task.range[1] == task.optimum == pytest.approx(mdp.optimal_q_values()[0].max())
    assert task.range[0] == pytest.approx(-negated.optimal_q_values()[0].max())


def test_a_critic_that_steers_is_counted_in():
    task = make("tree")
    policy, algorithm = task.policy(), az.make("dqn", min_prob=0.0, dueling=False)
    Learner(policy, algorithm, az.RolloutBuffer())
    policy.shape_logits = algorithm.shape_logits
    q = np.random.default_rng(0).normal(scale=0.05, size=task.mdp.rewards.shape)
    head = algorithm.heads["online"][-1]
    head.weight.data = head.weight.data.new_tensor(q.T)
    steered = q / algorithm.config.steer_temperature
    assert task.evaluate(policy) == pytest.approx(task.mdp.objective(steered), abs=1e-5)
    assert task.kl(policy) == pytest.approx(task.mdp.kl(steered, q * 0), abs=1e-5)


@pytest.mark.parametrize("length", [2, 3, 6])
def test_a_chain_pays_each_link_its_share(length):
    task = make("chain", length=length)
    right = " ".join(str(t % 2) for t in range(length - 1))
    assert task.mdp.score([right]) == pytest.approx([1.0])
    assert task.mdp.score(["0"]) == pytest.approx([1 / length if length > 2 else 1.0])
    assert task.mdp.score(["1 0"[: 2 * length - 3]]) == [0.0]


@pytest.mark.parametrize("id", IDS)
def test_rows_are_judged_by_the_scores(id):
    task = make(id)
    (best,) = task.rows("demonstrations", 0)
    assert task.mdp.score([best["completion"]]) == pytest.approx([task.optimum])
    for row in task.rows("preferences", 0)[:50]:
        better, worse = task.mdp.score([row["chosen"], row["rejected"]])
        assert better > worse
    rated = task.rows("ratings", 0)
    assert task.mdp.score([row["completion"] for row in rated]) == [r["rating"] for r in rated]


def test_rows_follow_from_the_seed():
    task = make("chain")
    for source in ("preferences", "ratings"):
        assert task.rows(source, 0) == make("chain").rows(source, 0) != task.rows(source, 1)
    with pytest.raises(az.ConfigError, match="NoisyMax has no classes"):
        make("noisy_max").rows("classes", 0)


def test_most_pairs_have_the_best_response_and_not_all_of_them():
    task = make("tree")
    best = task.rows("demonstrations", 0)[0]["completion"]
    pairs = task.rows("preferences", 0)
    assert len(pairs) > 1000
    assert 0.7 < np.mean([row["chosen"] == best for row in pairs]) < 0.95
    assert "" in [row["rejected"] for row in pairs]  # or nothing would hold it down


def test_arms_pay_their_means_and_no_arm_pays_what_the_worst_does():
    task = make("bandit", arms=4, seed=2)
    means = np.random.default_rng(2).normal(size=4)
    assert task.mdp.score(["0", "1", "2", "3"]) == pytest.approx(means)
    assert task.mdp.score([""]) == pytest.approx([means.min()])
    assert task.range == pytest.approx((means.min(), means.max()))


def test_arms_are_as_noisy_as_asked():
    score = make("bandit", spread=0.5).reward(0)
    paid = np.array(score(["3"] * 8000, list(range(8000))))
    assert paid.mean() == pytest.approx(make("bandit").mdp.score(["3"])[0], abs=0.02)
    assert paid.std() == pytest.approx(0.5, abs=0.02)


def test_the_noise_has_mean_zero_its_spread_and_spares_what_is_safe():
    task = make("noisy_max", spread=0.5)
    score, draws = task.reward(0), list(range(8000))
    for text in ("1 2", "3", ""):
        noise = np.array(score([text] * 8000, draws)) + task.config.loss
        assert noise.mean() == pytest.approx(0.0, abs=0.02)
        assert noise.std() == pytest.approx(0.5, abs=0.02)
    assert score(["0 1", "0"], [0, 1]) == [0.0, 0.0]


@pytest.mark.parametrize("id", ["bandit", "noisy_max"])
def test_the_noise_follows_from_seed_draw_and_response_and_not_from_the_batch(id):
    score = make(id).reward(3)
    together = score(["1", "3", "1"], [5, 6, 7])
    assert together == [*score(["1"], [5]), *score(["3"], [6]), *score(["1"], [7])]
    one, again = score(["1", "1"], [5, 5])  # two samples of one group
    assert one == together[0] != again
    assert make(id).reward(4)(["1"], [5]) != [one]


@pytest.mark.parametrize("algorithm", ["ppo", "dpo", "dqn", "reward_weighted"])
def test_options_that_a_task_sets_are_the_same_for_all(algorithm):
    config = az.registry().algorithm(algorithm).Config
    for id in IDS:
        given = make(id).options(algorithm, config)
        everyone = make(id).options("anyone", az.registry().algorithm("dqn").Config)
        assert {n: v for n, v in given.items() if n in everyone}.items() <= everyone.items()
        assert given.keys() <= config.model_fields.keys()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_runs_on_it(algorithm, tmp_path):
    row = run("chain", algorithm, tmp_path / "run", budget=128)
    assert row["samples"] <= 128
    assert np.isfinite([row["score"], row["kl"]]).all()
    assert row["updates"] == 0 or row["curve"][-1] != row["curve"][0]
