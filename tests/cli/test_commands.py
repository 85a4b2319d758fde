"""list, info, plugins and env: their JSON is promised, their text is for people."""

from __future__ import annotations

import json
import platform

import pytest
from fixture_plugins import reward_plugin, run_alignzoo, run_python, write_distribution

from alignzoo import cli

ALGORITHMS = {"ppo", "reinforce", "sft"}
REWARDS = {"keywords", "length"}


def printed(capsys, *arguments):
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_list_has_the_promised_keys(capsys):
    found = json.loads(printed(capsys, "list", "--json"))
    assert list(found) == ["algorithms", "rewards", "tasks"]
    assert {entry["id"] for entry in found["algorithms"]} >= ALGORITHMS
    assert {entry["id"] for entry in found["rewards"]} >= REWARDS
    for entries in found.values():
        for entry in entries:
            assert list(entry) == ["id", "revision", "summary", "paper", "distribution", "version"]


def test_list_on_no_terminal_is_plain_aligned_text(capsys):
    lines = printed(capsys, "list").splitlines()
    assert lines[0] == "algorithms"
    column = lines[1].index("revision")
    row = next(line for line in lines if line.split()[0] == "ppo")
    assert row[column] == "2"
    assert row.isascii()


def test_list_says_where_to_look_when_there_is_nothing(tmp_path):
    done = run_alignzoo("-p", "no:alignzoo", "list", path=tmp_path)
    assert done.stdout == "nothing is installed; see `alignzoo plugins --check`\n"


@pytest.mark.parametrize("id", sorted(ALGORITHMS | REWARDS))
def test_info_describes_every_option(capsys, id):
    found = json.loads(printed(capsys, "info", id, "--json"))
    assert found["id"] == id
    assert found["class"].startswith(f"alignzoo.plugins.{id}:")
    assert found["file"].endswith(f"{id}.py")
    assert (found["plugin"], found["distribution"]) == (id, "alignzoo")
    assert (found["needs"] is not None) == (id in ALGORITHMS)
    for option in found["options"]:
        assert set(option) == {
            "name", "flag", "type", "default", "required", "range", "choices", "doc"
        }  # fmt: skip
        assert option["doc"]
        assert option["flag"] == "--" + option["name"].replace("_", "-")


def test_info_shows_types_defaults_and_ranges(capsys):
    text = printed(capsys, "info", "sft")
    for part in (
        "kind      algorithm, revision",
        "owner     alignzoo ",
        "needs     demonstrations",
    ):
        assert part in text
    row = next(line for line in text.splitlines() if "--decay-steps" in line)
    for part in ("int or none", "none", "> 0", "optimiser steps over which"):
        assert part in row


@pytest.mark.parametrize(
    ("id", "kinds"), [("preference", ["preferences", "rankings"]), ("length", [])]
)
def test_info_says_what_a_reward_learns_from(id, kinds, capsys):
    assert json.loads(printed(capsys, "info", id, "--json"))["learns_from"] == kinds
    said = " or ".join(kinds) or "nothing: it is a rule"
    assert f"learns    from {said}" in printed(capsys, "info", id)


def test_info_names_the_closest_of_every_kind(capsys):
    assert cli.main(["info", "keyword"]) == 2
    assert "nothing is called 'keyword'. Did you mean 'keywords'?" in capsys.readouterr().err


def test_info_of_an_id_that_is_a_task_too_is_of_the_other_and_says_so(tmp_path):
    source = reward_plugin("both") + (
        "\n@az.hookimpl\ndef alignzoo_tasks():\n"
        "    return [az.TaskSpec(id='both', target=__name__ + ':Reward', summary='a task')]\n"
    )
    write_distribution(tmp_path, "both-dist", {"both_plugin": source})
    words = ("-p", "no:alignzoo", "info", "both", "--json")
    told = run_alignzoo(*words, path=tmp_path)
    assert json.loads(told.stdout)["kind"] == "reward"
    assert "'both' is a task too; --kind task asks for that" in told.stderr


