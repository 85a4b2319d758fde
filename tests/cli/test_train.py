"""`alignzoo train`: what is wrong is said in one line, and nothing is written over."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fixture_plugins import run_alignzoo
from trainer.runs import (
    DEMONSTRATIONS,
    TEXTS,
    assert_same_outcome,
    copy_run,
    flags,
    listing,
    make_policy,
    metrics_of,
    saved_config,
    train,
    write_lines,
)

import alignzoo
from alignzoo import plugin_registry

REWARD_FILE = """
def vowels(prompts, completions):
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]

def text(prompts, completions):
    return "a good one"

def words(prompts, completions):
    return ["good" for _ in completions]

def too_few(prompts, completions):
    return [1.0] * (len(completions) - 1)

def nothing(prompts, completions):
    return None

def raising(prompts, completions):
    raise KeyError("no such word")

def wants_answer(prompts, completions, answer):
    return [0.0 for _ in completions]
"""
PLUGIN = """
import os
import alignzoo as az
from alignzoo.plugins.reinforce import Reinforce

class Fixture(Reinforce):
    pass

class Raising(Reinforce):
    def prepare(self, batch):
        if os.environ.get("FIXTURE_RAISES") == str(self.number):
            raise IndexError("a slip of the pen")
        super().prepare(batch)

    number = 1

    def after_update(self, step, metrics):
        self.number = step + 1

@az.hookimpl
def alignzoo_algorithms():
    revision = int(os.environ.get("FIXTURE_REVISION", "1"))
    return [
        az.AlgorithmSpec(
            id="fixture", target="fixture_algorithm:Fixture", summary="a test", revision=revision
        ),
        az.AlgorithmSpec(id="raising", target="fixture_algorithm:Raising", summary="a test"),
    ]

@az.hookimpl
def alignzoo_on_update(step, metrics):
    return step == int(os.environ.get("FIXTURE_STOP", "-1"))
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy") / "small")


