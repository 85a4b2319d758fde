"""Other frameworks' modules, for the tests that call their functions."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import pytest


def peer(distribution: str, module: str) -> Any:
    """Returns a peer's module, or skips the test with the reason.

    Asks the metadata first, since a sibling folder must not pass for a package.
    """
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{distribution} {version} does not import here: {error}")
