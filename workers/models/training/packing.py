"""Training batches: chats made of the tasks' questions, packed into rows, and what is learned.

A batch follows from (seed, step, stage, shares) alone, so a training that goes on later sees what
it would have seen. Chats share rows but not attention: each token sees its own chat only, and
rotary positions are relative, so a place within the row changes nothing. Only answers are learned.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.training.layout import ASSISTANT, BEGIN, CONTEXT, END, USER
from models.training.tasks import TASKS, Item, draw_item, draw_items

_SAMPLES: Final = 40
"""Questions of each task that its mean length is estimated from."""
_TURNS: Final = 4
"""Questions of a short chat, at most."""
_CHAT_SHARE: Final = 0.15
"""Share of chats with several questions among the short chats, and among the long ones."""
_LONG_CHAT_SHARE: Final = 0.5
_FILLERS: Final = 4
"""Short chats drawn for each long row."""
_LONG: Final = 256
"""Tokens from which a chat is long; rows that are longer hold long chats only."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: (rows, length + 1) each, since each token is learned from those before it.

    Attributes:
        tokens: 0 where nothing is.
        chats: number of each token's chat within its row, from 1; 0 where nothing is.
        learned: 1 for tokens of answers, else 0.
        ends: (row, place of the last token, task) of every chat with a single question.
    """

    tokens: NDArray[np.int32]
    chats: NDArray[np.int32]
    learned: NDArray[np.float32]
    ends: list[tuple[int, int, str]]


Turn = tuple[list[int], list[int]]
"""Tokens of a question and of its answer, with what frames them in a chat."""


@dataclass(slots=True)
class Chat:
    """Tokens of a chat, which of them are learned, and its task; "" if it has several."""

    task: str
    tokens: list[int] = field(default_factory=lambda: [BEGIN])
    learned: list[int] = field(default_factory=lambda: [0])

    def add(self, turn: Turn) -> None:
        """Put a question and its answer at the end."""
        asked, answered = turn
        self.tokens += asked + answered
        self.learned += [0] * len(asked) + [1] * len(answered)


def encode_item(tokenizer: Tokenizer, item: Item) -> Turn:
    """Return the turn that an item makes."""
    asked = [USER, *tokenizer.encode(item.prompt).ids, ASSISTANT]
    return asked, [*tokenizer.encode(item.answer).ids, END]


class Packer:
    """Draws training batches."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._measure = lru_cache(maxsize=64)(self._measure_lengths)

    def draw_batch(
        self, step: int, rows: int, length: int, level: float, shares: Mapping[str, float]
    ) -> Batch:
        """Return the batch of a step.

        Args:
            step: its number; another one has other questions.
            rows: of the batch.
            length: tokens of a row that are learned from.
            level: how hard the questions are, from 0 to 1.
            shares: how much of all tokens each task shall have.
        """
        rng = random.Random(f"{self._seed}:{step}:{length}")
        chats, drawn = [], 0
        while drawn < rows * length:
            long = length > _LONG
            chats.append(
                (self._draw_long if long else self._draw_short)(rng, length, level, shares)
            )
            drawn += len(chats[-1].tokens)
        if length > _LONG:  # what fills the ends of rows
            chats += [self._draw_short(rng, _LONG, level, shares) for _ in range(_FILLERS * rows)]
        return pack_chats(chats, rows, length)[0]

    def _draw_short(
        self, rng: random.Random, length: int, level: float, shares: Mapping[str, float]
    ) -> Chat:
        """Return a chat of one question, or of a few."""
        lengths = self._measure(length, round(level, 1))
        tasks = [task for task in TASKS if lengths[task]]
        weights = [shares[task] / lengths[task] for task in tasks]
        turns = rng.randint(2, _TURNS) if rng.random() < _CHAT_SHARE else 1
        while True:
            chosen = rng.choices(tasks, weights, k=turns)
            chat = Chat(chosen[0] if turns == 1 else "")
            for task in chosen:
                chat.add(self._draw_fitting(task, rng, length, level))
            if len(chat.tokens) <= length:
                return chat
            turns = max(1, turns - 1)

    def _draw_long(
        self, rng: random.Random, length: int, level: float, shares: Mapping[str, float]
    ) -> Chat:
        """Return a chat of many questions, or a long table with what is asked of it."""
        if rng.random() < _LONG_CHAT_SHARE:
            lengths = self._measure(length, round(level, 1))
            weights = [shares[task] / lengths[task] for task in TASKS]
            most = rng.randint(_LONG, length)
            chat = Chat("")
            while True:
                before = len(chat.tokens)
                task = rng.choices(list(TASKS), weights)[0]
                chat.add(self._draw_fitting(task, rng, length, level))
                if len(chat.tokens) > most:
                    del chat.tokens[before:], chat.learned[before:]
                    if before > _LONG // 2:
                        return chat
        while True:  # nothing but a table is long by itself
            chat = Chat("find")
            chat.add(self._draw_turn("find", rng, level))
            if _LONG // 2 < len(chat.tokens) <= length:
                return chat

    def _draw_fitting(self, task: str, rng: random.Random, length: int, level: float) -> Turn:
        """Return a question that is no longer than a row."""
        while True:
            turn = self._draw_turn(task, rng, level)
            if count_tokens(turn) <= length:
                return turn

    def _draw_turn(self, task: str, rng: random.Random, level: float) -> Turn:
        return encode_item(self._tokenizer, draw_item(task, rng, held_out=False, level=level))

    def _measure_lengths(self, length: int, level: float) -> dict[str, float]:
        """Return the mean tokens of each task's questions that fit in a row; 0 if too few do."""
        means = {}
        for task in TASKS:
            rng = random.Random(f"{self._seed}:{task}:{level}")
            counts = [count_tokens(self._draw_turn(task, rng, level)) for _ in range(_SAMPLES)]
            fitting = [count for count in counts if count <= length]
            means[task] = sum(fitting) / len(fitting) if len(fitting) > _SAMPLES // 8 else 0.0
        return means


