"""The listening side's limits: how many connections, and how long each may take to ask.

aiohttp bounds header lines and counts, and idle connections; what it lacks stands here: a time for
the headers, a number of connections, an end for clients that take nothing of an answer, and errors
in OpenAI's form.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from sluice_gateway.answers import JSON_TYPE, answer_unavailable, refuse_request, render_error
from sluice_gateway.settings import Limits

_STALL_SECONDS: Final = 0.25
"""A look at a reader that is so late says that we stood still, and wrote nothing meanwhile."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class LimitedServer(web.Server):
    """Makes one `LimitedConnection` a client connection."""

    def __init__(
        self, handler: Handler, *, limits: Limits, log: structlog.stdlib.BoundLogger
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.limits = limits
        self.log = log
        self.open_connections = 0

    def __call__(self) -> web.RequestHandler:
        """Return the protocol for a new connection."""
        return LimitedConnection(self)


class LimitedConnection(web.RequestHandler):
    """One client connection."""

    __slots__ = ("_header_timer", "_reader_timer", "_server")

    def __init__(self, server: LimitedServer) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to switch it off
            keepalive_timeout=server.limits.idle_connection_seconds,
            lingering_time=1.0,
            auto_decompress=False,
            max_headers=64,
        )
        self._server = server
        self._header_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        server = self._server
        server.open_connections += 1
        if server.open_connections > server.limits.connections:
            message = f"more than {server.limits.connections} connections are open"
            answer = answer_unavailable(message, code="too_many_connections", retry_after=1)
            self._refuse(answer.body)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give its place back."""
        self._server.open_connections -= 1
        self._stop_timer()
        super().connection_lost(exc)
        self._stop_watching_reader()

    def pause_writing(self) -> None:
        """Watch a client that does not keep up with its answer."""
        super().pause_writing()
        if self.transport is not None:
            self._watch_reader(self.transport, 0)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_watching_reader()
        super().resume_writing()

    def force_close(self) -> None:
        """Close the connection; what is still to be written must go out in a while."""
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size() > 0:
            self._stop_watching_reader()
            self._watch_reader(transport, 0)

    def data_received(self, data: bytes) -> None:
        """Parse what came; time the headers from their first byte."""
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self._stop_timer()
        elif self._header_timer is None and self._waiter is not None:
            # The handler waits for a request, and this was only a part of one.
            limit = self._server.limits.header_seconds
            self._header_timer = asyncio.get_running_loop().call_later(limit, self._give_up)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP, or that hit a bug of ours, in OpenAI's form."""
        if status >= 500:  # noqa: PLR2004
            self._server.log.error("request failed", exc_info=exc)
            body = render_error("internal error", kind="server_error", code="internal_error")
        else:
            said = (message or "bad request").partition("\n")[0][:200]
            body = refuse_request(f"not a valid HTTP request: {said}", code="bad_http").body
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; it can only be cut off")
        response = web.Response(status=status, body=body, content_type=JSON_TYPE)
        response.force_close()
        return response

    def _refuse(self, body: bytes) -> None:
        transport = self.transport
        if transport is not None:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
        self.force_close()

    def _watch_reader(self, transport: asyncio.WriteTransport, unread: int) -> None:
        """Look in a while whether any of so many unread bytes was taken; 0 if they are not known.

        Streams have a limit of their own, which comes first and says in the log why they ended.
        """
        limit = self._server.limits.slow_reader_seconds
        loop = asyncio.get_running_loop()
        due = loop.time() + limit
        self._reader_timer = loop.call_at(due, self._look_at_reader, transport, unread, due)

    def _look_at_reader(self, transport: asyncio.WriteTransport, unread: int, due: float) -> None:
        left = transport.get_write_buffer_size()
        late = asyncio.get_running_loop().time() - due
        if unread and left >= unread and late < _STALL_SECONDS:
            transport.abort()
        elif left:
            self._watch_reader(transport, left)

    def _stop_watching_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _give_up(self) -> None:
        self._header_timer = None
        self.force_close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
