"""Kubernetes quantities ("250m", "32Gi", "2") as exact numbers; used for admission."""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"^([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)([a-zA-Z]*|[eE][+-]?[0-9]+)$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


class QuantityError(ValueError):
    """Not a Kubernetes quantity."""


def parse_quantity(text: str) -> Decimal:
    """Return a quantity in its base unit (cores, bytes, pieces).

    Raises:
        QuantityError: It is not one.
    """
    match = _QUANTITY.match(text)
    if match is not None:
        number, suffix = match.groups()
        if suffix in _BINARY:
            return Decimal(number) * Decimal(1024) ** _BINARY[suffix]
        if suffix in _DECIMAL:
            return Decimal(number).scaleb(_DECIMAL[suffix])
        if suffix[0] in "eE" and suffix[1:]:
            return Decimal(number + suffix)
    raise QuantityError(f"'{text}' is not a quantity such as 2, 250m or 32Gi")
