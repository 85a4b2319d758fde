"""Curves as geometry: what is drawn of a series."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignzoo.report.curves import (
    curve,
    downsample,
    frontier,
    running_mean,
    tick_labels,
    ticks,
    value_axis,
)
from alignzoo.report.metric_names import format_number, format_seconds
from alignzoo.report.run_files import Series

finite = st.floats(-1e9, 1e9, allow_nan=False)


def series(*points: tuple[float, float]) -> Series:
    found = Series()
    for step, value in points:
        found.append(step, value)
    return found


@given(st.lists(finite, max_size=300), st.integers(4, 60))
def test_downsampling_keeps_order_ends_and_extremes(values: list[float], limit: int) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    kept = downsample(points, limit)
    assert len(kept) <= limit
    assert kept == sorted(kept)
    if points:
        assert kept[0] == points[0]
        assert kept[-1] == points[-1]
        assert max(y for _, y in kept) == max(values)
        assert min(y for _, y in kept) == min(values)


def test_downsampling_to_too_few_points_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 3"):
        downsample([(0.0, 0.0)], 3)


def test_running_mean_of_a_window_cut_off_at_the_ends() -> None:
    assert running_mean([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, 11 / 3, 4.5]


@given(finite, finite)
def test_ticks_are_few_and_within(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    places = ticks(low, high, 4)
    assert len(places) <= 9
    slack = 1e-6 * (high - low)
    assert all(low - slack <= place <= high + slack for place in places)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 0.2, 0.4], ["0.0", "0.2", "0.4"]),
        ([0.0, 5.0, 10.0], ["0", "5", "10"]),
        ([0.0, 50_000.0, 100_000.0], ["0", "50k", "100k"]),
        ([0.0, 5e6, 1e7], ["0", "5M", "10M"]),
        ([2e-7, 3e-7], ["2e-7", "3e-7"]),
        ([-0.02, -0.01, 0.0], ["-0.02", "-0.01", "0.00"]),
    ],
)
def test_tick_labels_are_short_and_alike(values: list[float], labels: list[str]) -> None:
    assert tick_labels(values) == labels


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [-2.0], [1e300, -1e300], [1e-320]])
def test_axis_of_odd_values_is_finite_and_has_room(values: list[float]) -> None:
    axis = value_axis(values)
    assert math.isfinite(axis.low)
    assert math.isfinite(axis.high)
    assert axis.low < axis.high


def test_axis_starts_at_zero_where_that_is_near() -> None:
    assert value_axis([1.0, 10.0]).low == 0.0
    assert value_axis([9.0, 10.0]).low > 8.0


def test_points_lie_where_their_values_are() -> None:
    chart = curve("kl", series((1, 0.0), (3, 10.0)), steps=(1, 5))
    (start, middle) = (point.split(",") for point in chart.lines[0].points.split())
    assert start == ["0", "1000"]
    assert middle[0] == "500"
    assert float(middle[1]) == pytest.approx(1000 * (1 - 10.0 / chart.y.high), abs=0.1)


def test_a_single_update_is_a_dot() -> None:
    chart = curve("kl", series((7, 2.0)), steps=(7, 7))
    assert chart.lines[0].dots
    assert chart.lines[0].points.startswith("500,")


def test_noisy_curves_get_a_mean_and_smooth_ones_do_not() -> None:
    noisy = series(*((i, float(i * 37 % 11)) for i in range(200)))
    smooth = series(*((i, float(i)) for i in range(200)))
    assert [line.kind for line in curve("a", noisy, steps=(0, 199), window=11).lines] == [
        "raw",
        "mean",
    ]
    assert [line.kind for line in curve("a", smooth, steps=(0, 199), window=11).lines] == [
        "training"
    ]


def test_frontier_joins_score_and_kl_of_the_same_updates() -> None:
    chart = frontier(series((1, 0.0), (2, 5.0), (4, 9.0)), series((1, 0.1), (3, 0.5), (4, 0.8)))
    assert chart is not None
    assert "update 4: score 0.8 at 9 nats" in chart.summary
    assert sum(path.count("M") for _, path in chart.dots) == 2
    assert [text for _, _, text in chart.marks] == ["1", "4"]


def test_frontier_needs_two_updates_with_both() -> None:
    assert frontier(series((1, 0.0)), series((1, 0.1))) is None
    assert frontier(None, series((1, 0.1), (2, 0.2))) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.95314, "0.9531"),
        (0.5, "0.5"),
        (12.3456, "12.35"),
        (1234567, "1,234,567"),
        (-0.25, "-0.25"),
        (3e-5, "3e-5"),
        (1.5e12, "1.5e12"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_up_to_four_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.84 s"), (41, "41 s"), (200, "3 min 20 s"), (3840, "1 h 04 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
