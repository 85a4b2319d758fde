"""preference: by hand, against scikit-learn, against simulated annotators, and as a reward."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from alignzoo.plugins.preference.comparisons import Comparison
from alignzoo.plugins.preference.language_model import ranking_loss
from alignzoo.plugins.preference.linear import blocks_of, comparison_loss, implied_accuracy
from trainer.runs import make_policy

import alignzoo as az
from alignzoo.data import read_preferences
from alignzoo.model_files import read_model
from alignzoo.training_data import split_by_prompt

WORDS = ["dog", "cat", "bird", "fish", "horse", "cow", "pig", "sheep", "goat", "duck", "hen", "fox"]


def pair(prompt, chosen, rejected, **columns):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


POLITE = [
    pair(f"Answer {i}.", f"thank you {WORDS[i % 12]}", f"go away {WORDS[(i + 1) % 12]}")
    for i in range(48)
]


def comparison(responses, *, margin=0.0, reversed=0.0):
    return Comparison("", tuple(responses), margin, reversed, "row")


# -- the loss ----------------------------------------------------------------------------------

# sigmoid(1): -log = 0.313262, and 1.313262 the other way; with a margin of 0.5, log(1 + e^-0.5) =
# 0.474077. Of scores log 3, log 2, log 1: P = 3/6 * 2/3 = 1/3, and reversed 1/6 * 2/5 = 1/15.
BY_HAND = [
    ([1.0, 0.0], {}, 0.313262),
    ([1.0, 0.0], {"margin": 0.5}, 0.474077),
    ([1.0, 0.0], {"reversed": 0.2}, 0.8 * 0.313262 + 0.2 * 1.313262),
    ([1.0, 0.0], {"reversed": 0.5}, 0.813262),
    ([math.log(3), math.log(2), 0.0], {}, math.log(3)),
    ([math.log(3), math.log(2), 0.0], {"reversed": 0.25}, 0.75 * math.log(3) + 0.25 * math.log(15)),
]


def numpy_loss(items, scores):
    return comparison_loss(np.array(scores), blocks_of(items))


def torch_loss(items, scores):
    """Returns the loss and its gradient as a language model sees them, through a buffer."""
    sizes = [len(item.responses) for item in items]
    count = sum(sizes)
    schema = {name: az.Column("sequence") for name in ("margins", "reversed_share")}
    buffer = az.RolloutBuffer(schema)
    buffer.append(
        [[1]] * count,
        [[2]] * count,
        policy_version=0,
        group_ids=np.repeat(np.arange(len(items)), sizes),
        margins=[item.margin for item in items for _ in item.responses],
        reversed_share=[item.reversed for item in items for _ in item.responses],
    )
    values = torch.tensor(scores, dtype=torch.float64)[:, None].requires_grad_()
    loss = ranking_loss(buffer.batch(), values)
    loss.value.backward()
    return az.Metrics(loss.metrics).result()["loss"], values.grad[:, 0].numpy() * count / 2


@pytest.mark.parametrize("of", [numpy_loss, torch_loss])
@pytest.mark.parametrize(("scores", "given", "expected"), BY_HAND)
def test_the_example_worked_by_hand(of, scores, given, expected):
    item = comparison("abc"[: len(scores)], **given)
    assert of([item], scores)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("of", [numpy_loss, torch_loss])
def test_the_gradient_worked_by_hand(of):
    # First stage (1/2, 1/3, 1/6), second (2/3, 1/3); less 1 for the first and the second response.
    _, gradient = of([comparison("abc")], [math.log(3), math.log(2), 0.0])
    assert gradient == pytest.approx([-0.5, 0.0, 0.5], abs=1e-6)


@pytest.mark.parametrize("of", [numpy_loss, torch_loss])
def test_plackett_luce_of_two_is_bradley_terry(of):
    scores = np.random.default_rng(0).normal(size=20) * 3
    items = [comparison("ab") for _ in range(10)]
    gaps = scores[::2] - scores[1::2]
    loss, gradient = of(items, scores.tolist())
    assert loss == pytest.approx(np.log1p(np.exp(-gaps)).mean(), abs=1e-6)
    slopes = -1 / (1 + np.exp(gaps)) / (1 if of is torch_loss else 10)
    assert gradient == pytest.approx(np.stack([slopes, -slopes], 1).ravel(), abs=1e-6)


def test_both_losses_agree_on_rankings_of_any_length():
    draw = np.random.default_rng(1)
    items = [
        comparison("abcdef"[:length], margin=margin, reversed=share)
        for length, margin, share in [(2, 0.7, 0.1), (5, 0, 0.1), (3, 0, 0), (2, 0, 0.5), (5, 0, 0)]
    ]
    scores = draw.normal(size=17).tolist()
    (one, slopes), (two, gradient) = numpy_loss(items, scores), torch_loss(items, scores)
    assert one == pytest.approx(two, abs=1e-6)
    assert slopes * len(items) == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize("of", [numpy_loss, torch_loss])
def test_scores_far_apart_have_a_finite_loss_and_gradient(of):
    loss, gradient = of([comparison("abc")], [-800.0, 0.0, 800.0])
    assert loss == pytest.approx(2400)
    assert np.isfinite(gradient).all()


def test_a_tie_of_scores_counts_one_half():
    # correctness.md #26.
    blocks = blocks_of([comparison("ab"), comparison("abc")])
    assert implied_accuracy(np.array([1.0, 1.0, 2.0, 1.0, 1.0]), blocks) == 0.75


# -- oracles -----------------------------------------------------------------------------------


def simulated(length, count, seed=0):
    """Returns 12 words' scores, and rankings of `length` words drawn as Plackett and Luce would."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=len(WORDS)) * 1.5
    rows = []
    for number in range(count):
        shown = draw.choice(len(WORDS), length, replace=False)
        order = shown[np.argsort(-(scores[shown] + draw.gumbel(size=length)))]
        rows.append({"prompt": f"Which? {number}", "completions": [WORDS[i] for i in order]})
    return scores, rows


