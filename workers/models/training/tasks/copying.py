"""Copying a line with edits, and writing a word backwards."""

import random
import re
from typing import Final

from models.training.tasks.base import Task, draw_size
from models.training.tasks.words import CONSONANTS, NOUNS, VOWELS

_BEGINS: Final = "Copy "
_WORDS: Final = (3, 16)
_LETTERS: Final = (3, 9)
_EDIT: Final = re.compile(r'with "(\w+)" for "(\w+)"|without "(\w+)"')


def _draw_copy(rng: random.Random, level: float) -> str:
    """Draw such as `Copy with "fox" for "owl":` and a line of words, all different.

    In quotes, a word is the same token as in the line; after a space it would be another.
    """
    count = draw_size(rng, level, *_WORDS)
    words = rng.sample(NOUNS, count + 2)
    line, fresh = words[:count], words[count:]
    edits = []
    for old, new in zip(rng.sample(line, rng.randint(1, 2)), fresh, strict=False):
        edit = f'without "{old}"' if rng.random() < 1 / 3 else f'with "{new}" for "{old}"'
        edits.append(edit)
    return f"{_BEGINS}{', '.join(edits)}:\n{','.join(line)}"


def _solve_copy(question: str) -> str:
    asked, line = question.split(":\n")
    words = line.split(",")
    for new, old, gone in _EDIT.findall(asked):
        place = words.index(old or gone)
        words[place : place + 1] = [new] if new else []
    return ",".join(words)


def _draw_reverse(rng: random.Random, level: float) -> str:
    """Draw such as `Reverse "BAKOT".`: capitals, because each is a token of its own."""
    first = rng.randrange(2)
    letters = (
        rng.choice(VOWELS if (first + place) % 2 else CONSONANTS)
        for place in range(draw_size(rng, level, *_LETTERS))
    )
    return f'Reverse "{"".join(letters)}".'


def _solve_reverse(question: str) -> str:
    return question.split('"')[1][::-1]


def _identify_reverse(question: str) -> str:
    """A word and its mirror image are the same question."""
    word = question.split('"')[1]
    return min(word, word[::-1])


COPY: Final = Task(_BEGINS, _draw_copy, _solve_copy)
REVERSE: Final = Task("Reverse ", _draw_reverse, _solve_reverse, _identify_reverse)
