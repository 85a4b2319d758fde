"""From an id to an object: duplicates, contracts, options, and whose failure it is."""

from __future__ import annotations

import pytest
from fixture_plugins import reward_plugin, write_distribution

import alignzoo as az
from alignzoo import plugin_registry
from alignzoo.plugin_checks import run_flags
from alignzoo.run_options import RunOptions

ALGORITHM = """
from pydantic import Field
import alignzoo as az

class Config(az.AlgorithmConfig):
    clip_range: float = Field(0.2, gt=0, description="how far the ratio is followed")
{fields}

class Toy(az.Algorithm):
    Config = Config
{body}

@az.hookimpl
def alignzoo_algorithms():
    return [az.AlgorithmSpec(id="toy", target={target!r}, summary="a toy")]
"""


def write_algorithm(folder, *, fields="", body="    pass", target="toy_plugin:Toy"):
    source = ALGORITHM.format(fields=fields, body=body, target=target)
    write_distribution(folder, "toy-dist", {"toy_plugin": source})


def test_make_returns_the_algorithm_with_its_options(installed):
    write_algorithm(installed)
    toy = az.make("toy", clip_range=0.1)
    assert isinstance(toy, az.Algorithm)
    assert toy.config.clip_range == 0.1
    assert toy.config.learning_rate == 1e-5


