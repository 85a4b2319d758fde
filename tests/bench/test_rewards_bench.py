"""The bench of the rewards: splits, paired gains, its command line, and the table it writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench" / "rewards.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bench_rewards", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def make_pairs(count: int = 150, prompts: int = 75) -> list[dict[str, Any]]:
    """Returns pairs in which the chosen response repeats a word of the prompt, else alike."""
    generator = np.random.default_rng(0)
    words = ["apple", "river", "stone", "cloud", "horse", "piano", "lemon", "tiger"]
    rows = []
    for number in range(count):
        asked, other = generator.choice(words, 2, replace=False)
        rows.append(
            {
                "prompt": f"Tell me of the {asked}, {number % prompts}.",
                "chosen": f"The {asked} it is.",
                "rejected": f"The {other} it is.",
            }
        )
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "pairs.jsonl", make_pairs())


@pytest.fixture(scope="module")
def summary(bench: Any, pairs: Path) -> dict[str, Any]:
    """Two splits of the pairs, with the reward of the correctness case."""
    case = next(case for case in bench.CASES if case.name == "correctness")
    return bench.summarise(case, [bench.run(case, seed, pairs, None) for seed in range(2)])


def test_a_prompt_is_on_one_side_and_the_seed_says_on_which(bench: Any, pairs: Path) -> None:
    rows = bench.read_case(bench.CASES[0], pairs)
    (train, held_out), again, other = (bench.split(rows, seed) for seed in (0, 0, 1))
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    assert len(train) + len(held_out) == len(rows)
    assert [row.where for row in held_out] == [row.where for row in again[1]]
    assert [row.where for row in held_out] != [row.where for row in other[1]]


def test_the_gain_is_the_difference_of_two_figures_and_its_interval_is_paired(
    summary: dict[str, Any],
) -> None:
    found = summary["measures"]
    zoo, ngrams = found["zoo: accuracy"], found["character n-grams: accuracy"]
    gain = found["gain over character n-grams"]
    assert gain["value"] == pytest.approx(zoo["value"] - ngrams["value"])
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert zoo["value"] == pytest.approx(np.mean(summary["per_seed"]))


def test_overlap_with_the_prompt_is_learned_where_n_grams_of_the_response_see_nothing(
    summary: dict[str, Any],
) -> None:
    found = summary["measures"]
    assert found["zoo: accuracy"]["value"] > 0.9
    assert found["character n-grams: accuracy"]["value"] < 0.75


def test_null_baselines_stand_beside_every_figure(bench: Any, summary: dict[str, Any]) -> None:
    assert {"null: longer wins", "null: first wins"} <= set(summary["measures"])
    head, _, line, *_ = bench.table([summary])
    assert "longer wins | first wins" in head
    assert line.count("|") == head.count("|")


def test_a_file_to_measure_on_replaces_the_splits(bench: Any, pairs: Path, tmp_path: Path) -> None:
    given = bench.parse(
        ["correctness", "--file", f"correctness={pairs}", "--eval-file", f"correctness={pairs}"]
    )
    case = dataclasses.replace(given.cases[0], options={"l2": 0.01})
    fold = bench.run(case, 0, given.files["correctness"], given.eval_files["correctness"])
    assert (fold.train_rows, len(fold.keys)) == (150, 150)


@pytest.mark.parametrize("name", ["cold", "toxicity", "toxicity_classes", "ilf", "oasst"])
def test_every_case_reads_files_of_its_shape(bench: Any, name: str, tmp_path: Path) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "cold": {"text": "你好", "offensive": 0},
        "toxicity": {"text": "hi", "n": 3, "hate": 0, "offensive": 1, "neither": 2, "label": "x"},
        "ilf": {
            "prompt": "def f():\n",
            "original": "def f():\n    return 1\n",
            "refinement": "\n    return 2\r\n",
            "feedback": "It returns 1.",
        },
        "oasst": {"prompt": "hi", "ranked": ["yes", "no"]},
    }
    shapes["toxicity_classes"] = shapes["toxicity"]
    case = next(case for case in bench.CASES if case.name == name)
    rows = bench.read_case(case, write(tmp_path / "rows.jsonl", [shapes[name]]))
    found = {
        "cold": lambda: (rows[0].completion, rows[0].label) == ("你好", "0"),
        "toxicity": lambda: rows[0].rating == pytest.approx(2.5 / 3),
        "toxicity_classes": lambda: rows[0].label == "x",
        "ilf": lambda: (
            {(row.completion, row.rating, row.feedback) for row in rows}
            == {("    return 1", 0.0, "It returns 1."), ("    return 2", 1.0, "")}
        ),
        "oasst": lambda: rows[0].completions == ("yes", "no"),
    }
    assert found[name]()


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("rankings", [{"prompt": f"{i}", "completions": ["aaa", "ab", "bbb"]} for i in range(30)]),
        ("classes", [{"text": "aaa" if i % 2 else "bbb", "label": i % 2} for i in range(30)]),
        ("ratings", [{"text": f"{'a' * i}b", "rating": i} for i in range(30)]),
    ],
)
def test_the_model_beside_learns_from_every_kind(bench: Any, kind: str, rows: list[Any]) -> None:
    model = bench.CharacterNgrams({"0": 0.0, "1": 1.0})
    model.learns_from = (kind,)
    assert model.fit(rows)["C"] in bench.BASELINE_C
    better, worse = model.score(["", ""], ["aaa", "bbb"])
    assert better > worse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["warm"], "no data set is called warm"),
        (["cold", "--seeds", "0"], "--seeds is 0"),
        (["cold", "--file", "cold"], "'cold' is no NAME=PATH"),
        (["cold", "--file", "cold=nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["cold", "--data-dir", "nowhere"], "there is no file nowhere/cold_zh_train.jsonl"),
    ],
)
def test_wrong_arguments_are_named(
    bench: Any, capsys: Any, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert message in capsys.readouterr().err


def test_the_table_goes_between_its_marks(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- bench: rewards -->\nold\n<!-- end -->\nafter\n<!-- end -->\n")
    monkeypatch.setattr(bench, "DOCS", page)
    bench.write_docs(["new \\1"])
    marks = "<!-- bench: rewards -->\nnew \\1\n<!-- end -->"
    assert page.read_text() == f"before\n{marks}\nafter\n<!-- end -->\n"
