"""Keeps connections to workers for their next request, but none that said a word meanwhile.

HTTP/1.1 tells answers apart by their order alone. Whatever a worker writes on a connection on which
nothing was asked (a second answer, bytes beyond an answer's end) would be taken as the answer to
the next request, which is somebody else's. aiohttp looks for that when a connection is given back,
but not when it is taken again, and not at what lies in the socket unread.
"""

import asyncio
import functools
import select
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class WatchedProtocol(ResponseHandler):
    """One connection to a worker.

    Attributes:
        idle: Nothing is asked on it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.idle = False

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; close the connection if there was no question."""
        if self.idle and data:  # without any, aiohttp itself wants the parser to go on
            self.abort()
        else:
            super().data_received(data)

    def eof_received(self) -> None:
        """Close the connection: the worker says nothing more on it."""
        if self.idle:
            self.abort()
        super().eof_received()

    def is_untouched(self) -> bool:
        """Return whether all that has come on it was the answers to what was asked."""
        transport, parser = self.transport, self._parser
        if transport is None or transport.is_closing() or self.should_close:
            return False
        if self._reading_paused or self._buffer_paused:
            return False
        try:
            # The beginning of another answer, in one piece with the end of the last one?
            begun = parser is not None and parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - whatever it is that has begun, it is no answer
            return False
        return not begun and not _has_unread(transport)


class CarefulConnector(aiohttp.TCPConnector):
    """Gives a kept connection to a request only if it is untouched."""

    def __init__(self, *, limit: int, keepalive_timeout: float) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout)
        watched: type[ResponseHandler] = WatchedProtocol
        self._factory = functools.partial(watched, loop=self._loop)

    async def _get(self, key: "ConnectionKey", traces: list["Trace"]) -> "Connection | None":
        kept = self._conns.get(key, ())
        while kept and not _take_up(kept[0][0]):
            protocol, _ = kept.popleft()
            protocol.abort()
        return await super()._get(key, traces)

    def _release(
        self, key: "ConnectionKey", protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, WatchedProtocol):
            protocol.idle = True


def _take_up(protocol: ResponseHandler) -> bool:
    """Return whether a request may have a connection, which is not idle any more then."""
    if not isinstance(protocol, WatchedProtocol) or not protocol.is_untouched():
        return False
    protocol.idle = False
    return True


def _has_unread(transport: asyncio.BaseTransport) -> bool:
    """Return whether a socket has bytes, or its end, that nobody has read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))
