"""Training a reward: what is read, split, measured and written, from every kind of judgement."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reward_report.small_rewards import Forgetful, Silent, Words, WordsConfig

import alignzoo as az
from alignzoo import overoptimisation
from alignzoo.errors import ConfigError, DataError, RunError
from alignzoo.overoptimisation import BestOfN
from alignzoo.reward_folder import load_trained_reward
from alignzoo.reward_report import RewardReport
from alignzoo.reward_training import train_reward
from alignzoo.scoring import RewardSum

GOOD, BAD = ["kind", "clear", "right", "short"], ["rude", "vague", "wrong", "long"]
RECORD = {"id": "words", "distribution": "small", "version": "1.0", "revision": 3}


def response(generator: np.random.Generator, quality: float) -> str:
    """Returns six words, of which about the share `quality` is good."""
    picks = generator.random(6) < quality
    return " ".join(str(generator.choice(GOOD if good else BAD)) for good in picks)


def make_rows(kind: str, count: int = 60, *, seed: int = 0) -> list[dict[str, Any]]:
    """Returns rows in which responses of good words are preferred, each to a prompt of its own."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        best, middle, worst = (response(generator, q) for q in (0.9, 0.5, 0.1))
        level = number % 3
        text, value = (worst, middle, best)[level], level / 2
        row: dict[str, Any] = {"prompt": f"prompt {number}"}
        if kind == "preferences":
            row |= {"chosen": best, "rejected": worst}
        elif kind == "rankings":
            row |= {"completions": [best, middle + " so", worst + " hm"]}
        elif kind == "steps":
            row |= {"steps": [best, worst, middle], "ratings": [1, 0, 0.5]}
        elif kind == "classes":
            row |= {"completion": text, "label": ("bad", "medium", "good")[level]}
        else:
            row |= {"completion": text, "rating": value}
        rows.append(row | ({"feedback": "well"} if kind == "text_feedback" else {}))
    return rows


def train(
    out: Path, kind: str = "preferences", *, rows: Any = None, reward: Any = None, **more: Any
) -> RewardReport:
    """Trains `words`, on rows of one kind unless others are given, and returns its report."""
    learner = type("Words", (Words,), {"learns_from": (kind,)})  # a label may also be a rating
    reward = reward if reward is not None else learner(WordsConfig(scale=4.0))
    data = rows if rows is not None else make_rows(kind)
    return train_reward(reward, data, out=out, **{"record": RECORD, "eval_fraction": 0.4, **more})


def read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("kind", list(az.data.JUDGEMENTS))
def test_every_kind_is_learned_measured_and_reported(kind: str, tmp_path: Path) -> None:
    report = train(tmp_path / "rm", kind)
    found = read_json(tmp_path / "rm" / "report.json")
    assert found["learned_from"] == kind
    main = "accuracy" if kind in ("preferences", "rankings") else "pair_accuracy"
    value = report.metrics[main]
    assert value.value > 0.6
    assert value.low <= value.value <= value.high
    assert found["held_out"]["metrics"][main]["value"] == value.value
    page = (tmp_path / "rm" / "report.html").read_text()
    assert "longer wins" in page
    assert "Worst disagreements" in page


@pytest.mark.parametrize("kind", list(az.data.JUDGEMENTS))
def test_reports_print_what_the_null_baselines_score(kind: str, tmp_path: Path) -> None:
    # correctness.md #27
    report = train(tmp_path / "rm", kind)
    found = read_json(tmp_path / "rm" / "report.json")["held_out"]["baselines"]
    for name in ("longer wins", "first wins"):
        assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1
        assert f"{name} {found[name]['value']:.3f}" in report.summary()
        assert name in (tmp_path / "rm" / "report.html").read_text()


