"""Text forms of the API: Go-style durations, percentages, decimal strings, resource quantities.

Floats never stand in the API: they do not survive a round trip through every client unchanged. In
Python a duration is a number of seconds and a percentage a fraction of 1; only text is read.
"""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from sluice.api.rules import RULES, Form, matches, rule

DURATION = Form(
    r"^([0-9]{1,5}([.][0-9]{1,3})?(h|m|s|ms)){1,4}$",
    "must be a duration such as 200ms, 2s or 1m30s",
    longest=32,
)
"""At most four parts of at most five digits, as in the Gateway API (GEP-2257), so that none
overflows what CEL calls a duration (292 years); decimals beyond that, as Go has them."""
PERCENT = Form(
    r"^(100([.]0{1,3})?|[0-9]{1,2}([.][0-9]{1,3})?)%$",
    "must be a percentage from 0% to 100%, such as 30%",
    longest=8,
)
DECIMAL = Form(
    r"^[0-9]{1,9}([.][0-9]{1,9})?$",
    'must be a decimal number in quotes, such as "12.29"',
    longest=19,
)
QUANTITY = Form(
    r"^[0-9]{1,9}([.][0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
    "must be a resource quantity such as 500m, 2 or 4Gi",
    longest=20,
)

_NO_TIME = "must be longer than 0s"
_NEITHER_END = "must lie between 0% and 100%, both excluded"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")


def parse_duration(value: object) -> float:
    """Return the seconds in a text like ``1m30s`` or ``200ms``.

    Raises:
        ValueError: the value is no such text.
    """
    text = DURATION.check(value)
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads back to `seconds`.

    Precise to 1 µs and good for 27 hours, which is what a default or a status needs.
    """
    milliseconds = round(seconds * 1000, 3)
    if milliseconds % 1000:
        return f"{milliseconds:.10g}ms"
    return f"{milliseconds / 1000:.10g}s"


def parse_percent(value: object) -> float:
    """Return the fraction of 1 in a text like ``30%``.

    Raises:
        ValueError: the value is no percentage from 0% to 100%.
    """
    return float(Decimal(PERCENT.check(value)[:-1]) / 100)


def format_percent(fraction: float) -> str:
    """Return the text of a fraction of 1, as ``30%``."""
    return f"{round(fraction * 100, 3):g}%"


def parse_decimal(value: object) -> Decimal:
    """Return the number in a text like ``12.29``.

    Raises:
        ValueError: the value is no decimal text of at most nine digits on each side.
    """
    return Decimal(DECIMAL.check(value))


def format_decimal(value: Decimal) -> str:
    """Return the number as text, never in exponents."""
    return f"{value:f}"


def parse_quantity(value: object) -> str:
    """Return a resource quantity as text; whole numbers may stand unquoted, as in a pod.

    Raises:
        ValueError: the value is no such quantity.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    return QUANTITY.check(value)


def _require_time(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError(_NO_TIME)
    return seconds


def _require_between(fraction: float) -> float:
    if not 0 < fraction < 1:
        raise ValueError(_NEITHER_END)
    return fraction


_LONGER_THAN_NOTHING = rule(
    f"!{matches('self', DURATION.pattern)} || duration(self) > duration('0s')", _NO_TIME
)
_BETWEEN = rule("!self.matches('^(0+([.]0+)?|100([.]0+)?)%$')", _NEITHER_END)

_AS_DURATION = PlainSerializer(format_duration, return_type=str)
_AS_PERCENT = PlainSerializer(format_percent, return_type=str)

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    _AS_DURATION,
    WithJsonSchema(DURATION.describe()),
]
"""Seconds; in the API a Go-style duration."""

PositiveDuration = Annotated[
    float,
    BeforeValidator(parse_duration),
    AfterValidator(_require_time),
    _AS_DURATION,
    WithJsonSchema(DURATION.describe(_LONGER_THAN_NOTHING)),
]
"""Seconds, more than none."""

Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    _AS_PERCENT,
    WithJsonSchema(PERCENT.describe()),
]
"""A fraction of 1; in the API a percentage."""

InnerPercent = Annotated[
    float,
    BeforeValidator(parse_percent),
    AfterValidator(_require_between),
    _AS_PERCENT,
    WithJsonSchema(PERCENT.describe(_BETWEEN)),
]
"""A fraction of 1 that is neither 0 nor 1."""

DecimalString = Annotated[
    Decimal,
    BeforeValidator(parse_decimal),
    PlainSerializer(format_decimal, return_type=str),
    WithJsonSchema(DECIMAL.describe()),
]
"""A decimal number; in the API a string, so that no client rounds it."""

Quantity = Annotated[
    str,
    BeforeValidator(parse_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": QUANTITY.longest,
            RULES: [
                rule(
                    f"type(self) == string ? {matches('self', QUANTITY.pattern)} : self >= 0",
                    QUANTITY.sentence,
                )
            ],
        }
    ),
]
"""A resource quantity as in a pod; always text in Python."""
