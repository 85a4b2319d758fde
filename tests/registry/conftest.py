"""A folder for plugin distributions that this process sees, and forgets afterwards."""

from __future__ import annotations

import sys

import pytest

from alignzoo import plugin_registry


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder on the path; plugins written into it are installed until the test ends."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("ALIGNZOO_PLUGINS", raising=False)
    plugin_registry.select_plugins(["no:alignzoo"])
    yield tmp_path
    plugin_registry.select_plugins([])
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]
