"""Pages of the documentation: what can be run in them, and running it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import warm_start

from alignzoo.cli.fields import options_of

ROOT = Path(__file__).parents[1]
PAGES, REWARD_PAGES = (
    [page for page in sorted((ROOT / "docs" / folder).glob("*.md")) if page.stem != "README"]
    for folder in ("algorithms", "rewards")
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SMALL = "--steps 2 --batch-size 8 --max-new-tokens 16"


def blocks(path: Path, language: str) -> list[str]:
    """Returns the code blocks of a page in one language."""
    return [text for name, text in FENCE.findall(path.read_text()) if name == language]


def option_table(config: Any) -> str:
    """Returns the options of a configuration class as a table."""
    lines = ["| option | type | default | range | what |", "|---|---|---|---|---|"]
    for option in options_of(config):
        cells = (f"`{option.flag}`", option.type, option.default_text, option.range, option.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def write_modules(folder: Path, snippets: list[str]) -> list[str]:
    """Writes the snippets that start with a file name; returns the others."""
    scripts = []
    for text in snippets:
        named = re.match(r"# (\w+\.py)\n", text)
        if named:
            (folder / named[1]).write_text(text)
        else:
            scripts.append(text)
    return scripts


def run(command: list[str] | str, folder: Path) -> str:
    """Runs a command in a folder whose modules it can import, and returns what it printed.

    A text is given to the shell, unless it is `alignzoo` and its arguments alone.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    if isinstance(command, str) and command.startswith("alignzoo ") and not _needs_shell(command):
        return _run_alignzoo(shlex.split(command)[1:], folder, environment)
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _needs_shell(command: str) -> bool:
    """Returns whether a command has more than words: a pipe, a variable, a pattern."""
    plain = re.sub(r"'[^']*'", "", command)
    return bool(re.search(r"[|&;<>$`*?~#]", plain))


def _run_alignzoo(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    printed, complaints = folder / ".printed", folder / ".complaints"
    for path in (printed, complaints):
        path.write_text("")
    process = warm_start.start(
        words, folder=folder, stdout=printed, stderr=complaints, environment=environment
    )
    process.join()
    assert process.exitcode == 0, f"{words}\n{printed.read_text()}\n{complaints.read_text()}"
    return printed.read_text()


def commands(path: Path) -> list[str]:
    """Returns the console commands of a page, with a small model and few steps."""
    found = []
    for text in blocks(path, "console"):
        joined = text.replace("\\\n", " ")
        found += [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
    return [shrink(command) for command in found]


def shrink(command: str) -> str:
    """Returns a command with a small model and few steps."""
    command = command.replace("path/to/model", "tiny")
    command = re.sub(r" --steps \d+", "", command)
    what = re.match(r"alignzoo(?: -p \S+)* (\S+)", command)
    if what and what[1] == "train":
        command += f" {SMALL}"
    elif what and what[1] == "generate":
        command += " --max-new-tokens 16"
    elif what and what[1] == "bench":
        command += " --budget samples=128"
    return command
