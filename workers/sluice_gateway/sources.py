"""Where a gateway's knowledge of pools and workers comes from: a cluster, or a fixed list."""

from collections.abc import Coroutine, Sequence
from typing import Protocol


class Watch(Protocol):
    """One thing that is followed.

    Attributes:
        kind: What to call it in logs and metrics.
        synced: It was seen completely once.
        connected: It answered the last time.
        heard_at: When it last answered, in monotonic seconds.
    """

    kind: str
    synced: bool
    connected: bool
    heard_at: float

    async def run(self) -> None:
        """Follow it until cancelled."""


class FleetSource(Protocol):
    """Keeps the fleet as the world is."""

    @property
    def watches(self) -> Sequence[Watch]:
        """What it follows."""

    def explain_unsynced(self) -> str:
        """Return what is not known yet; nothing once requests can be answered."""


def list_works(source: FleetSource) -> list[tuple[str, Coroutine[None, None, None]]]:
    """Return what has to run for a source, with names."""
    return [(f"watch {watch.kind}", watch.run()) for watch in source.watches]
