"""Reads the API's durations (`1m30s`) and percentages (`30%`); the first step of reading a pool."""

import re
from typing import Final

_UNIT_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_PERCENT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")


class QuantityError(ValueError):
    """A duration or percentage that cannot be read."""


def parse_duration(text: object) -> float:
    """Return the seconds that a Go-style duration says.

    Args:
        text: One or more numbers with units, such as `2s`, `200ms`, `1m30s`; never negative.

    Raises:
        QuantityError: If it is anything else.
    """
    if not isinstance(text, str):
        raise QuantityError(f"a duration is a string such as 200ms or 2s, not {text!r}")
    seconds = 0.0
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            break
        seconds += float(part[1]) * _UNIT_SECONDS[part[2]]
        position = part.end()
    if not text or position < len(text):
        raise QuantityError(f"{text!r} is not a duration; write it like 200ms, 2s or 1m30s")
    return seconds


def parse_percent(text: object) -> float:
    """Return the fraction (0 to 1) that a percentage such as `30%` says.

    Raises:
        QuantityError: If it is not a percentage from 0% to 100%.
    """
    part = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    if part is None or float(part[1]) > 100.0:  # noqa: PLR2004 - per cent means of a hundred
        raise QuantityError(f"{text!r} is not a percentage; write it like 30%, from 0% to 100%")
    return float(part[1]) / 100.0
