"""The curve under best-of-n: the estimator against enumeration, and where it says scores part."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from alignzoo.overoptimisation import (
    best_of_n_kl,
    best_of_n_mean,
    counts_of_best,
    draw_curve,
)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("tied", [False, True])
def test_the_estimator_is_the_mean_over_all_choices(n: int, tied: bool) -> None:
    generator = np.random.default_rng(n)
    proxy, true = generator.normal(size=(2, 6))
    if tied:
        proxy = np.round(proxy)

    def best(chosen: tuple[int, ...]) -> float:
        top = max(proxy[i] for i in chosen)
        return float(np.mean([true[i] for i in chosen if proxy[i] == top]))

    # With ties the choice among equals is even over all responses, as it is over choices of n.
    choices = list(itertools.combinations(range(6), n))
    expected = np.mean([best(chosen) for chosen in choices])
    assert best_of_n_mean(proxy, true, n) == pytest.approx(expected)


def test_the_best_of_all_is_the_best() -> None:
    assert best_of_n_mean(np.array([1.0, 3.0, 2.0]), np.array([5.0, 7.0, 9.0]), 3) == 7.0


def test_large_sets_do_not_overflow() -> None:
    proxy = np.arange(3000.0)
    found = best_of_n_mean(proxy, proxy, 1000)
    # E of the maximum of 1000 of 0 .. 2999 is 1000 * 3001 / 1001 - 1
    assert found == pytest.approx(1000 * 3001 / 1001 - 1)


def test_the_divergence_is_the_closed_form() -> None:
    # its definition: the quantile u of the score of the best has the density n u^(n-1)
    grid = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 16):
        density = n * grid ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float(np.mean(density * np.log(density))), abs=1e-3)


def test_sizes_are_powers_of_two_and_the_largest() -> None:
    assert counts_of_best(1) == [1]
    assert counts_of_best(12) == [1, 2, 4, 8, 12]
    assert counts_of_best(64)[-1] == 64


def sets_of(make, count=64, size=32, seed=0):
    generator = np.random.default_rng(seed)
    return [make(generator, size) for _ in range(count)]


def test_a_proxy_that_is_the_truth_never_parts_from_it() -> None:
    def same(generator, size):
        scores = generator.normal(size=size)
        return scores, np.exp(scores)  # another scale is no other reward

    found = draw_curve(sets_of(same), num_prompts=64)
    assert (found.parts_at, found.stops_at, found.falls_from) == (None, None, None)
    assert found.share == pytest.approx(1.0)
    assert "do not part" in found.verdict()


def test_a_noisy_proxy_parts_from_the_truth_and_does_not_make_it_fall() -> None:
    def noisy(generator, size):
        true = generator.normal(size=size)
        return true + generator.normal(size=size), true

    found = draw_curve(sets_of(noisy, count=400), num_prompts=400)
    last = found.points[-1]
    assert (found.parts_at, found.stops_at, found.falls_from) == (2, None, None)
    # the true gain is the proxy's times their correlation, in standard deviations
    ratio = last.true_gain.value / last.proxy_gain.value
    assert ratio == pytest.approx(math.sqrt(0.5), abs=0.1)
    assert found.correlation == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_a_proxy_that_is_gamed_makes_the_truth_fall() -> None:
    def gamed(generator, size):
        quality = generator.normal(size=size)
        trick = generator.random(size) < 0.05  # rare, loved by the proxy, and bad
        return quality + 6 * trick, quality - 6 * trick

    found = draw_curve(sets_of(gamed), num_prompts=64)
    assert found.falls_from is not None
    assert found.stops_at is not None
    assert found.parts_at == 2
    assert found.stops_at <= found.falls_from < 32
    assert found.points[-1].true.value < found.points[0].true.value
    assert f"falls from n = {found.falls_from}" in found.summary()
    assert found.share < 0


def test_a_constant_proxy_gains_nothing() -> None:
    def constant(generator, size):
        return np.zeros(size), generator.normal(size=size)

    found = draw_curve(sets_of(constant), num_prompts=64)
    assert found.points[-1].proxy_gain.value == 0.0
    assert found.points[-1].true.value == pytest.approx(found.points[0].true.value)
    assert found.to_json()["correlation"] is None
