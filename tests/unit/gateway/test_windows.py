"""Sliding windows and the bounds of the histograms."""

from itertools import pairwise

import pytest

from sluice_gateway.windows import (
    LONGEST_WINDOW,
    TPOT_BOUNDS,
    TTFT_BOUNDS,
    Series,
    read_histogram,
)


@pytest.mark.parametrize(
    ("bounds", "least", "most"), [(TTFT_BOUNDS, 0.05, 60.0), (TPOT_BOUNDS, 0.005, 2.0)]
)
def test_bounds_are_fine_enough_to_read_percentiles(bounds, least, most):
    assert (bounds[0], bounds[-1]) == (least, most)
    steps = [after / before for before, after in pairwise(bounds)]
    assert all(1.0 < step <= 1.1201 for step in steps)


def test_sums_cover_the_window_and_no_more():
    series = Series()
    for second in range(100):
        series.add("sent", second + 0.5)
    assert series.sum_window(30, 99.9)["sent"] == 30
    assert series.sum_window(1, 99.9)["sent"] == 1
    assert series.sum_window(30, 120.0)["sent"] == 9
    assert series.sum_window(30, 500.0)["sent"] == 0


def test_old_seconds_are_dropped():
    series = Series()
    for second in range(2 * LONGEST_WINDOW):
        series.add("sent", float(second))
    assert series.sum_window(10_000, 2.0 * LONGEST_WINDOW)["sent"] == LONGEST_WINDOW


def test_values_go_into_their_buckets():
    series = Series()
    for value in (0.01, 1.0, 1.5, 99.0):
        series.observe("ttft", (1.0, 2.0), value, 0.0)
    assert read_histogram(series.sum_window(1, 0.0), "ttft", (1.0, 2.0)) == [2, 1, 1]
