"""What parity is measured on: a model's held-out questions with their answers, and free-form text.

Both sides read the same tokens. The questions tell whether right answers stay right; but their
answers are all but certain to the model, and hide small faults. About what it was not trained on it
is unsure, and there faults show: so the questions themselves count too, and texts of many kinds
that stand in here. Everything follows from the model's files; nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice_worker.errors import CheckpointError, RequestError
from sluice_worker.heldout import FILE, Question, read_questions
from sluice_worker.tokens import Vocabulary

QUESTIONS: Final = 88
"""At most, shared by the tasks: about 4,500 tokens of the compact model, a few seconds a side."""
LONGEST_QUESTION: Final = 240
"""Tokens with the answer: of tasks whose questions have a few or many hundred, the short ones."""
LONGEST_TEXT: Final = 64
"""Tokens of a text that are read."""

TEXTS: Final = (
    "The river behind the old mill rises every spring, and every spring the miller's daughter says",
    "Dear Anna, the new flat has no curtains yet, so I wake with the sun and read your letters. I",
    "Whisk four eggs with a pinch of salt, melt some butter in a wide pan, and when it foams,",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n",
    "Minutes, 14 March: those present agreed that the bridge must close for repairs. The treasurer",
    "Why do cats sleep so much? They hunt at dawn and at dusk, and between the two they save what",
    "A lake is fed by streams and deep enough that no plant can root in the middle; a pond, though",
    '{"order": 7731, "items": [{"name": "lamp", "price": 24.5}, {"name": "rug", "price": 80}], "to',
    "Wer früh aufsteht, sieht den Nebel über den Feldern; wer länger schläft, der hört nur davon.",
    "- Check the fuse.\n- Unplug the pump and wait a minute.\n- If it still hums, call us on 555",
    '"You are late," she said. "The train stood in the rain for an hour," he said, "and',
    "Light takes 8 minutes and 19 seconds from the sun to us, so what we see of it is always what",
)
"""Free-form text that nothing here was trained on, each broken off."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens that both sides read.

    Attributes:
        tokens: all of them; what is expected after the last one is not asked.
        answer: how many at the end are the right answer, its end token included; 0 for texts.
        task: "" for texts.
    """

    tokens: tuple[int, ...]
    answer: int = 0
    task: str = ""

    @property
    def positions(self) -> int:
        """Tokens after which both sides are asked what comes next."""
        return len(self.tokens) - 1


def read_passages(model: Path, vocabulary: Vocabulary, end: int, context: int) -> list[Passage]:
    """Return what parity of a model is measured on, questions first.

    Args:
        model: directory of the checkpoint.
        vocabulary: its tokenizer.
        end: token that ends an answer.
        context: tokens that the model can read at once.

    Raises:
        CheckpointError: it has no held-out questions that can be used.
    """
    questions = read_questions(model)
    if not questions:
        raise CheckpointError(
            f"{model} has no {FILE} with questions and answers: without them nobody can tell"
            " whether right answers stay right"
        )
    try:
        asked = [_encode_question(one, vocabulary, end) for one in questions]
    except RequestError as error:
        raise CheckpointError(f"{model / FILE} has a question that is no text: {error}") from error
    longest = min(LONGEST_QUESTION, context)
    chosen = _choose([one for one in asked if one.answer > 1 and len(one.tokens) <= longest])
    if not chosen:
        raise CheckpointError(
            f"{model / FILE} has no question that fits into {longest} tokens with its answer"
        )
    length = min(LONGEST_TEXT, context)
    return chosen + [Passage(tuple(vocabulary.encode_text(text)[:length])) for text in TEXTS]


def _encode_question(question: Question, vocabulary: Vocabulary, end: int) -> Passage:
    asked = vocabulary.encode_chat([{"role": "user", "content": question.prompt}])
    answer = [*vocabulary.encode_text(question.answer)[1:], end]
    return Passage((*asked, *answer), len(answer), question.task)


def _choose(passages: Sequence[Passage]) -> list[Passage]:
    """Return as many of each task, spread over those that there are."""
    by_task: dict[str, list[Passage]] = {}
    for one in passages:
        by_task.setdefault(one.task, []).append(one)
    chosen = []
    for each in by_task.values():
        count = min(len(each), max(1, QUESTIONS // len(by_task)))
        chosen += [each[place * len(each) // count] for place in range(count)]
    return chosen