@pytest.fixture(scope="module", autouse=True)
def _plugin(tmp_path_factory):
    """Puts `fixture_algorithm` where `-p` finds it."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "fixture_algorithm.py").write_text(PLUGIN)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("fixture_algorithm", None)


@pytest.fixture(autouse=True)
def _undo_global_choices():
    threads, variables = torch.get_num_threads(), dict(os.environ)
    yield
    plugin_registry.select_plugins([])
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(variables)


@pytest.fixture
def inputs(tmp_path, policy, monkeypatch):
    """A folder with good and bad input files, which is the working directory; a run's options."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "prompts.jsonl", TEXTS)
    write_lines(tmp_path / "data.jsonl", DEMONSTRATIONS)
    write_lines(tmp_path / "column.jsonl", [{"prompt": "a"}, {"prmopt": "b"}])
    write_lines(tmp_path / "long.jsonl", ["short", "long " * 60])
    write_lines(tmp_path / "half.jsonl", [{"prompt": "a"}])
    (tmp_path / "malformed.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"\n')
    (tmp_path / "array.jsonl").write_text('{"prompt": "a"}\n["b"]\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "reward.py").write_text(REWARD_FILE)
    (tmp_path / "broken.py").write_text("def vowels(:\n")
    (tmp_path / "a_file").write_text("mine")
    for name in ("no_model", "damaged_model", "not_empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged_model" / "config.json").write_text("{")
    (tmp_path / "not_empty" / "notes.txt").write_text("mine")
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run" / "config.yaml").write_text("algorithm: {id: ppo}\n")
    (tmp_path / "bad_run").mkdir()
    (tmp_path / "bad_run" / "config.yaml").write_text("algorithm: [ppo\n")
    (tmp_path / "options.yaml").write_text("learning_rat: 0.1\n")
    return {
        "policy": policy,
        "prompts": "prompts.jsonl",
        "reward": "reward.py:vowels",
        "out": "run",
        "steps": 2,
        "batch_size": 4,
        "max_new_tokens": 4,
        "learning_rate": 1e-3,
    }


def sft_options(inputs):
    kept = {k: v for k, v in inputs.items() if k not in ("prompts", "reward", "max_new_tokens")}
    return {**kept, "data": "data.jsonl"}


def fails(capsys, code, algorithm, *switches, **options):
    """Runs, checks that it fails with one line on standard error, and returns that line."""
    before = listing(Path.cwd())
    capsys.readouterr()
    given = {name: value for name, value in options.items() if value is not None}
    assert train(algorithm, *switches, **given) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert listing(Path.cwd()) == before
    return line


BAD = {
    # what changes in a good command line: what the line must say
    "policy missing": ({"policy": None}, ["--policy is needed"]),
    "out missing": ({"out": None}, ["--out is needed"]),
    "prompts missing": ({"prompts": None}, ["learns from rollouts", "--prompts"]),
    "reward missing": ({"reward": None}, ["learns from rollouts", "--reward"]),
    "data it has no use for": ({"data": "data.jsonl"}, ["--data", "leave it out"]),
    "eval data it has no use for": ({"eval_data": "data.jsonl"}, ["--eval-data", "leave it out"]),
    "unknown option": ({"clip_rnage": 0.1}, ["'--clip-rnage'", "Did you mean '--clip-range'?"]),
    "option out of range": ({"clip_range": -1}, ["--clip-range is", "-1", "greater than 0"]),
    "no number": ({"learning_rate": "fast"}, ["--learning-rate is 'fast'", "number"]),
    "no steps": ({"steps": 0}, ["--steps is", "greater than 0"]),
    "no batch": ({"batch_size": 0}, ["--batch-size is", "greater than 0"]),
    "groups": ({"group_size": 3}, ["batch_size is 4", "group_size is 3", "multiple"]),
    "device": ({"device": "abacus"}, ["--device is 'abacus'", "cpu"]),
    "dtype": ({"dtype": "float8"}, ["--dtype is 'float8'", "bfloat16"]),
    "unknown reward": ({"reward": "keyword"}, ["'keyword'", "Did you mean 'keywords'?"]),
    "unknown reward option": (
        {"reward": 'keywords:{"includ": ["a"]}'},
        ["no option 'includ'", "Did you mean 'include'?"],
    ),
    "reward that is no JSON": ({"reward": "length:{target}"}, ["length", "not JSON"]),
    "reward file missing": ({"reward": "rewrad.py:vowels"}, ["rewrad.py", "'reward.py'?"]),
    "reward function missing": ({"reward": "reward.py:vowel"}, ["'vowel'", "'vowels'?"]),
    "reward file broken": ({"reward": "broken.py:vowels"}, ["broken.py", "SyntaxError"]),
    "reward returns text": ({"reward": "reward.py:text"}, ["reward.py:text", "'a good one'"]),
    "reward returns words": ({"reward": "reward.py:words"}, ["reward.py:words", "'good'"]),
    "reward returns nothing": ({"reward": "reward.py:nothing"}, ["reward.py:nothing", "None"]),
    "reward returns too few": (
        {"reward": "reward.py:too_few"},
        ["reward.py:too_few", "expected", "one per response"],
    ),
    "reward wants a column": (
        {"reward": "reward.py:wants_answer"},
        ["wants_answer", "'answer'", "no column"],
    ),
    "prompts file missing": (
        {"prompts": "prompt.jsonl"},
        ["no file prompt.jsonl", "Did you mean 'prompts.jsonl'?"],
    ),
    "malformed prompts": ({"prompts": "malformed.jsonl"}, ["malformed.jsonl, line 2", "JSON"]),
    "no objects": ({"prompts": "array.jsonl"}, ["array.jsonl, line 2", "a list"]),
    "column missing": (
        {"prompts": "column.jsonl"},
        ["column.jsonl, line 2", "'prompt'", "'prmopt'"],
    ),
    "empty prompts": ({"prompts": "empty.jsonl"}, ["empty.jsonl", "no rows"]),
    "malformed held-out prompts": (
        {"eval_prompts": "malformed.jsonl"},
        ["malformed.jsonl, line 2"],
    ),
    "long prompt": ({"prompts": "long.jsonl"}, ["long.jsonl, line 2", "context of 128"]),
    "long response": ({"max_new_tokens": 200}, ["prompts.jsonl, line 1", "200", "128"]),
    "policy that is no model": ({"policy": "./no_model"}, ["no_model", "no config.json"]),
    "policy that is damaged": ({"policy": "./damaged_model"}, ["damaged_model"]),
    "policy that is not there": ({"policy": "./nowhere"}, ["nowhere", "does not exist"]),
    "policy that is a file": ({"policy": "./a_file"}, ["a_file", "is a file"]),
    "out that holds a run": ({"out": "a_run"}, ["a_run", "already holds a run", "--resume"]),
    "out that is a file": ({"out": "a_file"}, ["a_file", "is a file"]),
    "out that is not empty": ({"out": "not_empty"}, ["not_empty", "is not empty"]),
    "out below a file": ({"out": "a_file/run"}, ["a_file"]),
    "config file missing": ({"config": "nowhere.yaml"}, ["nowhere.yaml", "cannot be read"]),
    "config file with a slip": ({"config": "options.yaml"}, ["options.yaml", "'learning_rat'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, inputs, capsys):
    changes, said = BAD[case]
    line = fails(capsys, 2, "ppo", **{**inputs, **changes})
    for part in said:
        assert part in line
    assert len(line) < 600


def test_an_unknown_algorithm_names_the_closest(inputs, capsys):
    line = fails(capsys, 2, "pppo", **inputs)
    assert "no algorithm is called 'pppo'. Did you mean 'ppo'?" in line


def test_the_algorithm_comes_first(inputs, capsys):
    assert "give the algorithm first" in fails(capsys, 2, None, **inputs)


def test_a_raising_reward_is_named_and_exits_with_1(inputs, capsys):
    line = fails(capsys, 1, "ppo", **{**inputs, "reward": "reward.py:raising"})
    assert "reward.py:raising" in line
    assert "KeyError: 'no such word'" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": None}, ["learns from demonstrations", "--data"]),
        ({"prompts": "prompts.jsonl"}, ["--prompts", "leave it out"]),
        ({"reward": "length"}, ["--reward", "leave it out"]),
        ({"eval_prompts": "prompts.jsonl"}, ["--eval-prompts", "leave it out"]),
        ({"data": "half.jsonl"}, ["half.jsonl, line 1", "no column 'completion'"]),
        ({"data": "malformed.jsonl"}, ["malformed.jsonl, line 2"]),
        ({"max_length": 4}, ["nothing is left", "4 tokens"]),
    ],
)
def test_bad_input_to_sft_is_one_clear_line(changes, said, inputs, capsys):
    line = fails(capsys, 2, "sft", **{**sft_options(inputs), **changes})
    for part in said:
        assert part in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "nowhere"], "holds no run to resume"),
        (["--resume", "--out", "not_empty"], "holds no run to resume"),
        (["--resume", "--out", "a_file"], "a_file"),
        (["--resume", "--out", "bad_run"], "not valid YAML"),
        (["--resume", "--out", "a_run"], "a_run"),
    ],
)
def test_there_must_be_a_run_to_resume(words, said, inputs, capsys):
    assert said in fails(capsys, 2, None, *words)


