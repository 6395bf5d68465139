"""Ages of node Leases, on our own clock since we saw them change: clocks of nodes may lie."""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.model.clock import Clock


@dataclass(frozen=True, slots=True)
class _Seen:
    """A Lease as it was last seen to change, or first seen.

    Attributes:
        renewed: when it was seen to change; None before the first change.
        lag: how long before that the beat may have come, at most.
    """

    text: str
    at: float
    renewed: float | None = None
    lag: float = 0.0


class LeaseBook:
    """When each node's Lease was last seen to change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._asked = 0.0

    def note(self, renewed: Mapping[str, str], asked: float) -> None:
        """Take in the renew times by node; nodes that are not in it are forgotten.

        Args:
            renewed: by node, as its Lease has it; only whether it changed matters.
            asked: when this list was asked for, on our clock.
        """
        now = self._clock()
        # What is new came after the list before was asked for, however long ago: reads fail, too.
        lag = now - self._asked
        seen = {}
        for node, text in renewed.items():
            before = self._seen.get(node)
            if before is None:
                seen[node] = _Seen(text, now)
            else:
                seen[node] = before if before.text == text else _Seen(text, now, now, lag)
        self._seen, self._asked = seen, asked

    def age(self, node: str) -> float | None:
        """Return seconds since the Lease was first or last seen to change; None without one."""
        entry = self._seen.get(node)
        return None if entry is None else self._clock() - entry.at

    def renewed(self, node: str) -> float | None:
        """Return when the Lease was last seen to change; None before the first change."""
        entry = self._seen.get(node)
        return None if entry is None else entry.renewed

    def lag(self, node: str) -> float:
        """Return how many seconds before we saw its Lease change a node may have beaten."""
        entry = self._seen.get(node)
        return 0.0 if entry is None else entry.lag
