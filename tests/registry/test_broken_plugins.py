"""The host lives through every way a plugin can be broken, and names the culprit."""

from __future__ import annotations

import json

import pytest
from fixture_plugins import reward_plugin, run_alignzoo, write_distribution

BROKEN = {
    "import error": ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
    "syntax error": ("def broken(:", "SyntaxError"),
    "system exit": ("raise SystemExit(3)", "SystemExit(3)"),
    "base exception": (
        "class Odd(BaseException): pass\nraise Odd('strange')",
        "Odd: strange",
    ),
    "wrong signature": (
        "import alignzoo as az\n@az.hookimpl\ndef alignzoo_rewards(config): return []",
        "hook alignzoo_rewards asks for an argument 'config'",
    ),
    "misspelled hook": (
        "import alignzoo as az\n@az.hookimpl\ndef alignzoo_reward(): return []",
        "no hook 'alignzoo_reward'. Did you mean 'alignzoo_rewards'?",
    ),
    "forgotten decorator": (
        "def alignzoo_rewards(): return []",
        "function alignzoo_rewards lacks the decorator @alignzoo.hookimpl",
    ),
    "no hook": ("answer = 42", "implements no hook"),
    "wrapper": (
        "import alignzoo as az\n@az.hookimpl(wrapper=True)\ndef alignzoo_rewards(): yield",
        "is a wrapper",
    ),
    "other API": (
        "ALIGNZOO_PLUGIN_API = 7\n" + reward_plugin("bad"),
        "written for plugin API 7, and this alignzoo has plugin API 1",
    ),
    "API that is no number": (
        "ALIGNZOO_PLUGIN_API = 'two'\n" + reward_plugin("bad"),
        "written for plugin API 'two'",
    ),
    "hook raises": (reward_plugin("bad", inside="raise KeyError('lost')"), "KeyError: 'lost'"),
    "hook exits": (reward_plugin("bad", inside="raise SystemExit"), "SystemExit"),
    "hook returns nothing": (
        reward_plugin("bad", inside="return None"),
        "alignzoo_rewards returned NoneType; expected a list of RewardSpec",
    ),
    "hook returns a wrong record": (
        reward_plugin("bad", inside="return ['bad']"),
        "returned a list with 'bad'; expected RewardSpec",
    ),
    "invalid id": (reward_plugin("two words"), "id 'two words' may hold letters"),
    "invalid target": (
        reward_plugin("bad", target="nowhere"),
        "target 'nowhere'; expected 'package.module:Name'",
    ),
    "own command": (
        "import alignzoo as az\n@az.hookimpl\ndef alignzoo_commands():\n"
        "    return [az.CommandSpec(name='train', target='a:b', summary='mine')]",
        "command 'train' is alignzoo's own",
    ),
}


@pytest.mark.parametrize("failure", BROKEN)
def test_the_host_lives_through_a_broken_plugin_and_names_it(failure, tmp_path):
    source, needle = BROKEN[failure]
    write_distribution(tmp_path, "broken-dist", {"broken_module": source})
    write_distribution(tmp_path, "good-dist", {"good_module": reward_plugin("good")})
    done = run_alignzoo("-p", "no:alignzoo", "list", "--json", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry["id"] for entry in json.loads(done.stdout)["rewards"]] == ["good"]
    warnings = done.stderr.splitlines()
    assert len(warnings) == 1
    assert "plugin 'broken_module' of broken-dist 1.5 was not loaded" in warnings[0]
    assert needle in warnings[0]


def test_every_broken_plugin_at_once_is_listed_by_check(tmp_path):
    for number, (source, _) in enumerate(BROKEN.values()):
        write_distribution(tmp_path, f"broken-{number}", {f"broken_{number}": source})
    write_distribution(tmp_path, "good-dist", {"good_module": reward_plugin("good")})
    done = run_alignzoo("-p", "no:alignzoo", "plugins", "--check", "--json", path=tmp_path)
    assert done.returncode == 1
    records = {record["name"]: record for record in json.loads(done.stdout)["plugins"]}
    assert records["good_module"]["state"] == "loaded"
    for number, (_, needle) in enumerate(BROKEN.values()):
        record = records[f"broken_{number}"]
        assert record["state"] == "failed"
        assert needle in record["error"]
        assert record["import_seconds"] >= 0
        assert record["traceback"].startswith("Traceback")


def test_a_slow_import_shows_its_seconds(tmp_path):
    slow = reward_plugin("slow", before="import time\ntime.sleep(0.3)")
    write_distribution(tmp_path, "slow-dist", {"slow_module": slow})
    write_distribution(tmp_path, "good-dist", {"good_module": reward_plugin("good")})
    done = run_alignzoo("-p", "no:alignzoo", "plugins", "--check", "--json", path=tmp_path)
    seconds = {r["name"]: r["import_seconds"] for r in json.loads(done.stdout)["plugins"]}
    assert seconds["slow_module"] >= 0.3
    assert seconds["good_module"] < 0.3


def test_what_a_plugin_prints_goes_to_standard_error(tmp_path):
    noisy = reward_plugin(
        "noisy",
        before="import os\nprint('from print')\nos.system('echo from a subprocess')",
        inside="print('from the hook')",
    )
    write_distribution(tmp_path, "noisy-dist", {"noisy_module": noisy})
    done = run_alignzoo("-p", "no:alignzoo", "list", "--json", path=tmp_path)
    assert json.loads(done.stdout)["rewards"][0]["id"] == "noisy"
    for text in ("from print", "from a subprocess", "from the hook"):
        assert text in done.stderr


def test_a_broken_plugin_of_our_own_is_an_error(tmp_path):
    write_distribution(tmp_path, "alignzoo", {"own_module": "1 / 0"}, version="9")
    done = run_alignzoo("list", path=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: plugin 'own_module' of alignzoo 9 was not loaded: "
        "ZeroDivisionError: division by zero"
    ]


def test_debug_shows_where_a_target_failed(tmp_path):
    source = reward_plugin("lost", target="no_such_module_at_all:Reward")
    write_distribution(tmp_path, "lost-dist", {"lost_module": source})
    plain = run_alignzoo("-p", "no:alignzoo", "info", "lost", path=tmp_path)
    assert plain.returncode == 1
    assert len(plain.stderr.splitlines()) == 1
    assert "reward 'lost' (plugin 'lost_module' of lost-dist 1.5)" in plain.stderr
    assert "No module named 'no_such_module_at_all'" in plain.stderr
    debug = run_alignzoo("-p", "no:alignzoo", "info", "lost", "--debug", path=tmp_path)
    assert "Traceback" in debug.stderr
