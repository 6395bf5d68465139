"""The one clock: wall time that never jumps."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since the epoch, never going backwards within one process."""


def steady_clock() -> Clock:
    """Return a clock that starts at wall time and then follows the monotonic clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
