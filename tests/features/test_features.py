"""Features: what they count, that a row depends on itself alone, and that they are saved whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_plugins import run_python

from alignzoo.config import build_config
from alignzoo.data import plain_text
from alignzoo.errors import ConfigError, DataError
from alignzoo.features import FeatureConfig, Features, Ngrams, assign_folds, words_of
from alignzoo.features.overlap import COLUMNS as OVERLAP_COLUMNS
from alignzoo.model_files import read_model, write_model

PROMPTS: list[Any] = [
    "Fact: earthquakes can damage buildings.\nQuestion: What can damage buildings?",
    "Fact: earthquakes can damage buildings.\nQuestion: What can damage buildings?",
    [{"role": "user", "content": "Where does a dog sleep?"}],
    "",
    "北京的天气怎么样？",
    "Say nothing.",
]
RESPONSES: list[Any] = [
    "earthquakes.",
    "Lightning can damage a house!",
    [{"role": "assistant", "content": "A dog sleeps in its basket."}],
    "The dog sleeps",
    "北京今天天气很好。",
    "",
]


def make(**options: Any) -> Features:
    return Features(build_config(FeatureConfig, options, "features"))


def fitted(**options: Any) -> Features:
    return make(**options).fit(PROMPTS, RESPONSES)


def overlap(prompt: str, response: str) -> dict[str, float]:
    """Returns the overlap columns before they are scaled; no word is rare."""
    from alignzoo.features.overlap import Overlap

    block = Overlap()
    block.fit([prompt, prompt + " "])  # two prompts with the same words
    return dict(zip(OVERLAP_COLUMNS, block.transform([prompt], [response])[0], strict=True))


def test_a_row_is_the_same_alone_and_in_any_batch_to_the_bit() -> None:
    """correctness.md #25."""
    features = fitted()
    together = features.transform(PROMPTS, RESPONSES)
    for row in range(len(PROMPTS)):
        alone = features.transform([PROMPTS[row]], [RESPONSES[row]])
        assert np.array_equal(alone.toarray(), together[row].toarray())
    order = [4, 2, 2, 0]
    mixed = features.transform([PROMPTS[i] for i in order], [RESPONSES[i] for i in order])
    assert np.array_equal(mixed.toarray(), together[order].toarray())


def test_fit_transform_is_fit_and_then_transform_to_the_bit() -> None:
    features = make()
    found = features.fit_transform(PROMPTS, RESPONSES)
    assert np.array_equal(found.toarray(), features.transform(PROMPTS, RESPONSES).toarray())


def test_what_was_saved_gives_the_same_rows_to_the_bit(tmp_path: Path) -> None:
    features = fitted()
    settings, arrays = features.state()
    write_model(tmp_path, {"features": settings}, arrays | {"weights": np.ones(3)})
    settings, arrays = read_model(tmp_path)
    other = make().restore(settings["features"], arrays)
    expected = features.transform(PROMPTS, RESPONSES).toarray()
    assert np.array_equal(other.transform(PROMPTS, RESPONSES).toarray(), expected)
    assert other.names() == features.names()


def test_every_column_has_a_name_of_its_own() -> None:
    features = fitted(min_df=1)
    names = features.names()
    assert len(names) == features.transform(PROMPTS, RESPONSES).shape[1] == len(set(names))
    assert {"words: dog", "words: 天 气", "characters: 天气", "length: log of words"} <= set(names)


def test_tf_idf_is_that_of_its_formula() -> None:
    block = Ngrams("words", longest=1, min_df=1, most=10)
    found = block.fit_transform(["a b b", "a c"]).toarray()
    assert block.names() == ["a", "b", "c"]
    idf = {"a": 1.0, "b": 1 + math.log(3 / 2), "c": 1 + math.log(3 / 2)}
    rows = [[idf["a"], (1 + math.log(2)) * idf["b"], 0.0], [idf["a"], 0.0, idf["c"]]]
    expected = [[value / math.hypot(*row) for value in row] for row in rows]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


