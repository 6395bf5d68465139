"""Keeps one kind of object mirrored: list, then watch, and list again whenever in doubt.

It never gives up: while the API server is away, the sink keeps what it has.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from sluice_gateway.cluster import Sink
from sluice_gateway.kubeapi import ApiError, ExpiredError, KubeApi
from sluice_gateway.settings import Watching


class Reflector:
    """Mirrors the objects at one path of the API into a sink.

    Args:
        kind: What to call them in logs and metrics.
        selector: Query parameters that narrow list and watch.
        random: Returns numbers in [0, 1), for jitter.
        clock: Monotonic seconds.
        on_contact: Called with `heard`: the API server was lost, or is back and has been listed.

    Attributes:
        synced: A complete list has been seen once.
        connected: The last request to the API server succeeded.
        heard_at: When it did.
    """

    def __init__(
        self,
        api: KubeApi,
        sink: Sink,
        *,
        kind: str,
        path: str,
        selector: Mapping[str, str],
        watching: Watching,
        random: Callable[[], float],
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
        on_contact: Callable[..., None] | None = None,
    ) -> None:
        self._on_contact = on_contact
        self._api = api
        self._sink = sink
        self._path = path
        self._selector = selector
        self._watching = watching
        self._random = random
        self._clock = clock
        self._log = log.bind(kind=kind, server=api.server)
        self._failures = 0
        self.kind = kind
        self.synced = False
        self.connected = False
        self.heard_at = 0.0

    async def run(self) -> None:
        """Mirror until cancelled."""
        while True:
            try:
                await self._mirror_once()
            except ExpiredError as error:
                self._log.info("list again", reason=str(error))
                # A server that expires everything at once must not be asked without a pause.
                await asyncio.sleep(self._random() * self._watching.backoff_first)
            except ApiError as error:
                await self._pause(error)

    async def _mirror_once(self) -> None:
        """List, then follow watches until one fails."""
        listing = await self._api.list_objects(self._path, self._selector)
        self._sink.replace_all(listing.objects)
        self._note_contact(len(listing.objects))
        version = listing.version
        while True:
            started = self._clock()
            async for event in self._api.watch_objects(self._path, self._selector, version):
                version = self._take(event, version)
            self._note_contact(None)
            if self._clock() - started < 1.0:
                # A server that ends watches at once must not be asked without a pause.
                await asyncio.sleep(self._random() * self._watching.backoff_first)

    def _take(self, event: Mapping[str, Any], version: str) -> str:
        """Hand one event to the sink; return the version that has been seen with it."""
        found = event["object"]
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self._sink.put(found)
            case "DELETED":
                self._sink.remove(found)
        self._note_contact(None)
        metadata = found.get("metadata")
        seen = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        return seen if isinstance(seen, str) and seen else version

    def _note_contact(self, listed: int | None) -> None:
        if listed is not None and not self.connected:
            self._log.info("watching", objects=listed, failures=self._failures)
            self.connected = True
            if self._on_contact is not None:
                self._on_contact(heard=True)
        if listed is not None:
            self.synced = True
        self._failures = 0
        self.heard_at = self._clock()

    async def _pause(self, error: ApiError) -> None:
        """Say once that the API server is away, and wait before the next try."""
        self._failures += 1
        if self.connected or self._failures == 1:
            state = "routing on what is known" if self.synced else "not ready until it answers"
            self._log.warning("Kubernetes API away", reason=str(error), state=state)
        self.connected = False
        if self._on_contact is not None and self.synced:
            self._on_contact(heard=False)
        watching = self._watching
        doublings = min(self._failures - 1, 16)
        bound = min(watching.backoff_most, watching.backoff_first * 2.0**doublings)
        await asyncio.sleep(bound * (0.5 + 0.5 * self._random()))
