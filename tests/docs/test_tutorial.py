"""The tutorial is followed to the letter: its edits are made, its commands run, its plugin results.

An edit is a block of Python: what it defines takes the place of what has that name in the module;
`...` in a class stands for what stays.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import warm_start
from documentation import FENCE, ROOT, run

PAGE = ROOT / "docs" / "plugins" / "tutorial.md"
EXAMPLE = ROOT / "docs" / "examples" / "alignzoo-opo"
MODULE = "alignzoo_opo.py"

pytestmark = pytest.mark.slow


def name_of(node: ast.stmt) -> str:
    """Returns what a statement defines: a name, the imports, or the docstring."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "import"
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return ast.unparse(target)
    return getattr(node, "name", "docstring")


def is_rest(node: ast.stmt) -> bool:
    return ast.unparse(node) == "..."


def edited(body: list[ast.stmt], edit: list[ast.stmt]) -> list[ast.stmt]:
    """Returns a module's or a class's statements after an edit."""
    kept = {name_of(node): node for node in body}
    changes: dict[str, list[ast.stmt]] = {}
    for node in edit:
        if isinstance(node, ast.ClassDef) and any(is_rest(member) for member in node.body):
            members = [member for member in node.body if not is_rest(member)]
            old = kept[node.name]
            assert isinstance(old, ast.ClassDef)
            node.body = edited(old.body, members)
        changes.setdefault(name_of(node), []).append(node)
    result: list[ast.stmt] = []
    changed = set(changes)
    for node in body:
        name = name_of(node)
        result += changes.pop(name, []) if name in changed else [node]
    return result + [node for new in changes.values() for node in new]


class Follower:
    """Does what the page says in a folder, where the plugin counts as installed from step 1 on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "alignzoo-opo"
        self.printed: dict[str, str] = {}

    def python(self, text: str) -> None:
        """Makes an edit, or writes and runs a file of its own."""
        if text.startswith("# test_opo.py"):
            (self.project / "tests" / "test_opo.py").write_text(text)
        elif text.startswith("# oracle.py"):
            (self.folder / "oracle.py").write_text(text)
            words = [sys.executable, str(self.folder / "oracle.py")]
            self.printed["oracle"] = run(words, self.project)
        else:
            module = ast.parse((self.project / MODULE).read_text())
            module.body = edited(module.body, ast.parse(text).body)
            (self.project / MODULE).write_text(ast.unparse(module))

    def console(self, text: str) -> None:
        """Runs the commands, and looks for what the page says they print."""
        parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.M)[1:]
        for command, _, output in (part.partition("\n") for part in parts):
            self.command(command, output)

    def command(self, command: str, output: str) -> None:
        if command.startswith("pip install -e"):
            self.install()
        elif command.startswith("pytest"):
            words = [sys.executable, "-m", "pytest", "-q", "-k", "not conformance"]
            self.printed[command] = run([*words, "tests"], self.project)
        elif command.startswith("alignzoo "):
            printed, code = self.alignzoo(small(command))
            assert code == ("FAILED" in output), f"{command}\n{printed}"
            for line in output.splitlines():
                assert line.strip() in printed, f"{command}\n{printed}"
        elif not command.startswith("pip"):
            run(command, self.folder)

    def install(self) -> None:
        info = self.project / "alignzoo_opo-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: alignzoo-opo\nVersion: 0.1.0\n"
        )
        (info / "entry_points.txt").write_text("[alignzoo]\nopo = alignzoo_opo\n")

    def alignzoo(self, command: str) -> tuple[str, int | None]:
        """Returns what a command prints, and its exit code."""
        printed = self.folder / ".printed"
        printed.write_text("")
        process = warm_start.start(
            shlex.split(command)[1:],
            folder=self.folder,
            stdout=printed,
            stderr=printed,
            environment={**os.environ, "PYTHONPATH": str(self.project)},
        )
        process.join()
        return printed.read_text(), process.exitcode


def small(command: str) -> str:
    """Returns a command with fewer steps; a whole check is run once, at the end."""
    command = command.replace("--steps 10", "--steps 2")
    command = command.replace("--seeds 3", "--seeds 1 --budget samples=128")
    return f"{command} --only examples_hold" if command == "alignzoo check opo" else command


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Follower:
    follower = Follower(tmp_path_factory.mktemp("tutorial"))
    for language, text in FENCE.findall(PAGE.read_text()):
        if language in ("python", "console"):
            getattr(follower, language)(text)
    return follower


def test_the_commands_do_what_the_page_says(followed: Follower) -> None:
    assert (followed.folder / "run" / "report.html").exists()
    assert len((followed.folder / "bench" / "results.jsonl").read_text().splitlines()) == 6


def test_the_run_beside_the_oracle_reaches_what_the_page_says(followed: Follower) -> None:
    (said,) = re.findall(r"^It prints `(.*)`: 99 %", PAGE.read_text(), re.M)
    flat, trained, best = found = worths(followed.printed["oracle"])
    assert found == pytest.approx(worths(said), abs=0.01)  # processors round differently
    assert (trained - flat) / (best - flat) == pytest.approx(0.99, abs=0.01)


def worths(text: str) -> list[float]:
    """Returns the three numbers of the line that the run beside the oracle prints."""
    return [float(number) for number in re.findall(r"(?:flat|trained|best) (-?\d+\.\d+)", text)]


def test_the_plugin_that_results_is_the_example(followed: Follower) -> None:
    built, example = (pieces(folder / MODULE) for folder in (followed.project, EXAMPLE))
    assert built == example
    tests = (EXAMPLE / "tests" / "test_opo.py").read_text()
    for text in (followed.project / "tests" / "test_opo.py").read_text().split("\n\n\n"):
        assert text.strip().removeprefix("# test_opo.py\n") in tests


def pieces(path: Path) -> dict[str, str]:
    """Returns what a module defines, by name.

    Docstrings apart, and the numbers worked by hand, of which the example has more.
    """
    found = {}
    for node in ast.parse(path.read_text()).body:
        is_class = isinstance(node, ast.ClassDef)
        for member in node.body if is_class else [node]:
            name = f"{node.name}.{name_of(member)}" if is_class else name_of(member)
            if not name.endswith(("docstring", ".examples")):
                found[name] = found.get(name, "") + ast.unparse(member)
    return found
