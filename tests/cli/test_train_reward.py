"""`alignzoo train-reward`: a folder that scores, one summary, and errors in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fixture_plugins import run_alignzoo
from trainer.runs import flags, listing, make_policy, read_lines, write_lines

from alignzoo import cli, plugin_registry

GOOD, BAD = ["kind", "clear", "right", "short"], ["rude", "vague", "wrong", "long"]
PLUGIN = ("-p", "reward_report.small_rewards")
TRUE_REWARD = """
def short(responses):
    return [-len(text) for text in responses]
"""


def make_pairs(count: int = 160) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {
            "prompt": f"prompt {number}",
            "chosen": " ".join(generator.choice(GOOD, 4)),
            "rejected": " ".join(generator.choice(BAD, 4)),
        }
        for number in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "pairs.jsonl", make_pairs())
    write_lines(tmp_path / "few.jsonl", make_pairs(5))
    named = [
        {"prompt": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in make_pairs()
    ]
    write_lines(tmp_path / "named.jsonl", named)
    (tmp_path / "true.py").write_text(TRUE_REWARD)
    yield tmp_path
    plugin_registry.select_plugins([])


def train(id: str | None = "words", *switches: str, **options: Any) -> int:
    """Runs the command, on the pairs unless told otherwise."""
    given = {"data": "pairs.jsonl", "out": "rm", **options}
    given = {name: value for name, value in given.items() if value is not None}
    return cli.main([*PLUGIN, "train-reward", *([id] if id else []), *switches, *flags(given)])


def fails(capsys: Any, id: str | None, *switches: str, code: int = 2, **options: Any) -> str:
    """Returns the one line that an error prints."""
    assert train(id, *switches, **options) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1, captured.err
    assert code == 1 or len(lines) == 1, captured.err  # what failed had begun, and said so
    return lines[-1]


def test_the_folder_holds_the_reward_and_its_report(folder: Path) -> None:
    assert train() == 0
    names = {"reward.json", "report.json", "report.html", "model.json", "model.safetensors"}
    assert {path.name for path in (folder / "rm").iterdir()} == names
    record = json.loads((folder / "rm" / "reward.json").read_text())
    assert record["id"] == "words"
    assert record["data"]["path"] == str(folder / "pairs.jsonl")
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_the_summary_gives_the_figure_with_its_interval_and_the_baselines(
    folder: Path, capsys: Any
) -> None:
    assert train() == 0
    out = capsys.readouterr().out.splitlines()
    figure = r"accuracy 1\.000 \(1\.000 to 1\.000\)"
    assert re.fullmatch(
        rf"held out, \d+ pairs: {figure}; longer wins 0\.\d+, first wins 0\.\d+", out[0]
    )
    assert out[1:] == ["reward: rm", "report: rm/report.html"]


def test_the_folder_is_a_reward_that_scores(folder: Path) -> None:
    write_lines(folder / "rows.jsonl", [{"prompt": "", "completion": w} for w in ("kind", "rude")])
    assert train() == 0
    scored = ["score", "--reward", "rm", "--data", "rows.jsonl", "--out", "scored.jsonl"]
    assert cli.main([*PLUGIN, *scored]) == 0
    better, worse = (row["score"] for row in read_lines(folder / "scored.jsonl"))
    assert better > worse


def test_the_folder_is_a_reward_that_trains(folder: Path) -> None:
    policy = make_policy(folder / "policy")
    write_lines(folder / "prompts.jsonl", [f"prompt {i}" for i in range(8)])
    assert train() == 0
    run = ["train", "reinforce", "--policy", str(policy), "--prompts", "prompts.jsonl"]
    run += ["--reward", "rm", "--out", "run", "--steps", "1", "--batch-size", "4"]
    assert cli.main([*PLUGIN, *run, "--max-new-tokens", "4"]) == 0
    assert "score_mean" in read_lines(folder / "run" / "metrics.jsonl")[0]


def test_options_of_the_reward_are_flags_and_yaml(folder: Path) -> None:
    (folder / "options.yaml").write_text(yaml.safe_dump({"scale": 3.0, "seed": 4}))
    assert train(config="options.yaml", scale=2.0) == 0
    record = json.loads((folder / "rm" / "reward.json").read_text())
    assert (record["options"]["scale"], record["seed"]) == (2.0, 4)


def test_columns_are_renamed(folder: Path) -> None:
    columns = '{"chosen": "good", "rejected": "bad"}'
    assert train(data="named.jsonl", columns=columns) == 0
    record = json.loads((folder / "rm" / "reward.json").read_text())
    assert record["data"]["columns"] == {"chosen": "good", "rejected": "bad"}


def test_notes_go_to_standard_error(folder: Path, capsys: Any) -> None:
    assert train(data="few.jsonl") == 0
    captured = capsys.readouterr()
    assert "\nnote: nothing is held out" in captured.err
    assert captured.out.startswith("nothing was held out")


def test_the_curve_is_drawn_from_a_sampler(folder: Path, capsys: Any) -> None:
    policy = make_policy(folder / "policy")
    curve = {"sampler": policy, "true_reward": "true.py:short", "best_of": 4, "max_new_tokens": 4}
    assert train("words", "--overoptimise", **curve) == 0
    assert "best of 4: proxy score" in capsys.readouterr().out
    found = json.loads((folder / "rm" / "report.json").read_text())["overoptimisation"]
    assert [point["n"] for point in found["points"]] == [1, 2, 4]


def test_the_command_works_in_a_process_of_its_own(folder: Path) -> None:
    tests = Path(__file__).parents[1]
    done = run_alignzoo(
        *PLUGIN, "train-reward", "words", "--data", "pairs.jsonl", "--out", "rm",
        path=tests, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0
    assert re.fullmatch(
        r"1\d\d rows to learn from, \d\d held out \(preferences\)\nmeasuring\n", done.stderr
    )
    assert done.stdout.count("\n") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": None}, "give the reward's id first: alignzoo train-reward ID --data F --out DIR"),
        ({"id": "word"}, "no reward is called 'word'. Did you mean 'words'?"),
        ({"data": None}, "--data is needed: file or hub id with human judgements"),
        ({"out": None}, "--out is needed: folder of the reward"),
        ({"data": "pears.jsonl"}, "no file pears.jsonl. Did you mean 'pairs.jsonl'?"),
        ({"scale": -1}, "words: --scale is '-1'; it should be greater than 0"),
        ({"scael": 1}, "train-reward words has no option '--scael'. Did you mean '--scale'?"),
        ({"eval_fraction": 1}, "--eval-fraction is '1'; it should be less than 1"),
        ({"columns": "good"}, "--columns is 'good'; it should be JSON"),
        ({"columns": '{"chosen": "god"}'}, "no column 'god', which is to be read as 'chosen'"),
        ({"data": "named.jsonl"}, "named.jsonl, line 1"),
        ({"eval_data": "named.jsonl"}, "named.jsonl, line 1"),
        ({"best_of": 8}, "--best-of is of use only with --overoptimise"),
        ({"out": "true.py"}, "'true.py' is a file; expected a folder to make"),
        ({"out": "."}, "is not empty; give a new folder"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: Any, options: dict[str, Any], message: str
) -> None:
    before = listing(folder)
    id = options.pop("id", "words")
    assert message in fails(capsys, id, **options)
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "tiny"}, "--overoptimise needs --true-reward"),
        ({"true_reward": "true.py:short"}, "--overoptimise needs --sampler"),
        ({"sampler": "tiny", "true_reward": "true.py:shrot"}, "Did you mean 'short'?"),
    ],
)
def test_a_curve_that_lacks_something_is_one_line(
    folder: Path, capsys: Any, options: dict[str, Any], message: str
) -> None:
    assert message in fails(capsys, "words", "--overoptimise", **options)
    assert not (folder / "rm").exists()


def test_a_rule_names_what_learns_instead(folder: Path, capsys: Any) -> None:
    message = fails(capsys, "length")
    assert "reward 'length' is a rule; it has nothing to learn" in message
    assert "Rewards that learn:" in message
    assert "words" in message.partition("Rewards that learn:")[2]


def test_a_reward_is_never_written_over(folder: Path, capsys: Any) -> None:
    assert train() == 0
    capsys.readouterr()
    before = listing(folder / "rm")
    assert "already holds a trained reward" in fails(capsys, "words")
    assert listing(folder / "rm") == before


def test_a_broken_save_is_a_failure_and_leaves_nothing(folder: Path, capsys: Any) -> None:
    message = fails(capsys, "forgetful", code=1)
    assert "Forgetful scores otherwise once it is saved and loaded" in message
    assert not (folder / "rm").exists()


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path, capsys: Any) -> None:
    assert "cannot be written: File name too long" in fails(capsys, "words", out="x" * 300)


def test_help_lists_the_options_of_the_reward(folder: Path, capsys: Any) -> None:
    assert train("words", "--help", data=None, out=None) == 0
    out = capsys.readouterr().out
    assert "--scale FLOAT" in out
    assert "--eval-fraction FLOAT" in out


def test_a_plugin_that_is_not_there_any_more_is_named(folder: Path, capsys: Any) -> None:
    write_lines(folder / "rows.jsonl", [{"prompt": "", "completion": "kind"}])
    assert train() == 0
    capsys.readouterr()
    plugin_registry.select_plugins([])
    code = cli.main(["score", "--reward", "rm", "--data", "rows.jsonl", "--out", "scored.jsonl"])
    assert code == 2
    assert "was trained by reward 'words', which is not installed" in capsys.readouterr().err


def test_texts_with_labels_of_their_own_names_are_learned_from(
    folder: Path, data_dir: Path, capsys: Any
) -> None:
    lines = (data_dir / "cold_zh_train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    (folder / "cold.jsonl").write_text("\n".join(lines), encoding="utf-8")
    columns = {"columns": '{"completion": "text", "label": "offensive"}'}
    small = {"features": "characters", "character_ngrams": 2, "max_features": 1000, "l2": 0.1}
    assert train("classification", data="cold.jsonl", **columns, **small) == 0
    assert re.match(r"held out, \d+ labels: macro_f1 0\.", capsys.readouterr().out)
