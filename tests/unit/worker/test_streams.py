"""Events reach a client that keeps up at once, a slow one in the end, and one that stands never."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sluice_worker import streams
from sluice_worker.streams import EventStream

REQUEST = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n"


class Pump:
    """A server that answers everything with one stream."""

    def __init__(self):
        self.stream = EventStream()
        self.ended = asyncio.get_running_loop().create_future()

    async def handle(self, request):
        whole = False
        try:
            response = await self.stream.serve(request, {"X-Mine": "1"})
            whole = True
        finally:
            self.ended.set_result(whole)
        return response


@pytest.fixture
async def pump():
    pump = Pump()
    app = web.Application()
    app.router.add_get("/", pump.handle)
    async with TestServer(app) as server:
        pump.port = server.port
        yield pump


async def connect(pump, request=REQUEST):
    # A small buffer: what does not fit waits in the server.
    reader, writer = await asyncio.open_connection("127.0.0.1", pump.port, limit=1024)
    writer.write(request)
    return reader, writer


async def read_body(reader):
    """Return the chunks of the answer's body in one."""
    await reader.readuntil(b"\r\n\r\n")
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    return b"".join(parts)


async def test_each_event_is_on_its_way_before_the_next(pump):
    reader, writer = await connect(pump)
    pump.stream.send(b"one")
    assert (await reader.readuntil(b"one\r\n")).startswith(b"HTTP/1.1 200")
    for event in (b"two", b"three"):
        pump.stream.send(event)
        assert await reader.readuntil(b"\r\n" + event + b"\r\n")
    pump.stream.end()
    assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert await pump.ended
    writer.close()


async def test_a_slow_client_gets_everything_in_order(pump, monkeypatch):
    monkeypatch.setattr(streams, "DIRECT_MOST", 1000)
    events = [b"%06d" % number * 5000 for number in range(400)]  # 12 MB
    reader, writer = await connect(pump)
    held = 0
    for event in events:
        pump.stream.send(event)
        held = max(held, len(pump.stream._held))
        await asyncio.sleep(0)
        if pump.stream._size > 4_000_000:
            break
    rest = events[events.index(event) + 1 :]
    assert held > 10
    reading = asyncio.create_task(read_body(reader))
    for event in rest:
        pump.stream.send(event)
        while pump.stream._size > 4_000_000:  # noqa: ASYNC110 - it has no event of its own
            await asyncio.sleep(0.001)
    pump.stream.end()
    assert await reading == b"".join(events)
    writer.close()


async def test_a_client_that_takes_nothing_is_cut_off(pump, monkeypatch):
    monkeypatch.setattr(streams, "HELD_MOST", 100_000)
    _, writer = await connect(pump)
    for _ in range(5000):
        pump.stream.send(b"x" * 10_000)
        await asyncio.sleep(0)
        if pump.ended.done():
            break
    assert not await pump.ended
    writer.close()


async def test_what_fails_before_the_first_event_is_raised(pump):
    pump.stream.fail(web.HTTPConflict())
    reader, writer = await connect(pump)
    assert (await reader.readline()).startswith(b"HTTP/1.1 409")
    writer.close()


async def test_an_older_client_gets_no_chunks(pump):
    reader, writer = await connect(pump, b"GET / HTTP/1.0\r\n\r\n")
    pump.stream.send(b"one")
    await reader.readuntil(b"one")
    pump.stream.send(b"two")
    pump.stream.end()
    assert await reader.read() == b"two"
    writer.close()