def test_a_prompt_is_never_on_both_sides(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {"fit": [], "score": []}

    class Watching(Words):
        def fit(self, rows: Any, *, seed: int = 0) -> Any:
            seen["fit"] = [row.prompt for row in rows]
            return super().fit(rows, seed=seed)

        def score(self, prompts: Any, responses: Any) -> Any:
            seen["score"] += prompts[:1]  # the first chunk is of held-out rows
            return super().score(prompts, responses)

    rows = [{**row, "prompt": f"prompt {i % 30}"} for i, row in enumerate(make_rows("ratings", 90))]
    report = train(tmp_path / "rm", rows=rows, reward=Watching(WordsConfig()))
    assert seen["score"][0] not in seen["fit"]
    assert report.about["data"]["train_rows"] == len(seen["fit"]) < 90


def test_a_trained_reward_scores_as_before_once_it_is_loaded(tmp_path: Path) -> None:
    reward = Words(WordsConfig(scale=4.0))
    train(tmp_path / "rm", reward=reward)
    registry: Any = SimpleNamespace(
        matches=lambda kind, id: [id],
        find=lambda kind, id: SimpleNamespace(label=id, spec=SimpleNamespace(revision=3)),
        build=lambda kind, id, options: Words(WordsConfig(**options)),
    )
    loaded = load_trained_reward(tmp_path / "rm", registry)
    texts = ["kind and clear", "rude", ""]
    assert loaded.score([""] * 3, texts) == reward.score([""] * 3, texts)


def test_the_record_says_how_it_was_trained(tmp_path: Path) -> None:
    train(tmp_path / "rm", seed=5)
    found = read_json(tmp_path / "rm" / "reward.json")
    assert {name: found[name] for name in RECORD} == RECORD
    assert found["options"] == {"scale": 4.0, "marker": "\n"}
    assert found["seed"] == 5
    assert found["data"]["train_rows"] + found["data"]["held_out_rows"] == 60
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["fingerprint"])
    assert found["versions"]["alignzoo"]
    assert set(found["metrics"]["accuracy"]) == {"value", "low", "high"}


def test_equal_seeds_give_equal_reports(tmp_path: Path) -> None:
    for name in ("first", "again"):
        train(tmp_path / name, "rankings", seed=1)
    first, again = (read_json(tmp_path / name / "report.json") for name in ("first", "again"))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert models[0] == models[1]


def test_the_seed_is_given_to_a_fit_that_declares_it(tmp_path: Path) -> None:
    assert train(tmp_path / "rm", seed=7).fit["seed"] == 7.0

    class Seedless(Words):
        def fit(self, rows: Any) -> Any:  # type: ignore[override]
            super().fit(rows)

    assert train(tmp_path / "other", reward=Seedless(WordsConfig())).fit == {}


def test_held_out_rows_may_be_given(tmp_path: Path) -> None:
    report = train(tmp_path / "rm", eval_data=make_rows("preferences", 25, seed=9))
    assert report.held_out is not None
    assert (report.about["data"]["train_rows"], report.held_out.num_rows) == (60, 25)
    assert any("25 of 25 held-out rows have a prompt" in note for note in report.notes)


def test_columns_are_renamed(tmp_path: Path) -> None:
    rows = [
        {"prompt": r["prompt"], "better": r["chosen"], "worse": r["rejected"]}
        for r in make_rows("preferences")
    ]
    report = train(tmp_path / "rm", rows=rows, columns={"chosen": "better", "rejected": "worse"})
    assert report.metrics["accuracy"].value > 0.9


def test_nothing_held_out_is_said_and_nothing_is_claimed(tmp_path: Path) -> None:
    report = train(tmp_path / "rm", rows=make_rows("preferences", 10))
    assert report.metrics == {}
    assert "fewer than 20 different prompts" in report.notes[0]
    assert "nothing was held out" in report.summary()
    assert read_json(tmp_path / "rm" / "report.json")["held_out"] is None
    assert "nothing is held out" in (tmp_path / "rm" / "report.html").read_text()


def test_few_held_out_prompts_are_said_to_make_intervals_narrow(tmp_path: Path) -> None:
    report = train(tmp_path / "rm", eval_data=make_rows("preferences", 5, seed=3))
    assert any("have 5 different prompts" in note for note in report.notes)


