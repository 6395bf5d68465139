"""Leadership by a coordination Lease, judged on the monotonic clock.

The holder is the pod's uid. A leader that could not renew for `renew_deadline` stops writing, well
before `duration` lets another take over; since each write's timeout is shorter than what is left,
there are never two writers. Wall clocks are written for people and never compared.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from sluice.control.settings import LeaseSettings
from sluice.kube.client import Json, KubeClient
from sluice.kube.errors import ConflictError, KubeError, NotFoundError
from sluice.kube.paths import LEASES
from sluice.model.names import OPERATOR

log = structlog.get_logger()


class Leadership:
    """One candidate for one Lease.

    Args:
        client: how to reach the API server.
        namespace: where the Lease is.
        identity: the candidate, unique among all.
        settings: times.
        changed: called when leadership was won or lost.
        monotonic: clock, seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        identity: str,
        settings: LeaseSettings,
        changed: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._settings = settings
        self._changed = changed
        self._monotonic = monotonic
        self._renewed: float | None = None
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = 0.0
        self._led = False

    def remaining(self) -> float:
        """Return seconds for which this process may write; 0 or less means not at all."""
        if self._renewed is None:
            return 0.0
        return self._renewed + self._settings.renew_deadline - self._monotonic()

    def is_leading(self) -> bool:
        """Tell whether this process may write now."""
        return self.remaining() > 0

    async def run(self) -> None:
        """Try for the Lease, and keep it, until cancelled."""
        while True:
            await self.attempt()
            if self.is_leading() != self._led:
                self._led = self.is_leading()
                log.info("leadership", leading=self._led, identity=self._identity)
                self._changed()
            await asyncio.sleep(self._settings.retry)

    async def attempt(self) -> None:
        """Renew, or take over what is free or expired."""
        asked = self._monotonic()
        try:
            if await self._try():
                self._renewed = asked
            else:
                self._renewed = None
        except ConflictError:
            # Somebody else was faster: they lead now, or we shall see them at the next look.
            self._renewed = None
        except KubeError as error:
            log.warning("cannot reach the Lease", error=error.message)

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait for it to expire."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            lease = await self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(LEASES, lease, within=2.0)
        except KubeError as error:
            log.warning("cannot release the Lease", error=error.message)

    async def _try(self) -> bool:
        lease = await self._read()
        within = self._settings.retry * 2
        if lease is None:
            await self._client.create(LEASES, self._describe({}, {}), within=within)
            return True
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder and holder != self._identity and not self._has_expired(lease):
            return False
        await self._client.replace(LEASES, self._describe(lease["metadata"], spec), within=within)
        return True

    async def _read(self) -> Json | None:
        try:
            # One lost connection must not cost the leadership: there is time for another try.
            lease = await self._client.get(
                LEASES, self._namespace, OPERATOR, within=self._settings.retry * 2
            )
        except NotFoundError:
            return None
        # What stands in for an API server that is away may answer anything.
        if not all(isinstance(lease.get(part), dict) for part in ("metadata", "spec")):
            raise KubeError(200, "NoLease", f"the answer is no Lease: {str(lease)[:200]}")
        return lease

    def _has_expired(self, lease: Json) -> bool:
        """Tell whether the Lease has stood unchanged, before our eyes, for its duration.

        The holder's duration counts where it is longer than ours: its settings may be others.
        """
        spec = lease["spec"]
        seen = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        now = self._monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
            return False
        duration = max(self._settings.duration, float(spec.get("leaseDurationSeconds") or 0))
        return now - self._seen_at >= duration

    def _describe(self, metadata: Json, before: Json) -> Json:
        """Return the Lease as ours; `before` is its spec as read, empty for a new one."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before.get("holderIdentity") == self._identity
        transitions = int(before.get("leaseTransitions") or 0)
        kept = {key: metadata[key] for key in ("uid", "resourceVersion") if key in metadata}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": OPERATOR, "namespace": self._namespace} | kept,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._settings.duration),
                "leaseTransitions": transitions + (bool(before) and not ours),
                "acquireTime": (before.get("acquireTime") if ours else None) or stamp,
                "renewTime": stamp,
            },
        }