def test_make_reward_returns_the_reward(installed):
    write_distribution(installed, "good-dist", {"good_plugin": reward_plugin("good")})
    assert az.make_reward("good").score(["p"], ["four"]) == [4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_rnage": 1}, r"^toy has no option 'clip_rnage'\. Did you mean 'clip_range'\?$"),
        ({"zzz": 1}, r"^toy has no option 'zzz'\. Its options: .*clip_range, decay_steps,"),
        ({"clip_range": -1}, r"^toy: option 'clip_range' is -1; it should be greater than 0"),
        ({"clip_range": "x"}, r"^toy: option 'clip_range' is 'x'; it should be a valid number$"),
        ({"clip_range": float("nan")}, r"option 'clip_range' is nan; it should be a finite number"),
        ({"schedule": "cos"}, r"is 'cos'; it should be 'constant', 'linear' or 'cosine'"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(installed, options, message):
    write_algorithm(installed)
    with pytest.raises(az.ConfigError, match=message):
        az.make("toy", **options)


def test_a_missing_option_says_what_it_is_for(installed):
    field = '    teacher: str = Field(..., description="folder of the teacher")'
    write_algorithm(installed, fields=field)
    with pytest.raises(az.ConfigError, match="option 'teacher' is needed: folder of the teacher"):
        az.make("toy")


def test_an_unknown_id_is_answered_with_the_closest_and_all(installed):
    write_algorithm(installed)
    message = r"no algorithm is called 'toyy'\. Did you mean 'toy'\? Known algorithms: toy\."
    with pytest.raises(az.ConfigError, match=message):
        az.make("toyy")


def test_an_id_of_another_kind_is_said_to_be_one(installed):
    write_distribution(installed, "good-dist", {"good_plugin": reward_plugin("good")})
    with pytest.raises(az.ConfigError, match="'good' is a reward"):
        az.make("good")


def test_an_unknown_id_mentions_plugins_that_did_not_load(installed):
    write_distribution(installed, "lost-dist", {"lost_plugin": "import no_such_module"})
    with pytest.raises(az.ConfigError, match=r"Not loaded: plugin .* of lost-dist 1\.5"):
        az.make("lost")


def test_two_owners_of_an_id_are_an_error_only_where_it_is_asked_for(installed):
    for name in ("left", "right"):
        write_distribution(installed, f"{name}-dist", {f"{name}_plugin": reward_plugin("twin")})
    assert [entry.id for entry in az.registry().rewards] == ["twin", "twin"]
    with pytest.raises(az.ConfigError) as caught:
        az.make_reward("twin")
    for text in ("left-dist 1.5", "right-dist 1.5", "'left-dist:twin'", "'right-dist:twin'"):
        assert text in str(caught.value)
    assert type(az.make_reward("right-dist:twin")).__module__ == "right_plugin"
    assert az.registry().owner("left_dist:twin").name == "left_plugin"
    with pytest.raises(az.ConfigError, match="no reward is called 'twin' from 'middle'"):
        az.make_reward("middle:twin")


def test_two_owners_in_one_distribution_are_told_apart_by_plugin(installed):
    modules = {"one_plugin": reward_plugin("twin"), "two_plugin": reward_plugin("twin")}
    write_distribution(installed, "double", modules)
    with pytest.raises(az.ConfigError, match="'one_plugin:twin' or 'two_plugin:twin'"):
        az.make_reward("twin")
    assert type(az.make_reward("two_plugin:twin")).__module__ == "two_plugin"


@pytest.mark.parametrize(
    ("target", "needle"),
    [
        ("no_such_module:Toy", "No module named 'no_such_module'"),
        ("toy_plugin:Toi", "'toy_plugin' has no 'Toi'. Did you mean 'Toy'?"),
        ("toy_plugin:Config", "is no subclass of alignzoo.Algorithm"),
        ("toy_plugin:alignzoo_algorithms", "is no subclass of alignzoo.Algorithm"),
    ],
)
def test_a_target_that_is_no_algorithm_is_a_plugin_error(installed, target, needle):
    write_algorithm(installed, target=target)
    with pytest.raises(az.PluginError) as caught:
        az.make("toy")
    assert "algorithm 'toy' (plugin 'toy_plugin' of toy-dist 1.5)" in str(caught.value)
    assert needle in str(caught.value)


def test_a_target_that_exits_at_import_is_a_plugin_error(installed, capfd):
    (installed / "heavy_part.py").write_text("print('loading')\nraise SystemExit(4)")
    write_algorithm(installed, target="heavy_part:Toy")
    with pytest.raises(az.PluginError, match=r"toy-dist 1\.5.*SystemExit\(4\)") as caught:
        az.make("toy")
    assert isinstance(caught.value.__cause__, SystemExit)
    assert capfd.readouterr().out == ""


def test_a_constructor_that_raises_is_a_plugin_error(installed):
    write_algorithm(installed, body="    def __init__(self, config): raise KeyError('gone')")
    with pytest.raises(az.PluginError, match=r"toy-dist 1\.5.* failed .*KeyError") as caught:
        az.make("toy")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_constructor_may_refuse_a_configuration(installed):
    body = "    def __init__(self, config): raise az.ConfigError('not with that')"
    write_algorithm(installed, body=body)
    with pytest.raises(az.ConfigError, match=r"^not with that$"):
        az.make("toy")


def test_a_validator_may_refuse_a_configuration(installed):
    fields = (
        "    def model_post_init(self, context):\n"
        "        if self.clip_range > 5: raise ValueError('clip_range must not exceed 5')"
    )
    write_algorithm(installed, fields=fields)
    with pytest.raises(az.ConfigError, match="toy: clip_range must not exceed 5"):
        az.make("toy", clip_range=6)


@pytest.mark.parametrize("name", ["batch_size", "seed", "policy", "resume", "config", "help"])
def test_an_option_with_the_name_of_a_flag_of_the_run_is_refused(installed, name):
    write_algorithm(installed, fields=f'    {name}: int = Field(1, description="mine")')
    flag = name.replace("_", "-")
    with pytest.raises(az.PluginError, match=f"toy-dist.*option '{name}'.*flag --{flag}"):
        az.make("toy")


def test_every_flag_of_the_run_is_reserved():
    assert set(RunOptions.model_fields) < run_flags()


def test_an_option_without_documentation_is_refused(installed):
    write_algorithm(installed, fields="    secret: int = 1")
    with pytest.raises(az.PluginError, match="option 'secret' has no documentation"):
        az.make("toy")


def test_a_config_of_another_family_is_refused(installed):
    write_algorithm(installed, body="    Config = dict")
    with pytest.raises(az.PluginError, match=r"Config is no subclass of alignzoo\.AlgorithmConfig"):
        az.make("toy")


def test_the_weight_of_a_reward_is_not_its_own_option(installed):
    source = reward_plugin("heavy") + (
        "\nfrom pydantic import Field\n"
        "class Config(az.RewardConfig):\n"
        '    weight: float = Field(1.0, description="mine")\n'
        "Reward.Config = Config\n"
    )
    write_distribution(installed, "heavy-dist", {"heavy_plugin": source})
    with pytest.raises(az.PluginError, match=r"option 'weight' has the name of .* key 'weight'"):
        az.make_reward("heavy")


OBSERVER = """
import alignzoo as az
seen = []

@az.hookimpl
def alignzoo_on_update({arguments}):
    {body}
"""


def test_observers_see_every_update_and_may_end_the_run(installed):
    first = OBSERVER.format(arguments="step, metrics", body="seen.append((step, dict(metrics)))")
    second = OBSERVER.format(arguments="metrics", body="return metrics['kl'] > 1")
    write_distribution(installed, "watch", {"watch_one": first, "watch_two": second})
    assert az.registry().on_update(1, {"kl": 0.5}) is False
    assert az.registry().on_update(2, {"kl": 1.5}) is True
    import watch_one

    assert watch_one.seen == [(1, {"kl": 0.5}), (2, {"kl": 1.5})]


def test_an_observer_that_raises_is_named(installed):
    source = OBSERVER.format(arguments="metrics", body="return metrics['absent']")
    write_distribution(installed, "watch", {"watch_plugin": source})
    message = "plugin 'watch_plugin' of watch 1.5 failed in alignzoo_on_update at step 3: KeyError"
    with pytest.raises(az.PluginError, match=message) as caught:
        az.registry().on_update(3, {})
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_observer_cannot_change_the_metrics(installed):
    source = OBSERVER.format(arguments="metrics", body="metrics['kl'] = 0")
    write_distribution(installed, "watch", {"watch_plugin": source})
    with pytest.raises(az.PluginError, match="TypeError"):
        az.registry().on_update(1, {"kl": 1.0})


def test_an_error_is_blamed_on_the_plugin_it_arose_in(installed):
    write_algorithm(installed, body="    def prepare(self, batch): return batch['absent']")
    toy = az.make("toy")
    with pytest.raises(KeyError) as inside:
        toy.prepare({})
    blamed = plugin_registry.blame(inside.value)
    assert str(blamed) == "plugin 'toy_plugin' of toy-dist 1.5 failed: KeyError: 'absent'"
    assert blamed.__cause__ is inside.value
    with pytest.raises(KeyError) as outside:
        {}["absent"]
    assert plugin_registry.blame(outside.value) is None


def test_the_registry_is_loaded_once(installed):
    write_algorithm(installed)
    assert az.registry() is az.registry()
    assert az.registry().algorithm("toy") is az.registry().algorithm("toy")
