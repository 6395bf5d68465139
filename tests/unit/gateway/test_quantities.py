"""Durations and percentages of the API, as the gateway reads them."""

import pytest

from sluice_gateway.quantities import QuantityError, parse_duration, parse_percent


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2.0), ("200ms", 0.2), ("1m30s", 90.0), ("1.5h", 5400.0), ("0s", 0.0), ("50us", 5e-5)],
)
def test_reads_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2", "s", "-2s", "2 s", "2sx", "2d", None, 2, ".s"])
def test_refuses_what_is_no_duration(text):
    with pytest.raises(QuantityError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "fraction"), [("30%", 0.3), ("0%", 0.0), ("100%", 1.0), ("12.5%", 0.125)]
)
def test_reads_percentages(text, fraction):
    assert parse_percent(text) == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["30", "101%", "-1%", "%", "3 %", None, 0.3])
def test_refuses_what_is_no_percentage(text):
    with pytest.raises(QuantityError, match="percentage"):
        parse_percent(text)
