"""What a task is, and which of its questions training never sees.

Everything about a question follows from its text: its answer (`solve`) and what it is the same as
(`identify`). So whoever has a prompt, from a file or from a user, can check an answer to it.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HELD_OUT_IN: Final = 8
"""One question in so many is held out."""


def _identify_by_text(question: str) -> str:
    return question


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question with one right answer each.

    Attributes:
        begins: how all of its questions begin, and no others.
        draw: makes a question; its second argument is how hard, from 0 to 1.
        solve: the program that answers.
        identify: what two questions have in common if knowing one answer is knowing the other, such
            as the sorted numbers of a sorting question; "" if the question is never held out.
    """

    begins: str
    draw: Callable[[random.Random, float], str]
    solve: Callable[[str], str]
    identify: Callable[[str], str] = _identify_by_text


@dataclass(frozen=True, slots=True)
class Item:
    """A question and its only right answer."""

    task: str
    prompt: str
    answer: str


def is_identity_held_out(task: str, identity: str) -> bool:
    """Return whether all questions of one identity belong to the held-out part."""
    if not identity:
        return False
    return hashlib.sha256(f"{task}:{identity}".encode()).digest()[0] % HELD_OUT_IN == 0


def draw_size(rng: random.Random, level: float, least: int, most: int) -> int:
    """Return a size from `least` to as much of the way to `most` as the level (0 to 1) allows."""
    return rng.randint(least, least + round((most - least) * level))