def test_info_of_an_id_of_two_kinds_asks_which(tmp_path):
    source = reward_plugin("both") + (
        "\n@az.hookimpl\ndef alignzoo_algorithms():\n"
        "    return [az.AlgorithmSpec(id='both', target=__name__ + ':Reward', summary='it')]\n"
    )
    write_distribution(tmp_path, "both-dist", {"both_plugin": source})
    asked = run_alignzoo("-p", "no:alignzoo", "info", "both", path=tmp_path)
    assert asked.returncode == 2
    assert "--kind algorithm or --kind reward" in asked.stderr


def test_plugins_shows_what_is_held_back_and_why(tmp_path):
    write_distribution(tmp_path, "bomb-dist", {"bomb_plugin": "raise SystemExit"})
    done = run_alignzoo("plugins", "--json", path=tmp_path, ALIGNZOO_PLUGINS="")
    records = {record["name"]: record for record in json.loads(done.stdout)["plugins"]}
    assert done.returncode == 0
    assert records["ppo"]["state"] == "found"
    assert records["bomb_plugin"] == {
        "name": "bomb_plugin",
        "module": "bomb_plugin",
        "distribution": "bomb-dist",
        "version": "1.5",
        "state": "blocked",
        "error": "not in ALIGNZOO_PLUGINS",
        "import_seconds": None,
        "traceback": None,
    }


def test_our_own_plugins_all_load(capsys):
    found = json.loads(printed(capsys, "plugins", "--check", "--json"))["plugins"]
    ours = [record for record in found if record["distribution"] == "alignzoo"]
    assert {record["state"] for record in ours} == {"loaded"}
    assert {record["name"] for record in ours} >= ALGORITHMS | REWARDS


def test_env_tells_versions_and_processor(capsys):
    found = json.loads(printed(capsys, "env", "--json"))
    assert found["python"] == platform.python_version()
    assert found["package"]["torch"]
    assert found["cpu"]["cores"] >= 1
    assert "error" not in found["core"]
    assert f"python         {platform.python_version()}" in printed(capsys, "env")


STARTUP = """
import sys
from alignzoo.cli import main
code = main({arguments!r})
heavy = [n for n in ("torch", "transformers", "safetensors", "rich") if n in sys.modules]
plugins = [n for n in sys.modules if n.startswith("alignzoo.plugins.")]
print(code, heavy, len(plugins), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "imports_plugins"),
    [
        (["--version"], False),
        (["env"], False),
        (["plugins"], False),
        (["--help"], True),
        (["list"], True),
        (["list", "--json"], True),
        (["plugins", "--check"], True),
    ],
)
def test_starting_up_imports_no_more_than_it_needs(arguments, imports_plugins):
    done = run_python("-c", STARTUP.format(arguments=arguments))
    code, rest = done.stderr.strip().split(" ", 1)
    heavy, count = rest.rsplit(" ", 1)
    assert (code, heavy) == ("0", "[]"), done.stderr
    assert (int(count) >= len(ALGORITHMS | REWARDS)) if imports_plugins else count == "0"


def test_the_version_is_printed_alone(capsys):
    from importlib.metadata import version

    assert printed(capsys, "--version") == f"alignzoo {version('alignzoo')}\n"


def test_info_prints_what_each_dialect_sets(capsys):
    found = json.loads(printed(capsys, "info", "grpo", "--json"))["dialects"]
    assert list(found) == ["paper", "trl", "verl", "openrlhf"]
    assert (found["verl"]["ddof"], found["verl"]["eps"]) == (1, 1e-6)
    text = printed(capsys, "info", "grpo")
    header, *rows = text.partition("dialects: what --dialect sets\n")[2].splitlines()
    assert header.split() == ["option", "paper", "trl", "verl", "openrlhf"]
    eps = next(row.split() for row in rows if row.split()[0] == "--eps")
    assert eps[1:] == ["0.0", "0.0001", "1e-06", "1e-09"]
    assert "dialects" not in json.loads(printed(capsys, "info", "ppo", "--json"))