def test_bad_input_is_one_line_in_a_process_of_its_own(inputs):
    before = listing(Path.cwd())
    done = run_alignzoo("train", "ppo", *flags({**inputs, "out": "a_run"}), cwd=Path.cwd())
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: out 'a_run' already holds a run")
    assert listing(Path.cwd()) == before


TEXT = REWARD_FILE.replace("    return [sum", '    return "a"\n    [sum')
RAISES = REWARD_FILE.replace("    return [sum", "    1 / 0\n    [sum")
MENDED = {
    "reward returns text": ("reward.py", TEXT),
    "reward raises": ("reward.py", RAISES),
    "prompts malformed": ("prompts.jsonl", "{"),
    "prompts empty": ("prompts.jsonl", ""),
}


@pytest.mark.parametrize("fault", MENDED)
@pytest.mark.parametrize("held_out", [0, 0.25])
def test_the_same_command_works_once_the_fault_is_mended(fault, held_out, inputs, capsys):
    name, text = MENDED[fault]
    good = Path(name).read_text()
    Path(name).write_text(text)
    options = {**inputs, "eval_fraction": held_out}
    fails(capsys, 1 if fault == "reward raises" else 2, "ppo", **options)
    Path(name).write_text(good)
    assert train("ppo", **options) == 0
    assert len(metrics_of(Path("run"))) == 2