def count_tokens(turn: Turn) -> int:
    """Return the tokens of a chat that has this turn only."""
    return 1 + sum(map(len, turn))


def pack_chats(chats: list[Chat], rows: int, length: int) -> tuple[Batch, list[Chat]]:
    """Put chats into rows, the longest first, each where it leaves least free.

    Returns:
        The batch, and the chats that found no place: the shortest, a few in a hundred tokens.
    """
    shape = rows, length + 1
    batch = Batch(np.zeros(shape, "i4"), np.zeros(shape, "i4"), np.zeros(shape, "f4"), [])
    filled, numbers, left = [0] * rows, [0] * rows, []
    for chat in sorted(chats, key=lambda one: len(one.tokens), reverse=True):
        places = [row for row in range(rows) if filled[row] + len(chat.tokens) <= length + 1]
        if not places:
            left.append(chat)
            continue
        row = max(places, key=lambda one: filled[one])
        start, end = filled[row], filled[row] + len(chat.tokens)
        filled[row], numbers[row] = end, numbers[row] + 1
        batch.tokens[row, start:end] = chat.tokens
        batch.chats[row, start:end] = numbers[row]
        batch.learned[row, start:end] = chat.learned
        if chat.task:
            batch.ends.append((row, end - 1, chat.task))
    return batch, left


def pack_held_out(
    tokenizer: Tokenizer, seed: int, count: int, tokens: int
) -> list[tuple[int, Batch]]:
    """Return held-out questions of every task, packed.

    Args:
        tokenizer: of the model.
        seed: decides which questions.
        count: of each task.
        tokens: of a batch.

    Returns:
        Lengths of the rows and batches; their `ends` name every question once.
    """
    waiting: dict[int, list[Chat]] = {_LONG: [], CONTEXT: []}
    for task in TASKS:
        for item in draw_items(task, random.Random(f"{seed}:{task}"), count):
            chat = Chat(task)
            chat.add(encode_item(tokenizer, item))
            waiting[_LONG if len(chat.tokens) <= _LONG else CONTEXT].append(chat)
    batches = []
    for length, chats in waiting.items():
        left = chats
        while left:
            batch, left = pack_chats(left, max(1, tokens // length), length)
            batches.append((length, batch))
    return batches
