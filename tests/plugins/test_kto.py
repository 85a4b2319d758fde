"""KTO: by hand, its reference point, and the optimum of its objective.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learner.algorithm_cases import make_batch, outputs, random_tables
from learner.pair_cases import AllPairs, minimise, response_log_probs
from policy.cases import byte_prompts, plain_log_probs, small_policy

import alignzoo as az
from alignzoo.learner import Learner
from alignzoo.testing import TokenMDP

PAIR = {"group_ids": [0, 0], "pair_labels": [1, 0]}
LOG_PROBS = [[-1, -0.5], [-2, 0]]  # h = 0.2 + 0.3 = 0.5 and -2 + 1.5 = -0.5
REF_LOG_PROBS = [[-1.2, -0.8], [-1.5, 0]]


# -- by hand -----------------------------------------------------------------------------------


def test_the_example_worked_by_hand():
    # z = 0.1, beta = 2: values 2 * (0.5 - 0.1) = 0.8 and 2 * (0.1 + 0.5) = 1.2;
    # 1.5 * (1 - sigmoid(0.8)) = 1.5 * 0.310026 and 0.5 * (1 - sigmoid(1.2)) = 0.5 * 0.231475;
    # loss = (0.465039 + 0.115738) / 2 = 0.290388.
    algorithm = az.make("kto", beta=2.0, desirable_weight=1.5, undesirable_weight=0.5)
    algorithm.kl_point = 0.1
    batch = make_batch(algorithm, {"ref_log_probs": REF_LOG_PROBS}, [2, 1], **PAIR)
    out = outputs(log_probs=LOG_PROBS)
    loss = algorithm.loss(batch, out)
    assert float(loss.value.detach()) == pytest.approx(0.290388, abs=1e-5)
    assert az.Metrics(loss.metrics).result() == pytest.approx(
        {
            "loss": 0.290388,
            "accuracy": 1.0,
            "margin": 2.0,
            "chosen_log_probs": -1.5,
            "rejected_log_probs": -2.0,
            "chosen_rewards": 1.0,
            "rejected_rewards": -1.0,
        },
        abs=1e-5,
    )
    loss.value.backward()
    # -+lambda beta sigmoid'(value) / 2: 1.5 * 2 * 0.310026 * 0.689974 / 2 = 0.320864 and
    # 0.5 * 2 * 0.231475 * 0.768525 / 2 = 0.088947.
    assert out.log_probs.grad[0].tolist() == pytest.approx([-0.320864] * 2, abs=1e-5)
    assert float(out.log_probs.grad[1, 0]) == pytest.approx(0.088947, abs=1e-5)


def test_a_rating_at_the_threshold_is_desirable():
    algorithm = az.make("kto", source="ratings", threshold=3.0)
    columns = {"scores": [3.0, 2.9, 5.0], "ref_log_probs": [[-1], [-1], [-1]]}
    batch = make_batch(algorithm, columns, [1, 1, 1])
    assert algorithm.is_desirable(batch).tolist() == [True, False, True]
    metrics = az.Metrics(algorithm.loss(batch, outputs(log_probs=[[-1], [-2], [-3]])).metrics)
    assert metrics.result()["chosen_log_probs"] == -2.0
    assert "accuracy" not in metrics.result()


def test_equal_rewards_count_one_half():
    # correctness.md #26.
    algorithm = az.make("kto")
    batch = make_batch(algorithm, {"ref_log_probs": [[-1], [-1]]}, [1, 1], **PAIR)
    loss = algorithm.loss(batch, outputs(log_probs=[[-1], [-1]]))
    assert az.Metrics(loss.metrics).result()["accuracy"] == 0.5


# -- the reference point -----------------------------------------------------------------------


def mismatch_case(source, *, prompt_lengths, response_lengths):
    """Returns algorithm, learner and batch of a policy that has moved away from its reference."""
    policy = small_policy(0)
    policy.keep_reference()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)  # the mean log-ratio is positive
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    algorithm = az.make("kto", source=source)
    buffer = az.RolloutBuffer()
    learner = Learner(policy, algorithm, buffer, micro_batch_size=2)
    prompts = byte_prompts(prompt_lengths)
    if source == "preferences":
        prompts = [prompt for prompt in prompts for _ in range(2)]
    labels = {
        "group_ids": np.arange(len(prompts)) // 2,
        "pair_labels": [1, 0] * (len(prompts) // 2),
    }
    responses = byte_prompts(response_lengths, seed=1)
    buffer.append(
        prompts, responses, policy_version=0, **(labels if source == "preferences" else {})
    )
    return algorithm, learner, buffer.batch(), prompts, responses


def plain_kl(learner, rows):
    """Returns max(0, mean h) of (prompt, response) rows, from the models one by one."""
    buffer = az.RolloutBuffer()
    buffer.append([p for p, _ in rows], [r for _, r in rows], policy_version=0)
    batch = buffer.batch()
    own = plain_log_probs(learner.policy.model, batch)
    reference = plain_log_probs(learner.policy._reference.model, batch)
    return max(0.0, float((own - reference).double().sum(1).mean()))


@pytest.mark.parametrize(("source", "step"), [("preferences", 2), ("ratings", 1)])
def test_the_reference_point_joins_each_prompt_to_another_ones_response(source, step):
    algorithm, learner, batch, prompts, responses = mismatch_case(
        source,
        prompt_lengths=[3, 3, 3] if source == "preferences" else [3] * 6,
        response_lengths=[4, 5, 3, 5, 4, 5],
    )
    rows = [(prompt, responses[(i + step) % 6]) for i, prompt in enumerate(prompts)]
    found = algorithm.measure_kl(batch, learner)
    assert found > 0.1
    assert found == pytest.approx(plain_kl(learner, rows), abs=1e-4)


def test_a_response_is_cut_where_its_new_prompt_leaves_no_room():
    algorithm, learner, batch, prompts, responses = mismatch_case(
        "ratings", prompt_lengths=[9, 2], response_lengths=[2, 8]
    )
    rows = [(prompts[0], responses[1][:2]), (prompts[1], responses[0])]  # the longest row has 11
    found = algorithm.measure_kl(batch, learner)
    assert found > 0.1
    assert found == pytest.approx(plain_kl(learner, rows), abs=1e-4)


def test_the_reference_point_is_never_negative():
    algorithm, learner, batch, _, _ = mismatch_case(
        "ratings", prompt_lengths=[3, 3], response_lengths=[4, 4]
    )
    learner.reference_log_probs = lambda rows: torch.full(rows.response_mask.shape, 5.0)
    assert algorithm.measure_kl(batch, learner) == 0.0


def test_each_step_is_taken_at_the_reference_point_of_its_minibatch():
    algorithm, learner, batch, _, _ = mismatch_case(
        "preferences", prompt_lengths=[3, 4, 5], response_lengths=[4, 5, 3, 5, 4, 5]
    )
    algorithm = az.make("kto", minibatch_size=2, learning_rate=1e-2)
    learner.algorithm = algorithm
    batch_rows = learner.buffer.rows()
    learner.buffer.set("ref_log_probs", learner.reference_log_probs(batch), batch_rows)
    points, used = [], []
    measure, loss = algorithm.measure_kl, algorithm.loss

    def watch_measure(minibatch, learner):
        points.append(measure(minibatch, learner))
        return points[-1]

    def watch_loss(minibatch, out):
        used.append(algorithm.kl_point)
        return loss(minibatch, out)

    algorithm.measure_kl, algorithm.loss = watch_measure, watch_loss
    metrics = algorithm.update(learner.buffer.batch(), learner).result()
    assert len(points) == 3
    assert used == points
    assert metrics["kl_point"] == pytest.approx(np.mean(points))
    again = az.make("kto")
    again.load_state_dict(algorithm.state_dict())
    assert again.kl_point == points[-1]


# -- the exact objective -----------------------------------------------------------------------


def objective(case, algorithm, ref, point):
    """Returns Ethayarajh et al.'s expected loss of pairs at a reference point, written again."""
    beta = algorithm.config.beta

    def pair_loss(h, i, j):
        good, bad = torch.sigmoid(beta * (h[i] - point)), torch.sigmoid(beta * (point - h[j]))
        return ((1 - good) + (1 - bad)) / 2

    return lambda s: case.expected(lambda i, j: pair_loss(s - ref, i, j))


