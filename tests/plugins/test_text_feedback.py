"""`text_feedback`: criticism that is there while learning makes for better scores without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignzoo.plugins.text_feedback import TextFeedback, TextFeedbackConfig

from alignzoo.config import build_config
from alignzoo.data import read_text_feedback
from alignzoo.errors import ConfigError, DataError

COST = {"rude": 3.0, "vague": 1.0, "wrong": 2.0}
SAID = {
    "rude": ["this is rude and unkind", "be polite please"],
    "vague": ["too vague and unclear", "say what you mean"],
    "wrong": ["the facts are wrong", "that is false"],
}
Rows = list[dict[str, Any]]


def make(**options: Any) -> TextFeedback:
    options = {"features": ["words"], **options}
    return TextFeedback(build_config(TextFeedbackConfig, options, "text_feedback"))


def rows(count: int, *, rated: int, seed: int = 0) -> tuple[Rows, list[float]]:
    """Returns responses with faults, each shown by one of twelve words, and their true worth.

    Critics name the faults; the first `rated` rows also have a rating, with some noise.
    """
    generator = np.random.default_rng(seed)
    found, worths = [], []
    for i in range(count):
        faults = [fault for fault in COST if generator.random() < 0.4]
        words = [f"n{generator.integers(60)}" for _ in range(8)]
        words += [f"{fault}{generator.integers(12)}" for fault in faults]
        said = " ".join(generator.choice(SAID[fault]) for fault in faults)
        worth = -sum(COST[fault] for fault in faults)
        rating = worth + 0.5 * generator.normal() if i < rated else None
        found.append(
            {
                "prompt": f"q{seed}-{i}",
                "completion": " ".join(generator.permutation(words).tolist()),
                "feedback": said or "nothing to say",
                "rating": rating,
            }
        )
        worths.append(worth)
    return found, worths


def scores_of(reward: TextFeedback, *responses: str) -> list[float]:
    return reward.score([""] * len(responses), responses)


def quality(reward: TextFeedback, seed: int) -> float:
    """Returns the correlation of scores of new responses with their true worth."""
    data, worths = rows(300, rated=0, seed=seed)
    return float(np.corrcoef(scores_of(reward, *(r["completion"] for r in data)), worths)[0, 1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_feedback_without_ratings_makes_scores_better(seed: int) -> None:
    """40 ratings and 400 pieces of feedback; new responses are scored without any."""
    data, _ = rows(400, rated=40, seed=seed)
    found = {}
    for use_feedback in (True, False):
        reward = make(use_feedback=use_feedback)
        measures = reward.fit(data)
        found[use_feedback] = quality(reward, seed + 100)
        assert (measures["mix"] > 0) is use_feedback
    assert found[True] > 0.65
    assert found[True] > found[False] + 0.25


def test_feedback_that_means_nothing_gets_little_weight() -> None:
    data, _ = rows(200, rated=200)
    generator = np.random.default_rng(0)
    shuffled = generator.permutation([row["feedback"] for row in data]).tolist()
    noise = [{**row, "feedback": said} for row, said in zip(data, shuffled, strict=True)]
    with_noise, alone = make(), make(use_feedback=False)
    assert with_noise.fit(noise)["feedback_r2"] < 0.05
    alone.fit(noise)
    assert quality(with_noise, 100) > quality(alone, 100) - 0.05


def test_it_says_what_critics_would_write() -> None:
    reward = make()
    reward.fit(rows(400, rated=40)[0])
    rude, wrong = reward.expected_criticism(["", ""], ["rude1 rude2 n1 n2", "wrong1 wrong2 n4 n5"])
    assert {"rude", "polite"} & set(rude)
    assert {"wrong", "false"} & set(wrong)
    plain = make(use_feedback=False)
    plain.fit(rows(40, rated=40)[0])
    with pytest.raises(ConfigError, match="knows no words of criticism"):
        plain.expected_criticism([""], ["rude1"])


def test_rows_without_feedback_are_learned_from_by_their_rating() -> None:
    data = [{**row, "feedback": ""} for row in rows(60, rated=60)[0]]
    reward = make()
    measures = reward.fit(data)
    assert (measures["num_criticised"], measures["num_rated"], measures["mix"]) == (0, 60, 0)
    alone = make(use_feedback=False)
    alone.fit(data)
    assert np.array_equal(reward.arrays["weights"], alone.arrays["weights"])


def test_within_prompts_what_makes_a_prompt_hard_does_not_count() -> None:
    """Hard prompts have long answers and low ratings; of two answers the longer one is better."""
    generator = np.random.default_rng(0)
    data = []
    for i in range(60):
        hard = int(generator.integers(20))
        for extra in (0, 3):
            text = " ".join(["word"] * (5 + hard + extra))
            rating = -hard + extra / 10 + 0.05 * generator.normal()
            row = {"prompt": f"q{i}", "completion": text, "feedback": "", "rating": rating}
            data.append(row)
    found = {}
    for within in (False, True):
        reward = make(features=["length"], within_prompts=within)
        reward.fit(data)
        short, long = scores_of(reward, "word " * 10, "word " * 13)
        found[within] = long > short
    assert found == {False: False, True: True}


def test_an_encoder_reads_the_feedback(data_dir: Path) -> None:
    data, _ = rows(60, rated=60)
    reward = make(encoder=str(data_dir / "models" / "stories260K"), components=8)
    measures = reward.fit(data)
    assert measures["feedback_r2"] > 0
    assert reward.arrays["criticism"].shape[0] == 8
    with pytest.raises(ConfigError, match="knows no words"):
        reward.expected_criticism([""], ["rude1"])


def test_an_encoder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder '.*' is no model that transformers can load"):
        make(encoder=str(tmp_path)).fit(rows(20, rated=20)[0])


@pytest.mark.parametrize("ratings", [[None] * 8, [1.0] + [None] * 7, [1.0] * 8])
def test_ratings_that_do_not_differ_teach_nothing(ratings: list[float | None]) -> None:
    data = [
        {"prompt": "q", "completion": f"a{i}", "feedback": "fine", "rating": rating}
        for i, rating in enumerate(ratings)
    ]
    with pytest.raises(DataError, match=r"data\[0\]: .* expected at least two that differ"):
        make().fit(data)


def test_few_rows_are_enough() -> None:
    data = [
        {"prompt": "q", "completion": text, "feedback": said, "rating": rating}
        for text, said, rating in [("kind", "", 1), ("rude", "this is rude", 0)] * 6
    ]
    for some in (data[:2], data):
        reward = make()
        reward.fit(some)
        kind, rude = scores_of(reward, "kind", "rude")
        assert kind > rude


def test_many_rows_are_solved_like_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """By conjugate gradients and by eigenvalues."""
    data, _ = rows(120, rated=60)
    few, many = make(), make()
    few.fit(data)
    monkeypatch.setattr("alignzoo.plugins.text_feedback.MOST_EXACT", 0)
    many.fit(data)
    for name in ("weights", "criticism", "intercept"):
        assert many.arrays[name] == pytest.approx(few.arrays[name], abs=1e-5)


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    data, _ = rows(80, rated=40)
    reward = make()
    reward.fit(data)
    reward.save(tmp_path)
    other = make()
    other.load(tmp_path)
    responses = [row["completion"] for row in data] + ["", "谢谢"]
    assert scores_of(other, *responses) == scores_of(reward, *responses)
    asked = [""] * len(responses), responses
    assert other.expected_criticism(*asked) == reward.expected_criticism(*asked)


def test_a_response_scores_the_same_in_any_batch_to_the_bit() -> None:
    """correctness.md #25."""
    data, _ = rows(80, rated=40)
    reward = make(features=["words", "characters", "overlap", "length"])
    reward.fit(data)
    responses = [row["completion"] for row in data]
    together = scores_of(reward, *responses)
    assert [scores_of(reward, response)[0] for response in responses] == together


def test_fitting_again_with_one_seed_gives_the_same_bits() -> None:
    data, _ = rows(80, rated=40)
    one, other = make(), make()
    one.fit(data, seed=1)
    other.fit(read_text_feedback(data), seed=1)
    assert all(np.array_equal(one.arrays[key], other.arrays[key]) for key in one.arrays)


def test_a_score_before_training_says_to_train() -> None:
    with pytest.raises(ConfigError, match="not trained: give the folder that `alignzoo train-rew"):
        scores_of(make(), "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "'components'"),
        ({"l2": 0}, "'l2'"),
        ({"folds": 21}, "'folds'"),
        ({"feedback": True}, "no option 'feedback'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^text_feedback.*{message}"):
        make(**options)
