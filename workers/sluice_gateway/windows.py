"""Counts over sliding windows: a ring of seconds, summed when somebody asks.

Pure: time is passed in. Memory follows activity: a second without events costs nothing.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Hashable
from typing import Final

LONGEST_WINDOW: Final = 300
"""Seconds that are kept."""


def build_bounds(least: float, most: float, step: float) -> tuple[float, ...]:
    """Return upper bounds of a histogram, each `step` times the one before, from least to most."""
    steps = math.ceil(math.log(most / least) / math.log(step))
    inner = (round(least * step**number, 6) for number in range(steps))
    return (*inner, most)


TTFT_BOUNDS: Final = build_bounds(0.05, 60.0, 1.12)
"""Seconds. Steps of 12 %: a percentile read from them is off by less than that."""
TPOT_BOUNDS: Final = build_bounds(0.005, 2.0, 1.12)
"""Seconds per output token after the first."""
QUEUE_BOUNDS: Final = build_bounds(0.01, 60.0, 1.5)
"""Seconds in line. Whoever is sent at once is in the first bucket."""


class Series:
    """Numbers of one thing (a pool, a variant, a worker), second by second.

    A key is the name of a counter, or a pair of a histogram's name and a bucket's index.
    """

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[Hashable]]] = deque()

    def add(self, key: Hashable, now: float, amount: int = 1) -> None:
        """Add to a counter in the current second."""
        second = math.floor(now)
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, Counter()))
            while self._seconds[0][0] <= second - LONGEST_WINDOW:
                self._seconds.popleft()
        self._seconds[-1][1][key] += amount

    def observe(self, name: str, bounds: tuple[float, ...], value: float, now: float) -> None:
        """Put a value into a histogram; the bucket beyond the last bound holds the rest."""
        self.add((name, bisect_left(bounds, value)), now)

    def sum_window(self, seconds: int, now: float) -> Counter[Hashable]:
        """Return the sums over the last seconds, the current one included."""
        oldest = math.floor(now) - seconds + 1
        total: Counter[Hashable] = Counter()
        for second, counts in reversed(self._seconds):
            if second < oldest:
                break
            total.update(counts)
        return total


def read_histogram(total: Counter[Hashable], name: str, bounds: tuple[float, ...]) -> list[int]:
    """Return the counts of a histogram's buckets, the overflow last."""
    return [total[name, index] for index in range(len(bounds) + 1)]