@pytest.mark.parametrize(("length", "count"), [(2, 2000), (5, 400)])
def test_simulated_scores_are_recovered(length, count):
    from scipy.stats import kendalltau

    scores, rows = simulated(length, count)
    if length == 2:
        rows = [pair(row["prompt"], *row["completions"]) for row in rows]
    reward = az.make_reward("preference", features=["words"], word_ngrams=1)
    reward.fit(rows)
    found = np.array(reward.score([""] * len(WORDS), WORDS))
    assert kendalltau(scores, found).statistic >= 0.9
    gap = (scores - scores.mean()) - (found - found.mean())
    assert np.abs(gap).max() < 0.5  # on the scale of the simulation, not in order alone


def test_the_linear_fit_is_scikit_learns_optimum():
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    rows = [
        pair(str(i), *(" ".join(draw.choice(WORDS, 4)) + f" {i} {side}" for side in "xy"))
        for i in range(200)
    ]
    reward = az.make_reward("preference", l2=0.01, features=["words", "length"])
    reward.fit(rows)
    texts = [row[side] for row in rows for side in ("chosen", "rejected")]
    x = reward._model.features.transform([""] * len(texts), texts)
    gaps = (x[::2] - x[1::2]).toarray() * np.where(np.arange(200) % 2, 1, -1)[:, None]
    peer = LogisticRegression(
        C=1 / (0.01 * 200), fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(gaps, np.arange(200) % 2)
    assert reward._model.weights == pytest.approx(peer.coef_[0], abs=1e-6)


def accuracy(reward, rows):
    prompts = [row.prompt for row in rows]
    gaps = np.subtract(
        reward.score(prompts, [row.chosen for row in rows]),
        reward.score(prompts, [row.rejected for row in rows]),
    )
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


@pytest.mark.slow
def test_a_fifth_of_the_labels_turned_round_leaves_three_quarters_of_what_is_learned(data_dir):
    rows = read_preferences(data_dir / "correctness_pairs_train.jsonl")[::6]
    train, test = split_by_prompt(rows, 0.25)
    flip = np.random.default_rng(0).random(len(train)) < 0.2
    noisy = [
        replace(row, chosen=row.rejected, rejected=row.chosen) if turned else row
        for row, turned in zip(train, flip, strict=True)
    ]
    found = {}
    for name, given in (("clean", train), ("noisy", noisy)):
        reward = az.make_reward("preference", features=["overlap", "length", "words"])
        reward.fit(given)
        found[name] = accuracy(reward, test) - 0.5
    assert found["clean"] > 0.2
    assert found["noisy"] > 0.75 * found["clean"]


def test_label_smoothing_keeps_scores_of_certain_labels_close():
    gaps = []
    for smoothing in (0.0, 0.2):
        reward = az.make_reward("preference", l2=1e-6, label_smoothing=smoothing)
        reward.fit(POLITE)
        gaps.append(np.subtract(*reward.score(["", ""], ["thank you dog", "go away dog"])))
    assert gaps[1] == pytest.approx(math.log(0.8 / 0.2), abs=0.1)
    assert gaps[0] > 2 * gaps[1]


def test_ties_draw_scores_together():
    rows = [pair(str(i), "yes", "no") for i in range(6)]
    ties = [pair(str(6 + i), "yes", "no", tie=True) for i in range(12)]
    gaps = []
    for given in (rows, [*rows, *ties]):
        reward = az.make_reward("preference", l2=1e-9, features=["words"], word_ngrams=1)
        reward.fit(given)
        gaps.append(np.subtract(*reward.score(["", ""], ["yes", "no"])))
    # 6 wins and 12 halves each way: odds (6 + 6) / 6.
    assert gaps[1] == pytest.approx(math.log(2), abs=1e-4)
    assert gaps[0] > 5


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1.5), (0.5, 0.75), (0.0, 0.0)])
def test_the_margin_column_moves_scores_apart(scale, expected):
    # Won as often as lost, but each time by 3: the gap g where sigmoid(3 - g) = sigmoid(g).
    rows = [pair(f"{i}", "yes", "no", margin=3) for i in range(8)]
    rows += [pair(f"{i}", "no", "yes", margin=None) for i in range(8, 16)]
    reward = az.make_reward(
        "preference", l2=1e-9, margin_scale=scale, features=["words"], word_ngrams=1
    )
    reward.fit(rows)
    gap = np.subtract(*reward.score(["", ""], ["yes", "no"]))
    assert gap == pytest.approx(expected, abs=1e-4)


