"""Remembers where the requests of the last while went, so that routing can hold to the shares.

Pure but for its own memory: time is passed in.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

_TURNS: Final = 2
"""Turns of the group with the smallest share that the window has room for: a group that never
saw a whole one in it would never be due."""
_REQUESTS_MOST: Final = 1000


class ShareWindow:
    """The dispatches that count towards a pool's shares.

    The window covers `seconds` or the last requests, whichever holds more: `requests` of them, or
    as many as two turns of the smallest share take, up to a thousand. It starts afresh when
    the shares, or the groups able to take part, change: nobody owes anything to what was sent
    under other rules, and a group that comes back is not flooded to make up for its absence.
    """

    def __init__(self, *, seconds: float = 10.0, requests: int = 50) -> None:
        self._seconds = seconds
        self._requests = requests
        self._least = requests
        self._rules: Mapping[str, float] = {}
        self._sent: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def read_counts(self, rules: Mapping[str, float], now: float) -> Mapping[str, int]:
        """Return the dispatches by group under these effective shares."""
        if rules != self._rules:
            self._rules = dict(rules)
            self._least = self._find_least(rules)
            self._sent.clear()
            self._counts.clear()
        while len(self._sent) > self._least and self._sent[0][0] < now - self._seconds:
            _, group = self._sent.popleft()
            self._counts[group] -= 1
        return self._counts

    def add(self, group: str, now: float) -> None:
        """Count one dispatch."""
        self._sent.append((now, group))
        self._counts[group] += 1

    def _find_least(self, rules: Mapping[str, float]) -> int:
        """Return how many requests are remembered however old they are."""
        smallest = min((share for share in rules.values() if share > 0), default=1.0)
        # Bounded first: 1 / share is infinite for the smallest of shares.
        turns = math.ceil(_TURNS / max(smallest, _TURNS / _REQUESTS_MOST))
        return max(self._requests, turns)
