"""Differences between what we want of an object and what it is, in the fields we own.

Only these are written, so that a converged fleet is not written at all.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
}
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs: its path, what we want, and what was found (None: nothing)."""

    path: str
    wanted: Any
    found: Any


def find_differences(wanted: Any, found: Any, path: str = "") -> Iterator[Difference]:
    """Yield each leaf of `wanted` that `found` does not have the same.

    Maps are compared key by key, so that fields of others and defaults do not count; lists in whole
    length and order. Values that the API server drops when they are empty equal their absence.
    """
    if isinstance(wanted, Mapping):
        known = found if isinstance(found, Mapping) else {}
        for key, value in wanted.items():
            yield from find_differences(value, known.get(key), f"{path}.{key}" if path else key)
    elif isinstance(wanted, list):
        known_list = found if isinstance(found, list) else []
        if len(wanted) != len(known_list):
            if wanted or known_list:
                yield Difference(path, wanted, found)
            return
        for index, (value, other) in enumerate(zip(wanted, known_list, strict=True)):
            yield from find_differences(value, other, f"{path}[{index}]")
    elif not _is_same(wanted, found):
        yield Difference(path, wanted, found)


def _is_same(wanted: Any, found: Any) -> bool:
    if wanted == found:
        return True
    if found is None:
        return wanted is None or wanted is False or wanted == ""
    if isinstance(wanted, str) and isinstance(found, str | int):
        a, b = _read_quantity(wanted), _read_quantity(str(found))
        return a is not None and a == b
    return False


def _read_quantity(text: str) -> Decimal | None:
    match = _QUANTITY.match(text)
    return Decimal(match[1]) * _SUFFIXES[match[2] or ""] if match else None


def name_manager(live: Mapping[str, Any], ours: str) -> str:
    """Return who else last changed an object, from its managed fields; "" when nobody else did."""
    others: list[Mapping[str, Any]] = [
        entry
        for entry in live.get("metadata", {}).get("managedFields", ())
        if entry.get("manager") != ours and not entry.get("subresource")
    ]
    latest = max(others, key=lambda entry: str(entry.get("time", "")), default={})
    return str(latest.get("manager", ""))
