"""Reports one pod's status to the API server: soon after a change, and never without one."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from sluice_node.kubeapi import STRATEGIC_PATCH, ApiError, KubeApi
from sluice_node.podstatus import PodView, is_reported, render_status

_LOG = logging.getLogger(__name__)
_GATHER_SECONDS = 0.03  # changes that come together are reported together
_RETRY_SECONDS = 1.0


class StatusWriter:
    """Writes what `view` returns whenever it differs from what the API server shows."""

    def __init__(self, pod: Mapping[str, Any], api: KubeApi, view: Callable[[], PodView]) -> None:
        metadata = pod["metadata"]
        self._uid = metadata["uid"]
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._api = api
        self._view = view
        self._version = 0
        self._sent: dict[str, Any] | None = None
        self._silent = False
        self._refusal = ""
        self._changed = asyncio.Event()
        self.known: Mapping[str, Any] = pod.get("status") or {}

    def observe(self, pod: Mapping[str, Any]) -> None:
        """Take in what the API server shows; if somebody changed it, it is put right."""
        version = _read_version(pod)
        if version <= self._version:
            return  # older than the answer to our last write
        self._version = version
        self.known = pod.get("status") or {}
        if self._sent is not None and not is_reported(self._sent, self.known):
            self._sent = None
            self._changed.set()

    def hurry(self) -> None:
        """Say that something changed."""
        self._changed.set()

    def silence(self) -> None:
        """Leave the status as it is: the pod had ended before this agent came."""
        self._silent = True

    async def run(self) -> None:
        """Write for ever; an API server that is away is caught up with later."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._changed.clear()
            try:
                await self.write()
            except ApiError as error:
                if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    continue  # the pod is gone, and the watch will say so
                self._complain(error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    def _complain(self, error: ApiError) -> None:
        """Log what the API server refuses, once; its absence is told elsewhere, for all pods."""
        refused = 0 < error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        if refused and self._refusal != str(error):
            self._refusal = str(error)
            _LOG.warning("the status of %s is refused, and tried again: %s", self._path, error)

    async def write(self) -> None:
        """Write the status if it changed since it was written last.

        Raises:
            ApiError: It cannot be written.
        """
        if self._silent:
            return
        status = render_status(self._view(), time.time())
        if status == self._sent:
            return
        body = {"metadata": {"uid": self._uid}, "status": status}
        answer = await self._api.patch(self._path, body, STRATEGIC_PATCH)
        self._version = max(self._version, _read_version(answer))
        self._sent, self.known = status, answer.get("status") or {}


def _read_version(thing: Mapping[str, Any]) -> int:
    """Return a resourceVersion, which is a number that grows (KEP-5504)."""
    return int(thing["metadata"].get("resourceVersion", 0))
