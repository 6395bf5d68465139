"""Tells whether a request can still be served in time, and when it is worth coming back.

A line that is longer than what workers serve within the objective serves nobody: everybody in it is
late. So who would be late is told at once. How fast a line moves is measured while there is one.
Pure but for that: times are passed in.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sluice_gateway.forecast import Forecast, Need
from sluice_gateway.pace import Mean, Pace

SHED: Final = frozenset({"would_be_late", "queue_full", "too_busy"})
"""Outcomes of requests that were turned away because there is too much to do."""
_OWN_TIMES: Final = 2.0
"""A prompt that alone takes most of the objective may take so many times its own work: it would
otherwise never be served while anybody else is."""
_MARGIN: Final = 0.75
"""Filled up further, workers serve no more requests in time, but more too late: at 120 % and 300 %
of the load in virtual time 0.6 to 0.75 are best, with two gateways more clearly so."""
_ENOUGH: Final = 5
_TAKERS_MOST: Final = 64
"""Keys whose share is known; beyond that nobody of them takes much."""
_TAKEN_HALF_LIFE: Final = 10.0
_ACTIVE: Final = 0.01
_FAIR: Final = 1.1
_GREEDY: Final = 0.7
"""Workers are filled up by greedy keys only as far as this part of the objective allows: who comes
from another key then finds room for the rest of it."""
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


class Takers:
    """Who has taken how much of a pool lately, so that a flood leaves room for others.

    Tokens that were asked for and let in, by key; half of them are forgotten every few seconds.
    """

    def __init__(self) -> None:
        self._taken: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def note(self, key: str, cost: float, now: float) -> None:
        """A request of a key was let in."""
        self._taken[key] = (self._read(key, now) + cost, now)
        self._taken.move_to_end(key)
        while len(self._taken) > _TAKERS_MOST:
            self._taken.popitem(last=False)

    def find_portion(self, key: str, now: float) -> float:
        """Return what part of its objective a key may fill up: less if it took more than others."""
        taken = {name: self._read(name, now) for name in self._taken}
        total = sum(taken.values())
        active = {name for name, amount in taken.items() if amount > _ACTIVE * total} | {key}
        if len(active) == 1:
            return 1.0
        greedy = taken.get(key, 0.0) > _FAIR * total / len(active)
        return _GREEDY if greedy else 1.0

    def _read(self, key: str, now: float) -> float:
        amount, at = self._taken.get(key, (0.0, now))
        return amount * math.exp2((at - now) / _TAKEN_HALF_LIFE)


def find_first(paces: Iterable[Pace]) -> float:
    """Return the seconds from dispatch to first token, as workers were seen to take lately."""
    known = [pace.first.value for pace in paces if pace.first.count >= _ENOUGH]
    return sum(known) / len(known) if known else 0.0


def find_allowance(need: Need, bid: Forecast | None = None, portion: float = 1.0) -> float:
    """Return the seconds that a request may take from now to what it is due for.

    `portion` of the objective is what its key may fill up. Of an objective that is not its own
    deadline a part is kept for predictions that are too low.
    """
    if not need.goal.strict:
        portion *= _MARGIN
    left = need.ttft - (1.0 - portion) * need.goal.ttft
    if need.goal.strict or bid is None:
        return left
    return max(left, _OWN_TIMES * bid.work * portion)


def find_retry_after(late: float, chance: float) -> int:
    """Return the seconds after which it is worth coming back.

    Args:
        late: By how many seconds the objective would be missed: so much has to drain away.
        chance: Number in [0, 1) that spreads those who are told at the same time.
    """
    return min(_RETRY_MOST, max(1, math.ceil(late * (1 + chance))))
