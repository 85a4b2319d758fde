"""Which plugins are found, in which order, and which are held back."""

from __future__ import annotations

import pytest
from fixture_plugins import reward_plugin, run_alignzoo, write_distribution

from alignzoo.errors import ConfigError, PluginError
from alignzoo.plugin_loader import discover, parse_selection
from alignzoo.plugin_registry import load_registry

OTHERS = ("no:alignzoo",)


def found(*selection):
    return discover(parse_selection(selection))


def write_three(folder):
    write_distribution(folder, "zebra", {"zebra_plugin": reward_plugin("zebra")})
    modules = {"beta_two": reward_plugin("two"), "beta_one": reward_plugin("one")}
    write_distribution(folder, "Beta_Dist", modules)


def test_ours_come_first_then_distribution_then_name(installed):
    write_three(installed)
    plugins = found()
    owners = [plugin.distribution for plugin in plugins]
    assert owners == ["alignzoo"] * owners.count("alignzoo") + ["Beta_Dist", "Beta_Dist", "zebra"]
    assert [p.name for p in plugins[-3:]] == ["beta_one", "beta_two", "zebra_plugin"]


def test_discovery_imports_nothing(installed):
    write_distribution(installed, "bomb", {"bomb_plugin": "raise SystemExit"})
    assert found(*OTHERS)[-1].state == "found"


@pytest.mark.parametrize("name", ["beta_one", "beta-dist", "Beta_Dist"])
def test_no_leaves_out_a_plugin_or_a_distribution(installed, name):
    write_three(installed)
    states = {plugin.name: plugin.state for plugin in found(f"no:{name}")}
    assert states["beta_one"] == "blocked"
    assert states["beta_two"] == ("found" if name == "beta_one" else "blocked")
    assert states["zebra_plugin"] == "found"


def test_no_with_an_unknown_name_says_what_was_meant(installed):
    write_three(installed)
    with pytest.raises(ConfigError, match=r"'zebro'\. Did you mean 'zebra'\?"):
        found("no:zebro")


@pytest.mark.parametrize("text", ["no:", "two words", "a-b", "path/to.py", ""])
def test_a_selection_that_means_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="no:NAME"):
        parse_selection([text])


def test_a_module_is_loaded_by_name(installed):
    (installed / "loose_plugin.py").write_text(reward_plugin("loose"))
    assert load_registry(OTHERS).rewards == ()
    entry = load_registry([*OTHERS, "loose_plugin"]).rewards[0]
    assert (entry.id, entry.plugin.label) == ("loose", "plugin 'loose_plugin'")


def test_a_module_asked_for_that_fails_is_an_error(installed):
    (installed / "loose_plugin.py").write_text("1 / 0")
    with pytest.raises(PluginError, match=r"loose_plugin.*ZeroDivisionError") as caught:
        load_registry([*OTHERS, "loose_plugin"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [("zebra", ["zebra"]), ("beta.dist, zebra", ["one", "two", "zebra"]), ("", []), (" , ", [])],
)
def test_the_variable_allows_third_party_distributions(installed, monkeypatch, allowed, expected):
    write_three(installed)
    monkeypatch.setenv("ALIGNZOO_PLUGINS", allowed)
    assert [entry.id for entry in load_registry(OTHERS).rewards] == expected
    ours = [p.state for p in discover(parse_selection([])) if p.first_party]
    assert set(ours) == {"found"}


def test_a_plugin_asked_for_by_name_is_loaded_though_not_on_the_allow_list(installed, monkeypatch):
    write_three(installed)
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "")
    loaded = load_registry([*OTHERS, "beta_one"])
    assert [entry.id for entry in loaded.rewards] == ["one"]


def test_the_working_directory_adds_no_plugin(tmp_path):
    write_distribution(tmp_path, "planted", {"planted_plugin": reward_plugin("planted")})
    done = run_alignzoo("plugins", cwd=tmp_path)
    assert done.returncode == 0
    assert "planted" not in done.stdout
    chosen = run_alignzoo("plugins", cwd=tmp_path, path=tmp_path)
    assert "planted" in chosen.stdout


def test_of_two_copies_the_first_on_the_path_counts(installed, monkeypatch):
    write_distribution(installed / "old", "twice", {"old_plugin": reward_plugin("old")})
    new = installed / "new"
    write_distribution(new, "twice", {"new_plugin": reward_plugin("new")}, version="2.0")
    monkeypatch.syspath_prepend(str(installed / "old"))
    monkeypatch.syspath_prepend(str(new))
    assert [(p.name, p.version) for p in found(*OTHERS) if p.distribution == "twice"] == [
        ("new_plugin", "2.0")
    ]


def test_two_plugins_of_one_name_are_both_loaded(installed):
    for distribution in ("left", "right"):
        module = f"{distribution}_plugin"
        modules = {module: reward_plugin(distribution)}
        write_distribution(installed, distribution, modules, plugins={"same": module})
    assert [entry.id for entry in load_registry(OTHERS).rewards] == ["left", "right"]


def test_a_module_that_two_entry_points_name_is_loaded_once(installed):
    modules = {"shared_plugin": reward_plugin("shared")}
    points = {"first": "shared_plugin", "second": "shared_plugin"}
    write_distribution(installed, "shared", modules, plugins=points)
    loaded = load_registry(OTHERS)
    assert len(loaded.rewards) == 1
    assert "loaded already" in loaded.plugins[-1].error


def test_an_entry_point_that_names_an_object_is_refused(installed):
    modules = {"object_plugin": reward_plugin("object")}
    write_distribution(installed, "obj", modules, plugins={"obj": "object_plugin:Reward"})
    assert "expected a module" in load_registry(OTHERS).plugins[-1].error


def test_a_plugin_that_asks_for_the_registry_while_it_loads_is_refused(installed):
    source = reward_plugin("eager", before="az.registry()")
    write_distribution(installed, "eager", {"eager_plugin": source})
    from alignzoo import registry

    error = registry().plugins[-1].error
    assert "used the registry while plugins were being imported" in error


def test_a_failed_plugin_leaves_no_hook_behind(installed):
    source = reward_plugin("half") + (
        "\n@az.hookimpl\ndef alignzoo_tasks():\n    raise ValueError('half way')\n"
        "@az.hookimpl\ndef alignzoo_on_update(step, metrics):\n    raise ValueError('left over')\n"
    )
    write_distribution(installed, "half", {"half_plugin": source})
    loaded = load_registry(OTHERS)
    assert loaded.plugins[-1].state == "failed"
    assert loaded.rewards == ()
    assert loaded.on_update(1, {}) is False


def test_an_unreadable_list_of_entry_points_hides_no_other(installed):
    write_distribution(installed, "torn-dist", {})
    torn = installed / "torn_dist-1.5.dist-info" / "entry_points.txt"
    torn.write_bytes(b"[alignzoo]\nno equals sign here\n\xff\xfe")
    write_distribution(installed, "good-dist", {"good_plugin": reward_plugin("good")})
    assert [entry.id for entry in load_registry(OTHERS).rewards] == ["good"]