def test_a_plugin_that_fails_at_once_leaves_nothing_behind(inputs, capsys, monkeypatch):
    monkeypatch.setenv("FIXTURE_RAISES", "1")
    line = fails(capsys, 1, "raising", "-p", "fixture_algorithm", **inputs)
    assert "fixture_algorithm" in line
    assert "IndexError: a slip of the pen" in line
    monkeypatch.delenv("FIXTURE_RAISES")
    assert train("raising", "-p", "fixture_algorithm", **inputs) == 0


def test_a_failure_on_the_way_says_how_to_go_on(inputs, capsys, monkeypatch):
    monkeypatch.setenv("FIXTURE_RAISES", "3")
    options = {**inputs, "steps": 4, "checkpoint_every": 1}
    assert train("raising", "-p", "fixture_algorithm", **options) == 1
    error = capsys.readouterr().err
    assert "error: plugin 'fixture_algorithm' failed: IndexError: a slip of the pen" in error
    (advice,) = [line for line in error.splitlines() if "--resume" in line]
    monkeypatch.delenv("FIXTURE_RAISES")
    assert alignzoo.cli.main(advice.partition("alignzoo ")[2].split()) == 0
    out = Path("run")
    assert train("raising", "-p", "fixture_algorithm", **{**options, "out": "whole"}) == 0
    assert_same_outcome(out, Path("whole"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, policy):
    """A folder with a run of two updates by a plugin's algorithm, and what it was made from."""
    folder = tmp_path_factory.mktemp("finished")
    write_lines(folder / "prompts.jsonl", TEXTS)
    (folder / "reward.py").write_text(REWARD_FILE)
    options = {
        "policy": policy,
        "prompts": folder / "prompts.jsonl",
        "reward": f"{folder / 'reward.py'}:vowels",
        "out": folder / "run",
        "steps": 2,
        "batch_size": 4,
        "max_new_tokens": 4,
        "temperature": 1.0,
        "learning_rate": 1e-3,
    }
    assert train("fixture", "-p", "fixture_algorithm", **options) == 0
    plugin_registry.select_plugins([])
    return folder


@pytest.fixture
def again(finished, tmp_path, monkeypatch):
    """A copy of that folder as the working directory; the run in it is `run`."""
    folder = copy_run(finished, tmp_path / "copy")
    config = (folder / "run" / "config.yaml").read_text()
    (folder / "run" / "config.yaml").write_text(config.replace(str(finished), str(folder)))
    monkeypatch.chdir(folder)
    return folder


def test_resume_takes_everything_from_the_folder(again):
    assert train(None, "--resume", out="run", steps=4) == 0
    assert len(metrics_of(again / "run")) == 4
    assert saved_config(again / "run")["steps"] == 4


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": "1e-3"},
        {"learning_rate": "0.0010"},
        {"temperature": "1"},
        {"temperature": "1.0"},
        {"batch_size": "4"},
        {"minibatch_size": "none"},
        {"kl_in": "reward"},
        {"prompts": "prompts.jsonl"},
        {"reward": "reward.py:vowels"},
        {"threads": "none"},
        {"seed": "0"},
    ],
    ids=str,
)
def test_an_option_given_again_that_agrees_is_accepted(given, again):
    assert train("fixture", "--resume", out="run", steps=3, **given) == 0
    assert len(metrics_of(again / "run")) == 3


def test_options_of_a_file_given_again_that_agree_are_accepted(again):
    (again / "same.yaml").write_text("temperature: 1\nlearning-rate: 0.001\nbatch_size: 4\n")
    assert train(None, "--resume", out="run", steps=3, config="same.yaml") == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": 2e-3}, ["--learning-rate", "0.002", "0.001"]),
        ({"batch_size": 8}, ["--batch-size", "8", "4"]),
        ({"temperature": 0.5}, ["--temperature", "0.5", "1.0"]),
        ({"reward": "length"}, ["--reward", "length", "reward.py:vowels"]),
        ({"prompts": "other.jsonl"}, ["--prompts", "other.jsonl", "prompts.jsonl"]),
        ({"policy": "tiny"}, ["--policy", "tiny", "small"]),
        ({"minibatch_size": 2}, ["--minibatch-size", "2", "None"]),
    ],
    ids=str,
)
def test_an_option_given_again_that_differs_is_refused(given, said, again, capsys):
    write_lines(again / "other.jsonl", TEXTS)
    line = fails(capsys, 2, None, "--resume", out="run", steps=3, **given)
    for part in [*said, "--allow-changed"]:
        assert part in line


