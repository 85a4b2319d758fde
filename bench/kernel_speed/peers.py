"""The functions of other libraries, from their installed packages. AbsentError: the row says so."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import logging
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DISTRIBUTIONS = (
    "verl",
    "trl",
    "torchrl",
    "stable-baselines3",
    "openrlhf",
    "liger-kernel",
    "flash-attn",
)


class AbsentError(Exception):
    """A peer that cannot be measured here; the message says why."""


def versions() -> dict[str, str]:
    """The installed version of every peer, or "absent"."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def module(distribution: str, name: str) -> Any:
    """Imports a peer's module. Asks the metadata: a folder of that name is no installed package."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise AbsentError(f"{distribution} is not installed") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            return importlib.import_module(name)
    except Exception as error:
        raise AbsentError(f"{distribution} {version} does not import here: {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def definition(distribution: str, file: str, name: str, **context: Any) -> Any:
    """A function or class of an installed package, taken from its file without importing it.

    For packages whose import needs a GPU's libraries though the function itself does not.
    Decorators are left out. `context` holds what the definition refers to, besides torch.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise AbsentError(f"{distribution} is not installed") from None
    path = Path(str(found.locate_file(file)))
    if not path.exists():
        raise AbsentError(f"{distribution} {found.version} has no {file}")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            node.decorator_list = []
            names = {
                "torch": torch,
                "nn": torch.nn,
                "F": torch.nn.functional,
                **vars(typing),
            }
            names.update(context)
            exec(compile(ast.Module([node], []), str(path), "exec"), names)
            return names[name]
    raise AbsentError(f"{distribution} {found.version} has no {name} in {file}")


def openrlhf(file: str, name: str, **context: Any) -> Any:
    return definition("openrlhf", f"openrlhf/{file}", name, **context)


def compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` under torch.compile with its own best setting for fixed shapes, compiled at once."""
    return torch.compile(run, dynamic=False, fullgraph=True)
