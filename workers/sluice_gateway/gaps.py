"""Time between the successive tokens of streams (ITL), every gap: a mean per token hides a stall.

An attempt counts its own gaps as tokens come, in a list; the metric takes them at its end. Tokens
that come together, in one event or one read, are one gap. The pause in which a stream moves to
another worker is a gap, too: of the attempt that goes on.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

BOUNDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
"""Seconds: upper ends of the histogram's buckets."""
_NAMES: Final = (*map(floatToGoString, BOUNDS), "+Inf")


class Gaps:
    """A histogram of gaps.

    Attributes:
        counts: By bucket; what lies above all bounds is the last.
        seconds: The sum of all gaps.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(_NAMES)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one gap."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def merge(self, other: "Gaps") -> None:
        """Count the gaps of another, too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


class GapCollector(Collector):
    """The histogram of gaps by pool and accelerator class, of attempts that have ended."""

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[str, str], Gaps] = defaultdict(Gaps)

    def merge(self, pool: str, variant: str, gaps: Gaps) -> None:
        """Take the gaps of an attempt on a class of a pool."""
        if gaps.seconds:
            self._totals[pool, variant].merge(gaps)

    def forget_pool(self, key: str) -> None:
        """Remove what a pool that is gone has left."""
        for labels in [labels for labels in self._totals if labels[0] == key]:
            del self._totals[labels]

    def describe(self) -> Iterable[Metric]:
        """Name the metric without asking for values."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Render the histogram: buckets count what lies below their bounds."""
        family = HistogramMetricFamily(
            "sluice_gateway_itl_seconds",
            "Gaps between the arrivals of successive tokens of streams, pauses in which they move"
            " to another worker included.",
            labels=("pool", "accelerator_class"),
        )
        for labels, total in self._totals.items():
            buckets = list(zip(_NAMES, map(float, accumulate(total.counts)), strict=True))
            family.add_metric(labels, buckets, total.seconds)
        yield family
