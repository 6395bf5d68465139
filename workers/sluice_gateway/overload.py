"""Tells whether a request can still be served in time, and when it is worth coming back.

A line that is longer than what workers serve within the objective serves nobody: everybody in it is
late. So who would be late is told at once. How fast a line moves is measured while there is one.
Pure but for that: times are passed in.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.pace import Mean, Pace

_OWN_TIMES: Final = 2.0
"""A prompt that alone takes most of the objective may take so many times its own work: it would
otherwise never be served while anybody else is."""
_ENOUGH: Final = 5
_RETRY_MOST: Final = 60
_GAP_MOST: Final = 30.0


@dataclass(slots=True)
class Drain:
    """How fast a pool's line moves: seconds between two places that become free."""

    gap: Mean = field(default_factory=lambda: Mean(weight=0.05))
    _freed_at: float | None = None

    def note_freed(self, now: float, *, waiting: bool) -> None:
        """A place became free, while somebody waited for one or not."""
        if waiting and self._freed_at is not None:
            self.gap.add(min(_GAP_MOST, now - self._freed_at))
        self._freed_at = now if waiting else None

    def expect(self, before: int) -> float:
        """Return the seconds until so many and one more have got a place; 0 if nobody can tell."""
        return (before + 1) * self.gap.value if self.gap.count >= _ENOUGH else 0.0


def find_first(paces: Iterable[Pace]) -> float:
    """Return the seconds from dispatch to first token, as workers were seen to take lately."""
    known = [pace.first.value for pace in paces if pace.first.count >= _ENOUGH]
    return sum(known) / len(known) if known else 0.0


def find_allowance(need: Need, bid: Forecast | None = None) -> float:
    """Return the seconds that a request may take from now to what it is due for."""
    if need.goal.strict or bid is None:
        return need.ttft
    return max(need.ttft, _OWN_TIMES * bid.work)


def find_retry_after(late: float, chance: float) -> int:
    """Return the seconds after which it is worth coming back.

    Args:
        late: By how many seconds the objective would be missed: so much has to drain away.
        chance: Number in [0, 1) that spreads those who are told at the same time.
    """
    return min(_RETRY_MOST, max(1, math.ceil(late * (1 + chance))))
