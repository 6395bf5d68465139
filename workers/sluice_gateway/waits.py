"""How long one request has waited for a worker, and how long it still may.

Pure: times are passed in.
"""

from sluice_gateway.attempts import Exchange
from sluice_gateway.goals import RequestClass
from sluice_gateway.settings import Relaying


class Wait:
    """How long one request has waited, in all and while there were healthy workers.

    Args:
        now: When it began.
        exchange: The request, if it is a new one: it waits no longer than its goal allows.
        first: Seconds that it will then still have to wait for its first token.

    Attributes:
        began: Monotonic seconds.
        busy_most: Seconds that it may wait while workers are healthy.
        idle: Seconds without one, that have not been taken.
    """

    def __init__(
        self,
        relaying: Relaying,
        now: float,
        exchange: Exchange | None = None,
        first: float = 0.0,
    ) -> None:
        self.began = now
        self.idle = 0.0
        self._noted = now
        self._busy = 0.0
        self._idle_in_all = self._heartened = 0.0
        self._hearten_seconds = relaying.hearten_seconds
        self._last = now + relaying.wait_for_worker
        self.busy_most = relaying.wait_while_busy
        goal = exchange.goal if exchange is not None else None
        if exchange is None or goal is None:
            return
        left = exchange.arrival + goal.ttft - first - now
        own = goal.kind is RequestClass.BATCH or goal.strict
        self.busy_most = max(0.0, left if own else min(left, self.busy_most))
        if goal.strict:
            self._last = min(self._last, exchange.arrival + goal.ttft)

    def note(self, now: float, *, busy: bool) -> None:
        """Count the time since the last note."""
        if busy:
            self._busy += now - self._noted
        else:
            self.idle += now - self._noted
            self._idle_in_all += now - self._noted
        self._noted = now

    def take_idle(self) -> float:
        """Return the seconds without a healthy worker since this was last asked."""
        idle, self.idle = self.idle, 0.0
        return idle

    def must_hearten(self) -> bool:
        """Return whether the client should get a sign of life now; no worker was healthy lately."""
        if self._idle_in_all < self._heartened + self._hearten_seconds:
            return False
        self._heartened = self._idle_in_all
        return True

    def find_left(self, now: float, *, busy: bool) -> float:
        """Return the seconds that it may still wait, if things stay as they are."""
        left = self._last - now
        return min(left, self.busy_most - self._busy) if busy else left
