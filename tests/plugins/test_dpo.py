"""DPO and its kin: by hand, and against the exact optimum of what each minimises.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import make_batch, outputs, random_tables
from learner.pair_cases import AllPairs, minimise, response_log_probs
from torch.nn.functional import logsigmoid

import alignzoo as az
from alignzoo.testing import TokenMDP

FAMILY = ("dpo", "cdpo", "ipo", "simpo", "orpo")
PAIRS = {"group_ids": [0, 0, 1, 1], "pair_labels": [1, 0, 1, 0]}


# -- by hand -----------------------------------------------------------------------------------

# The first pair: a chosen response of log-probs (-1, -0.5), of the reference (-1.2, -0.8), so
# s = -1.5 and h = 0.2 + 0.3 = 0.5; a rejected one of -2 and -1.5, so s = -2 and h = -0.5.
# The second: two responses of -1 and -1.25: s = -1, h = 0.25 both, a tie.
LOG_PROBS = [[-1, -0.5], [-2, 0], [-1, 0], [-1, 0]]
REF_LOG_PROBS = [[-1.2, -0.8], [-1.5, 0], [-1.25, 0], [-1.25, 0]]
LENGTHS = [2, 1, 1, 1]

BY_HAND = [
    # margins 1 * (0.5 + 0.5) = 1 and 0: log(1 + e^-1) = 0.313262 and log 2 = 0.693147.
    ("dpo", {"beta": 1.0}, [0.313262, 0.693147], [1.0, 0.0]),
    # 0.8 * 0.313262 + 0.2 * (1 + 0.313262) = 0.513262; log 2 either way.
    ("cdpo", {"beta": 1.0, "label_smoothing": 0.2}, [0.513262, 0.693147], [1.0, 0.0]),
    # 1 / (2 beta) = 2: (1 - 2)^2 = 1 and (0 - 2)^2 = 4; margins in rewards, beta h.
    ("ipo", {"beta": 0.25}, [1.0, 4.0], [0.25, 0.0]),
    # h a token: 0.25 and -0.5, so 0.75 - 2 = -1.25, squared 1.5625.
    ("ipo", {"beta": 0.25, "per_token": True}, [1.5625, 4.0], [0.1875, 0.0]),
    # r = 2 * (-0.75) = -1.5 and 2 * (-2) = -4: 2.5 - 0.5 = 2, log(1 + e^-2) = 0.126928;
    # 0 - 0.5: log(1 + e^0.5) = 0.974077.
    ("simpo", {"beta": 2.0, "target_margin": 0.5}, [0.126928, 0.974077], [2.5, 0.0]),
    # p_w = e^-0.75 = 0.472367, odds 0.895256; p_l = e^-2 = 0.135335, odds 0.156518; log of their
    # ratio 5.719842 is 1.743941; log(1 + 1 / 5.719842) = 0.161092; 0.75 + 0.5 * 0.161092.
    # The tie: 1 + 0.5 * log 2 = 1.346574.
    ("orpo", {"beta": 0.5}, [0.830546, 1.346574], [1.743941, 0.0]),
]


@pytest.mark.parametrize(("id", "options", "losses", "margins"), BY_HAND)
def test_the_example_worked_by_hand(id, options, losses, margins):
    # correctness.md #26: the tie counts one half.
    algorithm = az.make(id, **options)
    columns = {"ref_log_probs": REF_LOG_PROBS} if algorithm.needs.ref_log_probs else {}
    batch = make_batch(algorithm, columns, LENGTHS, **PAIRS)
    loss = algorithm.loss(batch, outputs(log_probs=LOG_PROBS))
    assert float(loss.value.detach()) == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert az.Metrics(loss.metrics).result() == pytest.approx(
        {
            "loss": sum(losses) / 2,
            "accuracy": 0.75,
            "margin": sum(margins) / 2,
            "chosen_log_probs": -1.25,
            "rejected_log_probs": -1.5,
        },
        abs=1e-5,
    )


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_by_how_wrong_the_model_is():
    # Rafailov et al., section 4: beta sigmoid(r_l - r_w) (grad log p(y_w) - grad log p(y_l)).
    # sigmoid(-1) = 0.268941 and sigmoid(0) = 0.5, over two pairs.
    algorithm = az.make("dpo", beta=1.0)
    batch = make_batch(algorithm, {"ref_log_probs": REF_LOG_PROBS}, LENGTHS, **PAIRS)
    out = outputs(log_probs=LOG_PROBS)
    algorithm.loss(batch, out).value.backward()
    wrong, tie = 0.268941 / 2, 0.5 / 2
    assert out.log_probs.grad[0].tolist() == pytest.approx([-wrong, -wrong], abs=1e-6)
    assert out.log_probs.grad[1:, 0].tolist() == pytest.approx([wrong, -tie, tie], abs=1e-6)


@pytest.mark.parametrize("id", FAMILY)
def test_masked_tokens_change_nothing(id):
    # correctness.md #7.
    algorithm = az.make(id)
    found = []
    for masks, log_probs, lengths in (
        ([[True, True], [True, False]], [[-1, -0.5], [-2, 0]], [2, 2]),
        (None, [[-1, -0.5], [-2, 0]], [2, 1]),
    ):
        given = {} if masks is None else {"response_masks": masks}
        columns = {"ref_log_probs": [[-1, -1], [-1, 0]]} if algorithm.needs.ref_log_probs else {}
        pair = {"group_ids": [0, 0], "pair_labels": [1, 0]}
        batch = make_batch(algorithm, columns, lengths, **pair, **given)
        found.append(float(algorithm.loss(batch, outputs(log_probs=log_probs)).value.detach()))
    assert found[0] == found[1]


def test_odds_of_a_certain_response_are_finite():
    algorithm = az.make("orpo")
    batch = make_batch(algorithm, {}, [1, 1], group_ids=[0, 0], pair_labels=[1, 0])
    out = outputs(log_probs=[[0.0], [-700.0]])
    loss = algorithm.loss(batch, out).value
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(out.log_probs.grad.isfinite().all())


# -- what each minimises, written again --------------------------------------------------------


def objective(case, algorithm, ref):
    """Returns the expected loss as a function of the responses' log-probs, from the papers."""
    config, lengths = algorithm.config, case.lengths
    beta = config.beta

    def pair_loss(s, i, j):
        h = s - ref
        if config.__class__.__name__ == "DPOConfig":
            return -logsigmoid(beta * (h[i] - h[j]))
        if config.__class__.__name__ == "CDPOConfig":
            e, margin = config.label_smoothing, beta * (h[i] - h[j])
            return -(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin)
        if config.__class__.__name__ == "IPOConfig":
            return (h[i] - h[j] - 1 / (2 * beta)) ** 2
        mean = s / lengths
        if config.__class__.__name__ == "SimPOConfig":
            return -logsigmoid(beta * mean[i] - beta * mean[j] - config.target_margin)
        odds = mean.exp() / (1 - mean.exp())
        return -mean[i] - beta * logsigmoid(torch.log(odds[i] / odds[j]))

    return lambda s: case.expected(lambda i, j: pair_loss(s, i, j))


