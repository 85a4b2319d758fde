"""What holds for every algorithm of the zoo, whatever it computes: the conformance kit, and docs.

What the kit checks is in `alignzoo.testing.algorithms`; other people's plugins go through the same
door.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from trainer.runs import DEMONSTRATIONS, TEXTS, count_vowels, make_policy

import alignzoo as az
from alignzoo.cli.fields import options_of
from alignzoo.testing import algorithm_checks
from alignzoo.testing.algorithms import make_subject
from alignzoo.testing.algorithms.runs import Runs, lines_of

ROOT = Path(__file__).parents[2]
ENTRIES = {
    entry.id: entry for entry in az.registry().algorithms if entry.plugin.distribution == "alignzoo"
}
IDS = sorted(ENTRIES)
# What makes a few short updates pass through every part of an update.
OPTIONS: dict[str, dict[str, object]] = {
    "ppg": {"policy_phases": 2},
    "dqn": {"target_sync": 2},
    "ddqn": {"target_sync": 2},
}


def cases():
    """Yields every check of every algorithm; a module that several share is imported once."""
    imported = set()
    for id in IDS:
        module = ENTRIES[id].plugin.module
        for case in algorithm_checks(id, options=OPTIONS.get(id)):
            if case.id == "the_import_is_light" and module in imported:
                continue
            yield pytest.param(*case.values, id=f"{id}-{case.id}", marks=case.marks)
        imported.add(module)


@pytest.mark.parametrize("check", list(cases()))
def test_conformance(check):
    check()


@pytest.mark.parametrize("id", IDS)
def test_the_gradient_does_not_depend_on_how_a_minibatch_is_split(id):
    # correctness.md #11, and #3: the pieces are padded to other widths. The kit allows more.
    found = []
    for size in (None, 2):
        scene = make_subject(ENTRIES[id], OPTIONS.get(id)).scene(micro_batch_size=size)
        scene.play(updates=1)
        found.append(scene.learner.gradient_vector(scene.learner.gradients[0]))
    whole, split = found
    assert float(whole.norm()) > 0
    assert float((whole - split).norm() / whole.norm()) < 1e-5


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


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("id", IDS)
def test_what_another_kind_of_run_is_given_is_refused_with_a_remedy(id, policy, tmp_path):
    algorithm = az.make(id)
    samples = algorithm.needs.source == "rollouts"
    data = {"data": DEMONSTRATIONS} if samples else {"prompts": TEXTS, "reward": count_vowels}
    wanted = "prompts|reward" if samples else "data"
    with pytest.raises(az.ConfigError, match=wanted):
        az.Trainer(policy=str(policy), algorithm=algorithm, out=tmp_path / "run", **data)
    assert not (tmp_path / "run").exists()


def page_text(*names):
    return "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in names)


@pytest.mark.parametrize("id", IDS)
def test_every_metric_is_explained(id):
    page = ENTRIES[id].spec.target.partition(":")[0].rpartition(".")[2]
    text = page_text(f"algorithms/{page}.md", "runs.md")
    metrics = make_subject(ENTRIES[id], OPTIONS.get(id)).scene().play()
    assert not {name for found in metrics for name in found if f"`{name}`" not in text}


@pytest.mark.parametrize("id", ["ppo", "dpo"])
def test_every_metric_of_a_run_is_explained(id):
    text = page_text(f"algorithms/{id}.md", "runs.md")
    runs = Runs(make_subject(ENTRIES[id]))  # its folder goes when it goes
    names = {name for line in lines_of(runs.part) for name in line}
    assert {"grad_norm", "tokens"} < names
    assert not {
        name
        for name in names
        if f"`{name.removeprefix('eval_')}`" not in text and f"`{name}`" not in text
    }


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.name
)
def test_a_plugin_reads_top_to_bottom_in_one_short_file(path):
    text = path.read_text(encoding="utf-8")
    limits = {"reinforce.py": 80, "ppo.py": 150}
    limit = limits.get(path.name, 250) if "def alignzoo_algorithms" in text else 400
    assert len(text.splitlines()) <= limit
