"""Looking up: lines of a table by key, in up to about 700 tokens, and fields of a JSON object.

Answers repeat the key, `owl=47`: what follows it in the context is then what follows it in the
answer, and one attention step finds it.
"""

import json
import math
import random
from typing import Final

from models.training.tasks.base import Task
from models.training.tasks.words import NOUNS, split_words

_MOST_ASKED: Final = 5
"""Keys of one question: several make more of the tokens that a long table costs."""
_LINES: Final = (3, 140)
FIELDS: Final = split_words(
    """
    age area code color cost date group id kind level name port price rank rate shape size sort
    speed state tag team time title type unit user width zone
    """
)
_MEMBERS: Final = (2, 16)


def _draw_count(rng: random.Random, level: float, least: int, most: int) -> int:
    """Return a count whose logarithm is uniform: few and many are both common."""
    return round(least * math.exp(rng.random() * level * math.log(most / least)))


def _draw_find(rng: random.Random, level: float) -> str:
    """Draw a table of `key=number` lines, and the keys to find."""
    keys = rng.sample(NOUNS, _draw_count(rng, level, *_LINES))
    lines = [f"{key}={rng.randint(10, 99)}" for key in keys]
    asked = rng.sample(keys, rng.randint(1, min(_MOST_ASKED, len(keys))))
    return "\n".join(["Table:", *lines, "Find:", *asked])


def _solve_find(question: str) -> str:
    table, asked = question.removeprefix("Table:\n").split("\nFind:\n")
    values = dict(line.split("=") for line in table.split("\n"))
    return "\n".join(f"{key}={values[key]}" for key in asked.split("\n"))


def _draw_value(rng: random.Random) -> str | int | bool | None:
    """Return a word, a number, a truth value or nothing."""
    kind = rng.random()
    if kind < 0.45:  # noqa: PLR2004
        return rng.choice(NOUNS)
    if kind < 0.9:  # noqa: PLR2004
        return rng.randrange(10 ** rng.randint(1, 3))
    return rng.choice((True, False, None))


def _draw_json(rng: random.Random, level: float) -> str:
    """Draw an object and which of its fields to take."""
    names = rng.sample(FIELDS, _draw_count(rng, level, *_MEMBERS))
    members = {name: _draw_value(rng) for name in names}
    asked = rng.sample(names, rng.randint(1, min(_MOST_ASKED, len(names))))
    return "\n".join([f"JSON:{_render(members)}", "Take:", *asked])


def _solve_json(question: str) -> str:
    shown, asked = question.removeprefix("JSON:").split("\nTake:\n")
    members = json.loads(shown)
    return _render({name: members[name] for name in asked.split("\n")})


def _render(members: dict[str, str | int | bool | None]) -> str:
    return json.dumps(members, separators=(",", ":"))


FIND: Final = Task("Table:", _draw_find, _solve_find)
JSON: Final = Task("JSON:", _draw_json, _solve_json)
