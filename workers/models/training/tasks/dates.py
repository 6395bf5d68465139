"""Dates up to four weeks later or earlier, in years without a 29 February, in worked steps."""

import random
import re
from typing import Final

from models.training.tasks.base import Task, draw_size

_MONTHS: Final = {
    "January": 31,
    "February": 28,
    "March": 31,
    "April": 30,
    "May": 31,
    "June": 30,
    "July": 31,
    "August": 31,
    "September": 30,
    "October": 31,
    "November": 30,
    "December": 31,
}
_NAMES: Final = tuple(_MONTHS)
_MOST_DAYS: Final = 28
"""The shortest month's: so no step crosses more than one border."""
_FORM: Final = re.compile(r"What date is (\d+) days? (after|before) (\d+) (\w+)\?")


def _draw(rng: random.Random, level: float) -> str:
    month = rng.choice(_NAMES)
    day = rng.randint(1, _MONTHS[month])
    count = draw_size(rng, level, 1, _MOST_DAYS)
    days = "day" if count == 1 else "days"
    return f"What date is {count} {days} {rng.choice(('after', 'before'))} {day} {month}?"


def _solve(question: str) -> str:
    form = _FORM.fullmatch(question)
    if form is None:
        raise ValueError(f"{question!r} asks for no date")
    count, day, month = int(form[1]), int(form[3]), form[4]
    place = _NAMES.index(month)
    if form[2] == "after":
        found = day + count
        steps = f"{day}+{count}={found}"
        if found > _MONTHS[month]:
            steps += f",{found}-{_MONTHS[month]}={found - _MONTHS[month]}"
            found, month = found - _MONTHS[month], _NAMES[(place + 1) % len(_NAMES)]
        return f"{steps}:{found} {month}"
    steps = ""
    if day <= count:
        month = _NAMES[place - 1]
        steps = f"{day}+{_MONTHS[month]}={day + _MONTHS[month]},"
        day += _MONTHS[month]
    return f"{steps}{day}-{count}={day - count}:{day - count} {month}"


DATE: Final = Task("What date is ", _draw, _solve)
