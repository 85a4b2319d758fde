"""`alignzoo demo`: both stages end to end, in few steps here."""

from __future__ import annotations

import pytest
from trainer.runs import flags, listing, metrics_of, write_lines

from alignzoo import cli
from alignzoo.cli.demo import REWARD, WHO, make_demonstrations, make_prompts


def demo(out, **options):
    return cli.main(["demo", *flags({"out": out, "sft_steps": 1, "ppo_steps": 1, **options})])


@pytest.mark.slow
def test_it_runs_from_nothing_to_an_aligned_model(tmp_path, capsys):
    assert demo(tmp_path / "demo", sft_steps=3, ppo_steps=2) == 0
    printed = capsys.readouterr().out
    for part in ("stage", "score", "before", "after sft", "after ppo", "report.html"):
        assert part in printed
    assert str(tmp_path / "demo" / "ppo" / "final") in printed
    assert printed.count("\n> ") == 3  # prompts, each with a response of every stage
    for stage, steps in (("sft", 3), ("ppo", 2)):
        folder = tmp_path / "demo" / stage
        assert len(metrics_of(folder)) == steps
        assert (folder / "report.html").stat().st_size > 1000
        assert (folder / "final" / "model.safetensors").exists()


@pytest.mark.slow
def test_it_teaches_and_aligns(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    before, tuned, aligned = (
        float(next(row for row in rows if row[: len(stage)] == stage)[len(stage)])
        for stage in (["before"], ["after", "sft"], ["after", "ppo"])
    )
    assert before < tuned < 0.6
    assert aligned > 0.8
    sft, ppo = (metrics_of(tmp_path / "demo" / stage) for stage in ("sft", "ppo"))
    assert sft[-1]["eval_loss"] < 1.0 < sft[0]["eval_loss"]
    assert ppo[-1]["eval_score_mean"] > ppo[0]["eval_score_mean"] + 0.2


def test_a_folder_that_holds_a_demo_is_not_written_over(tmp_path, capsys):
    for stage in ("sft", "ppo"):
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
