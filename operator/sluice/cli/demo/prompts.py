"""What the demo asks: held-out questions, in the lengths and at the times of a real trace."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sluice.cli.errors import CommandError

LONGEST_OUTPUT = 64
LONGEST_INPUT = 200
"""Tokens at most; the demo is sized for two cores, and a pool multiplies them (`tokenScale`)."""
SAME_TASK = 8
"""Tokens by which another length may be off to ask of a task once less."""


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out question and its one right answer; `tokens` is its length in real tokens."""

    task: str
    prompt: str
    answer: str
    tokens: int


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of the trace: arrival (s), input and output tokens."""

    arrival: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: a question, and how many tokens to ask for."""

    question: Question
    max_tokens: int


def load_questions(models: Path, count: int) -> list[Question]:
    """Return `count` questions of spread lengths and tasks, shortest first, with short answers.

    Raises:
        CommandError: the held-out file is not there.
    """
    found = sorted(
        (
            _make_question(one)
            for one in _read_held_out(models)
            if one["tokens"] <= LONGEST_INPUT and one["answerTokens"] <= LONGEST_OUTPUT
        ),
        key=lambda question: (question.tokens, question.prompt),
    )
    longest = found[-1].tokens
    chosen: list[Question] = []
    asked = Counter[str]()
    for index in range(count):
        wanted = longest * (index + 1) / count
        best = min(found, key=lambda one: abs(one.tokens - wanted) + SAME_TASK * asked[one.task])
        found.remove(best)
        asked[best.task] += 1
        chosen.append(best)
    return sorted(chosen, key=lambda question: question.tokens)


def load_tale(models: Path) -> Question:
    """Return the question with the longest answer: a story that takes its time.

    Raises:
        CommandError: the held-out file is not there.
    """
    return _make_question(max(_read_held_out(models), key=lambda one: one["answerTokens"]))


def _read_held_out(models: Path) -> list[dict[str, Any]]:
    path = models / "compact" / "heldout.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise CommandError(f"The demo needs the held-out questions: {error}.") from error


def _make_question(entry: dict[str, Any]) -> Question:
    return Question(entry["task"], entry["prompt"], entry["answer"], entry["tokens"])


def load_trace() -> list[TraceRow]:
    """Return the committed slice of a real trace (see requests.md)."""
    text = resources.files(__package__).joinpath("requests.csv").read_text()
    return [
        TraceRow(float(row["arrival_s"]), int(row["input_tokens"]), int(row["output_tokens"]))
        for row in csv.DictReader(text.splitlines())
    ]


def list_gaps(trace: Sequence[TraceRow]) -> list[float]:
    """Return the times between arrivals, scaled to a mean of 1.

    The trace stamps arrivals in groups of some seconds; a group is spread evenly up to the next
    one, which keeps how many came when.
    """
    stamps = sorted({row.arrival for row in trace})
    gaps = []
    for stamp, following in itertools.pairwise(stamps):
        members = sum(row.arrival == stamp for row in trace)
        gaps += [(following - stamp) / members] * members
    mean = sum(gaps) / len(gaps)
    return [gap / mean for gap in gaps]


def draw_requests(
    trace: Sequence[TraceRow], questions: Sequence[Question], token_scale: int
) -> Iterator[Request]:
    """Yield requests in the trace's order, over and over, each with the question next in length."""
    while True:
        for row in trace:
            wanted = row.input_tokens / token_scale
            question = min(questions, key=lambda one: abs(one.tokens - wanted))
            yield Request(question, min(LONGEST_OUTPUT, max(1, row.output_tokens)))
