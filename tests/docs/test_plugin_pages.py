"""The pages for plugin authors: every hook has an example that runs, every check a line."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from pathlib import Path

import pytest
from documentation import ROOT, blocks, commands, run, write_modules

from alignzoo import hookspecs
from alignzoo.cli.check import KITS
from alignzoo.testing.algorithms import examples

PAGES = ROOT / "docs" / "plugins"
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("alignzoo_")}


def test_every_hook_is_in_the_table_with_its_arguments() -> None:
    rows = re.findall(r"^\| `(alignzoo_\w+)\((.*?)\)` ", (PAGES / "hooks.md").read_text(), re.M)
    wanted = {name: ", ".join(inspect.signature(hook).parameters) for name, hook in HOOKS.items()}
    assert dict(rows) == wanted


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_every_hook_has_a_section_whose_module_implements_it(hook: str) -> None:
    sections = re.split(r"^## ", (PAGES / "hooks.md").read_text(), flags=re.M)
    (section,) = [text for text in sections if text.startswith(f"{hook}\n")]
    assert f"@az.hookimpl\ndef {hook}(" in section
    assert "\n$ alignzoo " in section


def test_the_examples_of_the_hooks_run(tmp_path: Path) -> None:
    write_modules(tmp_path, blocks(PAGES / "hooks.md", "python"))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    rows = [{"prompt": "Hello", "completion": text} for text in ("Who are you?", "Hello.")]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    printed = {command: run(command, tmp_path) for command in commands(PAGES / "hooks.md")}
    scored = (tmp_path / "scored.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in scored] == [1.0, 0.0]
    (last,) = [text for command, text in printed.items() if " last " in command]
    assert re.fullmatch(r"hindsight [\d.e-]+\n", last)
    results = (tmp_path / "coin" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["status"] for line in results} == {"ok"}


def check_table(kind: str) -> str:
    """Returns the checks of one kind as a table: their names, and what should hold."""
    rows = [
        f"| `{check.name}` | {check.promise} |"
        for check in importlib.import_module(KITS[kind]).CHECKS
    ]
    return "\n".join(["| check | what should hold |", "|---|---|", *rows])


@pytest.mark.parametrize("kind", ["algorithm", "reward", "task"])
def test_the_page_of_the_kit_names_every_check(kind: str) -> None:
    page = PAGES / "conformance.md"
    marked = re.compile(rf"(<!-- checks: {kind} -->\n)(.*?)(<!-- end -->)", re.S)
    table = check_table(kind) + "\n"
    if os.environ.get("ALIGNZOO_WRITE_DOCS"):
        page.write_text(marked.sub(lambda m: m[1] + table + m[3], page.read_text()))
    found = marked.search(page.read_text())
    assert found is not None
    assert found[2] == table, "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


def test_the_contract_names_every_key_of_a_worked_example() -> None:
    text = (PAGES / "contract.md").read_text()
    (section,) = re.findall(r"^### Numbers worked by hand\n(.*?)^## ", text, re.M | re.S)
    named = set(re.findall(r"`(\w+)`", section))
    keys = {*examples.TOKEN_INPUTS, *examples.ROW_INPUTS, *examples.WRITTEN, *examples.OF_LOSS}
    assert keys | {"options", "tolerance"} <= named
