"""The agent's way to the API server: bare HTTP and JSON, one place where a silent agent is silent.

Bare aiohttp rather than a client library: eight agents share a small machine.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import aiohttp

from sluice_node.kubeaccess import KubeAccess

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_REQUEST_SECONDS = 10.0
_WATCH_SECONDS = 300
_SILENCE_GRACE = 30.0
_EVENT_BYTES = 8 * 1024 * 1024


class ApiError(Exception):
    """The API server could not be asked (status 0), or refused; the message is a sentence."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubeApi:
    """Requests to one API server. While `gate` is clear, every new request waits."""

    def __init__(self, access: KubeAccess, gate: asyncio.Event) -> None:
        self._access = access
        self._gate = gate
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=access.tls, limit=32), trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """Return one object, or one list."""
        return await self._request("GET", path, None, "application/json")

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST an object; return what the server made of it."""
        return await self._request("POST", path, body, "application/json")

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT an object."""
        return await self._request("PUT", path, body, "application/json")

    async def patch(
        self, path: str, body: Mapping[str, Any], kind: str = MERGE_PATCH
    ) -> dict[str, Any]:
        """PATCH an object with a merge patch, or a strategic one."""
        return await self._request("PATCH", path, body, kind)

    async def delete(self, path: str, options: Mapping[str, Any]) -> None:
        """DELETE an object with DeleteOptions."""
        await self._request("DELETE", path, options, "application/json")

    async def watch(
        self, path: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield watch events from a version on, until the server ends the watch.

        Raises:
            ApiError: It cannot be had or breaks; status 410 if the version is too old.
        """
        options = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        url = f"{path}?{urlencode(options)}"
        async with self._open("GET", url, None, "", _WATCH_SECONDS + _SILENCE_GRACE) as response:
            rest = b""
            async for data in response.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _EVENT_BYTES:
                    raise ApiError(f"An event of {path} is longer than {_EVENT_BYTES} bytes.")
                for line in lines:
                    yield _parse_event(line)

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, kind: str
    ) -> dict[str, Any]:
        async with self._open(method, path, body, kind, _REQUEST_SECONDS) as response:
            try:
                value = json.loads(await response.read())
            except ValueError as error:
                raise ApiError(f"{method} {path} was answered by no JSON.") from error
            return dict(value)

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, kind: str, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        await self._gate.wait()
        try:
            async with self._session.request(
                method,
                self._access.server + path,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": kind} if body is not None else {},
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=5.0),
                allow_redirects=False,
            ) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise await _explain_refusal(method, path, response)
                yield response
        except TimeoutError as error:
            raise ApiError(f"{method} {path}: no answer within {seconds:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(f"{method} {path} failed: {error or type(error).__name__}.") from error


async def _explain_refusal(method: str, path: str, response: aiohttp.ClientResponse) -> ApiError:
    try:
        said = str(json.loads(await response.read())["message"])[:500]
    except (ValueError, KeyError, TypeError):
        said = response.reason or ""
    return ApiError(f"{method} {path} answered {response.status}: {said}", response.status)


def _parse_event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
        kind, thing = event["type"], event["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError("The API server sent a watch event that is none.") from error
    if kind == "ERROR":
        raise ApiError(f"The watch ended: {thing.get('message')}", int(thing.get("code") or 0))
    return dict(event)
