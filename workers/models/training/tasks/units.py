"""Converting units in worked steps: `7 h 25 min` is `7*60=420:0+5=5,2+2=4,4=4:445 min`."""

import random
from typing import Final

from models.training.tasks.base import Task, draw_size
from models.training.tasks.numbers import explain_sum

_MOST: Final = 20
"""Of the large unit: products up to this many times are learned by heart, as children do."""
_FACTORS: Final = {
    ("cm", "mm"): 10,
    ("wk", "d"): 7,
    ("ft", "in"): 12,
    ("yr", "mo"): 12,
    ("lb", "oz"): 16,
    ("d", "h"): 24,
    ("h", "min"): 60,
    ("min", "s"): 60,
    ("m", "cm"): 100,
    ("km", "m"): 1000,
    ("kg", "g"): 1000,
    ("l", "ml"): 1000,
}
_WITHOUT_REST: Final = 0.15


def _draw(rng: random.Random, level: float) -> str:
    (large, small), factor = rng.choice(list(_FACTORS.items()))
    count = draw_size(rng, level, 1, _MOST)
    rest = 0 if rng.random() < _WITHOUT_REST else rng.randint(1, factor - 1)
    return f"Convert {count} {large}{f' {rest} {small}' if rest else ''} to {small}."


def _solve(question: str) -> str:
    given, small = question.rstrip(".").removeprefix("Convert ").split(" to ")
    count, large, *more = given.split(" ")
    factor = _FACTORS[large, small]
    product = int(count) * factor
    steps = f"{count}*{factor}={product}"
    if not more:
        return f"{steps}:{product} {small}"
    rest = int(more[0])
    return f"{steps}:{explain_sum(product, rest)}:{product + rest} {small}"


CONVERT: Final = Task("Convert ", _draw, _solve)
