"""Real data, devices and peers: a test that needs one is skipped without it, with the reason."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

DATA_VARIABLE = "ALIGNZOO_DATA"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data and models that ALIGNZOO_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} is not set; it names the folder with the real data")
    if not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder: {folder}")
    return Path(folder).resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests without a CUDA device, and `peer("trl")` tests where trl is missing."""
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and not _has_cuda():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    for item in items:
        for marker in item.iter_markers("peer"):
            for name in marker.args:
                if importlib.util.find_spec(name) is None:
                    item.add_marker(pytest.mark.skip(reason=f"the peer {name} is not installed"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Ends the suite by saying how many tests were skipped for want of the real data."""
    skipped = terminalreporter.stats.get("skipped", [])
    missed = sum(DATA_VARIABLE in str(report.longrepr) for report in skipped)
    folder = os.environ.get(DATA_VARIABLE, "not set")
    terminalreporter.write_line(
        f"{missed} tests skipped for want of the real data ({DATA_VARIABLE}: {folder})"
    )


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