def test_the_expected_gradient_is_that_of_the_papers_objective():
    mdp = TokenMDP.random(0, horizon=2, end_token=2)
    logits, ref_logits = random_tables(mdp, 1)
    algorithm = az.make("kto")
    case = AllPairs(mdp, algorithm, logits=logits, ref_logits=ref_logits)
    algorithm.kl_point = point = 0.3
    table = torch.tensor(logits, requires_grad=True)
    ref = torch.as_tensor(np.log(mdp.response_probs(ref_logits)))
    objective(case, algorithm, ref, point)(response_log_probs(mdp, table)).backward()
    np.testing.assert_allclose(case.gradient(), table.grad, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_it_reaches_the_optimum_of_its_objective(seed):
    mdp = TokenMDP.random(seed, horizon=2, end_token=2)
    _, ref_logits = random_tables(mdp, seed)
    algorithm = az.make(
        "kto", beta=1.0, learning_rate=0.15, num_epochs=120, schedule="linear", decay_steps=120
    )
    case = AllPairs(mdp, algorithm, logits=ref_logits, ref_logits=ref_logits)
    start = mdp.response_probs(ref_logits)
    learned = case.update()
    # What is undesirable loses its probability, so the mean log-ratio is far below 0.
    assert algorithm.kl_point == 0.0
    goal = objective(case, algorithm, torch.as_tensor(np.log(start)), 0.0)
    least, _ = minimise(mdp, goal, ref_logits)
    before, after = (float(goal(torch.as_tensor(np.log(probs)))) for probs in (start, learned))
    assert (after - least) / (before - least) < 0.02


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0.0}, {"desirable_weight": 0.0}, {"undesirable_weight": -1.0},
        {"source": "rollouts"}, {"threshold": math.nan}, {"kl_coef": 0.1}, {"kl_in": "loss"},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(az.ConfigError, match=f"kto: option '{name}' is"):
        az.make("kto", **wrong)


def test_it_learns_from_what_it_is_told_to():
    assert az.make("kto").needs == az.Needs(source="preferences", ref_log_probs=True)
    assert az.make("kto", source="ratings").needs == az.Needs(source="ratings", ref_log_probs=True)
