"""A critic that steers: written beside the model, applied again, and refused where it is not whole.

The critic is dqn's; a class of no plugin stands for an algorithm that somebody typed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer.runs import (
    TEXTS,
    copy_run,
    flip_byte,
    listing,
    make_policy,
    make_trainer,
    read_lines,
    train,
    truncate,
    write_lines,
)
from transformers import AutoModelForCausalLM

import alignzoo as az
from alignzoo import cli, plugin_registry
from alignzoo.steering import Steering, write_steering

FAST = {"learning_rate": 0.05, "steer_temperature": 0.02, "replay": 1, "kl_in": "none"}
PROMPTS = [[1, 40, 50], [1, 60], [1, 70, 71, 72]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A finished run of ddqn whose steering temperature was on its way down."""
    algorithm = az.make("ddqn", explore_temperature=0.1, explore_updates=4, head_width=8, **FAST)
    trainer = make_trainer(base, tmp_path_factory.mktemp("trained") / "run", algorithm)
    trainer.run(3)
    return trainer


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the model that the run left."""
    return copy_run(trained.folder.final, tmp_path / "model")


def about(model: Path) -> Path:
    return model / "alignzoo" / "steering.json"


def tensors(model: Path) -> Path:
    return model / "alignzoo" / "steering.safetensors"


def samples(policy, **options):
    drawn = policy.generate(PROMPTS, num_samples=4, max_new_tokens=16, seed=5, **options)
    return [row.tolist() for row in drawn.token_ids + drawn.log_probs]


# -- written and applied -----------------------------------------------------------------------


def test_a_loaded_policy_samples_what_the_runs_own_does_to_the_bit(trained, model):
    loaded = az.Policy.from_pretrained(model)
    assert samples(loaded) == samples(trained.policy)
    assert samples(loaded, temperature=0) == samples(trained.policy, temperature=0)
    assert samples(loaded) != samples(az.Policy.from_pretrained(model, steering=False))


def test_without_its_critic_it_is_what_plain_transformers_loads(base, model):
    unsteered = az.Policy.from_pretrained(model, steering=False)
    assert unsteered.shape_logits is None
    plain = AutoModelForCausalLM.from_pretrained(model).state_dict()
    for name, tensor in unsteered.model.state_dict().items():
        assert torch.equal(tensor, plain[name])
    assert samples(unsteered) == samples(az.Policy.from_pretrained(base))  # dqn trains its head


def test_the_folder_says_whose_the_critic_is_and_holds_no_pickle(model):
    assert sorted(path.name for path in (model / "alignzoo").iterdir()) == [
        "steering.json",
        "steering.safetensors",
    ]
    said = json.loads(about(model).read_text())
    assert (said["algorithm"], said["distribution"], said["revision"]) == ("ddqn", "alignzoo", 1)
    assert said["version"] == az.__version__
    assert said["options"]["steer_temperature"] == 0.02
    assert said["state"] == {"num_updates": 3}
    names = {name.split(".")[1] for name in load_file(tensors(model))}
    assert names == {"online", "target"}


def test_an_algorithm_that_does_not_steer_writes_no_such_folder(base, tmp_path):
    make_trainer(base, tmp_path / "run").run(1)
    assert not (tmp_path / "run" / "final" / "alignzoo").exists()


def test_generate_applies_it_and_can_leave_it_out(base, model, tmp_path):
    prompts = write_lines(tmp_path / "prompts.jsonl", TEXTS[:2])

    def generated(policy, *switches):
        out = tmp_path / "out.jsonl"
        words = ["generate", "--policy", str(policy), "--prompts", str(prompts), "--out", str(out)]
        assert cli.main([*words, "--max-new-tokens", "8", *switches]) == 0
        return read_lines(out)

    assert generated(model) != generated(base)
    assert generated(model, "--no-steering") == generated(base)


def test_a_steered_policy_that_is_saved_again_stays_steered(model, tmp_path):
    loaded = az.Policy.from_pretrained(model)
    loaded.save(tmp_path / "again")
    again = az.Policy.from_pretrained(tmp_path / "again")
    assert samples(again) == samples(loaded)
    assert listing(tmp_path / "again" / "alignzoo") == listing(model / "alignzoo")


def test_loading_draws_nothing_from_the_global_generators(model):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    az.Policy.from_pretrained(model)
    assert torch.equal(torch.rand(3), expected)


def test_a_resumed_run_leaves_the_same_critic(base, tmp_path):
    options = {"checkpoint_every": 1}

    def trainer(name):
        return make_trainer(base, tmp_path / name, az.make("dqn", head_width=8, **FAST), **options)

    trainer("whole").run(4)
    trainer("parts").run(2)
    trainer("parts").run(4, resume=True)
    parts, whole = (listing(tmp_path / name / "final") for name in ("parts", "whole"))
    assert parts == whole


def test_the_last_line_printed_and_the_card_say_that_plain_transformers_does_not_steer(
    base, tmp_path, capsys
):
    out = tmp_path / "run"
    prompts = write_lines(tmp_path / "prompts.jsonl", TEXTS)
    given = {"policy": base, "prompts": prompts, "out": out, "reward": "length", "steps": 1}
    assert train("dqn", **given, batch_size=8, max_new_tokens=8) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    for text in (last, (out / "final" / "README.md").read_text()):
        assert "transformers" in text
        assert "unsteered" in text


# -- in training -------------------------------------------------------------------------------


def test_training_takes_no_critic_away_unasked(model, tmp_path):
    with pytest.raises(az.ConfigError, match=r"'ddqn'.*steering=False \(--no-steering\)"):
        make_trainer(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    unsteered = az.Policy.from_pretrained(model, steering=False)
    make_trainer(unsteered, tmp_path / "run").run(1)


def test_the_command_line_refuses_it_in_one_line_and_has_the_remedy(model, tmp_path, capsys):
    prompts = write_lines(tmp_path / "prompts.jsonl", TEXTS)
    given = {"policy": model, "prompts": prompts, "reward": "length", "out": tmp_path / "run"}
    given |= {"steps": 1, "batch_size": 8, "max_new_tokens": 8}
    assert train("reinforce", **given) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "--no-steering" in error[0]
    assert train("reinforce", "--no-steering", **given) == 0


def test_another_training_of_the_same_policy_takes_the_critic_away(base, tmp_path):
    policy = az.Policy.from_pretrained(base)
    make_trainer(policy, tmp_path / "dqn", az.make("dqn", **FAST)).run(1)
    assert policy.shape_logits is not None
    make_trainer(policy, tmp_path / "reinforce", az.make("reinforce"))
    assert policy.shape_logits is None


def test_a_snapshot_keeps_steering_as_it_was(base, tmp_path):
    trainer = make_trainer(base, tmp_path / "run", az.make("dqn", **FAST))
    trainer.run(1)
    before, twin = samples(trainer.policy), trainer.learner.snapshot()
    assert samples(twin) == before
    with torch.no_grad():
        for parameter in trainer.learner.extra.parameters():
            parameter.normal_()
    assert samples(trainer.policy) != before
    assert samples(twin) == before


def test_held_out_responses_are_those_of_the_steered_policy(trained):
    _, steered = trained.source.evaluate(3)
    shape, trained.policy.shape_logits = trained.policy.shape_logits, None
    _, plain = trained.source.evaluate(3)
    trained.policy.shape_logits = shape
    assert len(steered) == len(plain) > 0
    assert [row["response"] for row in steered] != [row["response"] for row in plain]


# -- refused -----------------------------------------------------------------------------------


def rewrite(model: Path, **changes) -> None:
    about(model).write_text(json.dumps({**json.loads(about(model).read_text()), **changes}))


def drop_a_tensor(model: Path) -> None:
    """Leaves a whole file that lacks one tensor, its checksum right."""
    kept = load_file(tensors(model))
    kept.popitem()
    save_file(kept, tensors(model))
    rewrite(model, sha256=hashlib.sha256(tensors(model).read_bytes()).hexdigest())


DAMAGE = {
    "json cut short": (lambda m: truncate(about(m)), "cannot be read"),
    "json that is no object": (lambda m: about(m).write_text("[1]"), "no JSON object"),
    "json gone": (lambda m: about(m).unlink(), "cannot be read"),
    "tensors gone": (lambda m: tensors(m).unlink(), "steering.safetensors is not beside it"),
    "tensors altered": (lambda m: flip_byte(tensors(m)), "steering.safetensors was altered"),
    "tensors cut short": (lambda m: truncate(tensors(m)), "steering.safetensors was altered"),
    "a tensor gone": (drop_a_tensor, "steering.safetensors has 'extra"),
    "another format": (lambda m: rewrite(m, format=2), "its format is 2; this alignzoo reads 1"),
    "another revision": (lambda m: rewrite(m, revision=9), "revision 9 of 'alignzoo:ddqn'"),
    "unknown id": (lambda m: rewrite(m, algorithm="dqnn"), "no algorithm is called 'dqnn'"),
    "unknown owner": (lambda m: rewrite(m, distribution="x"), "called 'ddqn' from 'x'"),
    "a wrong id": (lambda m: rewrite(m, algorithm=3), "its 'algorithm' is 3"),
    "unknown option": (lambda m: rewrite(m, options={"tua": 1.0}), "no option 'tua'"),
    "other sizes": (lambda m: rewrite(m, options={"head_width": 9}), "of shape (8,), not (9,)"),
    "another state": (lambda m: rewrite(m, state={}), "its 'state' has []"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_refused_in_one_line_that_names_it(model, name):
    damage, reason = DAMAGE[name]
    damage(model)
    with pytest.raises(az.ConfigError) as error:
        az.Policy.from_pretrained(model)
    said = str(error.value)
    assert reason in said
    assert said.startswith(str(about(model)))
    assert "\n" not in said
    assert az.Policy.from_pretrained(model, steering=False).shape_logits is None


class Typed(az.Algorithm):
    """An algorithm of no plugin."""

    def shape_logits(self, logits, hidden):
        return logits * 2


def test_a_class_of_no_plugin_is_saved_and_named_when_it_cannot_be_made(base, tmp_path):
    policy = az.Policy.from_pretrained(base)
    policy.save(tmp_path / "model")
    write_steering(tmp_path / "model", policy, Steering(Typed(az.AlgorithmConfig()), None))
    with pytest.raises(az.ConfigError, match=r"steered by .*:Typed, which no installed plugin"):
        az.Policy.from_pretrained(tmp_path / "model")


def test_no_module_that_the_file_names_is_imported(model, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(model, **{"class": "evil_module:X"})
    assert az.Policy.from_pretrained(model).shape_logits is not None
    rewrite(model, algorithm="evil_module:X")
    with pytest.raises(az.ConfigError, match="no algorithm is called"):
        az.Policy.from_pretrained(model)
    assert "evil_module" not in sys.modules


def test_a_plugin_that_was_left_out_is_named(model):
    plugin_registry.select_plugins(["no:dqn"])
    try:
        with pytest.raises(az.ConfigError, match="no algorithm is called 'ddqn'"):
            az.Policy.from_pretrained(model)
    finally:
        plugin_registry.select_plugins([])


def test_a_hub_model_without_a_critic_is_loaded_as_it_is(base, monkeypatch):
    asked = []

    def missing(source, name):
        asked.append((source, name))
        raise OSError("no such file in the repository")

    monkeypatch.setattr("transformers.utils.hub.cached_file", missing)
    from alignzoo.steering import load_steering

    assert load_steering("owner/model", az.Policy.from_pretrained(base)) is None
    assert asked == [("owner/model", "alignzoo/steering.json")]


def test_a_hub_models_critic_is_fetched_with_it(trained, model, monkeypatch):
    monkeypatch.setattr(
        "transformers.utils.hub.cached_file", lambda source, name: str(model / name)
    )
    from alignzoo.steering import load_steering

    policy = az.Policy.from_pretrained(model, steering=False)
    assert load_steering("owner/model", policy) is not None
    assert samples(policy) == samples(trained.policy)
