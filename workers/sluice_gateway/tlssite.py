"""Listens for TLS, and bounds what comes before the first request: handshakes that never end.

A server that asyncio wraps in TLS tells nobody of a connection before its handshake is over, and
lets it take a minute. Here connections are accepted one by one, and count from then on.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from sluice_gateway.connections import LimitedServer

_WRITE_BYTES: Final = 64 << 10
"""What waits for a slow client in TLS's own buffer; asyncio's default is eight times as much."""
_SHUTDOWN_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.5
"""Before the next try, when the system has no more files to give."""


class TlsSite(web.BaseSite):
    """A listening socket whose connections speak TLS.

    Args:
        runner: Of the server; the site is started like aiohttp's own.
        server: What connections are given to once their handshake is over.

    Attributes:
        port: The real one once it listens.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        server: LimitedServer,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        backlog: int,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        super().__init__(runner, ssl_context=context, backlog=backlog)
        self._context = context
        self._limited = server
        self._host = host
        self._log = log
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        # In the order in which they began; over when the connection has a transport.
        self._handshakes: dict[asyncio.Task[None], web.RequestHandler] = {}
        self.port = port

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"https://{self._host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: If it cannot.
        """
        await super().start()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        listening = socket.create_server(address, family=family, backlog=self._backlog)
        listening.settimeout(0)
        self._socket = listening
        self.port = listening.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listening), name="accept TLS")

    async def stop(self) -> None:
        """Listen no more; what has not shaken hands yet is dropped."""
        await super().stop()
        tasks = [*self._handshakes, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # it was gone before we came
            except OSError as error:
                self._log.error("cannot accept connections", reason=error.strerror)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if not self._make_room():
                connection.close()  # without TLS there is nothing to say it in
                continue
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = self._limited()
            handshake = asyncio.create_task(self._shake_hands(connection, client), name="TLS")
            self._handshakes[handshake] = client
            handshake.add_done_callback(self._handshakes.pop)

    def _make_room(self) -> bool:
        """Return whether one more connection may come in; the oldest handshake gives way to it.

        Honest ones take milliseconds: with those that never end, somebody who keeps all places
        taken would keep everybody out.
        """
        limits = self._limited.limits
        pending = [task for task, client in self._handshakes.items() if client.transport is None]
        taken = len(pending) + self._limited.open_connections
        if len(pending) < limits.handshakes and taken < limits.connections:
            return True
        if not pending:
            return False
        pending[0].remove_done_callback(self._handshakes.pop)
        del self._handshakes[pending[0]]
        pending[0].cancel()
        return True

    async def _shake_hands(self, connection: socket.socket, client: web.RequestHandler) -> None:
        """Secure a connection; it is the client's from the end of its handshake on."""
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: client,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limited.limits.handshake_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except OSError:  # of time, too; and ssl.SSLError is one
            connection.close()
            return
        transport.set_write_buffer_limits(high=_WRITE_BYTES)