# -- as a reward -------------------------------------------------------------------------------

LENGTHS = ["", "thank you", "go away " * 9, "a", "thank you so very much " * 5, "猫很可爱"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy") / "small")


def trained(policy=None, rows=POLITE, **options):
    if policy is not None:
        options = {"learning_rate": 3e-3, "num_epochs": 3, "minibatch_size": 16, **options}
        options = {"policy": str(policy), "warmup_steps": 2, **options}
    reward = az.make_reward("preference", **options)
    return reward, reward.fit(rows, seed=3)


@pytest.fixture(params=["linear", "policy"])
def backbone(request, policy):
    return None if request.param == "linear" else policy


def test_it_learns_what_is_preferred(backbone):
    reward, measures = trained(backbone)
    assert measures["comparisons"] == 48
    good, bad = reward.score(["Answer 99."] * 2, ["thank you fox", "go away fox"])
    assert good > bad + 0.5


def test_it_learns_from_rankings(backbone):
    rows = [
        {"prompt": f"Say {i}.", "completions": [f"thank you {i}", f"well {i}", f"go away {i}"]}
        for i in range(40)
    ]
    reward, _ = trained(backbone, rows)
    scores = reward.score(["Say 7."] * 3, ["thank you 7", "well 7", "go away 7"])
    assert scores == sorted(scores, reverse=True)


def test_scores_of_what_was_learned_from_have_the_mean_0(backbone):
    reward, _ = trained(backbone)
    scores = [
        score
        for side in ("chosen", "rejected")
        for score in reward.score([r["prompt"] for r in POLITE], [r[side] for r in POLITE])
    ]
    assert np.mean(scores) == pytest.approx(0, abs=1e-5)


def test_a_score_is_the_same_alone_and_in_any_batch(backbone):
    # correctness.md #25: to the bit on features, to 1e-5 through a language model.
    reward, _ = trained(backbone)
    prompts = [f"{'word ' * i}Answer." for i in range(len(LENGTHS))]
    together = np.array(reward.score(prompts, LENGTHS))
    alone = [reward.score([p], [r])[0] for p, r in zip(prompts, LENGTHS, strict=True)]
    reverse = reward.score(prompts[::-1] * 2, LENGTHS[::-1] * 2)[: len(LENGTHS)][::-1]
    assert np.isfinite(together).all()
    tolerance = 0.0 if backbone is None else 1e-5
    np.testing.assert_allclose(alone, together, rtol=0, atol=tolerance)
    np.testing.assert_allclose(reverse, together, rtol=0, atol=tolerance)


def test_two_fits_with_one_seed_are_the_same_to_the_bit(backbone):
    one, two = (trained(backbone)[0].score(["Answer."] * 6, LENGTHS) for _ in range(2))
    assert one == two


def test_saved_and_loaded_it_scores_the_same_to_the_bit(backbone, tmp_path):
    reward, _ = trained(backbone)
    reward.save(tmp_path / "rm")
    again = az.make_reward("preference", **reward.config.model_dump(exclude_unset=True))
    again.load(tmp_path / "rm")
    prompts = ["Answer.", [{"role": "user", "content": "Answer."}]] * 3
    assert again.score(prompts, LENGTHS) == reward.score(prompts, LENGTHS)


def test_it_loads_after_the_policy_it_was_made_from_is_gone(tmp_path):
    source = make_policy(tmp_path / "policy")
    reward, _ = trained(source, num_epochs=1)
    reward.save(tmp_path / "rm")
    source.rename(tmp_path / "gone")
    again = az.make_reward("preference", **reward.config.model_dump(exclude_unset=True))
    again.load(tmp_path / "rm")
    assert again.score(["Answer."], ["yes"]) == reward.score(["Answer."], ["yes"])


def test_transformers_loads_the_saved_backbone(policy, tmp_path):
    from transformers import AutoModelForCausalLM

    reward, _ = trained(policy, num_epochs=1)
    reward.save(tmp_path / "rm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "rm" / "backbone")
    ours = reward._model.policy.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())


def test_a_damaged_head_is_refused_by_name(policy, tmp_path):
    reward, _ = trained(policy, num_epochs=1)
    reward.save(tmp_path / "rm")
    (tmp_path / "rm" / "head.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(az.DataError, match=r"head\.safetensors: its checksum"):
        reward.load(tmp_path / "rm")


def test_adapters_are_merged_before_it_scores_and_is_saved(policy, tmp_path):
    pytest.importorskip("peft")
    reward, _ = trained(policy, lora_rank=4, learning_rate=1e-2)
    good, bad = reward.score(["Answer 99."] * 2, ["thank you fox", "go away fox"])
    assert good > bad
    reward.save(tmp_path / "rm")
    again = az.make_reward("preference", **reward.config.model_dump(exclude_unset=True))
    again.load(tmp_path / "rm")
    assert again.score(["Answer."] * 6, LENGTHS) == reward.score(["Answer."] * 6, LENGTHS)


def test_below_float32_a_score_is_the_same_in_any_batch_to_the_bit(policy, tmp_path):
    reward, _ = trained(policy, dtype="bfloat16")
    together = reward.score(["Answer."] * 6, LENGTHS)
    assert together == [reward.score(["Answer."], [text])[0] for text in LENGTHS]
    reward.save(tmp_path / "rm")
    again = az.make_reward("preference", **reward.config.model_dump(exclude_unset=True))
    again.load(tmp_path / "rm")
    assert again.score(["Answer."] * 6, LENGTHS) == together


def test_a_fit_does_not_depend_on_how_a_minibatch_is_split(policy):
    # correctness.md #11; rankings of three are longer than a micro-batch of two and stay whole.
    rows = [
        {"prompt": f"Say {i}.", "completions": [f"thank you {i}", f"well {i}", f"go away {i}"]}
        for i in range(10)
    ]
    scores = [
        trained(policy, rows, micro_batch_size=size, num_epochs=2)[0].score([""] * 6, LENGTHS)
        for size in (None, 2)
    ]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)


def test_pairs_that_become_the_same_tokens_are_counted_and_dropped(policy, caplog):
    # correctness.md #22.
    long = "x" * 200
    rows = [*POLITE, pair("Answer.", long + " yes", long + " no")]
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        _, measures = trained(policy, rows, num_epochs=1)
    assert measures["comparisons"] == len(POLITE)
    assert "1 of 49 comparisons are dropped" in caplog.text
    assert "row 48" in caplog.text or "data[48]" in caplog.text


def test_texts_that_are_cut_are_counted(policy, caplog):
    rows = [*POLITE, pair("Please answer. " * 20, "thank you", "go away")]
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        reward, measures = trained(policy, rows, num_epochs=1)
    assert measures["comparisons"] == len(rows)
    assert "2 of 98 texts are longer than 128 tokens and were cut" in caplog.text
    good, bad = reward.score(["Please answer. " * 20] * 2, ["thank you", "go away"])
    assert good != bad  # the prompt was cut, not what answers it


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (pair("Hi", "a", "b", tie="perhaps"), "'tie' is 'perhaps'; expected true or false"),
        (pair("Hi", "a", "b", margin=-1), "'margin' is -1; expected a number from 0 up"),
        (pair("Hi", "a", "b", margin="much"), "'margin' is 'much'; expected a number from 0 up"),
        (pair("Hi", "a", "b", margin=math.inf), "'margin' is inf"),
        (pair("Hi", "a", "a"), "the same"),
        ({"prompt": "Hi", "completion": "a", "rating": 1}, "the columns are"),
    ],
)
def test_a_wrong_row_is_refused_by_place(row, message, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(az.DataError, match=message) as caught:
        az.make_reward("preference").fit(path)
    assert "pairs.jsonl" in str(caught.value)


def test_ties_alone_teach_nothing():
    with pytest.raises(az.DataError, match="every pair is a tie"):
        az.make_reward("preference").fit([pair("Hi", "a", "b", tie=True)])


def test_a_score_before_any_fit_says_to_train_it():
    with pytest.raises(az.ConfigError, match="train-reward preference"):
        az.make_reward("preference").score(["Hi"], ["you"])


def test_hidden_states_are_no_features_of_it():
    with pytest.raises(az.ConfigError, match="trains the policy itself"):
        az.make_reward("preference", policy="tiny", features=["hidden"])


def test_no_file_it_writes_can_run(tmp_path):
    reward, _ = trained()
    reward.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert read_model(tmp_path)[0]["offset"] == reward._model.offset
