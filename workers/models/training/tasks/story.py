"""A short story from given fields: a sentence for each, in a fixed order, every field verified.

Some fields are only in the prompt's list now and then, and their sentences with them. The fields
come in any order, so they have to be looked up.
"""

import random
from typing import Final

from models.training.tasks.base import Task
from models.training.tasks.words import NAMES

_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "hero": NAMES,
    "friend": NAMES,
    "season": ("spring", "summer", "autumn", "winter"),
    "place": (
        *("beach", "bridge", "castle", "farm", "forest", "garden", "harbour", "hill", "island"),
        *("lake", "market", "mill", "park", "river", "school", "tower", "valley", "village"),
    ),
    "animal": ("bear", "bird", "cat", "dog", "fox", "goat", "horse", "mouse", "wolf", "frog"),
    "number": tuple(str(number) for number in range(2, 100)),
    "things": ("apples", "bells", "books", "boxes", "coins", "keys", "lamps", "shells", "stones"),
    "weather": ("rain", "snow", "wind", "fog"),
    "food": ("bread", "cake", "cheese", "fish", "honey", "rice", "soup", "plums"),
    "gift": ("book", "drum", "hat", "kite", "lamp", "map", "ring", "rope"),
    # No Sunday: it begins with Saturday's token, and the model told Saturday every time.
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "end": ("happy", "quiet", "sad"),
}
_OPTIONAL: Final = ("weather", "food", "gift", "day")
_WORDS_OF: Final = {
    "spring": "It was a fine morning in spring when {hero} walked to the {place}.",
    "summer": "On a hot day in summer {hero} ran all the way to the {place}.",
    "autumn": "The leaves fell in autumn when {hero} came to the {place}.",
    "winter": "In a long and cold winter {hero} went to see the {place}.",
    "rain": "Then rain fell on them, and they ran under a big tree.",
    "snow": "Then snow fell all day, and they made a big fire.",
    "wind": "Then the wind was so strong that they had to hold on to a tree.",
    "fog": "Then fog came up, and they could not see the way.",
    "happy": "When the day was over they all went home, and they were happy.",
    "quiet": "When the day was over the {place} was quiet, and they all fell asleep.",
    "sad": "When the day was over {hero} had to go home, and {friend} was sad.",
}
"""Sentences that a value stands for."""
_STORY: Final = (
    ("season", None),
    ("friend", "There {hero} met an old friend, and the name of the friend was {friend}."),
    ("animal", "Near the {place} they saw a {animal}, and the {animal} was not afraid."),
    ("weather", None),
    ("things", "{friend} had a bag with {number} {things}, and {hero} had none."),
    ("food", "They were hungry, so they sat down and ate {food} with the {animal}."),
    ("things", '"Take the {number} {things}," said {friend}, "and come with me to the {place}."'),
    ("animal", "The {animal} went with them and {hero} held the bag."),
    ("gift", "Then {hero} gave a {gift} to {friend}, who had never had a {gift}."),
    ("day", 'They said, "We will meet here again on {day}."'),
    ("end", None),
)
"""Fields and their sentences in the story's order; None: the value's own sentence."""


def _draw(rng: random.Random, level: float) -> str:
    hero, friend = rng.sample(NAMES, 2)
    fields = {name: rng.choice(values) for name, values in _VALUES.items()}
    fields |= {"hero": hero, "friend": friend}
    for name in _OPTIONAL:
        if rng.random() > 0.7 * level:
            del fields[name]
    names = list(fields)
    if level > rng.random():
        rng.shuffle(names)
    return "\n".join(["Write a story:", *(f"{name}: {fields[name]}" for name in names)])


def _read(question: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in question.split("\n")[1:])


def _solve(question: str) -> str:
    fields = _read(question)
    return " ".join(
        (form or _WORDS_OF[fields[name]]).format(**fields)
        for name, form in _STORY
        if name in fields
    )


def _identify(question: str) -> str:
    """The order of the fields does not matter to the story."""
    return str(sorted(_read(question).items()))


STORY: Final = Task("Write a story:", _draw, _solve, _identify)