def test_unscorable_responses_are_counted(tmp_path: Path) -> None:
    report = train(tmp_path / "rm", "rankings", reward=Silent(WordsConfig()))
    assert report.held_out is not None
    assert report.held_out.left_out == {"unscorable": report.held_out.num_rows}


def test_a_rule_has_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reward 'length' is a rule; it has nothing to learn"):
        train(tmp_path / "rm", reward=az.make_reward("length"), record={"id": "length"})
    assert not (tmp_path / "rm").exists()


def test_a_folder_that_holds_a_reward_is_left_alone(tmp_path: Path) -> None:
    train(tmp_path / "rm")
    before = (tmp_path / "rm" / "reward.json").read_bytes()
    with pytest.raises(ConfigError, match="already holds a trained reward"):
        train(tmp_path / "rm")
    assert (tmp_path / "rm" / "reward.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("fault", ["save", "fit", "score"])
def test_what_fails_leaves_no_folder_behind(fault: str, tmp_path: Path) -> None:
    def fail(*given: Any, **more: Any) -> Any:
        raise OSError(28, "no space left")

    reward = Words(WordsConfig())
    setattr(reward, fault, fail)
    with pytest.raises((ConfigError, OSError, az.PluginError)):
        train(tmp_path / "rm", reward=reward)
    assert list(tmp_path.iterdir()) == []


def test_a_reward_that_forgets_what_it_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Forgetful scores otherwise once it is saved and loaded"):
        train(tmp_path / "rm", reward=Forgetful(WordsConfig()))
    assert not (tmp_path / "rm").exists()


def test_a_fit_that_returns_no_measures_by_name_is_named(tmp_path: Path) -> None:
    class Numbers(Words):
        def fit(self, rows: Any, *, seed: int = 0) -> Any:
            super().fit(rows, seed=seed)
            return [0.5]

    with pytest.raises(ConfigError, match=r"Numbers\.fit returned list; expected measures by name"):
        train(tmp_path / "rm", reward=Numbers(WordsConfig()))


def test_a_wrong_row_is_located(tmp_path: Path) -> None:
    rows = [*make_rows("preferences"), {"prompt": "x", "chosen": "same", "rejected": "same"}]
    with pytest.raises(DataError, match=r"data\[60\]"):
        train(tmp_path / "rm", rows=rows)


def test_data_of_no_kind_it_learns_from_names_what_it_needs(tmp_path: Path) -> None:
    class OnlyPairs(Words):
        learns_from = ("preferences",)

    with pytest.raises(DataError, match="'chosen' and 'rejected'"):
        train(tmp_path / "rm", "ratings", reward=OnlyPairs(WordsConfig()))


class Page(HTMLParser):
    """Collects the tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(tmp_path: Path) -> None:
    rows = make_rows("preferences")
    shouted = [{**r, "chosen": f"rude <script>x</script> \x1b {r['prompt']}"} for r in rows]
    train(tmp_path / "rm", rows=rows, eval_data=[{**r, "rejected": "kind"} for r in shouted])
    page = Page((tmp_path / "rm" / "report.html").read_text())
    assert page.links == []
    assert "script" not in page.tags
    assert "rude <script>x</script>" in page.text
    assert "\x1b" not in page.text


def test_at_most_twenty_disagreements_are_shown_the_worst_first(tmp_path: Path) -> None:
    rows = make_rows("preferences", 200)
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    train(tmp_path / "rm", rows=rows, eval_data=turned)
    found = read_json(tmp_path / "rm" / "report.json")["held_out"]["disagreements"]
    gaps = [worst["gap"] for worst in found]
    assert len(found) == 20
    assert gaps == sorted(gaps, reverse=True)
    assert len({worst["where"] for worst in found}) == 20
    assert found[0]["responses"][1]["score"] - found[0]["responses"][0]["score"] == gaps[0]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    rows = [{**row, "rejected": "kind " * 2000} for row in make_rows("preferences")]
    train(tmp_path / "rm", rows=rows)
    assert (tmp_path / "rm" / "report.json").stat().st_size < 200_000
    assert (tmp_path / "rm" / "report.html").stat().st_size < 300_000


def test_the_curve_of_overoptimisation_is_drawn_on_the_held_out_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overoptimisation, "NUM_SETS", 30)
    asked: list[str] = []

    def true_reward(prompts: Any, responses: Any) -> list[float]:
        asked.extend(prompts)
        return [float(len(text)) for text in responses]

    reward = Words(WordsConfig())
    policy = az.Policy.from_pretrained("tiny")
    source = BestOfN(policy, RewardSum.of(true_reward), best_of=4, max_new_tokens=4)
    report = train(tmp_path / "rm", reward=reward, best_of_n=source)
    found = read_json(tmp_path / "rm" / "report.json")["overoptimisation"]
    assert [point["n"] for point in found["points"]] == [1, 2, 4]
    assert len(asked) == 30 * 4
    held_out = {f"prompt {i}" for i in range(60)}
    assert set(asked) < held_out
    assert len(set(asked)) == report.about["data"]["held_out_rows"] == found["prompts"]
    assert "Overoptimisation" in (tmp_path / "rm" / "report.html").read_text()


def test_a_curve_without_prompts_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    class NeverFitted(Words):
        def fit(self, rows: Any, *, seed: int = 0) -> Any:
            raise AssertionError("it was fitted")

    rows = [{"text": row["completion"], "rating": row["rating"]} for row in make_rows("ratings")]
    source = BestOfN(None, RewardSum.of(lambda responses: [0.0] * len(responses)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no prompts: no held-out row has one"):
        train(tmp_path / "rm", rows=rows, reward=NeverFitted(WordsConfig()), best_of_n=source)


@pytest.mark.parametrize("file", ["hh_harmless_pairs.jsonl", "oasst_rankings.jsonl"])
def test_real_judgements_are_reported_beside_their_baselines(
    file: str, data_dir: Path, tmp_path: Path
) -> None:
    report = train(tmp_path / "rm", rows=data_dir / file, reward=Words(WordsConfig()))
    assert report.held_out is not None
    assert report.held_out.num_prompts > 70
    assert report.notes == []
    found = report.held_out.baselines["longer wins"]
    assert found.high - found.low < 0.2
    # people preferred the longer reply of these assistants, and the shorter of those
    assert (found.low > 0.5) == file.startswith("oasst")


def saved_record(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "reward.json").write_text(json.dumps({**RECORD, "options": {}, **changes}))
    return folder


def registry_of(*ids: str, revision: int = 3) -> Any:
    entry = SimpleNamespace(label="", spec=SimpleNamespace(revision=revision))
    built: list[str] = []

    def build(kind: str, id: str, options: Any) -> Any:
        built.append(id)
        return SimpleNamespace(load=lambda folder: None)

    return SimpleNamespace(
        matches=lambda kind, id: [x for x in ids if x.rpartition(":")[2] == id],
        find=lambda kind, id: entry,
        build=build,
        built=built,
    )


def test_a_reward_whose_plugin_is_missing_names_it(tmp_path: Path) -> None:
    folder = saved_record(tmp_path / "rm")
    with pytest.raises(ConfigError, match=r"reward 'words' of small 1\.0, which is not installed"):
        load_trained_reward(folder, registry_of())


def test_of_two_plugins_with_one_id_the_one_that_trained_it_is_used(tmp_path: Path) -> None:
    registry = registry_of("small:words", "other:words")
    load_trained_reward(saved_record(tmp_path / "rm"), registry)
    assert registry.built == ["small:words"]


def test_another_revision_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_trained_reward(saved_record(tmp_path / "rm"), registry_of("words", revision=4))
    assert "was trained by revision 3 of reward 'words', and revision 4" in caplog.text


def test_a_reward_trained_without_an_id_says_how_to_load_it(tmp_path: Path) -> None:
    folder = saved_record(tmp_path / "rm", id=None)
    with pytest.raises(ConfigError, match="trained from Python without an id"):
        load_trained_reward(folder, registry_of("words"))
