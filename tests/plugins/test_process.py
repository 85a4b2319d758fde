"""process: by hand, what a step's score may see, and as a reward."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from alignzoo.plugins import process
from trainer.runs import make_policy

import alignzoo as az


def row(prompt, steps, ratings):
    return {"prompt": prompt, "steps": steps, "ratings": ratings}


# A step is right where it adds up; the words of right and wrong steps are the same.
def sums(count, seed=0):
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        steps, ratings = [], []
        for _ in range(3):
            good = bool(draw.random() < 0.5)
            steps.append(f"we {'surely know' if good else 'merely guess'} {draw.integers(9)}")
            ratings.append(float(good))
        rows.append(row(f"Task {draw.integers(1000)}", steps, ratings))
    return rows


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy") / "small")


@pytest.fixture(params=["linear", "policy"])
def backbone(request, policy):
    return None if request.param == "linear" else policy


def trained(policy=None, rows=None, **options):
    if policy is not None:
        options = {"learning_rate": 3e-3, "num_epochs": 4, "minibatch_size": 8, **options}
        options = {"policy": str(policy), "warmup_steps": 2, **options}
    reward = az.make_reward("process", **options)
    return reward, reward.fit(rows or sums(60), seed=3)


# -- the losses --------------------------------------------------------------------------------


def test_the_losses_worked_by_hand():
    # -log sigmoid(1) = 0.313262, slope sigmoid(1) - 1 = -0.268941; (1 - 3)^2 / 2 = 2, slope -2.
    one = np.array([1.0])
    losses, slopes = process.logistic_loss(one, np.array([1.0]))
    assert [*losses, *slopes] == pytest.approx([0.313262, -0.268941], abs=1e-6)
    losses, slopes = process.squared_loss(one, np.array([3.0]))
    assert [*losses, *slopes] == [2.0, -2.0]


@pytest.mark.parametrize("target", ["probability", "rating"])
def test_both_losses_agree_and_pass_over_steps_without_a_rating(target):
    # Two responses of three tokens; numbers are read before tokens 0 and 2, one has no rating.
    numbers, ratings = [0.3, -1.2, 0.7, 2.0], [1.0, 0.0, process.UNRATED, 0.25]
    buffer = az.RolloutBuffer({"segment_targets": az.Column("token")})
    places = [[ratings[0], 0, ratings[1]], [ratings[2], 0, ratings[3]]]
    buffer.append(
        [[1], [1]],
        [[2, 3, 4]] * 2,
        policy_version=0,
        response_masks=[[True, False, True]] * 2,
        segment_targets=places,
    )
    values = torch.tensor([[numbers[0], 9.0, numbers[1]], [numbers[2], 9.0, numbers[3]]])
    values.requires_grad_()
    loss = process.LOSS_TERMS[target](buffer.batch(), values)
    loss.value.backward()
    losses, slopes = process.LOSSES[target](
        np.array(numbers)[[0, 1, 3]], np.array(ratings)[[0, 1, 3]]
    )
    assert float(loss.value.detach()) == pytest.approx(losses.sum() / 4, abs=1e-6)
    assert values.grad[0].tolist() == pytest.approx([slopes[0] / 4, 0, slopes[1] / 4], abs=1e-6)
    assert values.grad[1].tolist() == pytest.approx([0, 0, slopes[2] / 4], abs=1e-6)


def test_the_linear_fit_is_scikit_learns_optimum():
    from sklearn.linear_model import LogisticRegression

    rows = sums(40)
    reward, _ = trained(rows=rows, l2=0.01)
    steps = [item for r in rows for item in process.rated_steps(*read(r))]
    x = reward._model.features.transform([s[1] for s in steps], [s[2] for s in steps])
    peer = LogisticRegression(C=1 / (0.01 * len(steps)), solver="newton-cg", tol=1e-12).fit(
        x, [s[3] for s in steps]
    )
    assert reward._model.weights[:-1] == pytest.approx(peer.coef_[0], abs=1e-6)
    assert reward._model.weights[-1] == pytest.approx(peer.intercept_[0], abs=1e-6)


def read(given):
    (found,) = az.data.read_step_ratings([given])
    return found, "\n"


# -- steps -------------------------------------------------------------------------------------


def test_it_learns_which_steps_are_right(backbone):
    reward, measures = trained(backbone)
    assert measures["steps"] == 180
    ((good, bad),) = reward.step_scores(["Task 7"], ["we surely know 3\nwe merely guess 5"])
    assert 1 > good > 0.7 > 0.3 > bad > 0


def test_labels_that_are_truth_values_are_ratings(backbone):
    rows = [
        {"prompt": r["prompt"], "completions": r["steps"], "labels": [y == 1 for y in r["ratings"]]}
        for r in sums(60)
    ]
    one, two = (trained(backbone, given)[0] for given in (rows, sums(60)))
    asked = (["Task 7"], ["we surely know 3\nwe merely guess 5"])
    assert one.step_scores(*asked) == two.step_scores(*asked)


@pytest.mark.parametrize(
    ("reduce", "expected"), [("min", 0.2), ("mean", 0.5), ("product", 0.08), ("last", 0.8)]
)
def test_how_steps_make_a_score(reduce, expected, monkeypatch):
    reward = az.make_reward("process", reduce=reduce)
    monkeypatch.setattr(reward, "step_scores", lambda *_: [[0.5, 0.2, 0.8]])
    assert reward.score(["Task"], ["a\nb\nc"]) == [pytest.approx(expected)]


def test_a_step_has_the_same_score_whatever_follows(backbone):
    reward, _ = trained(backbone)
    whole = "we surely know 3\nwe merely guess 5\nwe surely know 4"
    (scores,) = reward.step_scores(["Task 7"], [whole])
    for count in (1, 2):
        part = "\n".join(whole.split("\n")[:count])
        assert reward.step_scores(["Task 7"], [part])[0] == pytest.approx(scores[:count], abs=1e-5)


def test_a_step_is_read_with_what_stands_before_it(backbone):
    # A step that repeats the one before is wrong, and only then.
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(80):
        first = f"{draw.choice(['alpha', 'beta', 'gamma', 'delta', 'kappa'])}"
        second = str(draw.choice(["alpha", "beta", "gamma", "delta", "kappa"]))
        rows.append(row("Go", [first, second], [1, float(first != second)]))
    options = {} if backbone is None else {"num_epochs": 25, "learning_rate": 5e-3}
    reward, _ = trained(backbone, rows, **options)
    new, again = reward.step_scores(["Go"] * 2, ["alpha\nbeta", "beta\nbeta"])
    assert new[1] > again[1] + 0.2


def test_steps_are_parted_by_the_marker_and_blank_ones_are_none():
    reward, _ = trained(marker="##")
    counts = [
        len(s) for s in reward.step_scores([""] * 5, ["", " ", "a", "a## ##b##", "a\nb ## c ## d"])
    ]
    assert counts == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("typed", ["\n", r"\n"])
def test_a_marker_may_be_typed_as_it_is_written_in_code(typed):
    assert az.make_reward("process", marker=typed).config.marker == "\n"
    assert az.make_reward("process", marker=r"\n\n##").config.marker == "\n\n##"


def test_spaces_around_a_step_do_not_matter(backbone):
    reward, _ = trained(backbone)
    one, two = reward.step_scores(["Task"] * 2, ["we know\nwe guess", "\n we know \n\n we guess\n"])
    assert one == pytest.approx(two, abs=1e-5)


def test_steps_without_a_rating_are_context_alone(backbone, caplog):
    rows = [{**r, "ratings": [None, *r["ratings"][1:]]} for r in sums(60)]
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        _, measures = trained(backbone, rows)
    assert measures["steps"] == 120
    assert "60 steps have no rating" in caplog.text


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_ratings_on_any_scale_are_learned(backbone, shift):
    rows = [{**r, "ratings": [shift + 4 * y for y in r["ratings"]]} for r in sums(60)]
    reward, _ = trained(backbone, rows, target="rating", reduce="mean")
    ((good, bad),) = reward.step_scores(["Task 7"], ["we surely know 3\nwe merely guess 5"])
    assert good == pytest.approx(shift + 4, abs=1)
    assert bad == pytest.approx(shift, abs=1)


# -- as a reward -------------------------------------------------------------------------------

PROMPTS = ["Task 1", "", "Task " * 9, [{"role": "user", "content": "Task"}], "Task 猫"]
RESPONSES = ["we know\nwe guess", "", "a\n" * 6 + "b", "one step", "我们知道\n我们猜"]


def test_scores_are_the_same_alone_and_in_any_batch(backbone):
    # correctness.md #25.
    reward, _ = trained(backbone)
    together = reward.step_scores(PROMPTS, RESPONSES)
    tolerance = 0.0 if backbone is None else 1e-5
    for prompt, response, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        (alone,) = reward.step_scores([prompt], [response])
        np.testing.assert_allclose(alone, scores, rtol=0, atol=tolerance)


def test_two_fits_with_one_seed_are_the_same_to_the_bit(backbone):
    one, two = (trained(backbone)[0].step_scores(PROMPTS, RESPONSES) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("target", ["probability", "rating"])
def test_saved_and_loaded_it_scores_the_same_to_the_bit(backbone, target, tmp_path):
    reward, _ = trained(backbone, target=target)
    reward.save(tmp_path / "rm")
    again = az.make_reward("process", **reward.config.model_dump(exclude_unset=True))
    again.load(tmp_path / "rm")
    assert again.step_scores(PROMPTS, RESPONSES) == reward.step_scores(PROMPTS, RESPONSES)


def test_steps_beyond_the_models_context_are_cut_and_counted(policy, caplog):
    long = row("Task", ["we know this " * 6] * 4, [1, 0, 1, 0])
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        reward, _ = trained(policy, [*sums(10), long], num_epochs=1)
    assert "1 of 11 texts are longer than 128 tokens and were cut" in caplog.text
    (scores,) = reward.step_scores(["Task"], ["\n".join(long["steps"])])
    assert len(scores) == 4
    assert scores[2] == scores[3]  # both are read at the cut


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (row("Hi", ["a\nb", "c"], [1, 0]), r"step 0 holds the marker '\\n'"),
        (row("Hi", ["a", "b"], [1, -1]), "step 1 has the rating -1; expected 0"),
        (row("Hi", ["a", "b"], [None, None]), "no step has a rating"),
        (row("Hi", ["a", "b"], [1]), "2 steps and 'ratings' 1 marks"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "no column 'steps'"),
    ],
)
def test_a_wrong_row_is_refused_by_place(given, message, tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(json.dumps(given) + "\n")
    with pytest.raises(az.DataError, match=message) as caught:
        az.make_reward("process").fit(path)
    assert "steps.jsonl" in str(caught.value) or "no step has" in message


def test_a_product_of_ratings_is_refused():
    with pytest.raises(az.ConfigError, match="reduce is 'product', which is of probabilities"):
        az.make_reward("process", reduce="product", target="rating")


def test_a_score_before_any_fit_says_to_train_it():
    with pytest.raises(az.ConfigError, match="train-reward process"):
        az.make_reward("process").score(["Hi"], ["you"])


def test_certain_numbers_make_scores_within_0_and_1():
    reward = az.make_reward("process")
    assert [reward._step_score(number) for number in (-1e6, 0.0, 1e6)] == [0.0, 0.5, 1.0]
    assert math.isfinite(process.logistic_loss(np.array([-1e6]), np.array([1.0]))[0][0])