def test_a_run_counts_where_enough_responses_hold_it_and_only_the_most_frequent_do() -> None:
    texts = ["a b", "a b", "a c", "d"]
    block = Ngrams("words", longest=1, min_df=2, most=10)
    block.fit_transform(texts)
    assert block.names() == ["a", "b"]
    block = Ngrams("words", longest=1, min_df=1, most=1)
    block.fit_transform(texts)
    assert block.names() == ["a"]


@pytest.mark.parametrize("texts", [["", ""], ["!", "?"], ["a"], ["a", "b"]])
def test_small_and_empty_files_have_features_too(texts: list[str]) -> None:
    found = make().fit_transform(["p"] * len(texts), texts)
    assert found.shape[0] == len(texts)
    assert np.isfinite(found.toarray()).all()


def test_chinese_words_are_characters_and_english_ones_lose_their_endings() -> None:
    assert words_of("Dogs were sleeping, 3 cats") == ["dog", "were", "sleep", "3", "cat"]
    assert words_of("北京GPT很好") == ["北", "京", "gpt", "很", "好"]
    assert words_of("is as bus") == ["is", "as", "bus"]


def test_overlap_is_that_worked_by_hand() -> None:
    found = overlap("Red cats eat.\nWhat do blue dogs eat?", "Blue dogs eat fish")
    assert found["share of words in the prompt"] == 3 / 4
    assert found["number of words in the prompt"] == 3
    assert found["share of word pairs in the prompt"] == 2 / 3
    assert found["share of words in the prompt's last line"] == 3 / 4
    assert found["share of words in the prompt's first line"] == 1 / 4
    assert found["share of words in the first line and not in the last"] == 0
    assert found["all words are in the prompt"] == found["no word is in the prompt"] == 0
    # " blue dogs eat fish " has 17 runs of 4; " blue dogs eat" ends before "?" with 11 of them.
    assert found["share of character runs in the prompt"] == 11 / 17


@pytest.mark.parametrize(
    ("response", "column"),
    [
        ("eat cats", "all words are in the prompt"),
        ("no fish", "no word is in the prompt"),
        ("Cats eat.", "the prompt holds the response"),
    ],
)
def test_overlap_knows_all_and_none_and_the_whole(response: str, column: str) -> None:
    assert overlap("Red cats eat.\nWhat do dogs eat?", response)[column] == 1
    assert overlap("Red cats eat.\nWhat do dogs eat?", "dogs fish")[column] == 0


def test_overlap_works_for_chinese() -> None:
    found = overlap("北京的天气怎么样？", "北京今天很冷")
    assert found["share of words in the prompt"] == 3 / 6  # 北, 京, 天
    assert found["share of word pairs in the prompt"] == 1 / 5


def test_rare_words_of_the_prompt_count_for_more() -> None:
    features = make(features=["overlap"])
    prompts = [f"the thing number {i}" for i in range(20)] + ["the zebra", "a zebra"]
    features.fit(prompts, [f"answer {i}" for i in range(22)])
    column = features.names().index("overlap: share of rare words in the prompt")
    rows = features.transform(["the zebra"] * 2, ["the fish", "zebra fish"]).toarray()
    assert rows[1, column] > rows[0, column]


def test_dense_columns_have_mean_0_and_one_deviation_and_constant_ones_are_0() -> None:
    found = fitted(features=["overlap", "length"]).transform(PROMPTS, RESPONSES).toarray()
    varies = found.any(0)
    assert found[:, varies].mean(0) == pytest.approx(0, abs=1e-12)
    assert found[:, varies].std(0) == pytest.approx(0.3, abs=1e-12)
    features = make(features=["overlap", "length"]).fit(["", ""], ["one", "two three"])
    new = features.transform(["some prompt"], ["some prompt"]).toarray()[0]
    names = features.names()
    assert new[names.index("overlap: all words are in the prompt")] == 0
    assert new[names.index("length: log of characters")] != 0


def test_length_counts_characters_words_and_lines() -> None:
    from alignzoo.features.length import lengths

    assert lengths(["Two words\nhere", "很好", ""]) == pytest.approx(
        np.log1p([[14, 3, 1], [2, 2, 0], [0, 0, 0]])
    )


