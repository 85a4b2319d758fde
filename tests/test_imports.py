"""Who may import whom, kept true by reading the source; types under TYPE_CHECKING do not count.

The lowest layers know nothing of those above. The machinery of a run is handed objects, never
ids, so it knows no registry. Nothing in the library knows a plugin; a plugin knows public names.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_plugins import run_python

import alignzoo

LIBRARY = Path(alignzoo.__file__).parent
PLUGINS = LIBRARY.parent / "plugins"
if not PLUGINS.exists():  # installed as a wheel
    PLUGINS = LIBRARY / "plugins"

BASE = {"errors", "config"}
REGISTRY = {"specs", "hookspecs", "plugin_checks", "plugin_loader", "plugin_registry"}
CONTRACTS = {"algorithm", "reward", "policy"}
TOP = {"testing", "cli", "__main__"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "options": set(),
    "config": {"errors", "options"},
    "run_options": {"config"},
    "kernels": {"errors", "_core"},
    "rollout": {"errors", "kernels"},
    "specs": set(),
    "hookspecs": {"specs"},
    # The checks compare a plugin's class with the contracts, and its options with a run's.
    "plugin_checks": BASE | {"specs", "hookspecs", "algorithm", "reward", "task", "run_options"},
    "plugin_loader": BASE | {"specs", "hookspecs", "plugin_checks"},
    "plugin_registry": BASE | {"specs", "hookspecs", "plugin_checks", "plugin_loader"},
    "algorithm": BASE | {"kernels", "rollout"} | CONTRACTS,
    "task": BASE | CONTRACTS,
    "reward": BASE | {"kernels", "rollout"} | CONTRACTS,
    "policy": BASE | {"kernels", "rollout", "steering"} | CONTRACTS,
    # A model's folder names by id whose critic steers it: the one place beside the top where an id
    # becomes a class, when `Policy.from_pretrained` asks for it.
    "steering": BASE | {"random_streams", "plugin_registry"},
}
FREE_OF_TORCH = ["kernels", "rollout", "algorithm", "reward", "scoring", "plugin_registry", "cli"]
IMPORT_NAMES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}


def modules(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yields every module under a folder: its dotted path inside it, and its tree."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if folder == LIBRARY and parts[0] == "plugins":
            continue
        yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def cases(folder: Path) -> list[Any]:
    """Returns every module under a folder as parameters of a test, called by its path."""
    return [pytest.param(path, tree, id=path) for path, tree in modules(folder)]


def nodes_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields every node but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from [other, *nodes_at_run_time(other)]
        else:
            yield from [child, *nodes_at_run_time(child)]


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields what a module imports at run time, `importlib.import_module` of a text included."""
    for node in nodes_at_run_time(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


def components(tree: ast.AST) -> set[str]:
    """Returns the parts of alignzoo a module imports at run time, such as {"errors", "rollout"}."""
    ours = [name.split(".") for name in imports(tree) if name.split(".")[0] == "alignzoo"]
    return {home_of(parts[1]) for parts in ours if len(parts) > 1}


def home_of(name: str) -> str:
    """Returns the module a public name lives in; a module's own name as it is."""
    return alignzoo._HOME_OF.get(name, name)


@pytest.mark.parametrize(("path", "tree"), cases(LIBRARY))
def test_a_module_imports_only_what_lies_below_it(path, tree):
    component = path.split(".")[0]
    known = components(tree) - {component}
    if component in ("__init__", "__main__", "cli"):
        allowed = known - {"plugins"}
    elif component == "testing":
        allowed = known - {"plugins", "cli"}
    elif component in ALLOWED:
        allowed = ALLOWED[component]
    else:  # the machinery of a run
        allowed = known - REGISTRY - TOP - {"plugins"}
    assert known <= allowed, f"alignzoo.{path} must not import {sorted(known - allowed)}"


@pytest.mark.parametrize(("path", "tree"), cases(PLUGINS))
def test_a_plugin_imports_public_names_only_and_no_other_plugin(path, tree):
    public = {f"alignzoo.{name}" for name in alignzoo.__all__}
    for name in imports(tree):
        if name.split(".")[0] == "alignzoo" and name != "alignzoo":
            own = path.split(".")[0]  # a plugin may be a folder of modules
            inside = name.startswith(f"alignzoo.plugins.{own}.")
            kernels = name.startswith("alignzoo.kernels.")
            assert name in public or inside or kernels, f"plugins/{path} imports {name}"


@pytest.mark.parametrize(("path", "tree"), cases(PLUGINS))
def test_a_plugin_uses_public_names_only(path, tree):
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "az"
    }
    assert names <= set(alignzoo.__all__)


def test_every_dependency_that_is_imported_is_declared():
    declared = {
        re.split(r"[^\w.-]", text, maxsplit=1)[0].lower()
        for text in importlib.metadata.requires("alignzoo")
    }
    allowed = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    allowed |= {"alignzoo", *sys.stdlib_module_names}
    for folder in (LIBRARY, PLUGINS):
        for path, tree in modules(folder):
            used = {name.split(".")[0] for name in imports(tree)}
            assert used <= allowed, f"{folder.name}/{path} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("name", FREE_OF_TORCH)
def test_what_needs_no_torch_imports_none(name):
    code = f"import sys, alignzoo.{name}; print('torch' in sys.modules)"
    done = run_python("-c", code)
    assert done.stdout.strip() == "False", done.stderr


def test_plugins_import_no_torch_until_they_are_used():
    names = [path for path, _ in modules(PLUGINS) if "." not in path and path != "__init__"]
    lines = "\n".join(f"import alignzoo.plugins.{name}" for name in names)
    done = run_python("-c", f"import sys\n{lines}\nprint('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
