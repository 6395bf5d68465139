"""Ages of node Leases, on our own clock since we saw them change: clocks of nodes may lie."""

from collections.abc import Mapping

from sluice.model.clock import Clock


class LeaseBook:
    """When each node's Lease was last seen to change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[str, float, float | None]] = {}

    def note(self, renewed: Mapping[str, str]) -> None:
        """Take in the renew times by node; nodes that are not in it are forgotten."""
        now = self._clock()
        seen: dict[str, tuple[str, float, float | None]] = {}
        for node, text in renewed.items():
            before = self._seen.get(node)
            if before is None:
                seen[node] = (text, now, None)
            elif before[0] != text:
                seen[node] = (text, now, now)
            else:
                seen[node] = before
        self._seen = seen

    def age(self, node: str) -> float | None:
        """Return seconds since the Lease was first or last seen to change; None without one."""
        entry = self._seen.get(node)
        return None if entry is None else self._clock() - entry[1]

    def renewed(self, node: str) -> float | None:
        """Return when the Lease was last seen to change; None before the first change."""
        entry = self._seen.get(node)
        return None if entry is None else entry[2]
