"""The tasks of the compact model: questions made by a program, with the one right answer.

Stands before everything else: `train.py` draws training examples from here, `heldout.py` and
`evaluate.py` draw the ones that training never sees. A question belongs to the held-out part if its
hash says so; training skips those, so the two parts are disjoint by construction.

A prompt is a question, `sort: 3 1 2`, or a question after solved examples of the same task:

    sort: 4 2 -> 2 4
    sort: 3 1 2

which is how prompts of up to about 300 tokens come about.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "bcdfghjklmnprstvwz"
_KEYS: Final = "ABCDEFGHKLMNPRSTVWXZ"
_HELD_OUT_IN: Final = 16
"""One question in so many is held out."""


@dataclass(frozen=True, slots=True)
class Task:
    """A way to draw a question, and the program that answers it."""

    draw: Callable[[random.Random], str]
    solve: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Item:
    """One question in a user's words, the only right answer, and solved examples before it."""

    task: str
    question: str
    answer: str
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def prompt(self) -> str:
        """The examples, a line each, and then the question."""
        lines = [f"{question} -> {answer}" for question, answer in self.earlier]
        return "\n".join([*lines, self.question])


def is_held_out(question: str) -> bool:
    """Return whether a question belongs to the part that training never sees."""
    return hashlib.sha256(question.encode()).digest()[0] % _HELD_OUT_IN == 0


def solve(prompt: str) -> str:
    """Return the right answer to a prompt, by its last line.

    Raises:
        ValueError: the last line is no question of any task.
    """
    question = prompt.rsplit("\n", 1)[-1]
    task = TASKS.get(question.split(" ", 1)[0].rstrip(":"))
    if task is None:
        raise ValueError(f"{question!r} is no question; questions begin with {', '.join(TASKS)}")
    return task.solve(question)


def draw_items(
    task: str, rng: random.Random, *, held_out: bool, length: Callable[[], int] = lambda: 0
) -> Iterator[Item]:
    """Yield items of one task without end, all held out or none.

    Args:
        task: name of the task.
        rng: the only source of chance.
        held_out: which part the questions are from; examples are always from the other.
        length: called for each item; examples fill the prompt up to so many bytes.
    """
    while True:
        question = _draw_question(task, rng, held_out=held_out)
        earlier: list[tuple[str, str]] = []
        left = length() - len(question)
        while left > 0:
            shown = _draw_question(task, rng, held_out=False)
            earlier.append((shown, solve(shown)))
            left -= len(shown) + len(earlier[-1][1]) + len(" -> \n")
        if left < 0 and earlier:
            earlier.pop()
        yield Item(task, question, solve(question), tuple(earlier))


def _draw_question(task: str, rng: random.Random, *, held_out: bool) -> str:
    while True:
        question = TASKS[task].draw(rng)
        if is_held_out(question) is held_out:
            return question


def _draw_word(rng: random.Random, shortest: int, longest: int) -> str:
    """Return a word that can be spoken: consonants and vowels in turn."""
    length = rng.randint(shortest, longest)
    first = rng.randrange(2)
    return "".join(
        rng.choice(_VOWELS if (first + place) % 2 else _CONSONANTS) for place in range(length)
    )


def _draw_line(rng: random.Random, most: int) -> str:
    return " ".join(_draw_word(rng, 2, 7) for _ in range(rng.randint(1, most)))[:60].rstrip()


def _draw_copy(rng: random.Random) -> str:
    """Copy a line, with one letter written for another."""
    text = _draw_line(rng, 8)
    old = rng.choice([letter for letter in text if letter != " "])
    new = rng.choice([letter for letter in _VOWELS + _CONSONANTS if letter != old])
    return f"copy with {new} for {old}: {text}"


def _solve_copy(question: str) -> str:
    asked, text = question.split(": ", 1)
    _, _, new, _, old = asked.split(" ")
    return text.replace(old, new)


def _draw_reverse(rng: random.Random) -> str:
    """Write a word from its end to its beginning."""
    return f"reverse: {_draw_word(rng, 3, 8)}"


def _draw_find(rng: random.Random) -> str:
    """Find the word of a letter among up to ten."""
    keys = rng.sample(_KEYS, rng.randint(2, rng.randint(3, 10)))
    pairs = " ".join(f"{key}={_draw_word(rng, 2, 5)}" for key in keys)
    return f"find: {pairs}; {rng.choice(keys)}"


def _solve_find(question: str) -> str:
    pairs, asked = question[6:].split("; ")
    return dict(pair.split("=") for pair in pairs.split(" "))[asked]


def _draw_sum(rng: random.Random) -> str:
    """Add one-digit numbers, two at a time, up to five times."""
    pairs = (f"{rng.randrange(10)}+{rng.randrange(10)}" for _ in range(rng.randint(1, 5)))
    return f"sum: {' '.join(pairs)}"


def _solve_sum(question: str) -> str:
    return " ".join(str(int(pair[0]) + int(pair[2])) for pair in question[5:].split(" "))


def _draw_sort(rng: random.Random) -> str:
    """Sort three to eight digits."""
    return f"sort: {' '.join(str(rng.randrange(10)) for _ in range(rng.randint(3, 8)))}"


def _draw_capitals(rng: random.Random) -> str:
    """Write a line in capitals."""
    return f"capitals: {_draw_line(rng, 9)}"


TASKS: Final[dict[str, Task]] = {
    "copy": Task(_draw_copy, _solve_copy),
    "reverse": Task(_draw_reverse, lambda question: question[9:][::-1]),
    "find": Task(_draw_find, _solve_find),
    "sum": Task(_draw_sum, _solve_sum),
    "sort": Task(_draw_sort, lambda question: " ".join(sorted(question[6:].split(" ")))),
    "capitals": Task(_draw_capitals, lambda question: question[10:].upper()),
}
