"""Jitter is chance that can be repeated."""

import statistics

from hypothesis import given
from hypothesis import strategies as st

from sluice_accel.jitter import jitter_factor

numbers = st.integers(0, 2**63)


@given(st.integers(), numbers, st.floats(0, 5))
def test_stays_within_its_bounds_and_is_the_same_each_time(seed, step, deviation):
    factor = jitter_factor(seed, step, deviation)
    assert 0.3 - 1e-9 <= factor <= 1.7 + 1e-9
    assert factor == jitter_factor(seed, step, deviation)


def test_is_as_wide_as_asked_for_around_one():
    factors = [jitter_factor(7, step, 0.1) for step in range(4000)]
    assert abs(statistics.fmean(factors) - 1) < 0.01
    assert abs(statistics.stdev(factors) - 0.1) < 0.01
    assert len(set(factors)) == 4000
    assert factors != [jitter_factor(8, step, 0.1) for step in range(4000)]


@given(st.integers(), numbers)
def test_none_asked_for_is_none(seed, step):
    assert jitter_factor(seed, step, 0.0) == 1.0
