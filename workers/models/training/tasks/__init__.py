"""The tasks of the compact model: questions made by a program, with the one right answer.

Stands before everything else here: the tokenizer is trained on these texts, `packing` draws the
training examples, `heldout` and `evaluate` the ones that training never sees. Whether a question is
held out is decided by a hash of its identity, and training skips those that are; so the two parts
are disjoint by construction, and a test looks again.
"""

import random
from collections.abc import Iterator
from typing import Final

from models.training.tasks.base import Item, Task, is_identity_held_out
from models.training.tasks.copying import COPY, REVERSE
from models.training.tasks.dates import DATE
from models.training.tasks.facts import FACTS
from models.training.tasks.numbers import ADD, SORT, SUBTRACT
from models.training.tasks.records import FIND, JSON
from models.training.tasks.story import STORY
from models.training.tasks.units import CONVERT

__all__ = ["TASKS", "Item", "Task", "draw_item", "draw_items", "find_task", "is_held_out", "solve"]

TASKS: Final[dict[str, Task]] = {
    "copy": COPY,
    "reverse": REVERSE,
    "find": FIND,
    "json": JSON,
    "facts": FACTS,
    "sort": SORT,
    "add": ADD,
    "subtract": SUBTRACT,
    "convert": CONVERT,
    "date": DATE,
    "story": STORY,
}

_KNOWN_IN_A_ROW: Final = 1000
"""Draws that bring nothing new after which a task's questions count as all drawn."""


def find_task(prompt: str) -> str:
    """Return the name of the task that a prompt is a question of.

    Raises:
        ValueError: it is none.
    """
    for name, task in TASKS.items():
        if prompt.startswith(task.begins):
            return name
    raise ValueError(
        f"{prompt[:40]!r} begins no question; questions begin with "
        + ", ".join(repr(task.begins) for task in TASKS.values())
    )


def solve(prompt: str) -> str:
    """Return the right answer to a prompt.

    Raises:
        ValueError: the prompt is no question of any task.
    """
    return TASKS[find_task(prompt)].solve(prompt)


def is_held_out(prompt: str) -> bool:
    """Return whether a question belongs to the part that training never sees."""
    name = find_task(prompt)
    return is_identity_held_out(name, TASKS[name].identify(prompt))


def draw_item(name: str, rng: random.Random, *, held_out: bool, level: float = 1.0) -> Item:
    """Return a question of one task with its answer, held out or not.

    Args:
        name: the task.
        rng: the only source of chance.
        held_out: which part the question is from.
        level: how hard, from 0 to 1; what is held out is drawn at 1.
    """
    task = TASKS[name]
    while True:
        prompt = task.draw(rng, level)
        if is_identity_held_out(name, task.identify(prompt)) is held_out:
            return Item(name, prompt, task.solve(prompt))


def draw_items(name: str, rng: random.Random, count: int) -> Iterator[Item]:
    """Yield so many held-out questions of one task, no two of the same identity.

    Raises:
        ValueError: the task has not so many, or hardly.
    """
    task, seen, known = TASKS[name], set[str](), 0
    while len(seen) < count:
        item = draw_item(name, rng, held_out=True)
        identity = task.identify(item.prompt)
        known += 1
        if identity not in seen:
            known = 0
            seen.add(identity)
            yield item
        elif known >= _KNOWN_IN_A_ROW:
            raise ValueError(
                f"{name} has hardly more than {len(seen)} held-out questions, and {count} are asked"
                " for: ask for fewer"
            )
