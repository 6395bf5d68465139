"""Rounding: exact, to the nearest, the same whatever else is in the array."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sluice_worker.formats import (
    Bfloat16,
    Float4Block,
    Float8Block,
    Float8Row,
    Float32,
    Microexponent,
    _to_float4,
    _to_float8,
)

FORMATS = {
    "float32": Float32(),
    "bfloat16": Bfloat16(),
    "fp8-row": Float8Row(),
    "fp8-block": Float8Block(),
    "fp4": Float4Block(),
    "mx9": Microexponent(7),
    "mx6": Microexponent(4),
}
SHARED = [name for name in FORMATS if name not in ("float32", "bfloat16")]
GROUP = {"fp8-row": 96, "fp8-block": 32, "fp4": 16, "mx9": 2, "mx6": 2}
"""Neighbours that are rounded by one scale."""

values = (
    st.floats(-(2.0**100), 2.0**100, width=32)
    | st.floats(-1, 1, width=32)
    | st.sampled_from([0.0, -0.0])
)
rows = arrays(np.float32, st.integers(1, 96), elements=values)
named = pytest.mark.parametrize("name", FORMATS)
shared = pytest.mark.parametrize("name", SHARED)


def normal(shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


def same(left, right):
    return left.dtype == right.dtype == np.float32 and left.tobytes() == right.tobytes()


@named
@settings(max_examples=60, deadline=None)
@given(row=rows)
def test_rounding_twice_is_rounding_once(name, row):
    once = FORMATS[name].round(row)
    assert once.shape == row.shape
    assert same(FORMATS[name].round(once), once)


@named
def test_rounding_twice_is_rounding_once_for_rows_as_a_model_has_them(name):
    for scale in (1e-30, 1e-3, 1.0, 300.0):
        once = FORMATS[name].round(normal((200, 128), scale=scale))
        assert same(FORMATS[name].round(once), once)


@named
@settings(max_examples=60, deadline=None)
@given(row=rows)
def test_what_shares_a_scale_keeps_its_order(name, row):
    found, group = FORMATS[name].round(row), GROUP.get(name, len(row))
    for start in range(0, len(row), group):
        order = np.argsort(row[start : start + group], kind="stable")
        assert (np.diff(found[start : start + group][order]) >= 0).all()


@named
@settings(max_examples=60, deadline=None)
@given(row=rows)
def test_signs_turn_around_and_zeros_stay(name, row):
    found = FORMATS[name].round(row)
    assert same(FORMATS[name].round(-row), -found)
    assert (found[row == 0] == 0).all()
    assert (np.signbit(found) == np.signbit(row)).all()


def bound(name, row):
    """Return the largest error (width,) that the format's docstring allows."""
    row = row.astype(np.float64)
    size = np.abs(row)
    if name == "float32":
        return size * 0
    if name == "bfloat16":
        return np.maximum(size * 2.0**-8, 2.0**-134)

    def largest(width):
        padded = np.concatenate([size, np.zeros(-len(size) % width)])
        return np.repeat(padded.reshape(-1, width).max(-1), width)[: len(size)]

    def exponent(of):
        return np.frexp(np.maximum(of, 2.0**-126))[1] - 1

    if name == "fp8-row":
        scale = np.maximum(largest(len(size)) / 448, 2.0**-120)
        return np.maximum(size * (2.0**-4 + 2.0**-18), scale * 2.0**-10)
    if name == "fp8-block":
        scale = np.maximum(2 * largest(32) / 448, 2.0**-120)  # a power of two: up to twice
        return np.maximum(size * 2.0**-4, scale * 2.0**-10)
    if name == "fp4":
        scale = np.maximum(largest(16) * (17 / 16) / 6, size.max() / 2688 * 2.0**-6)
        return np.maximum(np.maximum(size, scale) / 4, 2.0**-128) * (1 + 2.0**-16)
    bits, whole, near = {"mx9": 7, "mx6": 4}[name], exponent(largest(16)), exponent(largest(2))
    step = 2.0 ** (whole - np.clip(whole - near, 0, 1) - bits + 1)
    top = (2.0**bits - 1) * step
    return np.where(size > top, step, step / 2)


@named
@settings(max_examples=100, deadline=None)
@given(row=rows)
def test_no_error_is_larger_than_the_format_says(name, row):
    found = FORMATS[name].round(row).astype(np.float64)
    assert (np.abs(found - row) <= bound(name, row)).all()


