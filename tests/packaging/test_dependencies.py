"""What the code imports and what pyproject.toml names are the same packages."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping

import pytest

# An extra that adds to what can be run; the others are tools.
FEATURES = ("bench", "data", "lora")
TOOLS = {"pytest-benchmark"}  # of bench/, which is not installed
# The kit makes pytest's cases, for tests that pytest collects.
KIT = ("alignzoo/testing/checks.py", "pytest")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution_of(module: str) -> str:
    """Returns the distribution that provides a module; the module's name if none is installed."""
    return canonical(installed_packages().get(module, [module])[0])


@functools.cache
def installed_packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def named(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in requirements}


def imported(tree: ast.AST, *, at_import: bool) -> Iterator[str]:
    """Yields the top-level packages a module imports, at its import or anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported(other, at_import=at_import)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).partition(".")[0]
        elif not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imported(node, at_import=at_import)


@pytest.fixture(scope="module")
def third_party(root):
    """Which distributions each module imports: at its import, and at all."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    ours = {"alignzoo", *sys.stdlib_module_names}
    for folder in ("alignzoo", "plugins"):
        for path in sorted((root / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            early, anywhere = (
                {distribution_of(name) for name in set(imported(tree, at_import=only)) - ours}
                for only in (True, False)
            )
            if str(path.relative_to(root)) == KIT[0]:
                anywhere -= {KIT[1]} - early
            found[str(path.relative_to(root))] = (early, anywhere)
    return found


@pytest.fixture(scope="module")
def dependencies(project):
    return named(project["project"]["dependencies"])


@pytest.fixture(scope="module")
def extras(project):
    optional = project["project"]["optional-dependencies"]
    return set().union(*(named(optional[extra]) for extra in FEATURES))


def test_everything_imported_is_a_dependency_or_of_a_feature(third_party, dependencies, extras):
    missing = {
        path: sorted(names - dependencies - extras)
        for path, (_, names) in third_party.items()
        if names - dependencies - extras
    }
    assert not missing


def test_an_extra_is_imported_only_where_it_is_used(third_party, extras, dependencies):
    early = {
        path: sorted(first & (extras - dependencies))
        for path, (first, _) in third_party.items()
        if first & (extras - dependencies)
    }
    assert not early


def test_every_dependency_is_imported_somewhere(third_party, dependencies, extras):
    used = set().union(*(names for _, names in third_party.values()))
    assert dependencies | extras <= used | TOOLS


def test_every_plugin_has_an_entry_point(root, project):
    points = project["project"]["entry-points"]["alignzoo"]
    modules = {path.stem for path in (root / "plugins").iterdir() if path.suffix == ".py"}
    modules |= {path.parent.name for path in (root / "plugins").glob("*/__init__.py")}
    assert set(points.values()) == {f"alignzoo.plugins.{name}" for name in modules - {"__init__"}}


def test_the_constraints_admit_what_the_project_asks_for(root, project):
    from packaging.requirements import Requirement

    asked = {
        canonical(one.name): one for one in map(Requirement, project["project"]["dependencies"])
    }
    for name in ("constraints.txt", "constraints-oldest.txt"):
        for line in (root / ".ci" / name).read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert asked[canonical(pin.name)].specifier.contains(specifier.version), line
