"""The line of requests that wait for a worker of one pool: who is next, and who makes room.

First streams that have to move, then classes by urgency; so that none of them starves, some turns
go to the least urgent. Within a class the keys of clients take turns by the tokens they ask for
(start-time fair queueing: Goyal, Vin, Cheng 1996), and within a key who is due first comes first.
Whoever was woken for a place that somebody else took has its old place again.

Pure but for what it holds.
"""

import bisect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from sluice_gateway.goals import RequestClass

_LEAST_URGENT_TURN: Final = 10
"""Every so many turns one goes to the least urgent class that waits."""
_KEYS_MOST: Final = 1024
"""Keys without a request in line whose share of it is remembered."""
_CLASSES: Final = tuple(RequestClass)


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in line.

    Attributes:
        wake: Called when there may be a place for it.
        turn_away: Called when it has to make room for another.
        due: Monotonic seconds at which it should be served.
        cost: Tokens that it asks for.
        sequences: Places of a worker's that it takes.
        moving: It was sent before: it comes ahead of new requests.
        number: By order of arrival; the line gives it, and it is kept by who comes back.
        woken: It has left the line, and has a claim on a place.
        turned_away: It has left the line, and has none.
    """

    wake: Callable[[], None]
    turn_away: Callable[[], None]
    kind: RequestClass = RequestClass.STANDARD
    key: str = ""
    due: float = float("inf")
    cost: float = 1.0
    sequences: int = 1
    moving: bool = False
    number: int = -1
    woken: bool = False
    turned_away: bool = False

    @property
    def is_new_batch(self) -> bool:
        """Whether it is new batch work, which leaves room for others."""
        return self.kind is RequestClass.BATCH and not self.moving


@dataclass(slots=True)
class _Key:
    """One client's requests in a class, those due first at the head.

    Attributes:
        start: When its turn is, in tokens that everybody had before.
    """

    start: float
    waiters: list[tuple[float, int, Waiter]] = field(default_factory=list)


class _ClassLine:
    """The requests of one class."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._ends: OrderedDict[str, float] = OrderedDict()
        self._now = 0.0
        self.count = 0

    def put(self, waiter: Waiter, *, again: bool) -> None:
        """Let a request wait; `again` if it was taken out in vain: its key had no turn then."""
        key = self._keys.get(waiter.key)
        if key is None:
            ended = self._ends.pop(waiter.key, 0.0)
            key = self._keys[waiter.key] = _Key(ended if again else max(self._now, ended))
        if again:
            key.start -= waiter.cost
        bisect.insort(key.waiters, (waiter.due, waiter.number, waiter))
        self.count += 1

    def peek(self) -> Waiter:
        return self._find_next()[1].waiters[0][2]

    def _find_next(self) -> tuple[str, _Key]:
        return min(self._keys.items(), key=lambda item: (item[1].start, item[1].waiters[0][:2]))

    def pop(self) -> Waiter:
        name, key = self._find_next()
        waiter = key.waiters.pop(0)[2]
        self._now = key.start
        key.start += waiter.cost
        self._leave(name, key)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        key = self._keys[waiter.key]
        key.waiters = [entry for entry in key.waiters if entry[2] is not waiter]
        self._leave(waiter.key, key)

    def _leave(self, name: str, key: _Key) -> None:
        self.count -= 1
        if not key.waiters:
            del self._keys[name]
            self._ends[name] = key.start
            while len(self._ends) > _KEYS_MOST:
                self._ends.popitem(last=False)

    def find_last(self) -> Waiter:
        """Return who comes last of the key that has the most in line."""
        return max(self._keys.values(), key=lambda key: len(key.waiters)).waiters[-1][2]

    def count_key(self, name: str) -> int:
        key = self._keys.get(name)
        return len(key.waiters) if key is not None else 0

    def count_before(self, name: str) -> int:
        """Return about how many come before one more request of a key, as keys take turns."""
        own = self.count_key(name)
        return sum(min(len(key.waiters), own + 1) for key in self._keys.values())

    def __iter__(self) -> Iterator[Waiter]:
        entries = [entry for key in self._keys.values() for entry in key.waiters]
        return (entry[2] for entry in sorted(entries, key=lambda entry: entry[:2]))


class Line:
    """Everybody who waits for a worker of a pool, and has not been woken.

    Attributes:
        urgent_sequences: Places that those who are no new batch work ask for.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._moving: list[Waiter] = []
        self._classes = {kind: _ClassLine() for kind in _CLASSES}
        self._turns = 0
        self._count = 0
        self.urgent_sequences = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._moving
        for line in self._classes.values():
            yield from line

    def put(self, waiter: Waiter) -> None:
        """Let a request wait; where it was, if it has been woken in vain."""
        again = waiter.number >= 0
        if not again:
            waiter.number = next(self._numbers)
        waiter.woken = False
        self._note(waiter, 1)
        if waiter.moving:
            bisect.insort(self._moving, waiter, key=lambda one: one.number)
        else:
            self._classes[waiter.kind].put(waiter, again=again)

    def pop(self, *, urgent: bool = False) -> Waiter | None:
        """Take out who is next; with `urgent`, who is next that is no new batch work."""
        waiter = self._take(urgent=urgent)
        if waiter is not None:
            self._note(waiter, -1)
        return waiter

    def _take(self, *, urgent: bool) -> Waiter | None:
        if self._moving:
            return self._moving.pop(0)
        kinds = (kind for kind in _CLASSES if not (urgent and kind is RequestClass.BATCH))
        waiting = [line for line in map(self._classes.__getitem__, kinds) if line.count]
        if not waiting:
            return None
        self._turns += 1
        return waiting[0 if self._turns % _LEAST_URGENT_TURN else -1].pop()

    def remove(self, waiter: Waiter) -> None:
        """Take out a request that is in line."""
        self._note(waiter, -1)
        if waiter.moving:
            self._moving.remove(waiter)
        else:
            self._classes[waiter.kind].remove(waiter)

    def _note(self, waiter: Waiter, times: int) -> None:
        self._count += times
        if not waiter.is_new_batch:
            self.urgent_sequences += times * waiter.sequences

    def is_first(self, waiter: Waiter) -> bool:
        """Return whether a request has the head of the line, as far as classes tell."""
        if self._moving:
            return self._moving[0] is waiter
        return next((c.peek() is waiter for c in self._classes.values() if c.count), False)

    def count_class(self, kind: RequestClass) -> int:
        """Return how many new requests of a class are in line."""
        return self._classes[kind].count

    def count_before(self, kind: RequestClass, key: str) -> int:
        """Return about how many would be served before one more request."""
        before = len(self._moving) + self._classes[kind].count_before(key)
        urgent = _CLASSES[: _CLASSES.index(kind)]
        return before + sum(self._classes[other].count for other in urgent)

    def find_less_urgent(self, kind: RequestClass) -> Waiter | None:
        """Return who makes room for a more urgent class when the whole line is full."""
        for other in reversed(_CLASSES[_CLASSES.index(kind) + 1 :]):
            if self._classes[other].count:
                return self._classes[other].find_last()
        return None

    def find_greedy(self, kind: RequestClass, key: str) -> Waiter | None:
        """Return who makes room for a key that has fewer requests in line than another."""
        line = self._classes[kind]
        if not line.count:
            return None
        last = line.find_last()
        return last if line.count_key(last.key) > line.count_key(key) + 1 else None
