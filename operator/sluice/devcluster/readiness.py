"""Waits until the control plane and its nodes are ready, or a process of theirs has ended.

Called by the supervisor after it has started things. Every wait has a deadline, and every look at
a condition also looks at the processes it depends on.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from sluice.devcluster.children import Child
from sluice.devcluster.errors import ClusterStartError

_POLL_SECONDS = 0.05
_REQUEST_SECONDS = 5.0
_NOT_READY_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class ControlPlane:
    """Looks at a control plane through the administrator's certificate."""

    def __init__(self, server: str, context: ssl.SSLContext, start_seconds: float) -> None:
        """Look at the API server `server`; each wait gives up after `start_seconds`."""
        self._server = server
        self._start_seconds = start_seconds
        # Controller manager and scheduler serve with certificates they signed themselves.
        self._unverified = ssl.create_default_context()
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE
        self._context = context
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
            connector=aiohttp.TCPConnector(force_close=True),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def wait_for_api_server(self, needs: Sequence[Child]) -> None:
        """Wait until /readyz answers ok, which includes etcd and the first RBAC objects."""
        await self._wait("kube-apiserver to be ready", self._is_api_server_ready, needs)

    async def wait_for_component(self, name: str, port: int, needs: Sequence[Child]) -> None:
        """Wait until /healthz on that port of 127.0.0.1 answers ok."""
        url = f"https://127.0.0.1:{port}/healthz"
        await self._wait(f"{name} to be healthy", lambda: self._is_ok(url, self._unverified), needs)

    async def wait_for_service_account(self, needs: Sequence[Child]) -> None:
        """Wait until the ServiceAccount `default/default` exists; before, no pod is admitted."""
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        await self._wait(
            "the ServiceAccount default/default to exist",
            lambda: self._is_ok(self._server + path, self._context),
            needs,
        )

    async def wait_for_nodes(self, names: Iterable[str], needs: Sequence[Child]) -> None:
        """Wait until these nodes are Ready and no longer tainted as not ready."""
        wanted = set(names)

        async def are_ready() -> bool:
            return wanted <= await self._find_ready_nodes()

        await self._wait(f"the nodes {', '.join(sorted(wanted))} to be Ready", are_ready, needs)

    async def _is_api_server_ready(self) -> bool:
        return await self._is_ok(f"{self._server}/readyz", self._context)

    async def _is_ok(self, url: str, context: ssl.SSLContext) -> bool:
        try:
            async with self._session.get(url, ssl=context) as response:
                return response.status == 200  # noqa: PLR2004
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _find_ready_nodes(self) -> set[str]:
        try:
            url = f"{self._server}/api/v1/nodes"
            async with self._session.get(url, ssl=self._context) as response:
                nodes = (await response.json())["items"] if response.ok else []
        except (aiohttp.ClientError, TimeoutError):
            return set()
        return {node["metadata"]["name"] for node in nodes if is_node_ready(node)}

    async def _wait(
        self, what: str, is_met: Callable[[], Awaitable[bool]], needs: Sequence[Child]
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._start_seconds
        while not await is_met():
            for child in needs:
                if not child.running:
                    raise ClusterStartError(child.describe_end())
            if loop.time() >= deadline:
                logs = ", ".join(str(child.log) for child in needs)
                raise ClusterStartError(
                    f"Waited {self._start_seconds:.0f} s for {what}, in vain. See {logs}."
                )
            await asyncio.sleep(_POLL_SECONDS)


def is_node_ready(node: dict[str, Any]) -> bool:
    """Say whether a Node's condition Ready is True and no taint keeps pods away for its health."""
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    taints = node.get("spec", {}).get("taints", [])
    return ready and not any(taint["key"] in _NOT_READY_TAINTS for taint in taints)
