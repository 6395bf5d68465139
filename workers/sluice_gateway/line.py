"""The line of requests that wait for a worker of one pool: who is next, and who makes room.

First who keeps the head of the line (woken for a place that somebody else took), then streams that
have to move, then classes by urgency; so that none of them starves, some turns go to the least
urgent. Within a class the keys of clients take turns by the tokens they ask for (start-time fair
queueing: Goyal, Vin, Cheng 1996), and within a key who is due first comes first.

Pure but for what it holds.
"""

import bisect
from collections import OrderedDict, deque
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
        moving: A stream that has begun, or was sent before: it comes ahead of new requests.
        woken: It has left the line, and has a claim on a place.
        turned_away: It has left the line, and has none.
    """

    wake: Callable[[], None]
    turn_away: Callable[[], None]
    kind: RequestClass = RequestClass.STANDARD
    key: str = ""
    due: float = float("inf")
    cost: float = 1.0
    moving: bool = False
    woken: bool = False
    turned_away: bool = False

    @property
    def is_patient(self) -> bool:
        """Whether it is new batch work: it leaves room for others."""
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
        self._numbers = count()
        self._keys: dict[str, _Key] = {}
        self._ends: OrderedDict[str, float] = OrderedDict()
        self._now = 0.0
        self.count = 0

    def put(self, waiter: Waiter) -> None:
        key = self._keys.get(waiter.key)
        if key is None:
            start = max(self._now, self._ends.pop(waiter.key, 0.0))
            key = self._keys[waiter.key] = _Key(start)
        bisect.insort(key.waiters, (waiter.due, next(self._numbers), waiter))
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
    """Everybody who waits for a worker of a pool, and has not been woken."""

    def __init__(self) -> None:
        self._front: deque[Waiter] = deque()
        self._moving: deque[Waiter] = deque()
        self._classes = {kind: _ClassLine() for kind in _CLASSES}
        self._turns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._front
        yield from self._moving
        for line in self._classes.values():
            yield from line

    def put(self, waiter: Waiter, *, front: bool = False) -> None:
        """Let a request wait; at the head if it has been woken in vain."""
        waiter.woken = False
        self._count += 1
        if front:
            self._front.appendleft(waiter)
        elif waiter.moving:
            self._moving.append(waiter)
        else:
            self._classes[waiter.kind].put(waiter)

    def pop(self, *, urgent: bool = False) -> Waiter | None:
        """Take out who is next; with `urgent`, who is next that is no new batch work."""
        waiter = self._take(urgent=urgent)
        self._count -= waiter is not None
        return waiter

    def _take(self, *, urgent: bool) -> Waiter | None:
        for waiter in self._front:
            if not (urgent and waiter.is_patient):
                self._front.remove(waiter)
                return waiter
        if self._moving:
            return self._moving.popleft()
        kinds = (kind for kind in _CLASSES if not (urgent and kind is RequestClass.BATCH))
        waiting = [line for line in map(self._classes.__getitem__, kinds) if line.count]
        if not waiting:
            return None
        self._turns += 1
        return waiting[0 if self._turns % _LEAST_URGENT_TURN else -1].pop()

    def remove(self, waiter: Waiter) -> None:
        """Take out a request that is in line."""
        self._count -= 1
        for line in (self._front, self._moving):
            if waiter in line:
                line.remove(waiter)
                return
        self._classes[waiter.kind].remove(waiter)

    def is_first(self, waiter: Waiter) -> bool:
        """Return whether a request has the head of the line, as far as classes tell."""
        for line in (self._front, self._moving):
            if line:
                return line[0] is waiter
        return next((c.peek() is waiter for c in self._classes.values() if c.count), False)

    def count_class(self, kind: RequestClass) -> int:
        """Return how many new requests of a class are in line."""
        return self._classes[kind].count

    def count_before(self, kind: RequestClass, key: str) -> int:
        """Return about how many would be served before one more request."""
        head = sum(not waiter.is_patient for waiter in self._front)
        if kind is RequestClass.BATCH:
            head = len(self._front)
        before = head + len(self._moving) + self._classes[kind].count_before(key)
        urgent = _CLASSES[: _CLASSES.index(kind)]
        return before + sum(self._classes[other].count for other in urgent)

    def count_urgent(self) -> int:
        """Return how many are in line that are no new batch work."""
        patient = sum(waiter.is_patient for waiter in self._front)
        return self._count - patient - self._classes[RequestClass.BATCH].count

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
