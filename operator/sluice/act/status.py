"""Write a pool's status: decisions at once, measured numbers at most every twenty seconds."""

import copy
from typing import Any

from sluice.act.writer import Writer
from sluice.kube.client import Json
from sluice.kube.errors import NotFoundError
from sluice.kube.paths import POOLS
from sluice.model.clock import Clock
from sluice.model.keys import PoolKey
from sluice.model.names import API_VERSION, POOL_KIND

MEASURED_EVERY = 20.0
"""Seconds between writes that only change measured numbers: three of the six writes a minute that
a pool under constant load may cost."""

_MEASURED = ("attainment", "costPerHour")
_MEASURED_OF_VARIANT = ("capacity", "costPerHour")
_MEASURED_OF_PAIR = ("agreement", "kl", "audits")


def strip_measured(status: Json) -> Json:
    """Return the part of a status whose changes are written at once."""
    kept = copy.deepcopy(status)
    for name in _MEASURED:
        kept.pop(name, None)
    for variant in kept.get("variants", ()):
        for name in _MEASURED_OF_VARIANT:
            variant.pop(name, None)
    for pair in kept.get("parity", ()):
        for name in _MEASURED_OF_PAIR:
            pair.pop(name, None)
    return kept


class StatusWriter:
    """Writes the status of pools, and knows what it last wrote."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._last: dict[str, tuple[float, Json]] = {}

    def recall(self, uid: str, observed: Json) -> Json:
        """Return what we last wrote, which a watch may not have shown yet; else what it showed."""
        return self._last.get(uid, (0.0, observed))[1]

    def is_due(self, uid: str, status: Json, observed: Json) -> bool:
        """Tell whether a status has to be written now.

        Args:
            uid: the pool's.
            status: the new document.
            observed: what the API server was last seen to have.
        """
        at, last = self._last.get(uid, (0.0, observed))
        if strip_measured(status) != strip_measured(last):
            return True
        return status != last and self._clock() - at >= MEASURED_EVERY

    async def write(self, key: PoolKey, uid: str, status: Json) -> bool:
        """Apply the status of a pool; False when it was deleted meanwhile.

        Raises:
            KubeError: the API server refused it.
        """
        manifest: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": POOL_KIND,
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "status": status,
        }
        try:
            await self._writer.apply(POOLS, manifest, "status")
        except NotFoundError:
            self._last.pop(uid, None)
            return False
        self._last[uid] = (self._clock(), status)
        return True

    def forget(self, live: set[str]) -> None:
        """Forget pools that are gone."""
        for uid in set(self._last) - live:
            del self._last[uid]
