"""Server-sent events on one response, written to the socket as the engine's step brings them."""

import asyncio
from collections.abc import Mapping

from aiohttp import HttpVersion11, web

DIRECT_MOST = 1 << 16
"""Bytes that may wait in the socket's buffer before the client counts as slow."""
HELD_MOST = 1 << 23
"""Bytes held for a slow client before it is given up: several whole answers with everything."""


class EventStream:
    """The events of one response, which begins with the first of them.

    `send` writes straight to the transport while the client keeps up, so that a token costs no
    task's turn. What a slow client does not take is held, up to a bound.
    """

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0
        self._transport: asyncio.WriteTransport | None = None
        self._direct = False
        self._chunked = True
        self._ended = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self.begun = False

    def send(self, events: bytes) -> None:
        """Send events, now if the client keeps up; call within the event loop."""
        self.begun = True
        transport = self._transport
        if transport is None or not self._direct:
            self._hold(events)
        else:
            transport.write(self._frame(events))
            if transport.get_write_buffer_size() > DIRECT_MOST:
                self._direct = False
                self._changed.set()

    def end(self) -> None:
        """End the response after what was sent."""
        self._ended = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Have `serve` raise an error; only before anything was sent."""
        self._failure = error
        self._changed.set()

    def _frame(self, events: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events

    def _hold(self, events: bytes) -> None:
        self._held.append(events)
        self._size += len(events)
        self._changed.set()
        if self._size > HELD_MOST and self._transport is not None:
            self._transport.abort()  # which ends whatever waits for the client

    async def serve(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Write what is sent until the end.

        Raises:
            Exception: what `fail` was told.
            ConnectionResetError: the client has gone, or takes nothing.
        """
        await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        response = web.StreamResponse(headers=headers)
        self._chunked = request.version >= HttpVersion11
        await response.prepare(request)
        while (transport := request.transport) is not None and not transport.is_closing():
            self._transport = transport
            if self._held:
                events, self._held, self._size = b"".join(self._held), [], 0
                transport.write(self._frame(events))
            await request.writer.drain()
            if self._held:
                continue
            if self._ended:
                await response.write_eof()
                return response
            self._changed.clear()
            self._direct = True
            await self._changed.wait()
            self._direct = False
        raise ConnectionResetError
