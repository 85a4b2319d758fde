"""The command line: finds the command, runs it, and turns every error into one clear line.

A command is a module here with `run(arguments) -> exit code`, imported when it is asked for; or a
plugin's, named by a `CommandSpec`. Exit code 0 is success, 2 bad input, 1 a failure during work.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence

from alignzoo.errors import AlignzooError, ConfigError, DataError, did_you_mean

SUMMARIES: Mapping[str, str] = {
    "list": "algorithms, rewards and tasks that are installed",
    "info": "options, needs, paper and owner of one of them",
    "plugins": "installed plugins, without running them",
    "env": "versions, processor and build, for a bug report",
    "train": "align a model with an algorithm",
    "train-reward": "train a reward model from human feedback",
    "score": "score a file of completions with rewards",
    "generate": "sample completions of a file of prompts",
    "data": "check, build, filter, split and convert data files",
    "demo": "teach and align a model made from scratch, in a few minutes",
    "bench": "compare algorithms on a task",
    "new": "start a plugin of your own",
    "check": "test a plugin against its contract",
}
HELP = """usage: alignzoo [-p PLUGIN] [--debug] COMMAND ...

Align language models with any of a zoo of algorithms and reward models.

commands:
{commands}

options:
  -h, --help     this text; `alignzoo COMMAND --help` for one command
  --version      the version of alignzoo
  -p no:NAME     leave out a plugin or a distribution (may be repeated)
  -p MODULE      load a plugin module that is not installed (may be repeated)
  --debug        show the traceback of an error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of this process, and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # not a text file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    debug = "--debug" in arguments
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _report("interrupted", debug, 130)
    except (ConfigError, DataError) as error:
        return _report(str(error), debug, 2)
    except AlignzooError as error:
        return _report(str(error), debug, 1)
    except Exception as error:
        return _report(_unexpected(error), debug, 1)


def _report(message: str, debug: bool, code: int) -> int:
    """Prints an error in one line, and its traceback where asked; returns the exit code."""
    if debug:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _unexpected(error: Exception) -> str:
    """Returns what to say of an error nobody raised on purpose: whose it is, and how to see it."""
    from alignzoo.plugin_registry import blame

    blamed = blame(error)
    if blamed is not None:
        return f"{blamed} (--debug shows where)"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _dispatch(arguments: list[str]) -> int:
    """Reads the options before the command, and runs it."""
    selection: list[str] = []
    while arguments and arguments[0].startswith("-"):
        arguments, wanted = _global_option(arguments, selection)
        if wanted == "version":
            return _version()
        if wanted == "help":
            _select(selection)
            return _help()
    if not arguments:
        print(HELP.format(commands=_own_commands()), file=sys.stderr, end="")
        raise ConfigError("no command is given. See above.")
    command, rest = arguments[0], arguments[1:]
    if command in SUMMARIES and _exists(command):
        rest = _later_options(rest, selection)
        _select(selection)
        return _run(command, rest)
    _select(selection)
    return _run_plugin(command, rest)


def _global_option(arguments: list[str], selection: list[str]) -> tuple[list[str], str]:
    """Takes one option off the front; returns the rest, and which of help and version it was."""
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help", "--version"):
        return rest, "version" if first == "--version" else "help"
    if first == "-p":
        if not rest:
            raise ConfigError("-p needs a value: no:NAME, or package.module.")
        selection.append(rest[0])
        return rest[1:], ""
    if first == "--debug":
        return rest, ""
    hint = did_you_mean(first, ["--help", "--version", "--debug"])
    raise ConfigError(f"alignzoo has no option '{first}'.{hint} See `alignzoo --help`.")


def _later_options(arguments: list[str], selection: list[str]) -> list[str]:
    """Takes `-p` and `--debug` out of a command's arguments, where people write them too."""
    rest = []
    while arguments and arguments[0] != "--":
        if arguments[0] in ("-p", "--debug"):
            arguments, _ = _global_option(arguments, selection)
        else:
            rest.append(arguments.pop(0))
    return rest + arguments


def _select(selection: list[str]) -> None:
    if selection:
        from alignzoo.plugin_registry import select_plugins

        select_plugins(selection)


def _version() -> int:
    from alignzoo import __version__

    print(f"alignzoo {__version__}")
    return 0


def _module(command: str) -> str:
    # A submodule is an attribute of this package, and `list` would hide the builtin here.
    return f"alignzoo.cli.{'listing' if command == 'list' else command.replace('-', '_')}"


def _exists(command: str) -> bool:
    return importlib.util.find_spec(_module(command)) is not None


def _run(command: str, arguments: list[str]) -> int:
    """Runs one of our own commands."""
    try:
        code: int = importlib.import_module(_module(command)).run(arguments)
    except SystemExit as exit:  # of argparse, after --help; or a plugin tried to end the program
        from alignzoo.plugin_registry import blame

        blamed = blame(exit)
        if blamed is None:
            raise
        raise blamed from exit
    return code


def _run_plugin(command: str, arguments: list[str]) -> int:
    """Runs a plugin's command."""
    from alignzoo.plugin_registry import registry

    known = {entry.id for entry in registry().commands}
    if command.rpartition(":")[2] not in known:
        own = [name for name in SUMMARIES if _exists(name)]
        hint = did_you_mean(command, [*own, *known])
        raise ConfigError(f"there is no command '{command}'.{hint} See `alignzoo --help`.")
    code = registry().command(command)(arguments)
    return int(code or 0)


def _own_commands() -> str:
    return "\n".join(
        f"  {name:14} {summary}" for name, summary in SUMMARIES.items() if _exists(name)
    )


def _help() -> int:
    """Prints the commands, those of plugins included."""
    from alignzoo.plugin_registry import registry

    commands = _own_commands()
    for entry in registry().commands:
        owner = entry.plugin.distribution or entry.plugin.name
        commands += f"\n  {entry.id:14} {entry.spec.summary} ({owner})"
    print(HELP.format(commands=commands), end="")
    return 0
