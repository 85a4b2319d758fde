"""REINFORCE++ and its variant with a baseline: by hand, and against enumerated batches.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from learner.algorithm_cases import learn, make_batch, outputs, random_tables
from learner.group_cases import cosine, score_missed

import alignzoo as az
from alignzoo.testing import TokenMDP
from alignzoo.testing.enumeration import EveryBatch

VARIANTS = ("plain", "baseline")
NAN = float("nan")
PAGES = Path(__file__).parents[2] / "docs" / "algorithms"


def prepared(variant, rewards, lengths, *, group_ids=None, given=None, **options):
    algorithm = az.make("reinforce_pp", variant=variant, **options)
    groups = np.arange(len(rewards)) if group_ids is None else np.array(group_ids)
    batch = make_batch(algorithm, {"rewards": rewards}, lengths, group_ids=groups, **(given or {}))
    algorithm.prepare(batch)
    return algorithm, batch


# -- by hand -----------------------------------------------------------------------------------


def test_the_example_worked_by_hand():
    # Rewards (-1, 2) and 3, penalties in them: returns (1, 2) and 3; over the 3 tokens their mean
    # is 2 and their deviation sqrt(2/3), so advantages are (-1, 0) and 1 times sqrt(3/2) = 1.2247.
    # Ratios (1.3, 1) and 1.5, clipped to [0.8, 1.2]: -1.3, 0 and 1.2 times 1.2247.
    #   loss -(-1.3 + 0 + 1.2) * 1.2247 / 3
    algorithm, batch = prepared("plain", [[-1, 2], [3, 0]], [2, 1])
    assert batch.returns.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    high = math.sqrt(3 / 2)
    expected = [[-high, 0.0], [high, 0.0]]
    assert batch.advantages.tolist() == [pytest.approx(row, abs=1e-7) for row in expected]
    columns = {"old_log_probs": [[-1, -2], [-3, 0]], "advantages": expected}
    batch = make_batch(algorithm, columns, [2, 1])
    out = outputs(log_probs=np.array([[-1, -2], [-3, 0]]) + np.log([[1.3, 1], [1.5, 1]]))
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.1 * high / 3)
    loss.value.backward()
    expected = [[1.3 * high / 3, 0.0], [0.0, 0.0]]
    assert out.log_probs.grad.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    metrics = az.Metrics(loss.metrics).result()
    assert metrics["clip_frac"] == pytest.approx(1 / 3)  # correctness.md #13
    assert metrics["policy_loss"] == pytest.approx(0.1 * high / 3)


def test_the_baseline_is_the_groups_mean():
    # Scores 2 and 4 to one prompt, 10 and 10 to another; lengths 1, 2, 1, 1. Centred: -1 on one
    # token, 1 on 2 tokens, 0, 0. Over the 5 tokens the mean is 0.2, the variance 3/5 - 0.04 = 0.56.
    _, batch = prepared(
        "baseline", [[2, 0], [0, 4], [10, 0], [10, 0]], [1, 2, 1, 1],
        group_ids=[0, 0, 1, 1],
    )  # fmt: skip
    expected = (np.array([[-1, 0.2], [1, 1], [0, 0.2], [0, 0.2]]) - 0.2) / math.sqrt(0.56)
    assert batch.advantages.tolist() == [pytest.approx(row, abs=1e-7) for row in expected]


def test_its_penalty_is_half_the_squared_log_ratio_in_the_loss():
    # correctness.md #12. Log-ratios 0.4 and -0.2: k2 = 0.08 and 0.02, mean 0.05.
    algorithm = az.make("reinforce_pp", variant="baseline", kl_coef=0.5)
    columns = {"old_log_probs": [[-1, -2]], "ref_log_probs": [[-1.4, -1.8]], "advantages": [[0, 0]]}
    out = outputs(log_probs=[[-1.0, -2.0]])
    loss = algorithm.loss(make_batch(algorithm, columns, [2]), out)
    assert float(loss.value.detach()) == pytest.approx(0.5 * 0.05)
    loss.value.backward()
    assert out.log_probs.grad.flatten().tolist() == pytest.approx([0.5 * 0.2, -0.5 * 0.1])


def test_a_discount_makes_late_rewards_count_less_early():
    _, batch = prepared("plain", [[0, 0, 4]], [3], gamma=0.5)
    assert batch.returns.tolist() == [[1.0, 2.0, 4.0]]


# -- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_advantages_have_mean_0_and_variance_1_over_the_batchs_tokens(variant):
    # correctness.md #8.
    generator = np.random.default_rng(0)
    lengths = [5, 2, 3, 1]
    _, batch = prepared(variant, generator.normal(size=(4, 5)), lengths, group_ids=[0, 0, 1, 1])
    tokens = batch.advantages[batch.response_mask]
    assert float(tokens.mean()) == pytest.approx(0, abs=1e-9)
    assert float(tokens.var(unbiased=False)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_scores_teach_nothing(variant):
    # correctness.md #9, #8.
    _, batch = prepared(variant, [[0.1]] * 7, [1] * 7, group_ids=[0] * 7)
    assert batch.advantages.abs().max() < 1e-9


def test_a_response_alone_in_its_group_is_at_its_mean():
    # correctness.md #9.
    _, batch = prepared("baseline", [[7], [1], [3]], [1] * 3, group_ids=[0, 1, 1])
    assert batch.advantages[:, 0].tolist() == pytest.approx([0.0, -math.sqrt(1.5), math.sqrt(1.5)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_advantages_are_those_of_the_response_without_its_masked_tokens(variant):
    # correctness.md #7.
    masks = [[True, False, True, True], [False, True, True, False]]
    given = {"response_masks": masks}
    holed = [[1, NAN, 2, 3], [NAN, 4, 5, NAN]]
    _, holes = prepared(variant, holed, [4, 4], group_ids=[0, 0], given=given)
    _, dense = prepared(variant, [[1, 2, 3], [4, 5, 0]], [3, 2], group_ids=[0, 0])
    found, expected = holes.advantages, dense.advantages
    assert found[holes.response_mask].tolist() == expected[dense.response_mask].tolist()
    assert not found[~holes.response_mask].any()


# -- enumerated batches ------------------------------------------------------------------------


def loss_by_formula(variant, kl_coef):
    def loss(new, old, ref, rewards):
        returns = [r.flip(0).cumsum(0).flip(0) for r in rewards]
        if variant == "baseline":
            mean = torch.stack([r.sum() for r in rewards]).mean()
            returns = [torch.full_like(r, float(r.sum() - mean)) for r in rewards]
        tokens = torch.cat(returns)
        spread = tokens.var(unbiased=False)
        advantages = (tokens - tokens.mean()) / torch.sqrt(spread + 1e-8)
        new, old, ref = map(torch.cat, (new, old, ref))
        r = torch.exp(new - old)
        surrogate = torch.minimum(r * advantages, r.clamp(0.8, 1.2) * advantages)
        k2 = (new - ref).square() / 2 if variant == "baseline" else 0.0
        return (-surrogate + kl_coef * k2).mean()

    return loss


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_expected_gradient_is_that_of_its_own_formula(variant):
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, ref = random_tables(mdp, 1)
    old = logits + 0.3 * random_tables(mdp, 2)[0]
    is_group = variant == "baseline"
    algorithm = az.make(
        "reinforce_pp", variant=variant, kl_coef=0.3, group_size=3 if is_group else 1
    )
    case = EveryBatch(
        mdp, logits, algorithm, size=3, old_logits=old, ref_logits=ref, is_one_group=is_group,
        kl_coef=0.0 if is_group else 0.3,
    )  # fmt: skip
    expected = case.expected_by_formula(loss_by_formula(variant, 0.3))
    np.testing.assert_allclose(case.expected_gradient(), expected, atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_page_prints_the_cosine_to_the_policy_gradient(variant):
    found = []
    for seed in range(5):
        mdp = TokenMDP.random(seed, horizon=2, end_token=2)
        logits, _ = random_tables(mdp, seed)
        is_group = variant == "baseline"
        algorithm = az.make(
            "reinforce_pp", variant=variant, group_size=3 if is_group else 1, kl_coef=0.0
        )
        case = EveryBatch(mdp, logits, algorithm, size=3, is_one_group=is_group)
        gradient = case.expected_by_formula(loss_by_formula(variant, 0.0))
        found.append(cosine(gradient, mdp.policy_gradient(logits)))
    page = (PAGES / "reinforce_pp.md").read_text()
    assert "not the gradient of" in page
    assert f"| `{variant}` | {np.mean(found):.3f} | {min(found):.3f} |" in page


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_largest_score(variant, seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make(
        "reinforce_pp", variant=variant, learning_rate=0.3, kl_coef=0.0, schedule="linear",
        decay_steps=50,
    )  # fmt: skip
    assert score_missed(mdp, np.zeros(mdp.rewards.shape)) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=50, batch_size=96)
    assert score_missed(mdp, logits) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"kl_coef": -0.1}, {"kl_in": "both"}, {"kl_estimator": "k4"}, {"clip_range": 0.0},
        {"clip_range_high": 0.0}, {"aggregate": "sum"}, {"ent_coef": -1.0}, {"group_size": 0},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(variant, wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"reinforce_pp: option '{name}' is"):
        az.make("reinforce_pp", variant=variant, **wrong)


def test_the_variant_brings_its_own_defaults():
    config = az.make("reinforce_pp", variant="baseline").config
    assert (config.group_size, config.kl_in) == (8, "loss")
    config = az.make("reinforce_pp", variant="baseline", group_size=4, kl_in="reward").config
    assert (config.group_size, config.kl_in) == (4, "reward")
    assert az.make("reinforce_pp").needs.group_size == 1


def test_a_baseline_needs_a_group_and_whole_responses():
    with pytest.raises(az.ConfigError, match=r"group_size is 1; .*2 or more"):
        az.make("reinforce_pp", variant="baseline", group_size=1)
    with pytest.raises(az.ConfigError, match=r"gamma is 0\.9; .*leave it at 1"):
        az.make("reinforce_pp", variant="baseline", gamma=0.9)
    with pytest.raises(az.ConfigError, match=r"option 'gamma' is 1\.5"):
        az.make("reinforce_pp", gamma=1.5)


def test_the_reference_is_asked_for_only_where_the_loss_needs_it():
    assert az.make("reinforce_pp", variant="baseline").needs.ref_log_probs
    assert not az.make("reinforce_pp").needs.ref_log_probs
