"""The shell around every command: exit codes, one-line errors, plugins' commands, clean pipes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fixture_plugins import reward_plugin, run_alignzoo, write_distribution

from alignzoo import cli, plugin_registry
from alignzoo.errors import ConfigError, DataError, PluginError, RunError
from alignzoo.plugin_checks import OWN_COMMANDS

COMMAND = """
import alignzoo as az

@az.hookimpl
def alignzoo_commands():
    return [az.CommandSpec(name="greet", target="greet_part:greet", summary="says hello")]
"""
GREET = """
import sys
def greet(arguments):
    print("hello", *arguments)
    if arguments == ["fail"]:
        raise KeyError("lost")
    return 7 if arguments else 0
"""


@pytest.fixture
def greeting(tmp_path):
    write_distribution(tmp_path, "greet-dist", {"greet_plugin": COMMAND})
    (tmp_path / "greet_part.py").write_text(GREET)
    return tmp_path


@pytest.fixture(autouse=True)
def _forget_selection():
    yield
    plugin_registry.select_plugins([])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no such thing"), 2),
        (DataError("no such thing"), 2),
        (PluginError("no such thing"), 1),
        (RunError("no such thing"), 1),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    def fail(arguments):
        raise error

    monkeypatch.setattr("alignzoo.cli.env.run", fail)
    assert cli.main(["env"]) == code
    assert capsys.readouterr() == ("", "error: no such thing\n")
    assert cli.main(["--debug", "env"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_too(monkeypatch, capsys):
    def fail(arguments):
        raise KeyError("lost\nlines")

    monkeypatch.setattr("alignzoo.cli.env.run", fail)
    assert cli.main(["env"]) == 1
    assert capsys.readouterr().err == "error: KeyError: 'lost\\nlines' (--debug shows where)\n"


def test_a_file_that_cannot_be_opened_is_named(monkeypatch, capsys):
    monkeypatch.setattr("alignzoo.cli.env.run", lambda arguments: os.stat("/nowhere/x"))
    assert cli.main(["env"]) == 1
    assert capsys.readouterr().err == "error: /nowhere/x: No such file or directory\n"


def test_an_interrupt_is_130(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignzoo.cli.env.run", interrupt)
    assert cli.main(["env"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lisst"], "there is no command 'lisst'. Did you mean 'list'? See `alignzoo --help`."),
        (["--versoin"], "alignzoo has no option '--versoin'. Did you mean '--version'?"),
        (["-p"], "-p needs a value: no:NAME, or package.module."),
        (["-p", "no:nobody", "list"], "no plugin or distribution is called 'nobody'"),
        (["list", "--jsno"], "list has no option '--jsno'. Did you mean '--json'?"),
        (["list", "extra"], "list was given 'extra', which belongs to no option."),
        (["info"], "info: the following arguments are required: ID."),
        (["info", "ppo", "--kind", "algo"], "info: argument --kind: invalid choice: 'algo'"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what_was_meant(capsys, arguments, message):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_no_command_shows_what_there_is(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "commands:" in captured.err
    assert captured.err.endswith("error: no command is given. See above.\n")


def test_help_lists_our_commands_and_those_of_plugins(greeting):
    done = run_alignzoo("-p", "no:alignzoo", "--help", path=greeting)
    assert done.returncode == 0
    assert "  greet          says hello (greet-dist)" in done.stdout
    for name in ("list", "info", "plugins", "env"):
        assert f"\n  {name} " in done.stdout


def test_help_of_a_command_is_success(capsys):
    assert cli.main(["list", "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_every_summary_belongs_to_a_reserved_command():
    assert set(cli.SUMMARIES) == set(OWN_COMMANDS)


def test_a_plugin_command_gets_its_arguments_and_gives_the_exit_code(greeting):
    done = run_alignzoo("-p", "no:alignzoo", "greet", "-p", "--debug", path=greeting)
    assert (done.returncode, done.stdout) == (7, "hello -p --debug\n")


def test_a_plugin_command_that_fails_is_named(greeting):
    done = run_alignzoo("-p", "no:alignzoo", "greet", "fail", path=greeting)
    assert done.returncode == 1
    assert done.stderr == (
        "error: plugin 'greet_plugin' of greet-dist 1.5 failed: KeyError: 'lost' "
        "(--debug shows where)\n"
    )


def test_plugin_options_may_stand_after_the_command(tmp_path):
    write_distribution(tmp_path, "good-dist", {"good_plugin": reward_plugin("good")})
    done = run_alignzoo("list", "-p", "no:alignzoo", "--json", path=tmp_path)
    assert done.returncode == 0
    assert '"good"' in done.stdout
    assert "ppo" not in done.stdout


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "alignzoo", "env", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
