"""Tells how much of its workers a pool keeps free of batch work, so that urgent requests have room.

What runs on a worker keeps its place until it ends, and batch work fills every place that it finds.
So it is given fewer: urgent requests find as many free as they lately wanted at a time, and a few
more. Where nobody is urgent, batch work gets all of them.
Pure but for the memory of how many wanted a place: times are passed in.
"""

import math
from dataclasses import dataclass
from typing import Final

_HALF_LIFE: Final = 30.0
"""Seconds after which half of a wish for room is forgotten: bursts come back."""
_SPARE: Final = 1.25
"""How much more room there is than was wanted at most: two draws are not always even."""
_NOBODY: Final = 0.1
"""Of a sequence: if less than that is left of a wish, nobody is urgent any more."""


@dataclass(slots=True)
class Room:
    """How many sequences urgent requests lately wanted to run at a time.

    All classes but batch are urgent.
    """

    _peak: float = 0.0
    _at: float = 0.0

    def note(self, urgent: int, now: float) -> None:
        """So many sequences of urgent requests run or want to."""
        self._peak = max(float(urgent), self._read(now))
        self._at = now

    def find_batch_most(self, places: int, workers: int, now: float) -> int:
        """Return how many sequences of batch work a worker may have: one at least.

        Args:
            places: Sequences that a worker is sent: those that it runs at once, and one that waits
                there. That one is no room: who takes it waits for another's end.
            workers: How many of them are healthy.
            now: Monotonic seconds.
        """
        peak = self._read(now)
        if peak < _NOBODY or not workers:
            return places
        return max(1, places - 1 - math.ceil(_SPARE * peak / workers))

    def _read(self, now: float) -> float:
        return self._peak * math.exp2((self._at - now) / _HALF_LIFE)
