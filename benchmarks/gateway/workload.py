"""Requests of a real trace, fitted to a fleet: what is asked when, and how much the fleet carries.

A stretch of the trace is taken as it is: order, lengths, and how its arrivals bunch. Only its clock
runs faster or slower, so that it brings the wanted share of what the fleet can carry. Pure but for
reading files; all chance comes from a seed.
"""

import csv
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from random import Random
from typing import Final

from sluice_worker.pacing import EmulatedDevice
from sluice_worker.tokens import Vocabulary

LONGEST_PROMPT: Final = 256
"""Real tokens; what the trace has beyond that is cut."""
SLOTS: Final = 8
CHUNK: Final = 16
"""Sequences at once and prompt tokens a step, of every worker here."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace: arrival (s), and tokens of prompt and answer."""

    arrival: float
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to send: when (s), its text, and real tokens of prompt and answer."""

    at: float
    text: str
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Scale:
    """How lengths of the trace become those of requests.

    Attributes:
        tokens: nominal tokens that a real one of a prompt stands for (`--token-scale`).
        answers: by how much answers are shortened, so that a run has more of them.
    """

    tokens: int
    answers: int

    def fit(self, row: Row) -> tuple[int, int]:
        """Return real tokens of prompt and answer."""
        prompt = min(LONGEST_PROMPT, max(2, round(row.prompt / self.tokens)))
        return prompt, max(2, round(row.answer / self.answers))


def read_trace(path: Path | None) -> list[Row]:
    """Return a trace's requests; without a path those of the slice that the project has.

    Raises:
        ValueError: the file is no trace; the message says why.
    """
    slice_of_ours = resources.files("sluice.cli.demo").joinpath("requests.csv")
    try:
        text = (path or slice_of_ours).read_text()
        rows = [
            Row(float(one["arrival_s"]), int(one["input_tokens"]), int(one["output_tokens"]))
            for one in csv.DictReader(text.splitlines())
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(_explain_columns(path, f"{type(error).__name__}: {error}")) from error
    if not rows:
        raise ValueError(_explain_columns(path, "it has no request"))
    return spread_stamps(rows)


def _explain_columns(path: Path | None, why: str) -> str:
    return (
        f"{path} is no trace ({why}): name a CSV file with the columns arrival_s, input_tokens and"
        " output_tokens"
    )


def spread_stamps(rows: Sequence[Row]) -> list[Row]:
    """Return requests that share a time stamp spread evenly up to the next one."""
    spread: list[Row] = []
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.arrival)]
    for group, following in itertools.pairwise([*groups, groups[-1]]):
        width = following[0].arrival - group[0].arrival
        spread += [
            Row(row.arrival + width * place / len(group), row.prompt, row.answer)
            for place, row in enumerate(group)
        ]
    return spread


def measure_capacity(device: EmulatedDevice, lengths: Sequence[tuple[int, int]]) -> float:
    """Return the requests a second that a worker carries which is never idle, by its own model.

    It runs the worker's schedule in virtual time over these requests, waiting from the beginning:
    a token of each sequence with every step, beside a chunk of the oldest prompt, `SLOTS` at once.
    What is left when the first slot stays empty is not counted.
    """
    waiting = deque(lengths)
    running: list[list[int]] = []  # prompt tokens computed, prompt tokens, answer tokens left
    seconds = 0.0
    ended = 0
    while True:
        while waiting and len(running) < SLOTS:
            prompt, answer = waiting.popleft()
            running.append([0, prompt, answer])
        if len(running) < SLOTS:
            return ended / seconds if seconds else 0.0
        budget = CHUNK
        chunks: list[tuple[int, int, bool]] = []
        for one in running:
            done, prompt, left = one
            new = min(budget, prompt - done) if done < prompt else 1
            if new:
                chunks.append((new, done, done < prompt))
            if done < prompt:
                budget -= new
            one[0] += new
            one[2] = left - (one[0] >= prompt)
        seconds += device.run_step(chunks).seconds
        ended += sum(not one[2] for one in running)
        running = [one for one in running if one[2]]


def draw_stretch(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return so many requests that follow each other, from a place that the seed decides.

    Raises:
        ValueError: the trace has fewer.
    """
    if len(rows) < count:
        raise ValueError(
            f"the trace has {len(rows)} requests and {count} are needed: lower --minutes, or name"
            " a longer one with --traces and --trace"
        )
    first = Random(seed).randrange(len(rows) - count + 1)
    return list(rows[first : first + count])


def fit_stretch(
    rows: Sequence[Row], rate: float, scale: Scale, vocabulary: Vocabulary, seed: int
) -> list[Ask]:
    """Return a stretch as requests to send: `rate` a second in the mean, each with its own text."""
    random = Random(seed)
    words = [text for text in map(vocabulary.decode, ([n] for n in range(vocabulary.size))) if text]
    begin, span = rows[0].arrival, rows[-1].arrival - rows[0].arrival
    pace = (len(rows) - 1) / rate / span
    asks = []
    for row in rows:
        prompt, answer = scale.fit(row)
        drawn = "".join(random.choices(words, k=2 * prompt))
        text = vocabulary.decode(vocabulary.encode_text(drawn, begin=False)[: prompt - 1])
        asks.append(Ask((row.arrival - begin) * pace, text, prompt, answer))
    return asks
