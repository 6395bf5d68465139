"""Text forms of the API: Go-style durations, percentages and decimal strings.

Floats never stand in the API: they do not survive a round trip through every client unchanged.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
PERCENT_PATTERN = r"^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$"
DECIMAL_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


def parse_duration(value: object) -> float:
    """Return seconds for a text like ``1m30s`` or ``200ms``; numbers are seconds already.

    Raises:
        ValueError: the text is no such duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or not re.match(DURATION_PATTERN, value):
        raise ValueError(f"{value!r} is not a duration: write it like 200ms, 2s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads back to `seconds`."""
    if seconds and round(seconds * 1000, 6) % 1000:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def parse_percent(value: object) -> float:
    """Return a fraction of 1 for a text like ``30%``; numbers are fractions already.

    Raises:
        ValueError: the text is no percentage from 0% to 100%.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or not re.match(PERCENT_PATTERN, value):
        raise ValueError(f"{value!r} is not a percentage: write it like 30%, from 0% to 100%")
    return float(Decimal(value[:-1]) / 100)


def format_percent(fraction: float) -> str:
    """Return the text of a fraction of 1, as ``30%``."""
    return f"{round(fraction * 100, 3):g}%"


def parse_decimal(value: object) -> Decimal:
    """Return the number in a text like ``12.29``.

    Raises:
        ValueError: the text is no decimal number of at most nine digits on each side.
    """
    if isinstance(value, Decimal):
        return value
    try:
        if isinstance(value, str) and re.match(DECIMAL_PATTERN, value):
            return Decimal(value)
    except InvalidOperation:  # pragma: no cover - the pattern leaves nothing to fail
        pass
    raise ValueError(f'{value!r} is not a decimal string: write it quoted, like "12.29"')


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32}),
]
"""Seconds; in the API a Go-style duration."""

Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(format_percent, return_type=str),
    WithJsonSchema({"type": "string", "pattern": PERCENT_PATTERN, "maxLength": 8}),
]
"""A fraction of 1; in the API a percentage."""

DecimalString = Annotated[
    Decimal,
    BeforeValidator(parse_decimal),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 19}),
]
"""A decimal number; in the API a string, so that no client rounds it."""
