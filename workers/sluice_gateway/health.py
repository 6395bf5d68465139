"""Judges one worker by probes and by requests: live, suspect, or failed.

Pure but for its own counters: time is passed in. The prober and the relay report here; the fleet
asks before it routes.
"""

from dataclasses import dataclass, field
from enum import StrEnum


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
        misses: Probes missed in a row; evidence from requests counts as at least one.
        failures: Contacts of any kind that failed in a row.
    """

    known_since: float
    failures_to_fail: int = 3
    misses: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    last_success: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.last_success = self.known_since

    @property
    def verdict(self) -> Verdict:
        """What the evidence says now."""
        if self.misses >= self.failures_to_fail:
            return Verdict.FAILED
        return Verdict.SUSPECT if self.misses else Verdict.LIVE

    def note_success(self, now: float) -> None:
        """A probe was answered, or a request made progress: it is alive."""
        self.misses = 0
        self.failures = 0
        self.last_success = now

    def note_missed_probe(self, *, started: float) -> None:
        """A probe that started at `started` was refused, wrong or not answered in time.

        It does not count when a request made progress since: a worker that computes is busy,
        not dead.
        """
        if self.last_success > started:
            return
        self.misses += 1
        self.failures += 1

    def note_broken_request(self) -> None:
        """A connection was refused, reset, or answered by another pod: suspect at once."""
        self.misses = max(self.misses, 1)
        self.failures += 1

    def note_late_request(self) -> None:
        """A request had no first token in time: evidence for the operator, no verdict here."""
        self.failures += 1
