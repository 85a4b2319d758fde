"""`alignzoo demo`: every stage end to end, in few steps here."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from trainer.runs import flags, listing, metrics_of, write_lines

from alignzoo import cli
from alignzoo.cli.demo import REWARD, STAGES, WHO, compare, make_demonstrations, make_prompts

SMALL = {"sft_steps": 1, "pairs": 40, "ppo_steps": 1}


def demo(out, **options):
    return cli.main(["demo", *flags({"out": out, **SMALL, **options})])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a demo as users run it, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("whole"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["demo", "--out", str(folder / "demo")]) == 0
    return folder, printed.getvalue()


@pytest.mark.slow
def test_it_runs_from_nothing_to_an_aligned_model(whole):
    folder, printed = whole
    for part in ("stage", "truth", "before", "after sft", "after ppo", "accuracy", "best of"):
        assert part in printed
    assert str(folder / "demo" / "ppo" / "final") in printed
    assert printed.count("\n> ") == 3  # prompts, each with a response of every stage
    for stage in STAGES:
        assert (folder / "demo" / stage / "report.html").stat().st_size > 1000
    for stage in ("sft", "ppo"):
        assert (folder / "demo" / stage / "final" / "model.safetensors").exists()
    asked = "Write a sentence about a dog."
    assert score(folder, "reward-model", asked, "The dog ran.") is not None


def score(folder, reward, prompt, completion):
    """Returns what `alignzoo score` says with a reward that the demo made."""
    write_lines(folder / "rows.jsonl", [{"prompt": prompt, "completion": completion}])
    given = {"data": folder / "rows.jsonl", "out": folder / "out.jsonl"}
    assert cli.main(["score", *flags({**given, "reward": folder / "demo" / reward})]) == 0
    return json.loads((folder / "out.jsonl").read_text())["score"]


@pytest.mark.slow
def test_it_teaches_and_aligns(whole):
    folder, printed = whole
    rows = [line.split() for line in printed.splitlines()]
    before, tuned, aligned = (
        float(next(row for row in rows if row[: len(stage)] == stage)[len(stage)])
        for stage in (["before"], ["after", "sft"], ["after", "ppo"])
    )
    assert before < tuned < 0.6  # by the truth, which the reward model never saw
    assert aligned > 0.75
    report = json.loads((folder / "demo" / "reward-model" / "report.json").read_text())
    assert report["held_out"]["metrics"]["accuracy"]["value"] > 0.75  # a tenth is labelled wrongly
    sft, ppo = (metrics_of(folder / "demo" / stage) for stage in ("sft", "ppo"))
    assert sft[-1]["eval_loss"] < 1.0 < sft[0]["eval_loss"]
    assert ppo[-1]["eval_score/truth"] > ppo[0]["eval_score/truth"] + 0.2


def test_a_folder_that_holds_a_demo_is_not_written_over(tmp_path, capsys):
    for stage in STAGES:
        (tmp_path / "demo" / stage).mkdir(parents=True)
        write_lines(tmp_path / "demo" / stage / "config.yaml", [])
    before = listing(tmp_path)
    capsys.readouterr()
    assert demo(tmp_path / "demo") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "demo" in error
    assert len(error.splitlines()) == 1
    assert listing(tmp_path) == before


def test_the_demonstrations_answer_what_they_are_asked():
    rows = make_demonstrations(200, seed=0)
    assert make_demonstrations(200, seed=0) == rows
    assert make_demonstrations(200, seed=1) != rows
    for row in rows:
        (who,) = [who for who in WHO if who in row["instruction"]]
        assert who in row["output"]
        assert row["output"].endswith(".")
    for word in (
        REWARD["include"] + REWARD["avoid"]
    ):  # the reward asks for what the demonstrations show now and then
        share = sum(word in row["output"] for row in rows) / len(rows)
        assert 0.02 < share < 0.5


def test_every_instruction_is_a_prompt_once():
    texts = [prompt[0]["content"] for prompt in make_prompts()]
    assert len(set(texts)) == len(texts) >= 20
    asked = {row["instruction"] for row in make_demonstrations(4000, seed=0)}
    assert set(texts) >= asked


def test_the_annotator_is_wrong_as_often_as_it_says():
    truth = [float(number % 3) for number in range(6000)]
    texts = [f"text {number}" for number in range(6000)]
    rows = compare(["ask"] * 6000, texts, truth, noise=0.1, seed=0)
    better = dict(zip(texts, truth, strict=True))
    wrong = [better[row["chosen"]] < better[row["rejected"]] for row in rows]
    assert len(rows) == 3000
    assert sum(wrong) / len(wrong) == pytest.approx(0.1, abs=0.02)


def test_the_annotator_says_where_two_are_equally_good_and_skips_equal_texts():
    rows = compare(["ask"] * 6, list("abccde"), [1, 1, 0, 0, 0, 1], noise=0.0, seed=0)
    assert [row.get("tie", False) for row in rows] == [True, False]
    assert rows[1]["chosen"] == "e"
