"""Measures a checkpoint on held-out questions, greedily, with the worker's own decoder.

    python -m models.training.evaluate workers/models/compact --per-task 1000

Prints a Markdown table for the model card, a row a task: the share of right answers in each of the
worker's numerics, and in float32 also at the end of a chat of other questions. All questions of a
task differ, and none was in the training. They are drawn anew, but tasks with few questions (those
of units and dates) repeat some of those that the training measured itself by.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

# As for a worker: another number of BLAS threads would sum in another order. Processes share work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.progress import Progress

from models.training.tasks import TASKS, Item, draw_item, draw_items
from sluice_worker.decoder import Decoder
from sluice_worker.engine import Engine, Limits
from sluice_worker.errors import CheckpointError, RequestError
from sluice_worker.loading import choose_kernels, load_model
from sluice_worker.metrics import Metrics
from sluice_worker.numerics import FLOAT32, NUMERICS
from sluice_worker.pacing import Pacer
from sluice_worker.sampling import SamplingParams
from sluice_worker.tokens import Vocabulary

SEED: Final = 20270102
_LONGEST_ANSWER: Final = 320
"""Tokens."""
_PART: Final = 50
"""Questions that a process takes at once."""
_SIDE_BY_SIDE: Final = 32
_CHAT: Final = (200, 600)
"""Tokens of a chat before a question, at least and at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the questions of a task, for one process.

    Attributes:
        checkpoint: directory of the model.
        numerics: one of `NUMERICS`.
        chat: whether other questions and answers come first.
        first: number of the first question.
        count: of questions.
    """

    checkpoint: Path
    numerics: str
    task: str
    chat: bool
    first: int
    count: int


@lru_cache(maxsize=1)
def _load(checkpoint: Path, numerics: str) -> tuple[Decoder, Vocabulary]:
    loaded, vocabulary = load_model(checkpoint)
    return Decoder(loaded, NUMERICS[numerics], kernels=choose_kernels()), vocabulary


@lru_cache(maxsize=2)
def _draw(task: str, count: int) -> list[Item]:
    return list(draw_items(task, random.Random(f"{SEED}:{task}"), count))


def answer_all(decoder: Decoder, vocabulary: Vocabulary, prompts: Sequence[list[int]]) -> list[str]:
    """Return the greedy answers to tokens of chats."""
    limits = Limits(sequences=_SIDE_BY_SIDE, batched_tokens=128, waiting=len(prompts))
    engine = Engine(decoder, limits, Pacer(None), Metrics("m"), lambda _: None)
    asked = []
    for prompt in prompts:
        most = max(1, min(_LONGEST_ANSWER, engine.context - len(prompt)))
        params = SamplingParams(temperature=0, top_p=1, seed=0, max_tokens=most)
        asked.append(engine.submit(prompt, params))
    while engine.step():
        pass
    return [vocabulary.decode(one.output) for one in asked]


def count_right(part: Part) -> int:
    """Return how many questions of a part are answered rightly."""
    decoder, vocabulary = _load(part.checkpoint, part.numerics)
    items = _draw(part.task, part.first + part.count)[part.first :]
    prompts = []
    for number, item in enumerate(items, part.first):
        chat: list[dict[str, str]] = []
        if part.chat:
            room = decoder.config.max_position_embeddings - _count(vocabulary, item)
            rng = random.Random(f"{SEED}:{part.task}:{number}")
            chat = draw_chat(vocabulary, rng, min(room, rng.randint(*_CHAT)))
        prompts.append(vocabulary.encode_chat([*chat, {"role": "user", "content": item.prompt}]))
    answers = answer_all(decoder, vocabulary, prompts)
    return sum(answer == item.answer for answer, item in zip(answers, items, strict=True))


def draw_chat(vocabulary: Vocabulary, rng: random.Random, room: int) -> list[dict[str, str]]:
    """Return questions with right answers, as messages, of so many tokens at most."""
    messages: list[dict[str, str]] = []
    while True:
        item = draw_item(rng.choice(list(TASKS)), rng, held_out=False)
        room -= _count(vocabulary, item)
        if room < 0:
            return messages
        messages.append({"role": "user", "content": item.prompt})
        messages.append({"role": "assistant", "content": item.answer})


def _count(vocabulary: Vocabulary, item: Item) -> int:
    """Return the tokens of a turn, and two that frame it."""
    return len(vocabulary.encode_text(item.prompt)) + len(vocabulary.encode_text(item.answer)) + 2


def list_parts(
    checkpoint: Path, tasks: Sequence[str], counts: Mapping[str, int], in_chat: int
) -> list[tuple[str, Part]]:
    """Return the parts of a measurement, each with the column of the table that it counts in.

    Args:
        checkpoint: directory of the model.
        tasks: their names.
        counts: questions of each task that are asked alone, by numerics.
        in_chat: questions of each task that are asked at the end of a chat.
    """
    columns = [(name, name, False, count) for name, count in counts.items()]
    columns += [("in a chat", FLOAT32.name, True, in_chat)]
    return [
        (column, Part(checkpoint, numerics, task, chat, first, min(_PART, count - first)))
        for task in tasks
        for column, numerics, chat, count in columns
        for first in range(0, count, _PART)
    ]


def render_table(right: Mapping[tuple[str, str], int], asked: Mapping[tuple[str, str], int]) -> str:
    """Return the Markdown table in per cent; both count questions by task and column."""
    tasks = list(dict.fromkeys(task for task, _ in asked))
    columns = list(dict.fromkeys(column for _, column in asked))
    lines = [f"| task | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for task in tasks:
        cells = ((task, column) for column in columns)
        shares = [f"{100 * right[cell] / asked[cell]:.1f} %" for cell in cells]
        lines.append(f"| {task} | {' | '.join(shares)} |")
    return "\n".join(lines)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--per-task", type=_read_count, default=1000, help="questions in float32")
    parser.add_argument(
        "--narrow", type=_read_count, default=300, help="questions in other numerics"
    )
    parser.add_argument("--in-chat", type=_read_count, default=200)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--numerics", nargs="+", choices=list(NUMERICS), default=list(NUMERICS))
    parser.add_argument("--processes", type=_read_count, default=os.cpu_count())
    return parser.parse_args(given)


def _read_count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number of at least 1")
    return count


def main() -> None:
    """Print the share of right answers for each task, or why there is none."""
    arguments = read_arguments()
    try:
        load_model(arguments.checkpoint)  # before there are processes to fail at it
        measure(arguments)
    except (CheckpointError, RequestError, ValueError) as error:
        sys.exit(f"cannot measure {arguments.checkpoint}: {error}")


def measure(arguments: argparse.Namespace) -> None:
    """Ask the questions and print the table.

    Raises:
        CheckpointError: a process cannot load the model.
        RequestError: a question does not fit the context of the model.
        ValueError: a task has fewer questions.
    """
    tasks: list[str] = arguments.tasks
    counts = {
        name: arguments.per_task if name == FLOAT32.name else arguments.narrow
        for name in arguments.numerics
    }
    parts = list_parts(arguments.checkpoint, tasks, counts, arguments.in_chat)
    right, asked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for task in tasks:  # before there are processes to fail at it
        _draw(task, max(*counts.values(), arguments.in_chat))
    with ProcessPoolExecutor(arguments.processes) as pool, Progress() as bar:
        done = pool.map(count_right, [part for _, part in parts])
        for (column, part), count in bar.track(zip(parts, done, strict=True), total=len(parts)):
            right[part.task, column] += count
            asked[part.task, column] += part.count
    told = ", ".join(f"{count} in {name}" for name, count in counts.items())
    print(f"Held-out questions a task: {told}, {arguments.in_chat} in a chat; greedy.\n")
    print(render_table(right, asked))


if __name__ == "__main__":
    main()
