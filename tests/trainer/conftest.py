"""A small policy on disk, and global choices undone after each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trainer.runs import make_policy

from alignzoo import plugin_registry


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of 13 thousand random parameters."""
    return make_policy(tmp_path_factory.mktemp("policy") / "small")


@pytest.fixture(autouse=True)
def _undo_global_choices() -> Iterator[None]:
    """Gives the next test the plugins and threads that this one began with."""
    threads = torch.get_num_threads()
    kernel_threads = os.environ.get("ALIGNZOO_NUM_THREADS")
    yield
    plugin_registry.select_plugins([])
    torch.set_num_threads(threads)
    if kernel_threads is None:
        os.environ.pop("ALIGNZOO_NUM_THREADS", None)
    else:
        os.environ["ALIGNZOO_NUM_THREADS"] = kernel_threads
