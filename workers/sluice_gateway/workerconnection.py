"""One HTTP/1.1 connection to a worker, and the one answer at a time that comes on it.

Written for two things that a general client does not give. A streamed token costs little: bytes go
from the socket through a parser in C to whoever waits for them. And an answer is somebody's:
HTTP/1.1 tells answers apart by their order alone, so a connection on which anything came without
having been asked for (a second answer, bytes beyond an answer's end, an answer to a request that
has not been sent whole) is never used again.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final, Protocol

import httptools

_HEAD_BYTES: Final = 64 << 10
"""Of what is no body: head, trailers, sizes of chunks. The head of a worker has a few hundred."""
_HEADERS: Final = 128
_PAUSE_BYTES: Final = 64 << 10
"""Unread bytes at which the worker is held up: its client is slow."""
_ENCODINGS: Final = (b"", b"identity")


class WorkerConnectionError(Exception):
    """A request found no connection to its worker, or lost it."""


class BrokenConnectionError(WorkerConnectionError):
    """The connection ended, or what comes on it is no HTTP; the message says how."""


class ConnectionKeeper(Protocol):
    """Whoever keeps connections for their next request."""

    def keep(self, connection: "WorkerConnection") -> None:
        """Take a connection on which nothing is asked."""


class WorkerResponse:
    """A worker's answer: its head is here, its body comes.

    Attributes:
        status: HTTP status, never 1xx.
        content_type: Lower case, without parameters.
    """

    __slots__ = ("_connection", "_headers", "content_type", "status")

    def __init__(
        self, connection: "WorkerConnection", status: int, headers: dict[bytes, bytes]
    ) -> None:
        self._connection = connection
        self._headers = headers
        self.status = status
        self.content_type = self.find_header("content-type").partition(";")[0].strip().lower()

    def find_header(self, name: str) -> str:
        """Return the value of a header, without white space around it; nothing if it is absent."""
        return self._headers.get(name.lower().encode(), b"").decode("latin-1").strip()

    async def read(self) -> bytes:
        """Return what has come of the body, at least one byte; nothing at its end.

        Raises:
            BrokenConnectionError: If the connection broke before that.
        """
        return await self._connection.read()

    async def pour(self, take: Callable[[bytes], bool]) -> None:
        """Give pieces of the body to `take` as they come, with no task between.

        Returns when it has returned False, or the body has ended.

        Raises:
            Exception: Whatever `take` raises.
            BrokenConnectionError: If the connection broke before that.
        """
        await self._connection.pour(take)

    def release(self) -> None:
        """Give the connection back; it is closed unless the answer came to its proper end."""
        self._connection.release()


class WorkerConnection(asyncio.Protocol):
    """A connection, used for one request after the other.

    Args:
        key: Under which it is kept: where it leads.

    Attributes:
        idle_since: When it was used last, by its keeper's clock.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._keeper: ConnectionKeeper | None = None
        self._asked = False
        self._spoilt = False
        self._broken: BrokenConnectionError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._response: WorkerResponse | None = None
        self._headers: dict[bytes, bytes] = {}
        self._beyond_body = 0
        self._complete = False
        self._parts: list[bytes] = []
        self._unread = 0
        self._paused = False
        self._take: Callable[[bytes], bool] | None = None
        self._raised: Exception | None = None

    async def ask(self, request: bytes, keeper: ConnectionKeeper) -> WorkerResponse:
        """Send a request; return the answer as soon as its head is there.

        Args:
            request: Head and body.
            keeper: Gets the connection when the answer is released.

        Raises:
            BrokenConnectionError: If the connection broke before.
        """
        if self._transport is None or self._asked:
            raise BrokenConnectionError("it is closed")
        self._asked, self._keeper = True, keeper
        self._response, self._headers = None, {}
        self._complete, self._beyond_body = False, 0
        self._transport.write(request)
        while self._response is None:
            await self._wait()
        return self._response

    async def read(self) -> bytes:
        """Return what has come of the present answer's body; nothing at its end."""
        while not self._parts:
            if self._complete:
                return b""
            await self._wait()
        return self._empty()

    async def pour(self, take: Callable[[bytes], bool]) -> None:
        """Give the body to `take` as it comes, until that returns False, or to its end."""
        self._take = take
        try:
            while self._take is not None:
                if self._parts:
                    self._hand_over()
                elif self._complete:
                    return
                else:
                    await self._wait()
        finally:
            self._take = None
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def _hand_over(self) -> None:
        """Give what has come to who takes it at once."""
        take = self._take
        if take is None:
            return
        try:
            if take(self._empty()):
                return
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            self._raised = error
        self._take = None

    def _empty(self) -> bytes:
        """Return what has come, and take more."""
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def release(self) -> None:
        """End the present answer, read or not; keep the connection if it may be used again."""
        if not self._asked:
            return
        self._asked = False
        self._response = None
        self._parts.clear()
        keeper, self._keeper = self._keeper, None
        if self._complete and keeper is not None and self.is_untouched():
            keeper.keep(self)
        else:
            self.abort()

    def is_untouched(self) -> bool:
        """Return whether all that has come was the answers to what was asked, and all was sent."""
        transport = self._transport
        if transport is None or self._spoilt or self._paused or transport.is_closing():
            return False
        return transport.get_write_buffer_size() == 0

    def can_be_used(self) -> bool:
        """Return the same of a kept connection, what lies in the socket unread included."""
        return self.is_untouched() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        """Wait until something has come."""
        if self._broken is not None:
            raise self._broken
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = transport  # type: ignore[assignment] # it can be written to
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to who waits; the end of the connection ends a body of no stated length."""
        if exc is None and self._ends_with_connection():
            self._complete = True
        self._spoilt = True
        why = getattr(exc, "strerror", None) or (str(exc) if exc else "the worker closed it")
        self._broken = self._broken or BrokenConnectionError(why)
        self._transport, self._parser = None, None  # they hold this object
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Parse what came, or close the connection if there was no question."""
        parser = self._parser
        if parser is None or self._broken is not None:
            return
        if not self._asked or self._complete:
            self._spoil()
            return
        self._beyond_body += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"no HTTP: {error}")
        except httptools.HttpParserUpgrade:
            self._break("it speaks another protocol")
        if self._beyond_body > _HEAD_BYTES:
            self._break(f"more than {_HEAD_BYTES} bytes that are no body")
        if self._take is not None and self._parts and self._broken is None:
            self._hand_over()
            if self._take is not None and not self._complete:
                return  # nothing that a task has to see
        if self._unread > _PAUSE_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Close: a worker that says no more is asked no more."""
        self._spoilt = True
        return False

    def _spoil(self) -> None:
        """Note that the connection cannot be used again; close it if nobody reads on it."""
        self._spoilt = True
        if not self._asked:
            self.abort()

    def _break(self, why: str) -> None:
        """End the connection for what came on it, unless the answer had ended before."""
        self._spoilt = True
        if not self._complete:
            self._broken = self._broken or BrokenConnectionError(why)
            self.abort()

    def _ends_with_connection(self) -> bool:
        """Return whether a body that is on its way says in no other way where it ends."""
        if not self._asked or self._response is None or self._broken is not None:
            return False
        return b"content-length" not in self._headers and b"transfer-encoding" not in self._headers

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Notice an answer that nobody asked for, in one piece with the one before."""
        if self._complete:
            self._spoilt = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers say nothing that is needed."""
        if self._response is not None or self._complete:
            return
        self._headers[name.lower()] = value
        if len(self._headers) > _HEADERS:
            self._break(f"more than {_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Let the answer begin; `100 Continue` and its like are none yet."""
        parser = self._parser
        if parser is None or self._complete or self._broken is not None:
            return
        status = parser.get_status_code()
        if status < 200:  # noqa: PLR2004
            return
        if self._headers.get(b"content-encoding", b"").strip().lower() not in _ENCODINGS:
            self._break("a compressed answer, which was not asked for")
            return
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() > 0:
            self._spoilt = True  # an answer to what has not been sent whole
        self._response = WorkerResponse(self, status, self._headers)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._complete or self._broken is not None:
            return
        self._beyond_body = 0
        self._parts.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        """End the answer."""
        if self._response is None:
            self._headers = {}
            return
        parser = self._parser
        if parser is None or not parser.should_keep_alive():
            self._spoilt = True
        self._complete = True
