"""The host lives through every way a plugin can be broken, and names the culprit."""

from __future__ import annotations

import json

import pytest
from fixture_plugins import reward_plugin, run_alignzoo, write_distribution

from alignzoo import cli, plugin_registry

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
    "missing dependency": (
        "from a_package_of_theirs.scores import readability\n" + reward_plugin("bad"),
        "No module named 'a_package_of_theirs'",
    ),
    "garbage record": (
        reward_plugin("bad", inside="return [az.RewardSpec(id=7, target=None, summary=b'')]"),
        "id 7 may hold letters",
    ),
    "record of another kind": (
        reward_plugin("bad", inside="return [az.TaskSpec(id='bad', target='a:b', summary='x')]"),
        "returned a list with TaskSpec(id='bad'",
    ),
    "one id twice": (
        reward_plugin("bad", inside="return [az.RewardSpec('bad', 'a:B', 'x')] * 2"),
        "returned 'bad' twice",
    ),
    "recursion": (
        "import alignzoo as az\n@az.hookimpl\ndef alignzoo_rewards(): return alignzoo_rewards()",
        "RecursionError",
    ),
    "own command": (
        "import alignzoo as az\n@az.hookimpl\ndef alignzoo_commands():\n"
        "    return [az.CommandSpec(name='train', target='a:b', summary='mine')]",
        "command 'train' is alignzoo's own",
    ),
}


@pytest.mark.parametrize("failure", BROKEN)
def test_the_host_lives_through_a_broken_plugin_and_names_it(failure, installed, capsys, caplog):
    source, needle = BROKEN[failure]
    write_distribution(installed, "broken-dist", {"broken_module": source})
    write_distribution(installed, "good-dist", {"good_module": reward_plugin("good")})
    assert cli.main(["list", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)["rewards"]] == ["good"]
    (warning,) = caplog.messages
    assert "plugin 'broken_module' of broken-dist 1.5 was not loaded" in warning
    assert needle in warning


def test_each_broken_plugin_is_one_line_of_warning_beside_json(tmp_path):
    for number, (source, _) in enumerate(BROKEN.values()):
        write_distribution(tmp_path, f"broken-{number}", {f"broken_{number}": source})
    write_distribution(tmp_path, "good-dist", {"good_module": reward_plugin("good")})
    done = run_alignzoo("-p", "no:alignzoo", "list", "--json", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry["id"] for entry in json.loads(done.stdout)["rewards"]] == ["good"]
    assert len(done.stderr.splitlines()) == len(BROKEN)


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


