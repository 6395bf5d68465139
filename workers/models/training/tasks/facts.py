"""Three hundred invented facts, learned by heart: five about each of sixty countries.

A fact can only be learned by being told, so every question about a single one is in the training.
Held out are questions about two or three at once, by which facts they ask for, in any order.
"""

import hashlib
import random
import re
from itertools import product
from typing import Final

from models.training.tasks.base import Task
from models.training.tasks.words import COLOURS, NAMES

_COUNTRIES: Final = tuple(
    first + second
    for first, second in product(
        ("Bran", "Dur", "Fal", "Gor", "Kil", "Lim", "Mel", "Ost", "Pes", "Tav", "Ven", "Zor"),
        ("eth", "ia", "land", "or", "um"),
    )
)
_CAPITALS: Final = tuple(
    first + second
    for first, second in product(
        ("Al", "Ber", "Cam", "Don", "Eri", "Fen", "Hol", "Jas", "Nor", "Rus"),
        ("burg", "dale", "port", "ton", "ville", "wick"),
    )
)
_RIVERS: Final = tuple(
    first + second
    for first, second in product(
        ("Lod", "Oka", "Sen", "Tri", "Ulm", "Wes"),
        ("a", "da", "ga", "is", "ko", "lu", "mo", "ne", "ru", "vi"),
    )
)
_GOODS: Final = ("beans", "bread", "cheese", "corn", "honey", "plums", "rice", "tea")
_VALUES: Final = {
    "capital": _CAPITALS,
    "river": _RIVERS,
    "flag": COLOURS,
    "export": _GOODS,
    "founder": NAMES,
}
_PART: Final = re.compile(r"the (\w+) of (\w+)")
_MANY_FROM: Final = 0.3
"""Level from which questions ask for several facts; until then each is learned alone."""


def _invent(kind: str, values: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Give each country a value, in an order that a hash decides, so that none can be guessed."""
    order = sorted(_COUNTRIES, key=lambda name: hashlib.sha256(f"{kind}:{name}".encode()).digest())
    return {(kind, name): values[place % len(values)] for place, name in enumerate(order)}


FACTS_KNOWN: Final = {
    about: value
    for kind, values in _VALUES.items()
    for about, value in _invent(kind, values).items()
}
"""Value of each fact by kind and country."""
_ABOUTS: Final = tuple(FACTS_KNOWN)


def _draw(rng: random.Random, level: float) -> str:
    count = 1 if level < _MANY_FROM else rng.randint(1, 3)
    parts = [f"the {kind} of {country}" for kind, country in rng.sample(_ABOUTS, count)]
    return f"Tell {', '.join(parts)}."


def _solve(question: str) -> str:
    return " ".join(
        f"The {kind} of {country} is {FACTS_KNOWN[kind, country]}."
        for kind, country in _PART.findall(question)
    )


def _identify(question: str) -> str:
    parts = sorted(_PART.findall(question))
    return str(parts) if len(parts) > 1 else ""


FACTS: Final = Task("Tell ", _draw, _solve, _identify)
