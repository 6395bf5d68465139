"""Tells users what happens to their pods: Kubernetes Events, few and never in the way.

A repeated event raises the count of the first one, at most every 10 s. What cannot be sent is
dropped: an Event is a courtesy.
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from sluice_node.kubeapi import ApiError, KubeApi
from sluice_node.timestamps import format_time

_LOG = logging.getLogger(__name__)
_REPEAT_SECONDS = 10.0
_REMEMBERED = 256
_QUEUE = 256
_MESSAGE_LENGTH = 1024
_BURST, _REFILL_SECONDS = 25, 1.0


@dataclass(slots=True)
class _Series:
    """One event and how often it happened."""

    path: str
    body: dict[str, Any]
    count: int
    sent_count: int
    sent_at: float


class EventRecorder:
    """Sends the events of one node. `emit` never waits."""

    def __init__(self, api: KubeApi, node: str) -> None:
        self._api = api
        self._node = node
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(_QUEUE)
        self._tokens = float(_BURST)
        self._refilled_at = time.monotonic()

    def emit(
        self,
        pod: Mapping[str, Any],
        reason: str,
        message: str,
        *,
        warning: bool = False,
        container: str = "",
    ) -> None:
        """Record that something happened to a pod, or to one of its containers."""
        metadata = pod["metadata"]
        message = message[:_MESSAGE_LENGTH]
        key = (metadata["uid"], container, reason, message)
        series = self._series.get(key)
        if series is None:
            body = self._describe(metadata, reason, message, container, warning=warning)
            path = f"/api/v1/namespaces/{metadata['namespace']}/events"
            series = self._series[key] = _Series(path, body, 0, 0, 0.0)
        self._series.move_to_end(key)
        if len(self._series) > _REMEMBERED:
            self._series.popitem(last=False)
        series.count += 1
        due = series.sent_at == 0.0 or time.monotonic() - series.sent_at >= _REPEAT_SECONDS
        if due and not self._queue.full() and self._take_token():
            series.body["lastTimestamp"] = format_time(time.time())
            series.sent_at = time.monotonic()
            self._queue.put_nowait(series)

    async def run(self) -> None:
        """Send what was recorded, for ever."""
        while True:
            series = await self._queue.get()
            try:
                await self._send(series)
            except ApiError as error:
                _LOG.debug("event dropped: %s", error)

    async def _send(self, series: _Series) -> None:
        name = series.body["metadata"]["name"]
        fresh = {"count": series.count, "lastTimestamp": series.body["lastTimestamp"]}
        if series.sent_count:
            try:
                await self._api.patch(f"{series.path}/{name}", fresh)
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # the server forgets events in an hour
                    raise
            else:
                series.sent_count = series.count
                return
        await self._api.create(series.path, {**series.body, **fresh})
        series.sent_count = series.count

    def _take_token(self) -> bool:
        now = time.monotonic()
        earned = (now - self._refilled_at) / _REFILL_SECONDS
        self._tokens, self._refilled_at = min(_BURST, self._tokens + earned), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _describe(
        self,
        metadata: Mapping[str, Any],
        reason: str,
        message: str,
        container: str,
        *,
        warning: bool,
    ) -> dict[str, Any]:
        involved = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name'][:220]}.{secrets.token_hex(8)}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": format_time(time.time()),
        }
