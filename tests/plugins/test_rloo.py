"""RLOO: by hand, against the exact policy gradient by enumerated groups, and its dialects.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learner.algorithm_cases import learn, make_batch, outputs, random_tables, shortfall

import alignzoo as az
from alignzoo.testing import TokenMDP
from alignzoo.testing.enumeration import EveryBatch

NAN = float("nan")


def prepared(rewards, lengths, scores, *, group_ids=None, given=None, **options):
    algorithm = az.make("rloo", **options)
    groups = np.zeros(len(rewards), dtype=int) if group_ids is None else np.array(group_ids)
    given = {"group_ids": groups, "scores": np.array(scores, dtype=float), **(given or {})}
    batch = make_batch(algorithm, {"rewards": rewards}, lengths, **given)
    algorithm.prepare(batch)
    return algorithm, batch


def metrics_of(loss):
    return az.Metrics(loss.metrics).result()


# -- by hand -----------------------------------------------------------------------------------

# Two responses of 2 tokens and of 1, scores 3 and 1; kl_coef times their log-ratios is
# (0.5, -0.25) and 1, so rewards are (-0.5, 3.25) and 0, and S is 2.75 and 0.
REWARDS, LENGTHS, SCORES = [[-0.5, 3.25], [0.0, 0.0]], [2, 1], [3.0, 1.0]


def test_the_example_worked_by_hand():
    # Advantages 2.75 - 0 and 0 - 2.75. Log-probs (-1, -2) and -3:
    #   loss -((-1 - 2) * 2.75 + -3 * -2.75) / 2 = 0: one sum for each response, then their mean.
    #   gradient -A / 2
    algorithm, batch = prepared(REWARDS, LENGTHS, SCORES)
    assert batch.advantages.tolist() == [[2.75, 2.75], [-2.75, 0.0]]
    out = outputs(log_probs=[[-1, -2], [-3, 0]], entropy=[[0.3, 0.6], [0.9, 0]])
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.0, abs=1e-12)
    loss.value.backward()
    assert out.log_probs.grad.tolist() == [[-1.375, -1.375], [1.375, 0.0]]
    assert metrics_of(loss) == pytest.approx({"policy_loss": 0.0, "entropy": 0.6})


def test_a_baseline_is_the_mean_of_the_others_alone():
    # correctness.md #28: scores [1, 0, 0, 0, 0, 0, 0, 0].
    _, batch = prepared([[1.0]] + [[0.0]] * 7, [1] * 8, [1] + [0] * 7)
    expected = [1.0] + [-1 / 7] * 7
    assert batch.advantages.flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_penalties_to_come_may_join_the_advantage_of_the_score():
    # Scores 3 and 1 alone give 2 and -2; to come at the tokens are (-0.25, 0.25) and -1.
    _, batch = prepared(REWARDS, LENGTHS, SCORES, kl_level="token")
    assert batch.advantages.tolist() == [[1.75, 2.25], [-3.0, 0.0]]


def test_the_ratio_may_be_that_of_whole_responses():
    # Log-ratios (0.3, -0.1) and -0.5: ratios e^0.2 = 1.2214, clipped to 1.2 where A = 2.75, and
    # e^-0.5 = 0.6065, clipped to 0.8 where A = -2.75: loss -(1.2 - 0.8) * 2.75 / 2, gradients 0.
    algorithm, batch = prepared(REWARDS, LENGTHS, SCORES, dialect="trl")
    old = np.array([[-1.0, -2.0], [-3.0, 0.0]])
    columns = {"old_log_probs": old, "advantages": batch.advantages.numpy()}
    batch = make_batch(algorithm, columns, LENGTHS)
    out = outputs(log_probs=old + np.array([[0.3, -0.1], [-0.5, 9.0]]))
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(-0.4 * 2.75 / 2)
    loss.value.backward()
    assert not out.log_probs.grad.any()
    ratios = np.exp([0.2, -0.5])
    assert metrics_of(loss) == pytest.approx(
        {
            "policy_loss": -0.55, "entropy": 0.0, "clip_frac": 1.0, "ratio_max": ratios[0],
            "approx_kl": float((ratios - 1 - np.log(ratios)).mean()),
        }
    )  # fmt: skip
    out = outputs(log_probs=old + np.array([[0.2, -0.1], [0.5, 9.0]]))
    algorithm.loss(batch, out).value.backward()
    expected = [[-np.exp(0.1) * 1.375] * 2, [np.exp(0.5) * 1.375, 0.0]]
    assert out.log_probs.grad.tolist() == [pytest.approx(row) for row in expected]


# -- groups and masks --------------------------------------------------------------------------


@pytest.mark.parametrize("kl_level", ["response", "token"])
def test_equal_scores_and_a_response_alone_teach_exactly_nothing(kl_level):
    # correctness.md #9.
    rewards = [[0.1]] * 7 + [[3.0]] + [[1.0], [2.0]]
    _, batch = prepared(
        rewards, [1] * 10, np.ravel(rewards), group_ids=[0] * 7 + [1] + [2] * 2, kl_level=kl_level
    )
    assert batch.advantages.flatten().tolist() == [0.0] * 8 + [-1.0, 1.0]
    assert batch.advantages[8:].sum() == 0


@pytest.mark.parametrize("options", [{}, {"dialect": "trl"}, {"dialect": "openrlhf"}])
def test_a_response_counts_without_its_masked_tokens(options):
    # correctness.md #7.
    masks = [[True, False, True, True], [False, True, True, False]]
    new = [[-1.1, NAN, -1.9, -3], [NAN, -1, -2.3, NAN]]
    old = [[-1, NAN, -2, -3], [NAN, -1, -2, NAN]]
    rewards = [[0.5, NAN, 0, 3], [NAN, 0, 1, NAN]]

    def dense(rows):
        short = [
            [x for x, m in zip(row, mask, strict=True) if m]
            for row, mask in zip(rows, masks, strict=True)
        ]
        return [row + [0.0] * (3 - len(row)) for row in short]

    losses = []
    for cut, lengths, given in (
        (lambda rows: rows, [4, 4], {"response_masks": masks}),
        (dense, [3, 2], {}),
    ):
        algorithm, batch = prepared(cut(rewards), lengths, [3, 1], given=given, **options)
        columns = {"old_log_probs": cut(old), "advantages": batch.advantages.tolist()}
        groups = np.zeros(2, dtype=int)
        batch = make_batch(algorithm, columns, lengths, group_ids=groups, **given)
        loss = algorithm.loss(batch, outputs(log_probs=cut(new), entropy=np.zeros_like(cut(new))))
        losses.append(float(loss.value.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0] != 0


# -- the exact gradient ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_the_expected_gradient_is_the_exact_policy_gradient(size):
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("rloo", group_size=size)
    found = EveryBatch(mdp, logits, algorithm, size=size).expected_gradient()
    np.testing.assert_allclose(found, mdp.policy_gradient(logits), atol=1e-6)


@pytest.mark.parametrize("kl_level", ["response", "token"])
def test_with_the_penalty_it_is_the_gradient_of_score_minus_divergence(kl_level):
    mdp, coef = TokenMDP.random(0, horizon=2, end_token=2, score_only=True), 0.3
    logits, ref = random_tables(mdp, 1)
    algorithm = az.make("rloo", group_size=2, kl_coef=coef, kl_level=kl_level)
    case = EveryBatch(mdp, logits, algorithm, size=2, ref_logits=ref, kl_coef=coef)
    expected = mdp.penalised(logits, ref, kl_coef=coef).policy_gradient(logits)
    np.testing.assert_allclose(case.expected_gradient(), expected, atol=1e-6)
    assert abs(expected - mdp.policy_gradient(logits)).max() > 0.01


def test_a_ratio_of_whole_responses_is_as_exact_where_it_is_1():
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, _ = random_tables(mdp, 1)
    algorithm = az.make("rloo", dialect="trl", group_size=2, kl_coef=0.0)
    found = EveryBatch(mdp, logits, algorithm, size=2).expected_gradient()
    np.testing.assert_allclose(found, mdp.policy_gradient(logits), atol=1e-6)


def loo(scores):
    return [(s * len(scores) - scores.sum()) / (len(scores) - 1) for s in scores]


def clipped(r, a, dual=None):
    surrogate = torch.minimum(r * a, r.clamp(0.8, 1.2) * a)
    return surrogate if dual is None else torch.where(a < 0, surrogate.maximum(dual * a), surrogate)


def trl(new, old, ref, rewards):
    advantages = loo(torch.stack([r.sum() for r in rewards]))
    ratios = [torch.exp((n - o).sum()) for n, o in zip(new, old, strict=True)]
    return -torch.stack([clipped(r, a) for r, a in zip(ratios, advantages, strict=True)]).mean()


def verl(new, old, ref, rewards):
    advantages = loo(torch.stack([r.sum() for r in rewards]))
    tokens = [clipped((n - o).exp(), a, 3.0) for n, o, a in zip(new, old, advantages, strict=True)]
    return -torch.cat(tokens).mean()


def openrlhf(new, old, ref, rewards):
    # At each token: the leave-one-out advantage of the score, less the penalties to come.
    penalties = [0.3 * (o - f) for o, f in zip(old, ref, strict=True)]
    scores = torch.stack([(r + p).sum() for r, p in zip(rewards, penalties, strict=True)])
    tokens = [
        clipped((n - o).exp(), a - p.flip(0).cumsum(0).flip(0))
        for n, o, p, a in zip(new, old, penalties, loo(scores), strict=True)
    ]
    return -torch.cat(tokens).mean()


@pytest.mark.parametrize("dialect", [trl, verl, openrlhf])
def test_the_expected_gradient_of_a_dialect_is_that_of_its_own_formula(dialect):
    mdp = TokenMDP.random(0, horizon=2, end_token=2, score_only=True)
    logits, ref = random_tables(mdp, 1)
    old = logits + 0.3 * random_tables(mdp, 2)[0]
    algorithm = az.make("rloo", dialect=dialect.__name__, group_size=3, kl_coef=0.3)
    case = EveryBatch(mdp, logits, algorithm, size=3, old_logits=old, ref_logits=ref, kl_coef=0.3)
    expected = case.expected_by_formula(dialect)
    np.testing.assert_allclose(case.expected_gradient(), expected, atol=1e-6)


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimum_of_score_minus_divergence(seed):
    mdp = TokenMDP.random(seed, end_token=2)
    algorithm = az.make("rloo", learning_rate=0.2, kl_coef=0.2, schedule="linear", decay_steps=50)
    assert shortfall(mdp, np.zeros(mdp.rewards.shape), kl_coef=0.2) > 0.1
    logits = learn(mdp, algorithm, seed=seed, steps=50, batch_size=96)
    assert shortfall(mdp, logits, kl_coef=0.2) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1}, {"kl_coef": -0.1}, {"kl_level": "word"}, {"kl_estimator": "k4"},
        {"ratio": "word"}, {"clip_range": 0.0}, {"clip_range_high": 0.0}, {"dual_clip": 1.0},
        {"aggregate": "sum"}, {"ent_coef": -1.0}, {"dialect": "deepspeed"}, {"kl_in": "both"},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"rloo: option '{name}' is"):
        az.make("rloo", **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": "response", "kl_level": "token"}, "kl_level 'response'"),
        ({"ratio": "response", "aggregate": "token_mean"}, "aggregate 'sequence_sum'"),
        ({"dual_clip": 3.0}, "ratio 'token'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong, said):
    with pytest.raises(az.ConfigError, match=said):
        az.make("rloo", **wrong)


def test_an_option_given_goes_before_the_dialects():
    config = az.make("rloo", dialect="verl", kl_coef=0.5).config
    assert (config.kl_coef, config.ratio, config.dual_clip) == (0.5, "token", 3.0)


def test_the_paper_is_the_dialect_that_is_spoken_unasked():
    config = az.make("rloo").config
    assert config == az.make("rloo", dialect="paper").config
    for name, value in type(config).dialects["paper"].items():
        assert type(config).model_fields[name].default == value


def test_the_reference_is_asked_for_only_where_the_loss_needs_it():
    assert az.make("rloo", kl_in="loss").needs.ref_log_probs
    assert not az.make("rloo").needs.ref_log_probs
    assert not az.make("rloo", kl_in="none").needs.ref_log_probs
