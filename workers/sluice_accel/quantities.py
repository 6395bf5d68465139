"""A number with where it comes from, so that no table can show it without."""

from dataclasses import dataclass
from enum import StrEnum


class Tag(StrEnum):
    """How a number is known."""

    PUBLISHED = "published"
    DERIVED = "derived"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value, its unit, how it is known, and the source or the reasoning."""

    value: float
    unit: str
    tag: Tag
    source: str


def published(value: float, unit: str, source: str) -> Quantity:
    """Return a number that a named source states."""
    return Quantity(value, unit, Tag.PUBLISHED, source)


def derived(value: float, unit: str, source: str) -> Quantity:
    """Return a number that follows from published ones by arithmetic."""
    return Quantity(value, unit, Tag.DERIVED, source)


def assumed(value: float, unit: str, source: str) -> Quantity:
    """Return a number that nobody has published; `source` says why this one."""
    return Quantity(value, unit, Tag.ASSUMED, source)
