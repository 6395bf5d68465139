"""Remembers where the requests of the last while went, so that routing can hold to the shares.

Pure but for its own memory: time is passed in.
"""

from collections import Counter, deque
from collections.abc import Mapping


class ShareWindow:
    """The dispatches that count towards a pool's shares.

    The window covers `seconds` or the last `requests`, whichever holds more. It starts afresh when
    the shares, or the groups able to take part, change: nobody owes anything to what was sent
    under other rules, and a group that comes back is not flooded to make up for its absence.
    """

    def __init__(self, *, seconds: float = 10.0, requests: int = 50) -> None:
        self._seconds = seconds
        self._requests = requests
        self._rules: Mapping[str, float] = {}
        self._sent: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def read_counts(self, rules: Mapping[str, float], now: float) -> Mapping[str, int]:
        """Return the dispatches by group under these effective shares."""
        if rules != self._rules:
            self._rules = dict(rules)
            self._sent.clear()
            self._counts.clear()
        while len(self._sent) > self._requests and self._sent[0][0] < now - self._seconds:
            _, group = self._sent.popleft()
            self._counts[group] -= 1
        return self._counts

    def add(self, group: str, now: float) -> None:
        """Count one dispatch."""
        self._sent.append((now, group))
        self._counts[group] += 1
