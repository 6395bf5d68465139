"""Tells an engine or a device that hangs from a process that was only stopped for a while."""

import time
from collections.abc import Callable
from typing import Protocol

from sluice_worker.pacing import DeviceCall

STUCK_AFTER = 10.0
"""Seconds without a step, while there is work, after which the engine counts as stuck."""
CONFIRM_AFTER = 1.0
"""Seconds that it gets to show itself: after SIGCONT the probes that piled up come first."""
LATE_AFTER = 1.0
LATE_FACTOR = 20.0
"""A device call is late when it is overdue by so many seconds, and so many times its own time."""
LATE_CONFIRM_AFTER = 0.5
"""Seconds for which we have to see the same call late: its end may wait for a processor."""
LOOK_EVERY = 0.125
"""Seconds between two looks at the device call."""
BLIND_AFTER = 1.0
"""Seconds without a look after which it was this process that stood still, and we begin anew."""


class Beating(Protocol):
    """What is watched of an engine."""

    beat: float

    @property
    def call(self) -> DeviceCall | None:
        """The device call that it waits for."""

    def is_alive(self) -> bool:
        """Tell whether its thread lives."""


class Watchdog:
    """Watches one engine: `look` has to be called regularly, `find_fault` tells what was seen."""

    def __init__(self, engine: Beating, now: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._now = now
        self._suspected = (-1.0, 0.0)  # the beat that stayed the last, and since when we know
        self._looked = now()
        self._late: DeviceCall | None = None
        self._late_since = 0.0
        self._confirmed: DeviceCall | None = None

    def look(self) -> None:
        """Look whether the device call is late, and was so the last times, too."""
        now, call = self._now(), self._engine.call
        was_blind = now - self._looked > BLIND_AFTER
        self._looked = now
        if call is None or now - call.due <= max(LATE_AFTER, LATE_FACTOR * call.expected):
            self._late = None
        elif call is not self._late or was_blind:
            self._late, self._late_since = call, now
        elif now - self._late_since >= LATE_CONFIRM_AFTER:
            self._confirmed = call

    def find_fault(self) -> str:
        """Return what is wrong with the engine or its device, "" if nothing is."""
        if not self._engine.is_alive():
            return "the engine's thread has ended"
        call, now = self._engine.call, self._now()
        if call is not None and call is self._confirmed:
            return f"device call late: {now - call.due:.1f} s, expected {call.expected:.2f} s"
        beat = self._engine.beat
        silent = now - beat
        if silent <= STUCK_AFTER:
            return ""
        if self._suspected[0] != beat:
            self._suspected = (beat, now)
        confirmed = now - self._suspected[1] >= CONFIRM_AFTER
        return f"no step for {silent:.0f} s" if confirmed else ""
