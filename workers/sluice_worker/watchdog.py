"""Tells an engine that hangs from one whose process was only stopped for a while."""

import time
from collections.abc import Callable
from typing import Protocol

STUCK_AFTER = 10.0
"""Seconds without a step, while there is work, after which the engine counts as stuck."""
CONFIRM_AFTER = 1.0
"""Seconds that it gets to show itself: after SIGCONT the probes that piled up come first."""


class Beating(Protocol):
    """What is watched of an engine."""

    beat: float

    def is_alive(self) -> bool:
        """Tell whether its thread lives."""


class Watchdog:
    """Watches one engine; it has to be asked more than once, as probes do."""

    def __init__(self, engine: Beating, now: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._now = now
        self._suspected = (-1.0, 0.0)  # the beat that stayed the last, and since when we know

    def find_fault(self) -> str:
        """Return what is wrong with the engine, "" if nothing is."""
        if not self._engine.is_alive():
            return "the engine's thread has ended"
        beat, now = self._engine.beat, self._now()
        silent = now - beat
        if silent <= STUCK_AFTER:
            return ""
        if self._suspected[0] != beat:
            self._suspected = (beat, now)
        confirmed = now - self._suspected[1] >= CONFIRM_AFTER
        return f"no step for {silent:.0f} s" if confirmed else ""
