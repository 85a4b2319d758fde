"""Each kernel and each of its peers under pytest-benchmark, grouped by workload.

    python -m pytest bench/kernel_speed --benchmark-only [-k NAME]

The groups' tables show times, which a busy machine stretches; `python bench/kernel_speed` takes
turns and shows ratios. ALIGNZOO_BENCH_SHORT=1 takes small sizes.
"""

from __future__ import annotations

import itertools
import os
from functools import lru_cache
from typing import Any

import pytest
from cases import CASES, Case
from peers import AbsentError
from timing import be_short

SMALL = bool(os.environ.get("ALIGNZOO_BENCH_SHORT"))
if SMALL:
    be_short()
OURS = "alignzoo"


@lru_cache(maxsize=1)  # one workload's inputs in memory at a time
def made(name: str) -> Case:
    return CASES[name](SMALL)


def sides() -> list[Any]:
    """(case, side) for every case: ours, and each peer. Small inputs tell what there is."""
    return [
        pytest.param(name, label, id=f"{name}-{label}")
        for name, make in CASES.items()
        for label in (OURS, *make(True).peers)
    ]


@pytest.mark.parametrize(("name", "side"), sides())
def test_speed(name: str, side: str, benchmark: Any) -> None:
    case = made(name)
    benchmark.group = f"{case.kernel}: {case.workload}"
    try:
        run = case.ours if side == OURS else case.peers[side]()
    except AbsentError as absent:
        pytest.skip(str(absent))
    calls = itertools.count()
    benchmark.pedantic(lambda: run(next(calls)), rounds=10, warmup_rounds=2)
