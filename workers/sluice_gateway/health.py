"""Judges one worker by probes and by requests: live, suspect, or failed.

Probes and requests are kept apart: a worker whose health endpoint answers may still serve nobody.
An answered probe takes back what missed probes said, and only a request that gets on takes back
what requests said.

Pure but for its own counters: time is passed in. The prober, the sweep and the relay report here;
the fleet asks before it routes.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

EVIDENCE_SECONDS: Final = 120.0
"""For so long failed requests speak against a worker that has had none since. Longer than the
longest hold, so that a worker that fails all its trials is never forgotten in between."""
_DOUBLINGS_MOST: Final = 64
_EARLY: Final = 0.2
"""The part of a hold after which a worker is tried if there is no other."""


def double(first: float, doublings: int, *, most: float) -> float:
    """Return a time after so many doublings, up to the most: there may be any number of them."""
    return min(most, first * 2.0 ** min(max(0, doublings), _DOUBLINGS_MOST))


class Verdict(StrEnum):
    """What a worker is good for."""

    LIVE = "live"
    SUSPECT = "suspect"  # no new requests
    FAILED = "failed"  # running requests are cut, too


@dataclass(slots=True)
class WorkerHealth:
    """The evidence on one worker.

    Attributes:
        known_since: When the gateway first heard of it; stands for a success until there is one.
        failures_to_fail: Misses in a row that make it failed.
        misses: Probes missed in a row; a broken connection counts as at least one.
        failures: Requests that failed in a row: broken, or without a token in time.
        breaks: Times in a row that it broke connections.
        errors: Error answers in a row, and nothing else.
        last_success: When a probe was answered, or a request got on.
        doubted: It fell silent under its requests, and none has got on since.
        held_until: Until then a doubted worker gets nothing; after that one request at a time.
    """

    known_since: float
    failures_to_fail: int = 3
    misses: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    breaks: int = field(default=0, init=False)
    errors: int = field(default=0, init=False)
    last_success: float = field(default=0.0, init=False)
    doubted: bool = field(default=False, init=False)
    held_until: float = field(default=0.0, init=False)
    _failed_at: float = field(default=0.0, init=False)
    _hold: float = field(default=0.0, init=False)
    _silences: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.last_success = self.known_since

    @property
    def verdict(self) -> Verdict:
        """What the evidence says now."""
        if self.misses >= self.failures_to_fail:
            return Verdict.FAILED
        return Verdict.SUSPECT if self.misses or self.doubted else Verdict.LIVE

    def count_failures(self, now: float) -> int:
        """Return the requests that failed in a row, unless that is long ago."""
        return self.failures if now - self._failed_at <= EVIDENCE_SECONDS else 0

    def may_be_tried(self, now: float, *, early: bool = False) -> bool:
        """Return whether one request may find out if a doubted worker serves again.

        `early` is for the case that there is nobody else: the hold need not be over.
        """
        since = self.held_until - (self._hold * (1 - _EARLY) if early else 0.0)
        return self.doubted and not self.misses and since <= now

    def find_trial_times(self) -> tuple[float, float]:
        """Return when a doubted worker may be tried: early, and in any case."""
        return self.held_until - self._hold * (1 - _EARLY), self.held_until

    def note_answer(self, now: float) -> None:
        """A probe was answered: its process lives."""
        self.misses = 0
        self.last_success = now

    def note_progress(self, now: float) -> None:
        """A request got on (a token, or a whole answer): it serves."""
        self.note_answer(now)
        self.failures = 0
        self.breaks = 0
        self.errors = 0
        self.doubted = False

    def note_missed_probe(self, *, started: float) -> None:
        """A probe that started at `started` was refused, wrong or not answered in time.

        It does not count when a request made progress since: a worker that computes is busy,
        not dead.
        """
        if self.last_success > started:
            return
        self.misses += 1

    def note_broken_request(self, now: float, *, held: bool = False) -> None:
        """A connection was refused, reset, or answered by another pod: suspect at once.

        `held` says that the worker gets no requests already: what breaks together counts as once.
        """
        self.misses = max(self.misses, 1)
        self.breaks += not held
        self._note_failure(now)

    def note_error_answer(self) -> int:
        """A request got an error, or nonsense; return how many in a row got nothing else."""
        self.errors += 1
        return self.errors

    def note_late_request(self, now: float) -> None:
        """A request had no token in time: evidence for the operator, no verdict here."""
        self._note_failure(now)

    def note_silence(self, now: float, *, first: float, most: float) -> None:
        """Nothing of all that runs on it got on in time: suspect, whatever its probes say.

        Args:
            now: The present.
            first: Seconds of the first hold; each further one is twice as long.
            most: Seconds of the longest. As long without a silence forgets those before.
        """
        if self.doubted and now < self.held_until:
            return
        if now - self.held_until > most:
            self._silences = 0
        self._hold = double(first, self._silences, most=most)
        self._silences += 1
        self.doubted = True
        self.held_until = now + self._hold

    def _note_failure(self, now: float) -> None:
        self.failures = self.count_failures(now) + 1
        self._failed_at = now
