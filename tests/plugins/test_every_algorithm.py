"""What holds for every algorithm of the zoo, whatever it computes.

Numbers after correctness.md are those of its table of pitfalls.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from trainer.runs import (
    DEMONSTRATIONS,
    SIZES,
    TEXTS,
    assert_same_outcome,
    copy_run,
    count_vowels,
    make_policy,
    metrics_of,
)

import alignzoo as az
from alignzoo.cli.fields import options_of
from alignzoo.learner import Learner

ROOT = Path(__file__).parents[2]
IDS = sorted(
    entry.id for entry in az.registry().algorithms if entry.plugin.distribution == "alignzoo"
)
# What makes six short updates pass through every part of an update.
OPTIONS: dict[str, dict[str, object]] = {
    "ppg": {"policy_phases": 2},
    "dqn": {"target_sync": 2},
    "ddqn": {"target_sync": 2},
}
PREFERENCES = [
    {"prompt": f"{text} and", "chosen": f" then {text[::-1]}", "rejected": f" {text} again"}
    for text in TEXTS
]
RATINGS = [
    {"prompt": f"{text} and", "completion": f" then {text[: i % 9]}", "rating": float(i % 5)}
    for i, text in enumerate(TEXTS)
]
DATA = {
    "rollouts": {"prompts": TEXTS, "reward": count_vowels},
    "demonstrations": {"data": DEMONSTRATIONS},
    "preferences": {"data": PREFERENCES},
    "ratings": {"data": RATINGS},
}
STOP, END = 2, 5


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy"))


def make_algorithm(id, **options):
    options = {**OPTIONS.get(id, {}), **options}
    if "group_size" in type(az.make(id)).Config.model_fields:
        options.setdefault("group_size", 4)
    return az.make(id, **{"learning_rate": 1e-3, **options})


def make_trainer(id, policy, out, **options):
    algorithm = make_algorithm(id)
    data = DATA[algorithm.needs.source]
    settings = {**SIZES, "eval_every": 2, "checkpoint_every": 2, **options}
    return az.Trainer(policy=str(policy), algorithm=algorithm, out=out, **data, **settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy):
    """For each id: a run of END updates, and one of STOP that has ended."""
    made = {}

    def get(id):
        if id not in made:
            folder = tmp_path_factory.mktemp(id)
            make_trainer(id, policy, folder / "whole").run(END)
            make_trainer(id, policy, folder / "part").run(STOP)
            made[id] = folder
        return made[id]

    return get


@pytest.mark.parametrize("id", IDS)
def test_the_same_state_makes_the_same_updates(id, runs):
    whole, part = (metrics_of(runs(id) / name) for name in ("whole", "part"))
    assert len(part) == STOP
    for one, other in zip(whole, part, strict=False):
        shared = (one.keys() & other.keys()) - {"seconds"}  # a last update is also evaluated
        assert {k: one[k] for k in shared} == {k: other[k] for k in shared}
        assert "grad_norm" in shared


@pytest.mark.parametrize("id", IDS)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(id, runs, policy, tmp_path):
    # correctness.md #17.
    folder = copy_run(runs(id) / "part", tmp_path / "run")
    make_trainer(id, policy, folder).run(END, resume=True)
    assert_same_outcome(runs(id) / "whole", folder)


@pytest.mark.parametrize("id", IDS)
def test_it_learns_something_and_skips_nothing(id, runs, policy):
    lines = metrics_of(runs(id) / "whole")
    assert lines[-1]["skipped_updates"] == 0
    assert lines[-1]["grad_norm"] > 0
    final = runs(id) / "whole" / "final"
    trained = (final / "model.safetensors").read_bytes()
    steered = (final / "alignzoo").exists()
    assert steered or trained != (policy / "model.safetensors").read_bytes()


@pytest.mark.parametrize("id", IDS)
def test_the_gradient_does_not_depend_on_how_a_minibatch_is_split(
    id, policy, tmp_path, monkeypatch
):
    # correctness.md #11, and #3: the pieces are padded to other widths.
    found = []
    gradient = Learner.gradient

    def record(learner, *arguments, **options):
        result = gradient(learner, *arguments, **options)
        found[-1].append(learner.gradient_vector(result))
        return result

    monkeypatch.setattr(Learner, "gradient", record)
    for size in (None, 2):
        found.append([])
        out = tmp_path / str(size)
        make_trainer(id, policy, out, micro_batch_size=size, batch_size=16).run(1)
    whole, split = found[0][0], found[1][0]
    assert float(whole.norm()) > 0
    assert float((whole - split).norm() / whole.norm()) < 1e-5
    assert torch.isfinite(whole).all()


def lower_bounds():
    for id in IDS:
        for option in options_of(type(az.make(id)).Config):
            bound = re.match(r"(>=?) (-?[\d.e-]+)", option.range or "")
            if bound:
                low = float(bound[2]) - (1 if bound[1] == ">=" else 0)
                yield pytest.param(id, option, low, id=f"{id}-{option.name}")


@pytest.mark.parametrize(("id", "option", "low"), list(lower_bounds()))
def test_an_option_below_its_bound_is_refused_by_name_and_value(id, option, low):
    value = int(low) if option.type.startswith("int") else low
    with pytest.raises(az.ConfigError, match=f"{id}: option '{option.name}' is {value}"):
        az.make(id, **{option.name: value})


@pytest.mark.parametrize("id", IDS)
def test_what_another_kind_of_run_is_given_is_refused_with_a_remedy(id, policy, tmp_path):
    algorithm = make_algorithm(id)
    needs_prompts = algorithm.needs.source == "rollouts"
    data = DATA["demonstrations"] if needs_prompts else DATA["rollouts"]
    wanted = "prompts|reward" if needs_prompts else "data"
    with pytest.raises(az.ConfigError, match=wanted):
        az.Trainer(policy=str(policy), algorithm=algorithm, out=tmp_path / "run", **data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("id", IDS)
def test_every_metric_is_explained(id, runs):
    entry = next(entry for entry in az.registry().algorithms if entry.id == id)
    page = entry.spec.target.partition(":")[0].rpartition(".")[2]
    texts = [
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in (f"algorithms/{page}.md", "runs.md")
    ]
    reported = {name for line in metrics_of(runs(id) / "whole") for name in line}
    unexplained = {
        name
        for name in reported
        if not any(
            f"`{name.removeprefix('eval_')}`" in text or f"`{name}`" in text for text in texts
        )
    }
    assert not unexplained


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.name
)
def test_a_plugin_reads_top_to_bottom_in_one_short_file(path):
    text = path.read_text(encoding="utf-8")
    limits = {"reinforce.py": 80, "ppo.py": 150}
    limit = limits.get(path.name, 250) if "def alignzoo_algorithms" in text else 400
    assert len(text.splitlines()) <= limit