def test_score_and_info_work_beside_every_broken_plugin(installed, capsys, tmp_path):
    for number, (source, _) in enumerate(BROKEN.values()):
        write_distribution(installed, f"broken-{number}", {f"broken_{number}": source})
    write_distribution(installed, "good-dist", {"good_module": reward_plugin("good")})
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Say it.", "completion": "four"}\n')
    out = tmp_path / "scores.jsonl"
    words = ["score", "--reward", "good", "--data", str(data), "--out", str(out)]
    assert cli.main(words) == 0
    assert json.loads(out.read_text())["score"] == 4.0
    assert cli.main(["info", "good", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["id"] == "good"


@pytest.mark.slow
def test_train_works_beside_every_broken_plugin(tmp_path):
    for number, (source, _) in enumerate(BROKEN.values()):
        write_distribution(tmp_path, f"broken-{number}", {f"broken_{number}": source})
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say it."}\n')
    done = run_alignzoo(
        *("train", "reinforce", "--policy", "tiny", "--reward", "length", "--steps", "1"),
        *("--prompts", str(prompts), "--batch-size", "2", "--max-new-tokens", "4"),
        *("--out", str(tmp_path / "run")),
        path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 updates")
    assert done.stderr.count("was not loaded") == len(BROKEN)


@pytest.mark.parametrize("failure", BROKEN)
def test_check_fails_a_broken_plugin_by_name_and_without_a_traceback(failure, installed, capsys):
    source, needle = BROKEN[failure]
    write_distribution(installed, "broken-dist", {"broken_module": source})
    assert cli.main(["check", "broken_module"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "broken_module: not loaded, of plugin 'broken_module' of broken-dist 1.5"
    )
    assert "FAILED the_plugin_loads" in printed.out
    assert needle in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_check_finds_the_broken_plugin_by_the_id_it_would_provide(installed, capsys):
    source = reward_plugin("readability", before="import a_package_of_theirs")
    write_distribution(installed, "other-dist", {"other_module": "1 / 0"})
    write_distribution(installed, "broken-dist", {"broken_module": source})
    assert cli.main(["check", "readability", "--any-option", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["owner"] == "plugin 'broken_module' of broken-dist 1.5"
    assert [check["name"] for check in found["checks"]] == ["the_plugin_loads"]
    assert "No module named 'a_package_of_theirs'" in found["checks"][0]["message"]


IN_USE = {
    "a target that does not exist": (
        {"target": "loaded_module:Rewrad"},
        "the_class_loads",
        "'loaded_module' has no 'Rewrad'. Did you mean 'Reward'?",
    ),
    "a module that does not exist": (
        {"target": "no_such_module_at_all:Reward"},
        "the_class_loads",
        "No module named 'no_such_module_at_all'",
    ),
    "a target that exits": (
        {"target": "exiting_module:Reward"},
        "the_class_loads",
        "SystemExit(3): it tried to end the program",
    ),
    "an option named like a flag of the run": (
        {
            "before": "from pydantic import Field\nclass Config(az.RewardConfig):\n"
            "    out: str = Field('x', description='a flag of train-reward')",
            "body": "Config = Config",
        },
        "the_class_loads",
        "its option 'out' has the name of the command line's own flag --out; rename it",
    ),
    "a constructor that raises": (
        {"body": "def __init__(self, config): raise OSError('no model at /nowhere')"},
        "one_number_per_response",
        "OSError: no model at /nowhere (",
    ),
    "a constructor that exits": (
        {"body": "def __init__(self, config): raise SystemExit"},
        "one_number_per_response",
        "SystemExit(): it tried to end the program (",
    ),
    "score raises": (
        {"score": "raise KeyError('lost')"},
        "one_number_per_response",
        "KeyError: 'lost' (",
    ),
    "score exits": (
        {"score": "raise SystemExit(3)"},
        "one_number_per_response",
        "SystemExit(3): it tried to end the program (",
    ),
    "score returns garbage": (
        {"score": "return 'high'"},
        "one_number_per_response",
        "score returned 'high' (str)",
    ),
    "it prints at import": (
        {"before": "print('hello')"},
        "the_import_is_light",
        "importing loaded_module prints 'hello'",
    ),
}


def write_in_use(folder, failure):
    """Installs a plugin that loads, and is broken in use."""
    changes = dict(IN_USE[failure][0])
    body, score = changes.pop("body", ""), changes.pop("score", "")
    source = reward_plugin("bad", **changes)
    source = source.replace("(az.RewardModel):\n", f"(az.RewardModel):\n    {body or 'pass'}\n")
    source = source.replace(
        "        return [float", f"        {score or 'pass'}\n        return [float"
    )
    write_distribution(folder, "broken-dist", {"loaded_module": source})
    (folder / "exiting_module.py").write_text("raise SystemExit(3)")


@pytest.mark.parametrize("failure", IN_USE)
def test_check_names_what_is_broken_in_use(failure, installed, capsys):
    write_in_use(installed, failure)
    _, name, needle = IN_USE[failure]
    only = [] if name == "the_class_loads" else ["--only", name]
    assert cli.main(["check", "bad", *only, "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["distribution"], found["version"]) == ("broken-dist", "1.5")
    failed = [check for check in found["checks"] if check["state"] == "failed"]
    assert [check["name"] for check in failed] == [name]
    assert needle in failed[0]["message"]
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("failure", [name for name in IN_USE if "import" not in name])
def test_score_names_the_plugin_that_is_broken_in_use(failure, installed, capsys, tmp_path):
    write_in_use(installed, failure)
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Say it.", "completion": "four"}\n')
    out = tmp_path / "scores.jsonl"
    words = ["score", "--reward", "bad", "--data", str(data), "--out", str(out)]
    assert cli.main(words) in (1, 2)
    printed = capsys.readouterr()
    assert printed.err.startswith("error: reward 'bad' (plugin 'loaded_module' of broken-dist 1.5)")
    assert len(printed.err.splitlines()) == 1
    assert not out.exists()


def test_a_command_that_a_plugin_ends_names_the_plugin(installed, capsys):
    before = "class Ending(type):\n    @property\n    def learns_from(cls): raise SystemExit(3)"
    source = reward_plugin("ending", before=before)
    source = source.replace("(az.RewardModel)", "(az.RewardModel, metaclass=Ending)")
    write_distribution(installed, "ending-dist", {"ending_module": source})
    assert cli.main(["info", "ending"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: plugin 'ending_module' of ending-dist 1.5 failed: SystemExit")


def test_two_owners_of_one_id_are_both_named_and_each_can_be_checked(installed, capsys):
    for name in ("first", "second"):
        source = reward_plugin("twice")
        write_distribution(installed, f"{name}-dist", {f"{name}_module": source})
    write_distribution(installed, "good-dist", {"good_module": reward_plugin("good")})
    assert cli.main(["check", "twice"]) == 2
    message = capsys.readouterr().err
    assert "plugin 'first_module' of first-dist 1.5 and plugin 'second_module' of" in message
    assert "say 'first-dist:twice' or 'second-dist:twice'" in message
    assert cli.main(["check", "second-dist:twice", "--only", "the_record_is_valid"]) == 1
    assert "'twice' is provided by plugin 'first_module'" in capsys.readouterr().out
    assert cli.main(["info", "good"]) == 0


def test_an_entry_point_named_like_one_of_ours_takes_nothing_away(installed, capsys):
    write_distribution(
        installed,
        "like-ours",
        {"like_ours": reward_plugin("other")},
        plugins={"length": "like_ours"},
    )
    plugin_registry.select_plugins([])
    assert cli.main(["info", "length", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distribution"] == "alignzoo"
    assert cli.main(["info", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plugin"] == "length"


def test_an_id_of_ours_under_another_owner_must_be_qualified(installed, capsys):
    write_distribution(installed, "like-ours", {"like_ours": reward_plugin("length")})
    plugin_registry.select_plugins([])
    assert cli.main(["info", "length"]) == 2
    message = capsys.readouterr().err
    assert "plugin 'length' of alignzoo" in message
    assert "plugin 'like_ours' of like-ours 1.5" in message
    assert cli.main(["info", "alignzoo:length"]) == 0
    assert cli.main(["info", "like-ours:length"]) == 0
    capsys.readouterr()
    assert cli.main(["info", "ppo"]) == 0


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