def test_a_chat_has_the_features_of_its_text() -> None:
    features = fitted()
    chats = features.transform(PROMPTS, RESPONSES).toarray()
    texts = features.transform(list(map(plain_text, PROMPTS)), list(map(plain_text, RESPONSES)))
    assert np.array_equal(chats, texts.toarray())


def test_only_the_kinds_asked_for_are_there() -> None:
    names = fitted(features=["length", "words"]).names()
    assert {name.partition(":")[0] for name in names} == {"words", "length"}
    assert names[-1] == "length: log of lines"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ["word"]}, "'features'"),
        ({"features": []}, "'features'"),
        ({"features": ["hidden"]}, "needs a policy"),
        ({"word_ngrams": 0}, "'word_ngrams'"),
        ({"character_ngrams": 9}, "'character_ngrams'"),
        ({"min_df": 0}, "'min_df'"),
        ({"max_features": 0}, "'max_features'"),
        ({"word_ngram": 2}, "Did you mean 'word_ngrams'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^features.*{message}"):
        make(**options)


def test_rows_that_are_missing_are_an_error() -> None:
    with pytest.raises(DataError, match="no row to learn features from"):
        make().fit([], [])
    with pytest.raises(DataError, match="1 prompts and 2 responses"):
        fitted().transform(["a"], ["b", "c"])


def test_a_damaged_state_is_refused() -> None:
    settings, arrays = fitted().state()
    settings = json.loads(json.dumps(settings))
    with pytest.raises(DataError, match=r"saved features are .*; expected .*'words'"):
        make().restore({**settings, "kinds": ["length"]}, arrays)
    with pytest.raises(DataError, match=r"damaged .*features\.mean"):
        make().restore(settings, {k: v for k, v in arrays.items() if k != "features.mean"})
    shorter = {**settings, "words": {"vocabulary": settings["words"]["vocabulary"][:-1]}}
    with pytest.raises(DataError, match="damaged"):
        make().restore(shorter, arrays)


def test_importing_features_imports_no_heavy_library() -> None:
    code = (
        "import sys, alignzoo.features\n"
        "print([n for n in ('torch', 'sklearn', 'scipy', 'transformers') if n in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_rows_of_one_prompt_share_a_fold_whatever_their_order() -> None:
    prompts = [f"p{i % 10}" for i in range(40)]
    responses = [f"r{i}" for i in range(40)]
    folds = assign_folds(prompts, responses, 3)
    assert all(len(set(folds[i::10])) == 1 for i in range(10))
    assert sorted(np.bincount(folds[:10]).tolist()) == [3, 3, 4]
    assert assign_folds(prompts[::-1], responses[::-1], 3).tolist() == folds[::-1].tolist()


@pytest.mark.parametrize("prompts", [[""] * 6, ["same"] * 6])
def test_where_prompts_tell_nothing_apart_responses_do(prompts: list[str]) -> None:
    folds = assign_folds(prompts, ["a", "a", "b", "c", "d", "e"], 2)
    assert folds[0] == folds[1]
    assert set(folds.tolist()) == {0, 1}


def test_overlap_tells_right_answers_from_wrong_ones(data_dir: Path) -> None:
    """On 4000 pairs of questions, facts and answers, half of the prompts held out."""
    from sklearn.linear_model import LogisticRegression

    with (data_dir / "correctness_pairs_train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(4000), strict=False)]
    prompts = [row["prompt"] for row in rows]
    features = make(features=["overlap", "length"])
    features.fit(prompts * 2, [row[key] for key in ("chosen", "rejected") for row in rows])
    chosen, rejected = (
        features.transform(prompts, [row[key] for row in rows]).toarray()
        for key in ("chosen", "rejected")
    )
    held_out = assign_folds(list(map(plain_text, prompts)), [""] * len(rows), 2) == 1
    train = (chosen - rejected)[~held_out]
    model = LogisticRegression(fit_intercept=False)
    model.fit(np.concatenate([train, -train]), [1] * len(train) + [0] * len(train))
    margins = (chosen - rejected)[held_out] @ model.coef_[0]
    assert np.mean((margins > 0) + 0.5 * (margins == 0)) > 0.75
