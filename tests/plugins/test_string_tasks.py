"""The tasks on language models: what they pay, what they keep, and that they can be learned."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from alignzoo.plugins.string_tasks import cache, exact, warm_start
from alignzoo.plugins.string_tasks.grammar import GRAMMARS

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, run_cell
from alignzoo.testing import task_checks

LETTERS = {"length": 3, "alphabet": "abcdefghij"}
REVERSE = "reverse:" + json.dumps(LETTERS)


@pytest.fixture(autouse=True)
def _models_are_kept(request, monkeypatch, pytestconfig):
    """Keeps models for all workers and later runs; fast tests teach theirs next to nothing."""
    is_taught = request.node.get_closest_marker("slow") is not None
    folder = pytestconfig.cache.mkdir("task-models" if is_taught else "task-models-untaught")
    monkeypatch.setenv("ALIGNZOO_CACHE", str(folder))
    if not is_taught:
        monkeypatch.setattr(exact.ExactTask, "enough", 0.0)
        monkeypatch.setattr(exact.ExactTask, "slip_steps", 1)


def make(id, **options):
    return az.registry().build("task", id, options)


def small_recipe(**changes):
    rows = [(f"{a}{b}>", f"{b}{a}") for a in "abcd" for b in "abcd"]
    given = {
        "examples": rows,
        "checks": [prompt for prompt, _ in rows],
        "score": lambda _, answers: [1.0] * len(answers),
        "enough": 0.5,
        "max_new_tokens": 3,
        "context_length": 8,
        "slip": 0.5,
        "letters": "abcd",
        "slip_steps": 2,
        **changes,
    }
    return warm_start.Recipe(**given)


@pytest.mark.parametrize("check", task_checks("reverse", options=LETTERS))
def test_reverse_conforms(check):
    check()


CHEAP = ("the_settings_are_the_trainers", "options_suit_every_algorithm", "prompts_are_disjoint")


@pytest.mark.parametrize("id", ["sort", "arithmetic", "keywords"])
def test_the_others_pass_what_needs_no_model(id):
    for case in task_checks(id):
        if case.id in CHEAP:
            case.values[0]()


@pytest.mark.slow
@pytest.mark.parametrize("check", task_checks("preference"))
def test_preference_conforms(check):
    check()


@pytest.mark.parametrize(
    ("id", "prompt", "right"),
    [("reverse", "abca>", "acba"), ("sort", "cabba>", "aabbc"), ("arithmetic", "7+0+5+9=", "21")],
)
def test_the_right_answer_scores_and_no_other(id, prompt, right):
    task = make(id)
    assert task.answer(prompt) == right
    score = task.reward(0)
    answers = [right, right + right[-1], right[:-1], "", right[::-1]]
    assert score(answers, [right] * 5) == [1.0, 0.0, 0.0, 0.0, float(right == right[::-1])]


def test_sorting_goes_by_the_alphabet_that_is_given():
    assert make("sort", alphabet="zyxwv").answer("xzvz>") == "zzxv"


@pytest.mark.parametrize("id", ["reverse", "sort", "arithmetic"])
def test_two_hundred_prompts_are_held_out_of_what_the_model_is_taught(id):
    task = make(id)
    held_out = {row["prompt"] for row in task.eval_prompts()}
    assert len(held_out) == 200
    assert not held_out & {prompt for prompt, _ in task.recipe.examples}
    assert not held_out & {row["prompt"] for row in task.prompts()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": "abca"}, "different printable ASCII"),
        ({"alphabet": "ab>"}, "neither '>'"),
        ({"alphabet": "ab", "length": 4}, "2 letters make 16 prompts of length 4, and 1000"),
        ({"length": 13}, "less than or equal to 12"),
    ],
)
def test_letters_that_make_no_task_are_refused(options, message):
    with pytest.raises(az.ConfigError, match=message):
        make("reverse", **options)


def test_rows_of_an_exact_task_are_judged_by_the_answer():
    task = make("reverse", **LETTERS)
    for row in task.rows("demonstrations", 0)[:50]:
        assert row["completion"] == task.answer(row["prompt"])
    for row in task.rows("preferences", 0)[:50]:
        assert row["chosen"] == task.answer(row["prompt"]) != row["rejected"]
    rated = task.rows("ratings", 0)
    for row in rated[:50]:
        assert row["rating"] == (row["completion"] == task.answer(row["prompt"]))


def test_teaching_gives_the_same_model_again_and_leaves_threads_and_generators_alone():
    import torch

    torch.manual_seed(5)
    threads, states = torch.get_num_threads(), []
    expected = torch.rand(1, generator=torch.Generator().manual_seed(5))
    for _ in range(2):
        policy = warm_start.make_policy(small_recipe())
        with warm_start.one_thread():
            warm_start.teach(policy, small_recipe())
        states.append(policy.fingerprint())
    assert states[0] == states[1]
    assert torch.get_num_threads() == threads
    assert torch.rand(1) == expected


def test_a_model_that_learns_nothing_is_an_error():
    recipe = small_recipe(score=lambda _, answers: [0.0] * len(answers), max_steps=2)
    with pytest.raises(az.RunError, match=r"scores 0.000 after 2 steps of teaching, and 0.5 was"):
        warm_start.teach(warm_start.make_policy(recipe), recipe)


def test_what_is_cached_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return {"facts": ["ä"]}, {"numbers": np.arange(3.0)}

    for _ in range(2):
        settings, arrays = cache.cached("thing", make)
        assert settings == {"facts": ["ä"]}
        assert arrays["numbers"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["thing"]


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_damaged_entry_is_made_again_with_a_warning(file, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path))

    def make():
        return {"word": "right"}, {"numbers": np.arange(3.0)}

    cache.cached("thing", make)
    path = tmp_path / "tasks" / "thing" / file
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"right", b"wrong") if file.endswith("json") else whole[:-1])
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        assert cache.cached("thing", make)[0] == {"word": "right"}
    assert "It is made again" in caplog.text
    assert path.read_bytes() == whole


def test_of_two_that_make_the_same_at_once_both_get_it_and_one_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path))

    def make_meanwhile():
        cache.cached("thing", lambda: ({"by": "the other"}, {}))
        return {"by": "us"}, {}

    assert cache.cached("thing", make_meanwhile)[0] == {"by": "us"}
    assert cache.cached("thing", make_meanwhile)[0] == {"by": "the other"}
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["thing"]


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(az.ConfigError, match=r"cannot be written .*; set ALIGNZOO_CACHE"):
        cache.cached("thing", lambda: ({}, {}))


def test_the_cache_is_where_the_system_says(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGNZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "alignzoo" / "tasks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "alignzoo" / "tasks"


def test_options_that_change_the_model_change_its_name():
    digests = {
        cache.digest_of(make("reverse", length=n).recipe_options, [cache.__name__]) for n in (4, 5)
    }
    assert len(digests) == 2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_grammar_knows_its_own_sentences(language):
    found, generator = GRAMMARS[language], np.random.default_rng(0)
    drawn = [found.answer(generator) for _ in range(200)]
    assert all(found.is_answer(text) for text in drawn)
    assert not any(found.is_answer(text[:-1] + "?") for text in drawn)
    subjects = found.subjects(found.subject)
    assert len(set(subjects)) == len(subjects) == 384


@pytest.mark.parametrize(
    ("options", "text", "score"),
    [
        ({}, " fed a cat at sea now", 1.0),
        ({}, " saw a cat at sea now", 0.8),
        ({}, " fed a cat", 0.5),
        ({"language": "zh"}, "又在城里看一只猫", 0.8),
        ({"language": "zh"}, "又在城里打一只猫", 1.0),
        ({"language": "zh"}, "打一只猫", 0.5),
        ({"include": ["owl"], "avoid": [], "min_words": 0, "max_words": 2}, "an owl", 1.0),
    ],
)
def test_keywords_asks_for_words_and_length_by_language(options, text, score):
    assert make("keywords", **options).reward(0).score([""], [text]) == pytest.approx([score])


def test_keywords_prompts_need_a_policy_that_can_go_on_from_them():
    with pytest.raises(az.ConfigError, match="prompts are given and no policy"):
        make("keywords", prompts="prompts.jsonl")


def test_keywords_takes_a_policy_and_prompts_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"Say {n}:", "number": n} for n in range(8)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make(
        "keywords",
        policy="tiny",
        prompts=str(tmp_path / "own.jsonl"),
        max_new_tokens=4,
        avoid=["a"],
    )
    assert len(task.prompts()) == len(task.eval_prompts()) == 4
    assert task.prompts()[0].keys() == {"prompt", "number"}
    assert task.settings["max_new_tokens"] == 4
    assert task.policy().fingerprint() == task.policy().fingerprint()
    assert len(task.rows("ratings", 0)) > 0
    assert list((tmp_path / "cache" / "tasks").glob("answers-*"))


def test_keywords_runs_on_a_real_model(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNZOO_CACHE", str(tmp_path / "cache"))
    task = make("keywords", policy=str(data_dir / "models" / "stories260K"))
    prompts = [row["prompt"] for row in task.prompts()[:4]]
    assert all(text.startswith("Once upon a time") for text in prompts)
    answers = warm_start.sample(task.policy(), prompts, 16, seed=0)
    assert all(0 <= score <= 1 for score in task.score(prompts, answers))


def test_the_hidden_judge_likes_each_word_and_not_both():
    task = make("preference")
    texts = [" saw a cat", " saw a dog", " saw a cat at sea again", " saw a dog at sea again"]
    assert task.true_reward()([*texts, " dog again", ""]) == [0.1, 1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.slow
def test_the_pairs_are_the_judges_but_for_those_turned_round():
    exact, noisy = make("preference", noise=0.0), make("preference", noise=0.25)
    judged = [exact.hidden([row["chosen"], row["rejected"]]) for row in exact.pairs]
    assert all(better > worse for better, worse in judged)
    turned = [one != other for one, other in zip(exact.pairs, noisy.pairs, strict=True)]
    assert np.mean(turned) == pytest.approx(0.25, abs=0.06)
    assert make("preference", pairs=50).pairs != make("preference", pairs=50, seed=1).pairs
    assert len(make("preference", pairs=50).pairs) == 50


@pytest.mark.slow
def test_the_fitted_reward_has_both_words_for_the_best():
    task = make("preference")
    texts = [" saw a cat at sea now", " saw a dog at sea now", " saw a dog at sea again"]
    scores = task.reward(0).score([""] * 3, texts)
    assert scores == sorted(scores)


GSM8K = [
    {"question": f"What is {n} plus 1?", "answer": f"It is <<{n}+1>>.\n#### {n + 1}", "id": n}
    for n in range(8)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "option 'policy' is needed: model folder or hub id"),
        ({"policy": "tiny"}, "option 'data' is needed: file or hub id"),
        ({"policy": "tiny", "data": "x", "template": "Say."}, "it should hold {question}"),
    ],
)
def test_gsm8k_says_what_it_needs(options, message):
    with pytest.raises(az.ConfigError, match=message):
        make("gsm8k", **options)


def test_gsm8k_names_the_row_that_is_wrong(tmp_path):
    data = write(tmp_path / "data.jsonl", [*GSM8K, {"prompt": "What?", "id": 9}])
    with pytest.raises(az.DataError, match=r"line 9: data needs 'question'.*it has prompt, id"):
        make("gsm8k", policy="tiny", data=data).prompts()


@pytest.mark.parametrize("form", ["answer", "final"])
def test_gsm8k_scores_the_final_number(form, tmp_path):
    rows = [{"question": r["question"], form: r["answer"]} for r in GSM8K]
    if form == "final":
        rows = [{**row, "final": row["final"].rpartition(" ")[2]} for row in rows]
    task = make("gsm8k", policy="tiny", data=write(tmp_path / "data.jsonl", rows))
    row = task.eval_prompts()[0]
    right = row["answer"].rpartition(" ")[2]
    responses = [f"So #### {right}", "#### 99", ""]
    assert task.reward(0).score([""] * 3, responses, answer=[row["answer"]] * 3) == [1.0, 0.0, 0.0]
    assert task.rows("demonstrations", 0)[0]["completion"].startswith(" ")


def test_gsm8k_holds_out_other_questions_than_it_trains_on(tmp_path):
    train, test = write(tmp_path / "a.jsonl", GSM8K), write(tmp_path / "b.jsonl", GSM8K[:2])
    split = make("gsm8k", policy="tiny", data=train)
    assert (len(split.prompts()), len(split.eval_prompts())) == (4, 4)
    given = make("gsm8k", policy="tiny", data=train, eval_data=test, chat=True)
    assert (len(given.prompts()), len(given.eval_prompts())) == (6, 2)
    assert given.prompts()[0]["prompt"][0]["role"] == "user"


@pytest.mark.parametrize("name", ["a_run_of_two_updates_works", "prompts_are_disjoint"])
def test_gsm8k_conforms_on_the_tiny_policy(name, tmp_path):
    options = {"policy": "tiny", "data": write(tmp_path / "data.jsonl", GSM8K)}
    sizes = {"max_new_tokens": 4, "batch_size": 8, "samples": 16, "template": "{question}"}
    (check,) = [c for c in task_checks("gsm8k", options={**options, **sizes}) if c.id == name]
    check.values[0]()


def run(task, algorithm, out, budget, **given):
    cell = Cell(task, algorithm, 0, Budget("samples", budget), 1, given)
    row = run_cell(az.registry(), cell, out)
    assert row["status"] == "ok", row["error"]
    return row


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "rloo"])
def test_reverse_is_learned(algorithm, tmp_path):
    row = run(REVERSE, algorithm, tmp_path / "run", 3200)
    assert 0.2 < row["curve"][0]["score"] < 0.65
    assert row["score"] > row["curve"][0]["score"] + 0.2


@pytest.mark.slow
def test_what_is_optimised_too_far_falls_behind_its_proxy(tmp_path):
    row = run("preference", "grpo", tmp_path / "run", 3200, learning_rate=7e-4)
    proxy, true = ([point[name] for point in row["curve"]] for name in ("proxy", "score"))
    peak = int(np.argmax(true))
    assert 0 < peak < len(true) - 1
    assert true[peak] > true[0] + 0.1
    assert true[-1] < true[peak] - 0.2
    assert proxy[-1] > proxy[peak] > proxy[0]
