"""A client that costs little: one request at a time on a raw connection, and when chunks came."""

import asyncio
import json
import time
from array import array
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

from paced import MODEL

_END = b"0\r\n\r\n"
_EVENT = b"data: "


def encode_request(*, stream: bool) -> bytes:
    """Return a chat request as it goes over the wire."""
    body: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "word " * 50}],
    }
    body |= {"max_tokens": 1024, "stream": stream}
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += "Content-Type: application/json\r\nAuthorization: Bearer sk-bench\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Line(asyncio.Protocol):
    """One kept connection.

    Attributes:
        times: When each event of the last answer came, by `time.perf_counter`: uvloop's own clock
            counts in whole milliseconds.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.times: array[float] = array("d")
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is being waited for."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed before its answer's end"))

    async def ask(self, request: bytes) -> float:
        """Send a request; return the seconds until its answer's end.

        Raises:
            RuntimeError: It was answered with anything but 200.
        """
        self._head = b""
        self._left = -1
        self._tail = b""
        self.times = array("d")
        self._done = self._loop.create_future()
        began = time.perf_counter()
        self.transport.write(request)
        await self._done
        return time.perf_counter() - began

    def data_received(self, data: bytes) -> None:
        """Count events; look for the end."""
        if self._done is None or self._done.done():
            return
        if self._left == -1:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._left = self._read_head(head, data)
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._left = 0
                self._finish()
            return
        seen = (self._tail + data).count(_EVENT) - self._tail.count(_EVENT)
        if seen:
            now = time.perf_counter()
            self.times.extend([now] * seen)
        self._tail = (self._tail + data)[-5:]
        if self._tail == _END:
            self._finish()

    def _read_head(self, head: bytes, data: bytes) -> int:
        """Return how long the body is; -2 if it comes in chunks."""
        if b" 200 " not in head[:20]:
            self._fail(RuntimeError(f"{head[:20]!r}… {data[:300]!r}"))
        lower = head.lower()
        at = lower.find(b"content-length:")
        return int(lower[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else -2

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


async def connect(url: str, count: int) -> list[Line]:
    """Open connections."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    lines = []
    for _ in range(count):
        _transport, line = await loop.create_connection(
            Line, parts.hostname or "", parts.port or 80
        )
        lines.append(line)
    return lines


def close(lines: Sequence[Line]) -> None:
    """Close connections."""
    for line in lines:
        line.transport.close()


async def ask_closely(url: str, total: int, at_once: int) -> None:
    """Send whole requests, so many at a time, each line its next one at once."""
    request = encode_request(stream=False)
    lines = await connect(url, at_once)
    left = iter(range(total))

    async def go_on(line: Line) -> None:
        for _ in left:
            await line.ask(request)

    await asyncio.gather(*(go_on(line) for line in lines))
    close(lines)


async def ask_paced(url: str, total: int, rate: float) -> list[float]:
    """Send whole requests at a fixed rate whatever becomes of them; return the seconds of each.

    Seconds count from the sending, which waits for no other answer: a relay that stands still is
    charged for all that came meanwhile.
    """
    request = encode_request(stream=False)
    free = await connect(url, 64)
    every = list(free)
    begin = time.perf_counter() + 0.01
    seconds: list[float] = []

    async def one(line: Line) -> None:
        seconds.append(await line.ask(request))
        free.append(line)

    tasks = []
    for number in range(total):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if not free:
            more = await connect(url, 16)
            free += more
            every += more
        tasks.append(asyncio.create_task(one(free.pop())))
    await asyncio.gather(*tasks)
    close(every)
    return seconds


async def stream_all(url: str, count: int, *, over: float) -> list[Line]:
    """Run streams at once, their beginnings spread over some seconds; return their lines."""
    request = encode_request(stream=True)
    lines = await connect(url, count)

    async def one(line: Line, wait: float) -> None:
        await asyncio.sleep(wait)
        await line.ask(request)

    await asyncio.gather(*(one(line, over * n / count) for n, line in enumerate(lines)))
    close(lines)
    return lines