def test_another_algorithm_is_refused(again, capsys):
    line = fails(capsys, 2, "ppo", "--resume", out="run")
    assert "'fixture'" in line
    assert "'ppo'" in line


def test_steps_may_only_grow(again, capsys):
    assert train(None, "--resume", out="run", steps=4) == 0
    for steps in (1, 3):
        line = fails(capsys, 2, None, "--resume", out="run", steps=steps)
        assert f"--steps is {steps}" in line
        assert "4" in line


def test_another_plugin_revision_is_refused_naming_both(again, capsys, monkeypatch):
    monkeypatch.setenv("FIXTURE_REVISION", "2")
    line = fails(capsys, 2, None, "--resume", out="run", steps=3)
    assert "algorithm.revision = 1 and is now 2" in line
    assert train(None, "--resume", "--allow-changed", out="run", steps=3) == 0
    assert saved_config(again / "run")["algorithm"]["revision"] == 2


def test_a_run_whose_plugin_is_gone_says_whose_it_was(again, capsys):
    path = again / "run" / "config.yaml"
    saved = saved_config(again / "run")
    saved["algorithm"] |= {"id": "gone", "distribution": "alignzoo-gone", "version": "1.5"}
    path.write_text(yaml.safe_dump(saved))
    line = fails(capsys, 2, None, "--resume", out="run", steps=3)
    assert "algorithm 'gone' of alignzoo-gone 1.5" in line


def test_another_reward_file_is_refused(again, capsys):
    (again / "reward.py").write_text(REWARD_FILE + "\n# a remark\n")
    before, now = (again / "run" / "config.yaml").read_text(), "sha256"
    line = fails(capsys, 2, None, "--resume", out="run", steps=3)
    assert "reward" in line
    assert now in line
    assert before.partition("sha256: ")[2][:64] in line
    assert train(None, "--resume", "--allow-changed", out="run", steps=3) == 0


def test_another_dataset_is_refused(again, capsys):
    with (again / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": "One more"}\n')
    line = fails(capsys, 2, None, "--resume", out="run", steps=3)
    assert "data.fingerprint" in line
    assert saved_config(again / "run")["data"]["fingerprint"] in line
    assert train(None, "--resume", "--allow-changed", out="run", steps=3) == 0


def test_a_plugin_that_is_gone_is_named(again, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("plugin0")])
    monkeypatch.delitem(sys.modules, "fixture_algorithm")
    before = listing(again)
    assert train(None, "--resume", out="run", steps=3) in (1, 2)
    assert "fixture_algorithm" in capsys.readouterr().err
    assert listing(again) == before


def test_all_checkpoints_damaged_is_a_failure_that_names_them(again, capsys):
    tensors = again / "run" / "checkpoints" / "step_2" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert train(None, "--resume", out="run", steps=3) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: every checkpoint in ")
    assert "step_2: state.safetensors" in last


def test_a_thread_count_that_is_not_the_runs_is_a_warning(again, caplog):
    torch.set_num_threads(torch.get_num_threads() + 1)
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        assert train(None, "--resume", out="run", steps=3) == 0
    assert "threads" in caplog.text


def test_other_threads_may_be_asked_for(again, caplog):
    before = torch.get_num_threads()
    with caplog.at_level(logging.WARNING, logger="alignzoo"):
        assert train(None, "--resume", out="run", steps=3, threads=before + 1) == 0
    (warning,) = [r.getMessage() for r in caplog.records if "threads" in r.getMessage()]
    assert str(before) in warning
    assert str(before + 1) in warning


