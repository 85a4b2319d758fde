"""PPO: by hand, against the exact policy gradient, and its controllers.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import (
    Enumeration,
    learn,
    make_batch,
    outputs,
    random_tables,
    shortfall,
)
from policy.cases import byte_prompts, roll_out, small_policy

import alignzoo as az
from alignzoo.learner import Learner, restrict
from alignzoo.testing import TokenMDP

NAN = float("nan")


def prepared(columns, lengths, *, given=None, **options):
    algorithm = az.make("ppo", **options)
    batch = make_batch(algorithm, columns, lengths, **(given or {}))
    algorithm.prepare(batch)
    return algorithm, batch


def metrics_of(loss):
    return az.Metrics(loss.metrics).result()


# -- by hand -----------------------------------------------------------------------------------

EXAMPLE = {"rewards": [[0, 0, 1]], "values": [[0.5, 0.2, 0.4]], "old_log_probs": [[-1, -2, -0.5]]}
EXAMPLE_OPTIONS = {
    "gae_lambda": 0.5,
    "whiten_advantages": "none",
    "clip_range": 0.2,
    "clip_range_vf": 0.2,
    "vf_coef": 0.5,
    "ent_coef": 0.1,
}


def test_advantages_of_the_example_worked_by_hand():
    # Three tokens, rewards (0, 0, 1), values (0.5, 0.2, 0.4), gamma 1, lambda 0.5:
    #   d_3 = 1 - 0.4 = 0.6           A_3 = 0.6
    #   d_2 = 0 + 0.4 - 0.2 = 0.2     A_2 = 0.2 + 0.5 * 0.6 = 0.5
    #   d_1 = 0 + 0.2 - 0.5 = -0.3    A_1 = -0.3 + 0.5 * 0.5 = -0.05
    #   returns A + V = (0.45, 0.7, 1)
    _, batch = prepared(EXAMPLE, [3], **EXAMPLE_OPTIONS)
    assert batch.advantages.flatten().tolist() == pytest.approx([-0.05, 0.5, 0.6], abs=1e-12)
    assert batch.returns.flatten().tolist() == pytest.approx([0.45, 0.7, 1.0], abs=1e-12)


def test_the_loss_of_the_example_worked_by_hand():
    # Ratios (1.3, 1.5, 0.7), clipped to [0.8, 1.2]; advantages (-0.05, 0.5, 0.6):
    #   min(1.3 * -0.05, 1.2 * -0.05) = -0.065    not the clipped one: it would be larger
    #   min(1.5 *  0.5,  1.2 *  0.5)  =  0.6      clipped: the one clip that acts
    #   min(0.7 *  0.6,  0.8 *  0.6)  =  0.42     not the clipped one
    #   policy loss -(-0.065 + 0.6 + 0.42) / 3 = -0.955 / 3
    # Values (0.6, 0.1, 0.8), returns (0.45, 0.7, 1), old values (0.5, 0.2, 0.4) +- 0.2:
    #   squares (0.0225, 0.36, 0.04); of clipped values (0.6, 0.1, 0.6): (0.0225, 0.36, 0.16)
    #   value loss (0.0225 + 0.36 + 0.16) / 2 / 3 = 0.5425 / 6
    # Entropies (0.3, 0.6, 0.9), mean 0.6.
    #   loss -0.955 / 3 + 0.5 * 0.5425 / 6 - 0.1 * 0.6 = -0.333125
    algorithm, batch = prepared(EXAMPLE, [3], **EXAMPLE_OPTIONS)
    old = np.array([[-1, -2, -0.5]])
    out = outputs(
        log_probs=old + np.log([[1.3, 1.5, 0.7]]),
        values=[[0.6, 0.1, 0.8]],
        entropy=[[0.3, 0.6, 0.9]],
    )
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(-0.333125, abs=1e-12)
    loss.value.backward()
    # -r A / 3, and 0 where the clip acts.
    expected = [1.3 * 0.05 / 3, 0.0, -0.7 * 0.6 / 3]
    assert out.log_probs.grad.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    # 0.5 * (V - R) / 3, and 0 where the clipped square is the larger.
    expected = [0.5 * 0.15 / 3, 0.5 * -0.6 / 3, 0.0]
    assert out.values.grad.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    log_ratios = np.log([1.3, 1.5, 0.7])
    assert metrics_of(loss) == pytest.approx(
        {
            "policy_loss": -0.955 / 3,
            "value_loss": 0.5425 / 6,
            "entropy": 0.6,
            "clip_frac": 1 / 3,  # correctness.md #13: clips that act
            "approx_kl": float((np.exp(log_ratios) - 1 - log_ratios).mean()),
            "ratio_max": 1.5,
        }
    )


# -- the ratio ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "acts"),
    [
        # correctness.md #13: min(r A, clip(r) A), not clip(r A); clips that act are counted.
        (1.5, 2.0, -1.2 * 2, True),
        (1.5, -2.0, 1.5 * 2, False),
        (0.5, 2.0, -0.5 * 2, False),
        (0.5, -2.0, 0.8 * 2, True),
        (1.1, 2.0, -1.1 * 2, False),
        (0.9, -2.0, 0.9 * 2, False),
        (1.5, 0.0, 0.0, False),
    ],
)
def test_the_loss_is_the_smaller_surrogate(ratio, advantage, expected, acts):
    algorithm = az.make("ppo", vf_coef=0.0, clip_range=0.2)
    columns = {"values": [[0]], "old_log_probs": [[-1.0]], "returns": [[0]]}
    batch = make_batch(algorithm, columns | {"advantages": [[advantage]]}, [1])
    out = outputs(log_probs=[[-1.0 + math.log(ratio)]], values=[[0.0]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(expected)
    assert metrics_of(loss)["clip_frac"] == float(acts)
    loss.value.backward()
    assert float(out.log_probs.grad) == pytest.approx(0.0 if acts else -ratio * advantage)


def test_the_upper_bound_may_be_looser_than_the_lower():
    algorithm = az.make("ppo", vf_coef=0.0, clip_range=0.2, clip_range_high=0.6)
    columns = {"values": [[0, 0]], "old_log_probs": [[-1.0, -1.0]], "returns": [[0, 0]]}
    batch = make_batch(algorithm, columns | {"advantages": [[1.0, -1.0]]}, [2])
    out = outputs(log_probs=[[-1.0 + math.log(2.0), -1.0 + math.log(0.1)]], values=[[0.0, 0.0]])
    assert float(algorithm.loss(batch, out).value.detach()) == pytest.approx((-1.6 + 0.8) / 2)


def test_far_ratios_stay_finite():
    # correctness.md #13 and #12: log-ratios are clamped before exp.
    algorithm = az.make("ppo", kl_in="loss", kl_coef=0.1)
    columns = {
        "values": [[0, 0]], "old_log_probs": [[-500, -1]], "returns": [[0, 0]],
        "advantages": [[-1, 1]], "ref_log_probs": [[-1, -300]],
    }  # fmt: skip
    batch = make_batch(algorithm, columns, [2])
    out = outputs(log_probs=[[-1, -500]], values=[[0.0, 0.0]])
    loss = algorithm.loss(batch, out)
    loss.value.backward()
    assert math.isfinite(float(loss.value.detach()))
    assert bool(torch.isfinite(out.log_probs.grad).all())
    assert all(math.isfinite(value) for value in metrics_of(loss).values())


# -- values ------------------------------------------------------------------------------------


def value_loss(clip, old, new, target):
    algorithm = az.make("ppo", vf_coef=1.0, clip_range_vf=clip)
    columns = {
        "values": [[old]], "old_log_probs": [[-1.0]], "returns": [[target]], "advantages": [[0]],
    }  # fmt: skip
    batch = make_batch(algorithm, columns, [1])
    return metrics_of(algorithm.loss(batch, outputs(log_probs=[[-1.0]], values=[[new]])))[
        "value_loss"
    ]


def test_values_are_clipped_around_the_old_ones():
    # correctness.md #14: around V before the update, not around the return or 0.
    assert value_loss(0.5, old=2.0, new=4.0, target=4.0) == pytest.approx(0.5 * 1.5**2)
    assert value_loss(0.5, old=2.0, new=2.3, target=4.0) == pytest.approx(0.5 * 1.7**2)
    assert value_loss(0.5, old=2.0, new=1.0, target=4.0) == pytest.approx(0.5 * 3.0**2)
    assert value_loss(None, old=2.0, new=4.0, target=4.0) == 0.0


def test_the_first_values_of_a_run_are_exactly_zero():
    # correctness.md #14.
    batch = roll_out(small_policy(3), az.make("ppo"), byte_prompts([3, 5])).batch
    assert not batch.values.any()


def test_the_value_head_learns_at_its_own_rate():
    algorithm = az.make("ppo", learning_rate=1e-4, value_learning_rate=3e-2)
    policy = small_policy()
    policy.add_value_head()
    groups = algorithm.parameter_groups(policy, None)
    assert groups[1]["params"] == list(policy.value_head.parameters())
    assert Learner(policy, algorithm, az.RolloutBuffer()).peak_rates == [1e-4, 3e-2]
    same = az.make("ppo", learning_rate=1e-4, value_learning_rate=None)
    assert Learner(policy, same, az.RolloutBuffer()).peak_rates == [1e-4, 1e-4]
    auto = az.make("ppo", learning_rate=1e-4)
    width = policy.value_head.in_features
    assert Learner(policy, auto, az.RolloutBuffer()).peak_rates == [1e-4, 0.64 / width]


@pytest.mark.parametrize(
    ("given", "wanted"), [("x", "it should be a valid number or 'auto'"), (0, "greater than 0 or ")]
)
def test_an_option_of_two_types_says_both(given, wanted):
    with pytest.raises(az.ConfigError, match=f"'value_learning_rate' is {given!r}; .*{wanted}"):
        az.make("ppo", value_learning_rate=given)


@pytest.mark.parametrize("detach", [True, False])
def test_the_value_loss_stops_at_the_trunk_where_asked(detach):
    assert az.make("ppo", detach_values=detach).needs.detach_values is detach


# -- advantages --------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", ["none", "center", "full"])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.8])
def test_advantages_are_those_of_the_response_without_its_masked_tokens(whiten, gae_lambda):
    # correctness.md #7: and NaN at masked slots changes nothing.
    options = {"gamma": 0.9, "gae_lambda": gae_lambda, "whiten_advantages": whiten}
    masks = [[True, False, True, True], [False, True, True, False]]
    _, holes = prepared(
        {"rewards": [[1, NAN, 2, 3], [NAN, 4, 5, NAN]],
         "values": [[0.1, NAN, 0.2, 0.3], [NAN, 0.4, 0.5, NAN]]},
        [4, 4], given={"response_masks": masks}, **options,
    )  # fmt: skip
    _, dense = prepared(
        {"rewards": [[1, 2, 3], [4, 5, NAN]], "values": [[0.1, 0.2, 0.3], [0.4, 0.5, NAN]]},
        [3, 2], **options,
    )  # fmt: skip
    for name in ("returns", "advantages"):
        found, expected = getattr(holes, name), getattr(dense, name)
        torch.testing.assert_close(
            found[holes.response_mask], expected[dense.response_mask], atol=1e-12, rtol=0
        )
        assert not found[~holes.response_mask].any()


def test_a_loss_does_not_see_what_lies_under_the_mask():
    # correctness.md #7.
    algorithm = az.make("ppo", clip_range_vf=0.2, kl_in="loss", kl_coef=0.3, ent_coef=0.1)
    losses = []
    for garbage in (0.0, 77.0):
        columns = {
            "values": [[0.1, garbage, 0.3]], "old_log_probs": [[-1, garbage and -9, -2]],
            "returns": [[0.5, garbage, 0.1]], "advantages": [[1, garbage, -1]],
            "ref_log_probs": [[-1.2, garbage and -3, -1.9]],
        }  # fmt: skip
        batch = make_batch(algorithm, columns, [3], response_masks=[[True, False, True]])
        out = outputs(
            log_probs=[[-0.9, 0.0, -2.2]], values=[[0.2, 0.0, 0.1]], entropy=[[0.5, 0.0, 0.6]]
        )
        loss = algorithm.loss(batch, out)
        loss.value.backward()
        assert float(out.log_probs.grad[0, 1]) == float(out.values.grad[0, 1]) == 0.0
        losses.append((float(loss.value.detach()), metrics_of(loss)))
    assert losses[0] == losses[1]


def random_columns(lengths, seed=0):
    generator = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    return {"rewards": 3 + generator.normal(size=shape), "values": generator.normal(size=shape)}


LENGTHS = [5, 1, 9, 3, 7, 2]


def test_whitening_is_over_all_tokens_of_the_batch():
    # correctness.md #8: masked mean and variance, not row by row.
    _, raw = prepared(random_columns(LENGTHS), LENGTHS, whiten_advantages="none")
    _, white = prepared(random_columns(LENGTHS), LENGTHS, whiten_advantages="full")
    mask = raw.response_mask
    tokens = raw.advantages[mask].numpy()
    expected = (tokens - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(white.advantages[mask].numpy(), expected, rtol=1e-6)
    assert not white.advantages[~mask].any()
    per_row = [float(white.advantages[row, :n].mean()) for row, n in enumerate(LENGTHS)]
    assert max(map(abs, per_row)) > 0.3


def test_centring_subtracts_the_mean_over_all_tokens_and_leaves_returns_alone():
    _, raw = prepared(random_columns(LENGTHS), LENGTHS, whiten_advantages="none")
    for whiten in ("center", "full"):
        _, batch = prepared(random_columns(LENGTHS), LENGTHS, whiten_advantages=whiten)
        assert torch.equal(batch.returns, raw.returns)
    _, centred = prepared(random_columns(LENGTHS), LENGTHS, whiten_advantages="center")
    mask = raw.response_mask
    expected = raw.advantages[mask] - raw.advantages[mask].mean()
    torch.testing.assert_close(centred.advantages[mask], expected)


@pytest.mark.parametrize("whiten", ["center", "full"])
def test_the_advantage_of_a_single_token_is_defined(whiten):
    # correctness.md #8: n <= 1.
    _, batch = prepared({"rewards": [[3.0]], "values": [[1.0]]}, [1], whiten_advantages=whiten)
    assert float(batch.advantages) == 0.0
    assert float(batch.returns) == 3.0


def test_minibatches_get_their_share_of_the_whole_batchs_advantages():
    # correctness.md #8: whitened once per rollout, never again in a minibatch.
    algorithm = az.make("ppo", minibatch_size=2, num_epochs=1, whiten_advantages="full")
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2, 4, 6, 1]))
    seen = {}
    loss = algorithm.loss

    def record(batch, out):
        seen.update(zip(batch.row_numbers, batch.advantages.sum(1).tolist(), strict=True))
        return loss(batch, out)

    algorithm.loss = record
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    whole = dict(zip(run.batch.row_numbers, run.batch.advantages.sum(1).tolist(), strict=True))
    assert seen == pytest.approx(whole)


# -- ends --------------------------------------------------------------------------------------

CUT = {"terminated": [True, False, False], "truncated": [False, True, True]}
CUT_COLUMNS = {
    "rewards": [[1, 2], [1, 2], [1, 2]],
    "values": [[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]],
}


def test_by_default_every_response_ends_with_its_score():
    # correctness.md #6: bootstrap 0 either way.
    _, batch = prepared(CUT_COLUMNS, [2, 2, 2], given=CUT, gamma=1.0, gae_lambda=1.0)
    assert batch.returns.tolist() == [[3, 2]] * 3


def test_truncated_responses_go_on_in_the_value_where_asked():
    # correctness.md #6: V after the last token, of truncated rows alone.
    columns = CUT_COLUMNS | {"bootstrap_values": [8.0, 4.0, 6.0]}
    _, batch = prepared(
        columns, [2, 2, 2], given=CUT, gamma=0.5, gae_lambda=1.0, bootstrap_truncated=True
    )
    # Last token: 2 + 0.5 * (0, 4, 6); first: 1 + 0.5 * that.
    assert batch.returns.tolist() == [[2, 2], [3, 4], [3.5, 5]]


def test_the_value_after_the_last_token_is_asked_for_only_where_it_is_used():
    assert az.make("ppo", bootstrap_truncated=True).needs.bootstrap_values
    assert not az.make("ppo").needs.bootstrap_values
    run = roll_out(small_policy(3), az.make("ppo", bootstrap_truncated=True), byte_prompts([3, 5]))
    assert bool(run.batch.truncated.any())
    assert run.batch.bootstrap_values.shape == (2,)


# -- KL ----------------------------------------------------------------------------------------


def kl_batch(algorithm):
    columns = {
        "values": [[0, 0]], "old_log_probs": [[-1, -2]], "returns": [[0, 0]],
        "advantages": [[0, 0]], "ref_log_probs": [[-1.4, -1.8]],
    }  # fmt: skip
    return make_batch(algorithm, columns, [2])


def test_the_penalty_in_the_loss_is_half_the_squared_log_ratio():
    # correctness.md #12. Log-ratios 0.4 and -0.2: k2 = 0.08 and 0.02, mean 0.05.
    algorithm = az.make("ppo", kl_in="loss", kl_coef=0.5)
    out = outputs(log_probs=[[-1.0, -2.0]], values=[[0.0, 0.0]])
    loss = algorithm.loss(kl_batch(algorithm), out)
    assert float(loss.value.detach()) == pytest.approx(0.5 * 0.05)
    loss.value.backward()
    assert out.log_probs.grad.flatten().tolist() == pytest.approx([0.5 * 0.2, -0.5 * 0.1])


@pytest.mark.parametrize("where", ["reward", "none"])
def test_the_loss_has_no_penalty_where_it_is_elsewhere(where):
    algorithm = az.make("ppo", kl_in=where, kl_coef=0.5)
    assert not algorithm.needs.ref_log_probs
    assert algorithm.kl_coef == (0.5 if where == "reward" else 0.0)
    columns = {
        "values": [[0.0]], "old_log_probs": [[-1.0]], "returns": [[0.0]], "advantages": [[0.0]],
    }  # fmt: skip
    batch = make_batch(algorithm, columns, [1])
    loss = algorithm.loss(batch, outputs(log_probs=[[-1.0]], values=[[0.0]]))
    assert float(loss.value.detach()) == 0.0


def steer(algorithm, kl, *, responses=64):
    algorithm.num_responses = responses
    algorithm.after_update(1, {"kl": kl})
    return algorithm.kl_coef


def test_the_coefficient_follows_the_target_in_proportion():
    # Ziegler et al. 2019, 2.2: e = clip(KL / target - 1, -0.2, 0.2), coef *= 1 + e n / horizon.
    def make():
        return az.make("ppo", kl_coef=0.1, kl_target=6.0, kl_horizon=1000.0)

    assert steer(make(), 6.0) == pytest.approx(0.1)
    assert steer(make(), 6.6) == pytest.approx(0.1 * (1 + 0.1 * 64 / 1000))
    assert steer(make(), 60.0) == pytest.approx(0.1 * (1 + 0.2 * 64 / 1000))
    assert steer(make(), 5.7) == pytest.approx(0.1 * (1 - 0.05 * 64 / 1000))
    assert steer(make(), -3.0) == pytest.approx(0.1 * (1 - 0.2 * 64 / 1000))


def test_without_a_target_the_coefficient_stays():
    assert steer(az.make("ppo", kl_coef=0.1), 100.0) == 0.1


def test_an_update_without_a_divergence_leaves_the_coefficient():
    algorithm = az.make("ppo", kl_coef=0.1, kl_target=1.0)
    algorithm.after_update(1, {"score_mean": 2.0})
    assert algorithm.kl_coef == 0.1


def test_a_batch_far_larger_than_the_horizon_turns_no_penalty_into_a_bonus():
    algorithm = az.make("ppo", kl_coef=0.1, kl_target=6.0, kl_horizon=10.0)
    for _ in range(3):
        assert steer(algorithm, 0.0, responses=512) > 0.0
    assert steer(algorithm, 60.0, responses=512) > 0.0


def test_the_coefficient_in_force_is_the_one_in_rewards_and_state():
    algorithm = az.make("ppo", kl_coef=0.1, kl_target=1e-6, kl_horizon=10.0)
    policy = small_policy(3)
    run = roll_out(policy, algorithm, byte_prompts([3, 5]))
    algorithm.after_update(1, {"kl": 5.0})
    raised = 0.1 * (1 + 0.2 * 2 / 10)
    assert algorithm.kl_coef == pytest.approx(raised)
    assert algorithm.state_dict() == {"adaptive_kl_coef": pytest.approx(raised)}
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(1.2)
    batch = run.source.collect(2).batch
    gap = (batch.old_log_probs - batch.ref_log_probs).sum(1)
    torch.testing.assert_close(batch.rewards.sum(1), batch.scores - raised * gap)
    again = az.make("ppo", kl_coef=0.1, kl_target=1e-6)
    again.load_state_dict(algorithm.state_dict())
    assert again.kl_coef == algorithm.kl_coef


# -- the update --------------------------------------------------------------------------------


def test_every_epoch_takes_a_step_for_each_minibatch():
    algorithm = az.make("ppo", num_epochs=3, minibatch_size=2)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 2, 4]))
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    assert run.learner.num_steps == 3 * 2


def test_an_update_ends_before_a_step_beyond_the_target():
    options = {"num_epochs": 4, "learning_rate": 3e-3, "kl_coef": 0.0}
    prompts = byte_prompts([3, 5, 2, 4])
    free = az.make("ppo", **options)
    run = roll_out(small_policy(3), free, prompts)
    seen = []
    gradient = run.learner.gradient

    def record(batch, loss):
        result = gradient(batch, loss)
        seen.append(result.metrics.result()["approx_kl"])
        return result

    run.learner.gradient = record
    free.update(restrict(run.batch, free), run.learner)
    assert seen[0] == pytest.approx(0.0, abs=1e-8)
    assert seen[1] < seen[2] < seen[3]

    target = (seen[1] + seen[2]) / 2 / 1.5  # the third step is the first beyond 1.5 times it
    held = az.make("ppo", target_kl=target, **options)
    again = roll_out(small_policy(3), held, prompts)
    metrics = held.update(restrict(again.batch, held), again.learner).result()
    assert again.learner.num_steps == 2
    assert metrics["approx_kl"] == pytest.approx((seen[0] + seen[1]) / 2, rel=1e-4)


def test_a_target_does_not_bind_where_the_policy_stays_within_it():
    algorithm = az.make("ppo", target_kl=10.0, num_epochs=3)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]))
    algorithm.update(restrict(run.batch, algorithm), run.learner)
    assert run.learner.num_steps == 3


def test_explained_variance_is_that_of_the_values_before_the_update():
    algorithm = az.make("ppo")
    columns = {
        "rewards": [[0, 1, 5]], "values": [[5, 7, 6]], "old_log_probs": [[-1, -1, -1]],
    }  # fmt: skip
    _, batch = algorithm, make_batch(algorithm, columns, [3])
    algorithm.prepare(batch)  # returns 6, 6, 5
    returns, errors = np.array([6, 6, 5]), np.array([1, -1, -1])

    class Nothing:
        def minibatches(self, *arguments):
            return iter(())

    metrics = algorithm.update(batch, Nothing()).result()
    assert metrics["explained_variance"] == pytest.approx(1 - errors.var() / returns.var())


def test_the_ratio_is_exactly_one_at_the_first_step_of_a_run():
    # correctness.md #2, through PPO.loss.
    algorithm = az.make("ppo", num_epochs=1)
    run = roll_out(small_policy(3), algorithm, byte_prompts([3, 5, 9]), old_log_probs="recompute")
    metrics = algorithm.update(restrict(run.batch, algorithm), run.learner).result()
    assert metrics["approx_kl"] == 0.0
    assert metrics["ratio_max"] == 1.0
    assert metrics["clip_frac"] == 0.0


# -- the exact gradient ------------------------------------------------------------------------


def unbiased(**options):
    return az.make("ppo", whiten_advantages="none", **options)


@pytest.mark.parametrize("end_token", [None, 2])
@pytest.mark.parametrize("critic", ["exact", "random"])
def test_at_ratio_1_and_lambda_1_the_expected_gradient_is_exact_whatever_the_critic(
    critic, end_token
):
    mdp = TokenMDP.random(0, end_token=end_token)
    logits, _ = random_tables(mdp, 1)
    exact = mdp.values(logits)
    values = exact if critic == "exact" else np.random.default_rng(2).normal(size=exact.shape)
    case = Enumeration(mdp, logits, unbiased(gae_lambda=1.0), values=values)
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95])
def test_at_ratio_1_and_with_the_exact_critic_the_expected_gradient_is_exact_at_any_lambda(
    gae_lambda,
):
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    case = Enumeration(mdp, logits, unbiased(gae_lambda=gae_lambda), values=mdp.values(logits))
    np.testing.assert_allclose(case.expected_gradient(), mdp.policy_gradient(logits), atol=1e-6)


def test_with_a_wrong_critic_and_lambda_below_1_it_is_biased():
    # Which shows that the two tests above can fail.
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    values = np.random.default_rng(2).normal(size=len(mdp.contexts))
    case = Enumeration(mdp, logits, unbiased(gae_lambda=0.5), values=values)
    gap = np.abs(case.expected_gradient() - mdp.policy_gradient(logits)).max()
    assert gap > 1e-2


def test_with_lambda_0_and_the_exact_critic_an_advantage_is_exact_in_expectation():
    mdp = TokenMDP.random(0, end_token=2)
    logits, _ = random_tables(mdp, 1)
    case = Enumeration(mdp, logits, unbiased(gae_lambda=0.0), values=mdp.values(logits))
    batch = case.buffer.batch()
    case.algorithm.prepare(restrict(batch, case.algorithm, may_write=True))
    # Rewards depend on context and token, and so does the next context: A is exact a token.
    exact = mdp.advantages(logits)
    for row, response in enumerate(mdp.responses):
        expected = [exact[step] for step in mdp.steps(response)]
        found = batch.advantages[row, : len(response)].tolist()
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_penalty_in_the_loss_has_the_gradient_of_the_divergence_in_each_visited_state():
    # correctness.md #12.
    mdp, coef = TokenMDP.random(0, end_token=2), 0.3
    logits, ref = random_tables(mdp, 1)
    case = Enumeration(
        mdp, logits, unbiased(kl_in="loss", kl_coef=coef), values=np.zeros(len(mdp.contexts)),
        ref_logits=ref, rewards=np.zeros(mdp.rewards.shape),
    )  # fmt: skip
    table = torch.tensor(logits, requires_grad=True)
    log_ratio = torch.log_softmax(table, 1) - torch.tensor(mdp.log_probs(ref))
    per_state = (torch.softmax(table, 1) * log_ratio).sum(1)
    (torch.tensor(mdp.visits(logits)) * per_state).sum().backward()
    np.testing.assert_allclose(case.expected_gradient(), -coef * table.grad.numpy(), atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimum_of_value_minus_divergence(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "ppo", learning_rate=0.2, value_learning_rate=0.1, kl_coef=0.2, num_epochs=2,
        schedule="linear", decay_steps=60,
    )  # fmt: skip
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=30, batch_size=96)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": -0.1}, {"gamma": 1.1}, {"gae_lambda": -0.1}, {"gae_lambda": 1.1},
        {"clip_range": 0}, {"clip_range_high": 0}, {"clip_range_vf": 0}, {"vf_coef": -1},
        {"value_learning_rate": 0}, {"ent_coef": -1}, {"target_kl": 0}, {"group_size": 0},
        {"kl_coef": -1}, {"kl_target": 0}, {"kl_horizon": 0}, {"num_epochs": 0},
        {"whiten_advantages": "yes"}, {"kl_in": "both"}, {"minibatch_size": 0},
        {"learning_rate": 0}, {"max_grad_norm": 0}, {"weight_decay": -1}, {"warmup_steps": -1},
        {"decay_steps": 0}, {"schedule": "step"}, {"clip_range": NAN}, {"gamma": "much"},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"ppo: option '{name}' is"):
        az.make("ppo", **wrong)


@pytest.mark.parametrize(
    "edge",
    [
        {"gamma": 0}, {"gamma": 1}, {"gae_lambda": 0}, {"gae_lambda": 1}, {"vf_coef": 0},
        {"ent_coef": 0}, {"kl_coef": 0}, {"group_size": 1}, {"num_epochs": 1},
        {"warmup_steps": 0}, {"weight_decay": 0}, {"value_learning_rate": None},
    ],
)  # fmt: skip
def test_an_option_at_its_bound_is_taken(edge):
    ((name, value),) = edge.items()
    assert getattr(az.make("ppo", **edge).config, name) == value


def test_groups_are_as_large_as_asked():
    algorithm = az.make("ppo", group_size=3)
    assert algorithm.needs.group_size == 3
    batch = roll_out(small_policy(3), algorithm, byte_prompts([3, 5]), batch_size=6).batch
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1]


# -- averaging ---------------------------------------------------------------------------------


def test_how_token_losses_are_averaged_is_an_option():
    # correctness.md #10. Rows of 3 tokens and of 1, advantages 1 and 2, ratios 1:
    # over tokens -(3 * 1 + 1 * 2) / 4 = -1.25; over sequences -(1 + 2) / 2 = -1.5.
    values = {}
    for aggregate in ("token_mean", "sequence_mean"):
        algorithm = az.make("ppo", vf_coef=0.0, aggregate=aggregate)
        columns = {
            "values": np.zeros((2, 3)), "old_log_probs": -np.ones((2, 3)),
            "returns": np.zeros((2, 3)), "advantages": [[1, 1, 1], [2, 0, 0]],
        }  # fmt: skip
        batch = make_batch(algorithm, columns, [3, 1])
        out = outputs(log_probs=[[-1, -1, -1], [-1, 0, 0]], values=np.zeros((2, 3)))
        values[aggregate] = float(algorithm.loss(batch, out).value.detach())
    assert values == pytest.approx({"token_mean": -1.25, "sequence_mean": -1.5})
