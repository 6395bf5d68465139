"""Connections to workers: what comes on them is an answer, whole, and nobody else's."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from sluice_gateway.keptconnections import ConnectError, KeptConnections, parse_origin, render_head
from sluice_gateway.workerconnection import BrokenConnectionError

from .polling import until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=x\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each request with the next of `plays`: bytes, or a function of reader and writer."""

    def __init__(self, *plays):
        self.plays, self.heads, self.opened, self.ended = list(plays), [], 0, 0

    async def serve(self, reader, writer):
        self.opened += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode())
                play = self.plays.pop(0)
                if callable(play):
                    await play(reader, writer)
                    return
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                writer.write(play)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        finally:
            writer.close()


@asynccontextmanager
async def talking(*plays, idle_seconds=30.0):
    server = Server(*plays)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    kept = KeptConnections(connect_seconds=2, idle_seconds=idle_seconds, clock=time.monotonic)
    try:
        yield server, kept, f"http://127.0.0.1:{port}/base"
    finally:
        kept.close()
        listening.close()
        await asyncio.sleep(0.01)


async def ask(kept, url, body=b"{}", **headers):
    response = await kept.post(url, "/v1/x", body, headers)
    try:
        parts = [part async for part in read(response)]
        return response, b"".join(parts)
    finally:
        response.release()


async def read(response):
    while part := await response.read():
        yield part


async def test_it_asks_and_keeps_the_connection():
    async with talking(OK, OK) as (server, kept, url):
        for _ in range(2):
            response, body = await ask(kept, url, json.dumps({"a": 1}).encode(), Extra="x")
            assert (response.status, response.content_type, body) == (
                200,
                "application/json",
                b"{}",
            )
    assert server.opened == 1
    assert server.heads[0].startswith("POST /base/v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\nExtra: x\r\n" in server.heads[0]
    assert "\r\nContent-Length: 8\r\n" in server.heads[0]


async def test_an_answer_to_what_was_not_sent_whole_is_the_last_on_its_connection():
    async def answer_early(reader, writer):
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.2)
        await reader.read()

    async with talking(answer_early, OK) as (server, kept, url):
        _, body = await ask(kept, url, b"x" * (32 << 20))
        assert body == b"{}"
        _, body = await ask(kept, url)
        assert body == b"{}"
    assert server.opened == 2


@pytest.mark.parametrize(
    ("play", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s"
            % b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n",
            b"abc",
        ),
    ],
    ids=["continue", "close", "old", "nothing", "chunks"],
)
async def test_forms_of_an_answer(play, body):
    async with talking(play, OK) as (_, kept, url):
        assert (await ask(kept, url))[1] == body
        assert (await ask(kept, url))[1] == b"{}"


async def test_a_body_without_a_length_ends_with_its_connection():
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await writer.drain()

    async with talking(answer) as (_, kept, url):
        assert (await ask(kept, url))[1] == b"abc"


@pytest.mark.parametrize(
    ("play", "why"),
    [
        (b"hello\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 70000 + b"\r\n\r\n", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(200)), "128 headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "more than 65536 bytes"),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "another protocol",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 70000,
            "more than 65536 bytes",
        ),
    ],
)
async def test_what_is_no_answer_breaks_the_connection(play, why):
    async with talking(play, OK) as (server, kept, url):
        with pytest.raises(BrokenConnectionError, match=why):
            await ask(kept, url)
        assert (await ask(kept, url))[1] == b"{}"
    assert server.opened == 2


async def test_a_connection_that_breaks_in_an_answer_gives_what_came_and_then_says_so():
    async def answer(reader, writer):
        writer.write(OK[:-1])
        await writer.drain()
        await asyncio.sleep(0.05)

    async with talking(answer) as (_, kept, url):
        response = await kept.post(url, "/", b"{}", {})
        assert await response.read() == b"{"
        with pytest.raises(BrokenConnectionError, match="the worker closed it"):
            await response.read()
        response.release()


async def test_an_answer_not_read_to_its_end_ends_its_connection():
    async def answer(reader, writer):
        writer.write(OK[:-1])
        await reader.read()

    async with talking(answer, OK) as (server, kept, url):
        response = await kept.post(url, "/", b"{}", {})
        response.release()
        response.release()
        assert (await ask(kept, url))[1] == b"{}"
    assert server.opened == 2


async def test_a_client_that_reads_nothing_holds_its_worker_up():
    written = 0

    async def answer(reader, writer):
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        for _ in range(999):
            writer.write(b"x" * 100_000)
            written += 100_000
            await writer.drain()

    async with talking(answer) as (_, kept, url):
        response = await kept.post(url, "/", b"{}", {})
        await until(lambda: written >= 300_000)
        await asyncio.sleep(0.1)
        held = written
        await asyncio.sleep(0.1)
        assert written == held < 50_000_000
        while await response.read():
            if written > held:
                break
        response.release()


async def test_idle_connections_are_closed_after_a_while():
    async with talking(OK, idle_seconds=0.1) as (server, kept, url):
        await ask(kept, url)
        await until(lambda: server.ended == 1)


@pytest.mark.parametrize("where", ["127.0.0.1:1", "a..b", f"{'x' * 64}.invalid"])
async def test_nobody_there_is_told_as_such(where):
    kept = KeptConnections(connect_seconds=5, idle_seconds=1, clock=time.monotonic)
    with pytest.raises(ConnectError, match="cannot connect"):
        await kept.post(f"http://{where}", "/", b"{}", {})


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\0b"])
def test_no_header_ends_its_line(value):
    with pytest.raises(ValueError, match="line breaks in them: Bad"):
        render_head(parse_origin("http://h"), "/", 0, {"Good": "x", "Bad": value})


@pytest.mark.parametrize(
    ("url", "host", "port", "label"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1", 8000, "10.0.0.1:8000"),
        ("https://Gpu.example.com/team", "gpu.example.com", 443, "Gpu.example.com"),
        ("http://[::1]:81", "::1", 81, "[::1]:81"),
    ],
)
def test_where_a_url_leads(url, host, port, label):
    origin = parse_origin(url)
    assert (origin.host, origin.port, origin.label) == (host, port, label)
    assert origin.secure == url.startswith("https")
