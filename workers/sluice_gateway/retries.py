"""What may go wrong with an attempt, and whether it may be tried elsewhere.

Pure but for the budget's own counter: time is passed in.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sluice_gateway.answers import Answer

BROKE_OFF: Final = frozenset({"reset", "truncated"})
"""Codes of faults where a worker had the request, and ended its connection without an answer."""


class FaultKind(StrEnum):
    """Kinds of failed attempts, by what they say of the worker."""

    LOST = "lost"  # it is dead, cut off, or not the pod we meant: moving away is free
    REFUSED = "refused"  # it did no work and said so (429, 503)
    ERROR = "error"  # it answered with an error or with nonsense
    SILENT = "silent"  # it gave nothing to anybody in time: moving away is free
    LATE = "late"  # it gave this request no token in time
    MOVED = "moved"  # it did nothing wrong: its stream was taken elsewhere


class Fault(Exception):  # noqa: N818 - a fault is a result of an attempt, handled by its kind
    """An attempt that did not serve the request.

    Attributes:
        code: Short word for logs and metrics, from a fixed set.
        answer: What to tell the client if nobody else can serve it.
        hold: Seconds for which the worker should get no new requests.
    """

    def __init__(
        self, kind: FaultKind, code: str, message: str, *, answer: Answer, hold: float = 0.0
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.answer = answer
        self.hold = hold


@dataclass(slots=True)
class RetryBudget:
    """Allows retries on error answers up to a fraction of a pool's traffic.

    Every request deposits `ratio`, every retry takes 1. The reserve lets a quiet pool retry at all.
    """

    ratio: float = 0.2
    reserve: float = 5.0
    most: float = 20.0
    refill_per_second: float = 0.2
    _balance: float = field(init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._balance = self.reserve

    def note_request(self, now: float) -> None:
        """Count one request of the pool's traffic."""
        self._refill(now)
        self._balance = min(self.most, self._balance + self.ratio)

    def take_retry(self, now: float) -> bool:
        """Return whether a retry fits the budget, and take it out if so."""
        self._refill(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _refill(self, now: float) -> None:
        """Bring a quiet pool's balance back to the reserve, slowly."""
        if self._balance < self.reserve:
            gained = (now - self._at) * self.refill_per_second
            self._balance = min(self.reserve, self._balance + gained)
        self._at = now
