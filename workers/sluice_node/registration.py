"""Keeps the node known to the control plane: registers it, renews its Lease, reports its status.

Runs beside the pods, from the agent's start to its end. If somebody deletes the Node, it is
registered again at the next beat.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from sluice_node.config import NodeConfig
from sluice_node.devicehealth import DeviceReport
from sluice_node.kubeapi import STRATEGIC_PATCH, ApiError, KubeApi
from sluice_node.nodeobject import (
    describe_lease,
    describe_node,
    describe_status,
    merge_labels,
    needs_status,
)

_LOG = logging.getLogger(__name__)
_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_BEAT_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_STATUS_SECONDS = 300.0


class Registration:
    """One node's presence at the API server."""

    def __init__(
        self, config: NodeConfig, api: KubeApi, report: Callable[[], DeviceReport]
    ) -> None:
        """Take the node, and what gives the health of its devices now."""
        self._config = config
        self._api = api
        self._report = report
        self._boot = str(uuid.uuid4())
        self._status_sent = -_STATUS_SECONDS
        self._beat_now = asyncio.Event()
        self.registered = asyncio.Event()

    def hurry(self) -> None:
        """Beat at once: the agent was silent, or its devices changed."""
        self._beat_now.set()

    async def run(self) -> None:
        """Beat for ever; failures are logged once and tried again."""
        complained = False
        while True:
            try:
                await self.beat()
                if complained:
                    _LOG.info("the API server answers again")
                complained, pause = False, _BEAT_SECONDS
            except ApiError as error:
                if not complained:
                    _LOG.warning("cannot report the node: %s", error)
                complained, pause = True, _RETRY_SECONDS
            try:
                await asyncio.wait_for(self._beat_now.wait(), pause)
            except TimeoutError:
                continue
            self._beat_now.clear()

    async def beat(self) -> None:
        """Bring Node, Lease and status up to date.

        Raises:
            ApiError: Something could not be read or written.
        """
        node = await self._ensure_node()
        now = time.time()
        lease = describe_lease(self._config, node["metadata"]["uid"], now)
        await self._renew_lease(lease)
        observed = node.get("status") or {}
        status = describe_status(
            self._config, self._report(), boot=self._boot, now=now, observed=observed
        )
        due = time.monotonic() - self._status_sent >= _STATUS_SECONDS
        if due or needs_status(status, observed):
            path = f"{_NODES}/{self._config.name}/status"
            await self._api.patch(path, {"status": status}, STRATEGIC_PATCH)
            self._status_sent = time.monotonic()
        self.registered.set()

    async def _ensure_node(self) -> dict[str, Any]:
        path = f"{_NODES}/{self._config.name}"
        try:
            node = await self._api.get(path)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            _LOG.info("registering node %s", self._config.name)
            return await self._api.create(_NODES, describe_node(self._config))
        labels = merge_labels(self._config)
        present = node["metadata"].get("labels") or {}
        if any(present.get(key) != value for key, value in labels.items()):
            return await self._api.patch(path, {"metadata": {"labels": labels}})
        return node

    async def _renew_lease(self, lease: dict[str, Any]) -> None:
        path = f"{_LEASES}/{self._config.name}"
        try:
            await self._api.patch(path, lease)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            await self._api.create(_LEASES, lease)
