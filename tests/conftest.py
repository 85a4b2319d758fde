"""Real data, devices and peers: a test that needs one is skipped without it, with the reason."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

DATA_VARIABLE = "ALIGNZOO_DATA"

# The files that take longest, half a minute and more, of the slow tests and of the others. Begun
# last, one of them would keep a single worker busy while all others have nothing left to do.
LONGEST = (
    "native/test_native.py",
    "native/test_emulated_cuda.py",
    "packaging/test_third_party.py",
    "trainer/test_real_data.py",
    "cli/test_demo.py",
    "plugins/test_string_tasks.py",
    "cli/test_new.py",
    "docs/test_docs.py",
    "cli/test_bench.py",
    "rewards/test_road.py",
    "trainer/test_kills.py",
    "packaging/test_instruction_sets.py",
    "packaging/test_empty_environment.py",
    "kernels/test_determinism.py",
    "docs/test_tutorial.py",
    "docs/test_reward_pages.py",
    "benchmark/test_planted_algorithms.py",
    "benchmark/test_known_answers.py",
    "bench/test_rounds.py",
    "benchmark/test_page.py",
    "cli/test_check.py",
    "testing/test_algorithm_checks.py",
    "docs/test_plugin_pages.py",
)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data and models that ALIGNZOO_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} is not set; it names the folder with the real data")
    if not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder: {folder}")
    return Path(folder).resolve()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips `gpu` tests without a CUDA device, and `peer("trl")` tests where trl is missing.

    Where several processes test side by side, each takes the next file: the longest come first,
    the others by their number of tests, the most first.
    """
    if hasattr(config, "workerinput"):
        _put_longest_first(items)
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and not _has_cuda():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    for item in items:
        for marker in item.iter_markers("peer"):
            for name in marker.args:
                if importlib.util.find_spec(name) is None:
                    item.add_marker(pytest.mark.skip(reason=f"the peer {name} is not installed"))


def _put_longest_first(items: list[pytest.Item]) -> None:
    """Orders the files; the tests of each stay together, in their order."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONGEST)}
    missing = [path for path in ranks if not path.exists()]
    if missing:
        raise pytest.UsageError(f"LONGEST of {__file__} names no files: {missing}")
    counts = Counter(item.path for item in items)
    items.sort(key=lambda i: (ranks.get(i.path, len(ranks)), -counts[i.path], str(i.path)))


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
