"""A thin client on top of the official `kubernetes.aio`: dictionaries in, dictionaries out.

It adds what the generated one lacks: any kind by its path, a timeout on every request, paged lists,
typed errors, and a token file that is read again (bound tokens expire). What an operator writes
goes through `act.writer`, which asks first whether it leads.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from sluice.kube.errors import KubeError, UnreachableError, make_error
from sluice.kube.paths import Resource

Json = dict[str, Any]

PAGE: Final = 500
RELOAD_EVERY: Final = 60.0
"""Seconds after which the configuration, and with it the token file, is read again."""


class KubeClient:
    """Requests to one API server; every one has a timeout (seconds)."""

    def __init__(self, kubeconfig: str | None = None, timeout: float = 10.0) -> None:
        self._kubeconfig = kubeconfig
        self._timeout = timeout
        self._configuration = Configuration()
        self._loaded = 0.0
        self._api: ApiClient | None = None

    async def connection(self) -> Configuration:
        """Return the configuration with a fresh token.

        Raises:
            kubernetes.aio.config.ConfigException: there is no usable configuration.
        """
        now = time.monotonic()
        if self._api is None or now - self._loaded > RELOAD_EVERY:
            try:
                await config.load_config(  # type: ignore[no-untyped-call]
                    config_file=self._kubeconfig, client_configuration=self._configuration
                )
            except (ConfigException, OSError):
                # A token file caught in the middle of its renewal: the old one still holds.
                if self._api is None:
                    raise
            self._loaded = now
            if self._api is None:
                self._api = ApiClient(self._configuration)
        return self._configuration

    async def close(self) -> None:
        """Close all connections."""
        if self._api is not None:
            await self._api.close()  # type: ignore[no-untyped-call]

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        within: float | None = None,
    ) -> Json:
        """Send one request and return the decoded answer.

        Raises:
            KubeError: one of its types, by what happened.
        """
        configuration = await self.connection()
        assert self._api is not None  # noqa: S101  # connection() has made it
        query = "?" + urlencode(params) if params else ""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        key = configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization")
        if key:
            headers["Authorization"] = key if key.startswith("Bearer ") else f"Bearer {key}"
        try:
            response = await self._api.call_api(
                method,
                f"{configuration.host}{path}{query}",
                header_params=headers,
                body=body,
                _request_timeout=within or self._timeout,
            )
            data = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise UnreachableError(0, "Unreachable", f"{method} {path}: {why}") from error
        answer = _decode(data)
        if response.status >= 300:  # noqa: PLR2004
            refusal = answer or {}
            reason = str(refusal.get("reason") or response.status)
            message = str(refusal.get("message") or data[:200].decode(errors="replace"))
            raise make_error(response.status, reason, message)
        if answer is None:
            said = data[:200].decode(errors="replace")
            raise KubeError(response.status, "NoObject", f"{method} {path}: no object: {said!r}")
        return answer

    async def get(
        self, resource: Resource, namespace: str, name: str, within: float | None = None
    ) -> Json:
        """Read one object, consistently."""
        return await self.request("GET", resource.path(namespace, name), within=within)

    async def list_pages(
        self, resource: Resource, namespace: str = "", selector: str = ""
    ) -> AsyncIterator[Json]:
        """Yield all objects of a kind, page by page; items carry no kind of their own.

        Raises:
            KubeError: a page failed, or is no list; what was yielded until then is not the whole.
        """
        token = ""
        while True:
            params = {"limit": str(PAGE)}
            if selector:
                params["labelSelector"] = selector
            if token:
                params["continue"] = token
            page = await self.request("GET", resource.path(namespace), params=params)
            # An answer of something else than the API server must not pass for an empty list.
            if "items" not in page or "metadata" not in page:
                raise KubeError(200, "NoList", f"GET {resource.path(namespace)}: no list")
            for item in page["items"] or ():
                yield item
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def create(self, resource: Resource, manifest: Json, within: float | None = None) -> Json:
        """Create an object."""
        path = resource.path(manifest["metadata"].get("namespace", ""))
        return await self.request("POST", path, body=manifest, within=within)

    async def replace(
        self, resource: Resource, manifest: Json, within: float | None = None
    ) -> Json:
        """Update an object whose resourceVersion stands in the manifest."""
        meta = manifest["metadata"]
        path = resource.path(meta.get("namespace", ""), meta["name"])
        return await self.request("PUT", path, body=manifest, within=within)


def _decode(data: bytes) -> Json | None:
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
