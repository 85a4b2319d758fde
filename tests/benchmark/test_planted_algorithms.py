"""What the benchmark says of algorithms that are known to be worse, and to be the same."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark import planted_cases

import alignzoo as az
from alignzoo.benchmark import Budget, Cell, run_cell, statistics
from alignzoo.plugin_registry import select_plugins, selected_plugins

NUM_SEEDS = 10
POOL = 40  # seeds of ppo and as many others of its copy
RESAMPLES = 200


@pytest.fixture(autouse=True, scope="module")
def _installed():
    before = selected_plugins()
    select_plugins([planted_cases.__name__])
    yield
    select_plugins(before)


def scores(algorithm, seeds, out, *, budget):
    """Returns final scores on `chain`, one for each seed."""
    found = []
    for seed in seeds:
        cell = Cell("chain", algorithm, seed, Budget("samples", budget), 1, {})
        row = run_cell(az.registry(), cell, out / algorithm / str(seed))
        assert row["status"] == "ok", row["error"]
        found.append(row["score"])
    return np.array(found)


@pytest.mark.slow
def test_one_that_shuffles_its_advantages_is_found_worse(tmp_path):
    good, bad = (
        scores(id, range(NUM_SEEDS), tmp_path, budget=640) for id in ("ppo", "ppo_shuffled")
    )
    assert statistics.probability_of_improvement([good], [bad]).low > 0.9
    assert statistics.permutation_test([good], [bad]) < 0.05


@pytest.mark.slow
def test_a_copy_by_another_name_is_seldom_called_different(tmp_path):
    mine = scores("ppo", range(POOL), tmp_path, budget=256)
    copied = scores("ppo_copied", range(POOL, 2 * POOL), tmp_path, budget=256)
    assert len(np.unique([*mine, *copied])) > POOL  # they vary: not all at the end of the range
    generator = np.random.default_rng(0)
    pairs = [
        tuple([generator.choice(pool, NUM_SEEDS, replace=False)] for pool in (mine, copied))
        for _ in range(RESAMPLES)
    ]
    called_different = np.array(statistics.permutation_tests(pairs)) < 0.05
    assert called_different.mean() <= 0.07
