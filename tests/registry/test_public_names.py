"""`import alignzoo` is free; its names are there when asked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from fixture_plugins import run_python

import alignzoo as az

SOURCE = Path(az.__file__)


def test_importing_the_package_imports_no_dependency():
    code = (
        "import sys; before = set(sys.modules); import alignzoo; dir(alignzoo); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "['alignzoo']", done.stderr


def test_what_a_plugin_module_needs_imports_no_torch():
    code = (
        "import sys; import alignzoo as az; from alignzoo import kernels; "
        "az.hookimpl, az.Algorithm, az.AlgorithmConfig, az.RewardModel, az.AlgorithmSpec; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", az.__all__)
def test_every_public_name_is_there(name):
    assert getattr(az, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {alias.name for node in block.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}  # fmt: skip
    assert names | {"__version__"} == set(az.__all__)


def test_the_registry_stays_callable_whatever_is_imported():
    code = "import alignzoo.plugin_registry, alignzoo as az; print(callable(az.registry))"
    assert run_python("-c", code).stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Algoritm'"):
        az.Algoritm  # noqa: B018
