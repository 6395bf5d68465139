"""Opens connections to workers, keeps them for the next request, and sends requests on them."""

import asyncio
import functools
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from sluice_gateway.answers import JSON_TYPE
from sluice_gateway.workerconnection import (
    WorkerConnection,
    WorkerConnectionError,
    WorkerResponse,
)

_FORBIDDEN: Final = ("\r", "\n", "\0")
_PORTS: Final = {"http": 80, "https": 443}


class ConnectError(WorkerConnectionError):
    """No connection could be opened; the message says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server is.

    Attributes:
        path: What comes before every path that it is asked for.
        label: The value of the header `Host`.
        secure: Whether it speaks TLS.
        key: Names the connections that lead there.
    """

    host: str
    port: int
    path: str
    label: str
    secure: bool
    key: str


@functools.lru_cache(maxsize=4096)
def parse_origin(url: str) -> Origin:
    """Return where the server of a base URL is."""
    parts = urlsplit(url)
    label = parts.netloc.rpartition("@")[2]
    return Origin(
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        path=parts.path.rstrip("/"),
        label=label,
        secure=parts.scheme == "https",
        key=f"{parts.scheme}://{label}",
    )


class KeptConnections:
    """All connections on which requests go to workers.

    There is no bound on their number: at most so many are open as requests were running at once.

    Args:
        connect_seconds: For opening one, TLS included.
        idle_seconds: How long one is kept that nobody uses. Shorter than the workers' own limit, so
            that no request meets a connection which its worker is closing.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, connect_seconds: float, idle_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._idle: dict[str, deque[WorkerConnection]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context: ssl.SSLContext | None = None
        self._closed = False

    async def post(
        self, url: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> WorkerResponse:
        """Send a JSON document to a server.

        Args:
            url: Base URL of the server.
            path: What is asked for there.
            body: The document.
            headers: Further ones.

        Raises:
            ConnectError: If no connection could be opened.
            BrokenConnectionError: If it broke before an answer began.
        """
        origin = parse_origin(url)
        request = render_head(origin, path, len(body), headers) + body
        connection = self._find_idle(origin.key) or await self._open(origin)
        try:
            return await connection.ask(request, self)
        except BaseException:
            connection.release()
            raise

    def keep(self, connection: WorkerConnection) -> None:
        """Take a connection on which nothing is asked."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = self._clock()
        self._idle.setdefault(connection.key, deque()).append(connection)
        if self._timer is None:
            self._plan_sweep()

    def close(self) -> None:
        """Close those that nobody uses, and each other one when its answer ends."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for kept in self._idle.values():
            for connection in kept:
                connection.abort()
        self._idle.clear()

    def _find_idle(self, key: str) -> WorkerConnection | None:
        """Return the connection that was used last, if one is fit for use; close what is not."""
        kept = self._idle.get(key)
        while kept:
            connection = kept.pop()
            if connection.can_be_used():
                return connection
            connection.abort()
        return None

    async def _open(self, origin: Origin) -> WorkerConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: WorkerConnection(origin.key),
                    origin.host,
                    origin.port,
                    ssl=self._find_context() if origin.secure else None,
                    server_hostname=origin.host if origin.secure else None,
                )
        except TimeoutError as error:
            raise ConnectError(f"no connection within {self._connect_seconds:g} s") from error
        except (OSError, UnicodeError) as error:  # a host that is no name is a UnicodeError
            why = getattr(error, "strerror", None) or error
            raise ConnectError(f"cannot connect: {why}") from error
        return connection

    def _find_context(self) -> ssl.SSLContext:
        """Return how TLS servers are judged: by the system's authorities, or SSL_CERT_FILE's."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context

    def _plan_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._idle_seconds / 4, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._timer = None
        before = self._clock() - self._idle_seconds
        for key, kept in list(self._idle.items()):
            while kept and (kept[0].idle_since < before or not kept[0].is_untouched()):
                kept.popleft().abort()
            if not kept:
                del self._idle[key]
        if self._idle:
            self._plan_sweep()


def render_head(origin: Origin, path: str, size: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of a POST with a JSON body of so many bytes.

    Raises:
        ValueError: If a value would end its line.
    """
    told = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if told.count("\n") != len(headers) or told.count("\r") != len(headers) or "\0" in told:
        names = [k for k, v in headers.items() if any(each in k + v for each in _FORBIDDEN)]
        raise ValueError(f"these headers have line breaks in them: {', '.join(names)}")
    return (
        f"POST {origin.path}{path} HTTP/1.1\r\nHost: {origin.label}\r\n"
        f"Content-Type: {JSON_TYPE}\r\nContent-Length: {size}\r\nAccept-Encoding: identity\r\n"
        f"{told}\r\n"
    ).encode("utf-8", "surrogateescape")
