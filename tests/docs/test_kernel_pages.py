"""The kernel pages are what the code does: examples run, signatures and arguments agree.

ALIGNZOO_WRITE_DOCS=1 writes the printed outputs and the signatures anew.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from alignzoo import kernels

ROOT = Path(__file__).parents[2]
OVERVIEW = ROOT / "docs" / "kernels.md"
FOLDER = ROOT / "docs" / "kernels"
RECIPES = FOLDER / "recipes.md"
FUNCTIONS = sorted(set(kernels.__all__) - {"check_faults"})  # docs/gpu.md has that
# An optional line that names a distribution, the example, and what it prints.
EXAMPLE = re.compile(
    r"(?:<!-- needs: (?P<needs>[\w-]+) -->\n)?"
    r"```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.M | re.S,
)
SIGNATURE = re.compile(r"^```py\n(.*?)^```$", re.M | re.S)
WRITES = bool(os.environ.get("ALIGNZOO_WRITE_DOCS"))


class Example(NamedTuple):
    page: Path
    number: int
    code: str
    output: str
    needs: str | None


def examples() -> list[Example]:
    found = []
    for page in (OVERVIEW, *sorted(FOLDER.glob("*.md"))):
        for number, match in enumerate(EXAMPLE.finditer(page.read_text())):
            code, output, needs = match["code"], match["output"] or "", match["needs"]
            found.append(Example(page, number, code, output, needs))
    return found


def write_output(example: Example, printed: str) -> None:
    text = example.page.read_text()
    match = list(EXAMPLE.finditer(text))[example.number]
    fence = text[match.start() : match.end()].partition("\n```\n\n```text")[0].removesuffix("\n```")
    block = f"{fence}\n```" + (f"\n\n```text\n{printed}```" if printed else "")
    example.page.write_text(text[: match.start()] + block + text[match.end() :])


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e.page.stem}-{e.number}")
def test_an_example_prints_what_its_page_says(example: Example) -> None:
    if example.needs:
        try:
            importlib.metadata.version(example.needs)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{example.needs} is not installed")
    printed = io.StringIO()
    source = compile(example.code, f"{example.page.name}[{example.number}]", "exec")
    with contextlib.redirect_stdout(printed):
        exec(source, {"__name__": "__main__"})
    if WRITES:
        write_output(example, printed.getvalue())
        return
    assert printed.getvalue() == example.output, "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


def signature_of(name: str) -> str:
    """The function's signature without types, wrapped at 100 columns."""
    parameters, is_keyword = [], False
    for parameter in inspect.signature(getattr(kernels, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword:
            parameters.append("*")
            is_keyword = True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parameters.append(parameter.name + default.replace("'", '"'))
    lines = [f"{name}("]
    for i, parameter in enumerate(parameters):
        piece = parameter + (")" if i == len(parameters) - 1 else ", ")
        if len(lines[-1] + piece) > 88:
            lines.append(" " * (len(name) + 1))
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_page_gives_the_signature(name: str) -> None:
    page = FOLDER / f"{name}.md"
    text = page.read_text()
    written, arrow, result = SIGNATURE.findall(text)[0].rpartition(" -> ")
    assert arrow, f"{page.name} does not say what {name} returns"
    if WRITES:
        fence = f"```py\n{signature_of(name)}{arrow}{result}```"
        page.write_text(SIGNATURE.sub(lambda _: fence, text, count=1))
        return
    assert written == signature_of(name), "run with ALIGNZOO_WRITE_DOCS=1 to write it anew"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_page_lists_every_argument_in_order(name: str) -> None:
    table = (FOLDER / f"{name}.md").read_text().partition("| argument | shape | what |\n")[2]
    listed = re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.M)
    assert listed == list(inspect.signature(getattr(kernels, name)).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_page_has_every_section(name: str) -> None:
    headings = re.findall(r"^## (.*)$", (FOLDER / f"{name}.md").read_text(), re.M)
    assert headings == ["Arguments", "Numerics", "Examples", "Errors", "Beside other libraries"]


def test_every_function_has_a_page_and_every_page_a_function() -> None:
    assert sorted(page.stem for page in FOLDER.glob("*.md") if page != RECIPES) == FUNCTIONS
    linked = re.findall(r"^\| \[`(\w+)`\]\(kernels/\1\.md\) \|", OVERVIEW.read_text(), re.M)
    assert sorted(linked) == FUNCTIONS