def test_config_yaml_suffices_to_run_it_again(again):
    config = saved_config(again / "run")
    assert config["plugins"] == ["fixture_algorithm"]
    assert {"id": "fixture", "revision": 1, "class": "fixture_algorithm:Fixture"}.items() <= (
        config["algorithm"].items()
    )
    assert set(config["environment"]["versions"]) >= {"alignzoo", "torch", "transformers"}
    (reward,) = config["rewards"]
    assert len(reward["sha256"]) == 64
    options = {**config["run"], **config["options"], **config["algorithm"]["options"]}
    given = {k: v for k, v in options.items() if v not in (None, [])}
    words = [w for name in config["plugins"] for w in ("-p", name)]
    again_out = again / "again"
    assert train(config["algorithm"]["id"], *words, **given, steps=2, out=again_out) == 0
    assert_same_outcome(again_out, again / "run")


def test_config_yaml_names_the_owner_of_what_ran(inputs):
    options = {**inputs, "reward": 'length:{"target": 9, "weight": 0.5}', "steps": 1}
    assert train("reinforce", **options) == 0
    config = saved_config(Path("run"))
    owner = {"distribution": "alignzoo", "version": alignzoo.__version__}
    assert owner.items() <= config["algorithm"].items()
    assert owner.items() <= config["rewards"][0].items()
    assert config["rewards"][0]["reward"] == options["reward"]
    assert config["rewards"][0]["revision"] == 1
    assert Path(config["run"]["prompts"]).is_absolute()


def test_a_plugins_observer_ends_the_run(inputs, capsys, monkeypatch):
    monkeypatch.setenv("FIXTURE_STOP", "3")
    options = {**inputs, "steps": 9, "checkpoint_every": 100}
    assert train("ppo", "-p", "fixture_algorithm", **options) == 0
    assert len(metrics_of(Path("run"))) == 3
    assert (Path("run") / "checkpoints" / "step_3" / "manifest.json").exists()
    assert (Path("run") / "final" / "model.safetensors").exists()
    assert "observer ended the run after update 3" in capsys.readouterr().err


def test_a_run_says_what_it_reached_and_where_it_is(inputs, capsys):
    assert train("ppo", **inputs, eval_fraction=0.25) == 0
    printed = capsys.readouterr()
    for part in ("2 updates", "score_mean", "kl ", "run/final", "run/report.html"):
        assert part in printed.out
    assert "held out" in printed.err


def test_options_may_come_from_a_file(inputs):
    Path("options.yaml").write_text("clip-range: 0.1\nbatch_size: 8\nkl_coef: 0.5\n")
    assert train("ppo", **{**inputs, "config": "options.yaml", "kl_coef": 0.1}) == 0
    config = saved_config(Path("run"))
    assert config["algorithm"]["options"]["clip_range"] == 0.1
    assert config["algorithm"]["options"]["kl_coef"] == 0.1
    assert config["options"]["batch_size"] == 4  # the flag goes over the file


def test_several_rewards_are_summed_by_weight_and_each_is_logged(inputs):
    rewards = ["reward.py:vowels", 'length:{"target": 4, "weight": 2}', "length"]
    assert train("reinforce", **{**inputs, "reward": rewards, "eval_fraction": 0.25}) == 0
    for line in metrics_of(Path("run")):
        parts = [line[f"score/{name}"] for name in ("vowels", "length", "length#2")]
        assert line["score_mean"] == pytest.approx(parts[0] + 2 * parts[1] + parts[2])
    assert "eval_score/vowels" in line


def test_the_policy_may_be_tiny(inputs):
    assert train("sft", **{**sft_options(inputs), "policy": "tiny"}) == 0
    assert json.loads(Path("run/final/config.json").read_text())["model_type"] == "llama"


def test_an_infinite_reward_ends_a_run_with_1_and_says_what_to_do(inputs, capsys):
    Path("reward.py").write_text(
        "def f(completions, **_): return [float('inf')] * len(completions)"
    )
    options = {**inputs, "reward": "reward.py:f", "steps": 9, "max_skipped": 2}
    assert train("ppo", **options) == 1
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for part in ("3 updates in a row were skipped", "max_skipped is 2", "skipped.jsonl"):
        assert part in last[0]
    assert Path("run/skipped.jsonl").exists()
