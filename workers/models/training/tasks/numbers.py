"""Sorting, adding and subtracting.

Sums are worked in columns from the last digit on, with what is carried, because then each digit of
the answer depends on what already stands there: `347+85` is `7+5=12,4+8+1=13,3+1=4:432`. The same
for a difference, where a digit that is too small has ten added, and the next column takes one away:
`432-85` is `12-5=7,13-8-1=4,4-1=3:347`.
"""

import random
from typing import Final

from models.training.tasks.base import Task, draw_size

_DIGITS: Final = 3
_NUMBERS: Final = (2, 6)


def explain_sum(first: int, second: int) -> str:
    """Return the columns of a sum, from the last digit on."""
    steps, carried = [], 0
    tops, bottoms = str(first)[::-1], str(second)[::-1]
    for place in range(max(len(tops), len(bottoms))):
        terms = [digits[place] for digits in (tops, bottoms) if place < len(digits)]
        terms += ["1"] if carried else []
        total = sum(map(int, terms))
        steps.append(f"{'+'.join(terms)}={total}")
        carried = total // 10
    return ",".join(steps)


def explain_difference(first: int, second: int) -> str:
    """Return the columns of a difference (not negative), from the last digit on."""
    steps, borrowed = [], 0
    tops, bottoms = str(first)[::-1], str(second)[::-1]
    for place, top in enumerate(tops):
        taken = ([bottoms[place]] if place < len(bottoms) else []) + ["1"] * borrowed
        left = int(top) - sum(map(int, taken))
        borrowed = int(left < 0)
        steps.append(f"{'-'.join([str(int(top) + 10 * borrowed), *taken])}={left + 10 * borrowed}")
    return ",".join(steps)


def _draw_number(rng: random.Random, level: float) -> int:
    """Return a number of one to three digits; larger ones are as common as their share says."""
    digits = 1 + round((_DIGITS - 1) * level)
    shortest = rng.choices(range(1, digits + 1), [3**place for place in range(digits)])[0]
    return rng.randint(10 ** (shortest - 1), 10**shortest - 1)


def _draw_add(rng: random.Random, level: float) -> str:
    return f"Add {_draw_number(rng, level)}+{_draw_number(rng, level)}."


def _read(question: str, sign: str) -> tuple[int, int]:
    first, second = question.rstrip(".").split(" ")[1].split(sign)
    return int(first), int(second)


def _solve_add(question: str) -> str:
    first, second = _read(question, "+")
    return f"{explain_sum(first, second)}:{first + second}"


def _identify_add(question: str) -> str:
    """The order of two numbers does not matter to their sum."""
    return str(sorted(_read(question, "+")))


def _draw_subtract(rng: random.Random, level: float) -> str:
    second, first = sorted((_draw_number(rng, level), _draw_number(rng, level)))
    return f"Subtract {first}-{second}."


def _solve_subtract(question: str) -> str:
    first, second = _read(question, "-")
    return f"{explain_difference(first, second)}:{first - second}"


def _draw_sort(rng: random.Random, level: float) -> str:
    count = draw_size(rng, level, *_NUMBERS)
    return f"Sort {' '.join(str(rng.randint(10, 99)) for _ in range(count))}."


def _solve_sort(question: str) -> str:
    return " ".join(sorted(question.rstrip(".").split(" ")[1:]))


ADD: Final = Task("Add ", _draw_add, _solve_add, _identify_add)
SUBTRACT: Final = Task("Subtract ", _draw_subtract, _solve_subtract)
SORT: Final = Task("Sort ", _draw_sort, _solve_sort, _solve_sort)
