"""How fast a worker is, learnt from its requests, and for how long it may thus say nothing.

A worker gives a token of every stream it decodes with every step, so silence of one that decodes
is told soon. A request that has no token yet tells less: it may have to wait its turn. So patience
is that of the next thing that has to come, in the order in which a worker serves: a token of a
decoding stream, else the first token of the oldest stream, else the end of a whole answer. Nobody
waits for requests beyond the worker's slots: they queue.

Pure but for what it has learnt: times are passed in.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from sluice_gateway.settings import Patience

_WEIGHT: Final = 0.1
_ENOUGH: Final = 5
"""Measurements after which a worker's own pace is believed rather than its siblings'."""


class Phase(Enum):
    """What an attempt is waiting for."""

    FIRST = "first"  # the worker's first token, or its whole answer
    NEXT = "next"  # the worker's next token
    CLIENT = "client"  # the client taking what was written


class Waiting(Protocol):
    """What patience needs to know of an attempt.

    `size` is in bytes of the prompt, `work` the seconds that it is predicted to take, 0 if that is
    not known; `tokens_most` is the longest answer, None if not known.
    """

    dispatched: float
    waiting_since: float
    phase: Phase
    size: int
    streaming: bool
    tokens_most: int | None

    @property
    def work(self) -> float:
        """Seconds."""
        ...


@dataclass(slots=True)
class Mean:
    """A mean that forgets: plain at first, then about the last 1 / `weight` count."""

    value: float = 0.0
    count: int = 0
    weight: float = _WEIGHT

    def add(self, value: float) -> None:
        """Take in a measurement."""
        self.count += 1
        self.value += (value - self.value) * max(1 / self.count, self.weight)


@dataclass(slots=True)
class Pace:
    """What the requests of one worker have shown. Times in seconds.

    Attributes:
        token: Between two tokens of a stream.
        first: From the dispatch to the first token, queueing included.
        prefill: The same for each byte of the prompt, of those that found the worker idle.
        progressed_at: When a request last got on.
        busy_since: When it last began to have requests.
        excused: Of the silence since, what this process slept itself.
    """

    token: Mean = field(default_factory=Mean)
    first: Mean = field(default_factory=Mean)
    prefill: Mean = field(default_factory=Mean)
    progressed_at: float = float("-inf")
    busy_since: float = float("-inf")
    excused: float = 0.0

    def note_busy(self, now: float) -> None:
        """It has something to do again."""
        self.busy_since = now
        self.excused = 0.0

    def note_progress(self, now: float) -> None:
        """A request got on."""
        self.progressed_at = now
        self.excused = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What can be expected of a worker: seconds a token, to a first token, and a byte of prompt."""

    token: float
    first: float
    prefill: float


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a worker has said nothing, and for how long it may (`patience`), in seconds."""

    seconds: float
    patience: float


def find_outlook(own: Pace, siblings: Collection[Pace], *, tpot: float, chunk: int) -> Outlook:
    """Return what to expect of a worker: what it has shown, else its siblings, else the objective.

    Args:
        own: Of the worker.
        siblings: Of the others of its class in the pool.
        tpot: The pool's objective, in seconds.
        chunk: Bytes of a prompt that a step of an unknown worker takes at least.
    """
    token = _learn(own.token, [pace.token for pace in siblings], tpot)
    first = _learn(own.first, [pace.first for pace in siblings], 0.0)
    prefill = _learn(own.prefill, [pace.prefill for pace in siblings], token / chunk)
    return Outlook(token, first, prefill)


def find_silence(
    pace: Pace, attempts: Iterable[Waiting], outlook: Outlook, patience: Patience, now: float
) -> Silence | None:
    """Return a worker's silence; None if nothing has to come of it now."""
    served = sorted(attempts, key=lambda attempt: attempt.dispatched)[: patience.slots]
    decoding = [one.waiting_since for one in served if one.phase is Phase.NEXT]
    steps = patience.tokens * outlook.token
    if decoding:
        since, allowed = min(decoding), max(patience.next_least, steps)
    else:
        pending = [one for one in served if one.phase is Phase.FIRST]
        expected = _expect_first(pending, outlook)
        if expected is None:
            return None
        since = pending[0].dispatched
        allowed = max(
            patience.first_least,
            steps,
            patience.margin * expected,
            patience.margin * outlook.first,
        )
    silent_since = max(pace.progressed_at, pace.busy_since, since)
    return Silence(now - silent_since - pace.excused, allowed)


def _expect_first(pending: Iterable[Waiting], outlook: Outlook) -> float | None:
    """Return the seconds until the first of these shows anything; None if nobody can say.

    Prompts are computed one after the other; an answer that does not stream shows only its end.
    """
    before = 0.0
    expected: float | None = None
    for attempt in pending:
        # Bytes say little where a stream goes on: its output may have a token for each character.
        before += max(attempt.size * outlook.prefill, attempt.work)
        if attempt.streaming:
            return before if expected is None else min(before, expected)
        if attempt.tokens_most is not None:
            end = before + attempt.tokens_most * outlook.token
            expected = end if expected is None else min(expected, end)
    return expected


def _learn(own: Mean, siblings: Iterable[Mean], otherwise: float) -> float:
    if own.count >= _ENOUGH:
        return own.value
    known = [mean.value for mean in siblings if mean.count >= _ENOUGH]
    return sum(known) / len(known) if known else otherwise