@named
def test_no_error_is_larger_than_the_format_says_for_rows_as_a_model_has_them(name):
    for row in normal((100, 96)) * np.float32(3):
        found = FORMATS[name].round(row).astype(np.float64)
        assert (np.abs(found - row) <= bound(name, row)).all()


@named
def test_other_rows_and_further_axes_change_no_bit(name):
    x = normal((7, 3, 80))
    x[2] *= 1e20
    whole = FORMATS[name].round(x)
    for place in np.ndindex(7, 3):
        assert same(FORMATS[name].round(x[place]), whole[place])
    assert same(FORMATS[name].round(np.asfortranarray(x)), whole)


@shared
def test_a_value_that_is_not_finite_spoils_what_shares_its_scale(name):
    outer = {"fp8-row": 96, "fp8-block": 32, "fp4": 96, "mx9": 16, "mx6": 16}[name]
    for odd in (np.nan, np.inf, -np.inf):
        row = normal(96)
        row[40] = odd
        found = FORMATS[name].round(row)
        start = 40 // outer * outer
        assert np.isnan(found[start : start + outer]).all()
        assert np.isfinite(found).sum() == 96 - outer


def test_bfloat16_keeps_nan_and_infinities_and_overflows_into_them():
    row = np.array([np.nan, np.inf, -np.inf, 3.4e38, 3.38e38, 1e-45], np.float32)
    found = Bfloat16().round(row)
    assert np.isnan(found[0])
    assert found[1:4].tolist() == [np.inf, -np.inf, np.inf]
    assert np.isfinite(found[4])
    assert found[5] == 0


@shared
def test_tiny_rows_fade_to_zero_and_large_ones_stay_finite(name):
    assert (FORMATS[name].round(np.full(40, 1e-45, np.float32)) == 0).all()
    large = FORMATS[name].round(np.linspace(-1.6e38, 1.6e38, 40, dtype=np.float32))
    assert np.isfinite(large).all()


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (_to_float8, ml_dtypes.float8_e4m3fn),
        (_to_float4, ml_dtypes.float4_e2m1fn),
        (Bfloat16().round, ml_dtypes.bfloat16),
    ],
)
def test_elements_are_those_of_the_published_types(form, kind):
    """For all values of the type, all edges between them, and what lies beside those."""
    most = float(ml_dtypes.finfo(kind).max)
    if most > 448:
        held = np.arange(2**14, 2**14 + 3000, dtype=np.uint16).view(kind).astype(np.float32)
    else:
        count = 2 ** ml_dtypes.finfo(kind).bits
        held = np.arange(count, dtype=np.uint8).astype(np.uint8).view(kind).astype(np.float32)
    held = np.sort(held[np.isfinite(held)])
    edges = (held[1:] + held[:-1]) / 2
    tried = np.concatenate([held, edges])
    tried = np.concatenate([tried, np.nextafter(tried, np.float32(9e9)), normal(9999, scale=2)])
    tried = np.concatenate([tried, -tried]).clip(-most, most)
    assert np.array_equal(form(tried), tried.astype(kind).astype(np.float32))


def test_halves_round_to_even():
    row = np.array([448, 17, 19, 0, 2.0**-10, 3 * 2.0**-10], np.float32)
    assert Float8Row().round(row).tolist() == [448, 16, 20, 0, 0, 2.0**-8]
    row = np.array([8, 0.5, 1.5, 2.5], np.float32)  # mx6: the step is 1 beside 8, and 1/2 below
    assert Microexponent(4).round(row).tolist() == [8, 0, 1.5, 2.5]
    row = np.array([8, 2.5, 1.25, 1.75], np.float32)
    assert Microexponent(4).round(row).tolist() == [8, 2, 1, 2]


def test_microexponents_halve_the_step_of_small_pairs_and_saturate_below_the_next_power():
    row = np.array([15.9, 9, 7.9, 0.3] + [0] * 12, np.float32)
    assert Microexponent(4).round(row)[:4].tolist() == [15, 9, 7.5, 0.5]
    assert Microexponent(7).round(row)[:4].tolist() == [15.875, 9, 7.875, 0.3125]


def test_a_block_scale_of_fp8_is_the_least_power_of_two_that_saturates_nothing():
    for most, scale in ((448, 1), (449, 2), (224, 0.5), (225, 1)):
        row = np.array([most, 2.0**-9 * scale, 2.0**-10 * scale], np.float32)
        assert Float8Block().round(row)[1:].tolist() == [2.0**-9 * scale, 0]
