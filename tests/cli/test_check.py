"""alignzoo check: a line per check as it is known, failures in full, an exit code to rely on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fixture_plugins import reward_plugin, write_distribution

from alignzoo import cli, plugin_registry
from alignzoo.testing.checks import Check, make_checks
from alignzoo.testing.rewards import CHECKS

CENTRED = """
import alignzoo as az
from pydantic import Field

class Config(az.RewardConfig):
    scale: float = Field(1.0, gt=0, description="what the length is multiplied with")
    kind: str = Field("words", description="it has the name of a flag of check")

class Reward(az.RewardModel):
    Config = Config

    def score(self, prompts, responses, **columns):
        print("scoring")
        lengths = [len(response) * self.config.scale for response in responses]
        return [length - sum(lengths) / len(lengths) for length in lengths]

@az.hookimpl
def alignzoo_rewards():
    return [az.RewardSpec("centred", "centred_module:Reward", "length above the mean", revision=3)]
"""


@pytest.fixture
def centred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed reward that the batch changes."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_distribution(tmp_path, "centred-dist", {"centred_module": CENTRED})
    monkeypatch.delitem(sys.modules, "centred_module", raising=False)
    plugin_registry.select_plugins([])
    yield tmp_path
    sys.modules.pop("centred_module", None)
    plugin_registry.select_plugins([])


QUICK = ("--only", "the_class_loads", "--only", "the_batch_changes_nothing")


def test_a_reward_that_keeps_its_contract_passes(capsys):
    assert cli.main(["check", "length"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("length: reward of alignzoo ")
    assert lines[0].endswith("/plugins/length.py")
    assert "revision 1" in lines[0]
    assert [line.split()[0] for line in lines[1 : 1 + len(CHECKS)]] == [c.name for c in CHECKS]
    assert all(line.split()[1] in ("passed", "skipped") for line in lines[1 : 1 + len(CHECKS)])
    assert lines[1].split()[3] == "s"
    assert "failed" not in lines[-1]


def test_a_failure_is_shown_in_full_and_the_exit_code_is_1(centred, capsys):
    assert cli.main(["check", "centred", *QUICK]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == (
        f"centred: reward of centred-dist 1.5, revision 3, {centred / 'centred_module.py'}"
    )
    assert "the_class_loads            passed" in out
    assert "the_batch_changes_nothing  FAILED" in out
    failure = out.partition("FAILED the_batch_changes_nothing\n")[2]
    assert failure.startswith("  A response scores the same alone and in any batch.\n")
    assert "score each response by itself" in failure
    assert out.splitlines()[-1].startswith("1 passed, 1 failed in ")


def test_what_the_plugin_prints_is_not_among_the_results(centred, capfd):
    assert cli.main(["check", "centred", *QUICK, "--json"]) == 1
    printed = capfd.readouterr()
    assert json.loads(printed.out)["good"] is False
    assert "scoring" in printed.err


def test_json_says_everything_the_table_says(centred, capsys):
    assert cli.main(["check", "centred", *QUICK, "--scale", "2", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    checks = found.pop("checks")
    assert found == {
        "id": "centred",
        "kind": "reward",
        "distribution": "centred-dist",
        "version": "1.5",
        "revision": 3,
        "owner": "centred-dist 1.5",
        "file": str(centred / "centred_module.py"),
        "options": {"scale": 2.0},
        "good": False,
    }
    assert [check["state"] for check in checks] == ["passed", "failed"]
    assert checks[0]["message"] is None
    assert "score each response by itself" in checks[1]["message"]
    assert all(check["seconds"] >= 0 for check in checks)


def test_an_announced_failure_is_no_reason_to_fail(centred, capsys):
    announced = ["--expect-failure", "the_batch_changes_nothing=it ranks = on purpose"]
    assert cli.main(["check", "centred", *QUICK, *announced]) == 0
    out = capsys.readouterr().out
    assert "failed as announced" in out
    assert "it ranks = on purpose" in out


def test_an_announced_failure_that_passes_fails(capsys):
    words = ["check", "length", "--only", "scores_are_finite"]
    assert cli.main([*words, "--expect-failure", "scores_are_finite=it is new"]) == 1
    assert "it was announced to fail (it is new) and passes" in capsys.readouterr().out


def test_an_option_with_the_name_of_a_flag_of_check_comes_from_a_file(centred, capsys):
    file = centred / "options.yaml"
    file.write_text("kind: characters\nscale: 3\n")
    words = ["check", "centred", "--kind", "reward", "--config", str(file), *QUICK, "--json"]
    assert cli.main(words) == 1
    assert json.loads(capsys.readouterr().out)["options"] == {"kind": "characters", "scale": 3.0}


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        ([], "give the id first: alignzoo check ID"),
        (["--help"], "name what is to be checked to see its options"),
        (["lenght"], "nothing is called 'lenght'. Did you mean 'length'?"),
        (["length", "--only", "scores_are_finit"], "Did you mean 'scores_are_finite'?"),
        (["length", "--expect-failure", "scores_are_finite"], "expected NAME=REASON"),
        (["length", "--expect-failure", "x=y"], "--expect-failure names 'x', which is no check."),
        (["length", "--traget", "3"], "has no option '--traget'. Did you mean '--target'?"),
        (["length", "--target", "0"], "option 'target' is '0'"),
        (["length", "--kind", "algorithm"], "no algorithm is called 'length'"),
        (["regression", "--kind", "task"], "no task is called 'regression'"),
        (["token_tasks"], "'token_tasks' is a plugin and no id; it provides bandit, chain, tree"),
        (["length", "3"], "was given '3', which belongs to no option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, needle, capsys):
    assert cli.main(["check", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert needle in printed.err
    assert len(printed.err.splitlines()) == 1


def test_help_lists_the_options_of_what_is_checked(capsys):
    assert cli.main(["check", "length", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--only NAME", "--expect-failure NAME=REASON", "--json", "--target INT"):
        assert flag in out


def test_one_cause_of_many_failures_is_told_once(centred, capsys):
    (centred / "centred_module.py").write_text(
        CENTRED.replace("        print(", "        raise OSError('no model')\n        print(")
    )
    only = ["one_number_per_response", "scores_are_finite", "the_order_changes_nothing"]
    words = [word for name in only for word in ("--only", name)]
    assert cli.main(["check", "centred", *words]) == 1
    out = capsys.readouterr().out
    assert out.count("OSError: no model") == 1
    assert out.count("Found what one_number_per_response found, above.") == 2


def test_a_module_that_is_not_installed_can_be_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loose_module.py").write_text(reward_plugin("loose"))
    try:
        assert cli.main(["-p", "loose_module", "check", "loose", "--json"]) == 0
    finally:
        plugin_registry.select_plugins([])
    found = json.loads(capsys.readouterr().out)
    assert (found["owner"], found["distribution"]) == ("loose_module", "")


def test_a_broken_module_that_was_asked_for_is_a_failed_check(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loose_broken.py").write_text("1 / 0")
    try:
        assert cli.main(["-p", "loose_broken", "check", "loose_broken"]) == 1
    finally:
        plugin_registry.select_plugins([])
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_lines_are_printed_as_they_are_known(monkeypatch, capsys):
    printed: list[str] = []

    def first(subject):
        """The first."""

    def second(subject):
        """The second."""
        printed.append(capsys.readouterr().out)

    checks: list[Check] = make_checks([first, second])
    monkeypatch.setattr("alignzoo.testing.rewards.CHECKS", checks)
    assert cli.main(["check", "length"]) == 0
    assert "first   passed" in printed[0]
