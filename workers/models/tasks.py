"""The tasks of the compact model: questions made by a program, with the one right answer.

Stands before everything else: `train.py` draws training examples from here, `heldout.py` and
`evaluate.py` draw the ones that training never sees. A prompt belongs to the held-out part if its
hash says so; training skips those, so the two parts are disjoint by construction.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "bcdfghjklmnprstvwz"
_HELD_OUT_IN: Final = 16
"""One prompt in so many is held out."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question in a user's words, and the only right answer to it."""

    task: str
    prompt: str
    answer: str


def is_held_out(prompt: str) -> bool:
    """Return whether a prompt belongs to the part that training never sees."""
    return hashlib.sha256(prompt.encode()).digest()[0] % _HELD_OUT_IN == 0


def draw_items(task: str, rng: random.Random, *, held_out: bool) -> Iterator[Item]:
    """Yield items of one task without end, all held out or none."""
    make = TASKS[task]
    while True:
        prompt, answer = make(rng)
        if is_held_out(prompt) is held_out:
            yield Item(task, prompt, answer)


def _make_word(rng: random.Random, shortest: int, longest: int) -> str:
    """Return a word that can be spoken: consonants and vowels in turn."""
    length = rng.randint(shortest, longest)
    first = rng.randrange(2)
    return "".join(
        rng.choice(_VOWELS if (first + place) % 2 else _CONSONANTS) for place in range(length)
    )


def _make_words(rng: random.Random, most: int, longest: int = 7) -> list[str]:
    return [_make_word(rng, 2, longest) for _ in range(rng.randint(1, most))]


def _make_copy(rng: random.Random) -> tuple[str, str]:
    """Copy a line, with one letter written for another."""
    text = " ".join(_make_words(rng, 8))[:56].rstrip()
    old = rng.choice([letter for letter in text if letter != " "])
    new = rng.choice([letter for letter in _VOWELS + _CONSONANTS if letter != old])
    return f"copy with {new} for {old}: {text}", text.replace(old, new)


def _make_reverse(rng: random.Random) -> tuple[str, str]:
    """Write a word from its end to its beginning."""
    word = _make_word(rng, 3, 8)
    return f"reverse: {word}", word[::-1]


def _make_lookup(rng: random.Random) -> tuple[str, str]:
    """Find the value of a key among up to sixteen pairs."""
    keys = list({_make_word(rng, 3, 4): None for _ in range(rng.randint(2, 16))})
    pairs = {key: _make_word(rng, 3, 6) for key in keys}
    wanted = rng.choice(keys)
    listed = ", ".join(f"{key}={value}" for key, value in pairs.items())
    return f"find {wanted}: {listed}", pairs[wanted]


def _make_sum(rng: random.Random) -> tuple[str, str]:
    """Add two numbers below 100."""
    left, right = rng.randrange(100), rng.randrange(100)
    return f"sum: {left}+{right}", str(left + right)


def _make_sort(rng: random.Random) -> tuple[str, str]:
    """Sort three to eight digits."""
    digits = [str(rng.randrange(10)) for _ in range(rng.randint(3, 8))]
    return f"sort: {' '.join(digits)}", " ".join(sorted(digits))


def _make_capitals(rng: random.Random) -> tuple[str, str]:
    """Write a line in capitals."""
    text = " ".join(_make_words(rng, 9))[:60].rstrip()
    return f"capitals: {text}", text.upper()


TASKS: Final[dict[str, Callable[[random.Random], tuple[str, str]]]] = {
    "copy": _make_copy,
    "reverse": _make_reverse,
    "lookup": _make_lookup,
    "sum": _make_sum,
    "sort": _make_sort,
    "capitals": _make_capitals,
}
