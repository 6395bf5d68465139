"""Texts of the API are read exactly, and only texts are."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.quantities import (
    DECIMAL,
    DURATION,
    PERCENT,
    format_decimal,
    format_duration,
    format_percent,
    parse_decimal,
    parse_duration,
    parse_percent,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("2s", 2),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("0s", 0),
        ("1h1m1s1ms", 3661.001),
        ("30s1m", 90),
        ("99999h", 359996400),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


NO_DURATIONS = ["", "2", "s", "2 s", "2S", "-2s", "+2s", ".5s", "2.s", "1d", "2µs", "٢s", "2s\n"]


@pytest.mark.parametrize(
    "value", [*NO_DURATIONS, "1s1s1s1s1s", 2, 2.0, True, None, ["2s"]], ids=repr
)
def test_what_is_no_duration_gets_a_sentence(value):
    with pytest.raises(ValueError, match="must be a duration such as 200ms, 2s or 1m30s"):
        parse_duration(value)


@given(st.integers(0, 100_000_000).map(lambda thousandths: thousandths / 1_000_000))
def test_a_duration_survives_being_written(seconds):
    text = format_duration(seconds)
    assert DURATION.check(text)
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.5, "500ms"), (1.0, "1s"), (1.5, "1500ms"), (300.0, "300s"), (1e5, "100000s")],
)
def test_a_duration_is_written_in_seconds_if_they_are_whole(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "fraction"),
    [("30%", 0.3), ("0%", 0), ("100%", 1), ("99.9%", 0.999), ("100.000%", 1), ("0.001%", 0.00001)],
)
def test_a_percentage_is_read_as_a_fraction(text, fraction):
    assert parse_percent(text) == fraction


@pytest.mark.parametrize(
    "value", ["30", "%", "101%", "100.1%", "-1%", "1e1%", "30%\n", " 30%", 0.3, 30, None], ids=repr
)
def test_what_is_no_percentage_gets_a_sentence(value):
    with pytest.raises(ValueError, match="must be a percentage from 0% to 100%, such as 30%"):
        parse_percent(value)


@given(st.integers(0, 100_000).map(lambda thousandths: thousandths / 100_000))
def test_a_percentage_survives_being_written(fraction):
    text = format_percent(fraction)
    assert PERCENT.check(text)
    assert parse_percent(text) == pytest.approx(fraction, abs=1e-12)


@pytest.mark.parametrize("value", ["", "-1", "1.", ".5", "1e3", "$1", 12.29, 12, None], ids=repr)
def test_what_is_no_decimal_gets_a_sentence(value):
    with pytest.raises(ValueError, match="must be a decimal number in quotes"):
        parse_decimal(value)


@given(st.from_regex(DECIMAL.pattern, fullmatch=True).filter(str.isascii))
def test_a_decimal_survives_being_read_and_written(text):
    number = parse_decimal(text)
    assert parse_decimal(format_decimal(number)) == number
    assert "E" not in format_decimal(number)


def test_a_price_keeps_its_cents():
    assert parse_decimal("12.29") == Decimal("12.29")


@pytest.mark.parametrize(("value", "text"), [("500m", "500m"), (2, "2"), ("1.5Gi", "1.5Gi")])
def test_a_quantity_is_text_also_where_it_was_a_number(value, text):
    assert parse_quantity(value) == text


@pytest.mark.parametrize("value", ["lots", "-1", -1, 1.5, True, "1e3", "5 Gi", None], ids=repr)
def test_what_is_no_quantity_gets_a_sentence(value):
    with pytest.raises(ValueError, match="must be a resource quantity such as 500m, 2 or 4Gi"):
        parse_quantity(value)