@pytest.mark.parametrize("id", FAMILY)
def test_the_expected_gradient_is_that_of_the_papers_objective(id):
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, ref_logits = random_tables(mdp, 1)
    algorithm = az.make(id)
    case = AllPairs(mdp, algorithm, logits=logits, ref_logits=ref_logits)
    table = torch.tensor(logits, requires_grad=True)
    ref = torch.as_tensor(np.log(mdp.response_probs(ref_logits)))
    objective(case, algorithm, ref)(response_log_probs(mdp, table)).backward()
    size = float(table.grad.abs().max())
    np.testing.assert_allclose(case.gradient(), table.grad, atol=1e-6 * max(1.0, size))


OPTIONS = {
    "dpo": {"beta": 0.5},
    "cdpo": {"beta": 0.5},
    "ipo": {"beta": 0.5},
    "simpo": {"beta": 1.0, "target_margin": 0.5},
    "orpo": {"beta": 1.0},
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("id", FAMILY)
def test_it_reaches_the_optimum_of_its_objective(id, seed):
    mdp = TokenMDP.random(seed, horizon=2, end_token=2)
    _, ref_logits = random_tables(mdp, seed)
    algorithm = az.make(
        id, learning_rate=0.15, num_epochs=120, schedule="linear", decay_steps=120, **OPTIONS[id]
    )
    case = AllPairs(mdp, algorithm, logits=ref_logits, ref_logits=ref_logits)
    start = mdp.response_probs(ref_logits)
    goal = objective(case, algorithm, torch.as_tensor(np.log(start)))
    least, _ = minimise(mdp, goal, ref_logits)
    learned = case.update()
    before, after = (float(goal(torch.as_tensor(np.log(probs)))) for probs in (start, learned))
    assert (after - least) / (before - least) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_with_labels_of_bradley_and_terry_dpo_is_the_optimum_of_reward_minus_divergence(seed):
    # Rafailov et al., section 4: pi(y) = ref(y) exp(r(y) / beta) / Z.
    beta = 0.5
    mdp = TokenMDP.random(seed, horizon=2, end_token=2)
    _, ref_logits = random_tables(mdp, seed)
    algorithm = az.make(
        "dpo", beta=beta, learning_rate=0.15, num_epochs=120, schedule="linear", decay_steps=120
    )
    case = AllPairs(mdp, algorithm, logits=ref_logits, ref_logits=ref_logits)
    ref = mdp.response_probs(ref_logits)
    learned = case.update()
    best = ref * np.exp(case.returns / beta)
    best /= best.sum()

    def value(probs):
        return probs @ case.returns - beta * probs @ np.log(probs / ref)

    assert (value(best) - value(learned)) / (value(best) - value(ref)) < 0.02
    np.testing.assert_allclose(learned, best, atol=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_ipo_is_the_optimum_of_the_chance_to_be_preferred_minus_divergence(seed):
    # Azar et al., section 5.2: pi(y) = ref(y) exp(P(y preferred to another) / tau) / Z, others
    # drawn as the data was: from the uniform distribution, y itself (a tie) included.
    mdp = TokenMDP.random(seed, horizon=2, end_token=2)
    _, ref_logits = random_tables(mdp, seed)
    case = AllPairs(mdp, az.make("ipo"), logits=ref_logits, ref_logits=ref_logits)
    ref = np.log(mdp.response_probs(ref_logits))
    tau = 0.5
    algorithm = az.make("ipo", beta=tau)
    _, found = minimise(mdp, objective(case, algorithm, torch.as_tensor(ref)), ref_logits)
    wins = 1 / (1 + np.exp(case.returns[None] - case.returns[:, None]))
    best = np.exp(ref + wins.mean(1) / tau)
    np.testing.assert_allclose(found, best / best.sum(), atol=1e-5)


# -- options -----------------------------------------------------------------------------------


def test_pairs_are_what_they_learn_from_and_only_some_keep_a_reference():
    for id in FAMILY:
        algorithm = az.make(id)
        assert algorithm.needs.source == "preferences"
        assert algorithm.needs.ref_log_probs == (id not in ("simpo", "orpo"))
        assert algorithm.config.kl_in == "none"


@pytest.mark.parametrize(
    ("id", "wrong"),
    [
        *((id, {"beta": 0.0}) for id in FAMILY),
        ("cdpo", {"label_smoothing": 0.5}), ("cdpo", {"label_smoothing": -0.1}),
        ("simpo", {"target_margin": -1.0}), ("dpo", {"kl_coef": 0.1}), ("dpo", {"kl_in": "loss"}),
        ("dpo", {"beta": math.inf}),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(id, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(az.ConfigError, match=f"{id}: option '{name}' is {value!r}; it should"):
        az.make(id, **wrong)


def test_label_smoothing_of_zero_is_dpo():
    batch = make_batch(az.make("dpo"), {"ref_log_probs": REF_LOG_PROBS}, LENGTHS, **PAIRS)
    out = outputs(log_probs=LOG_PROBS)
    values = [
        float(algorithm.loss(batch, out).value.detach())
        for algorithm in (az.make("dpo"), az.make("cdpo", label_smoothing=0.0))
    ]
    assert values[0] == values[1]
