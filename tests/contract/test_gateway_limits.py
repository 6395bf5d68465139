"""What one client may take from the others: nothing. Slow, large, many, and rude clients."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ..unit.gateway.fakeworker import HUGE
from ..unit.gateway.gatewayworld import GatewayWorld, settings, usable
from ..unit.gateway.polling import until

REQUEST = json.dumps({"model": "compact", "prompt": "x", "stream": True}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"


@asynccontextmanager
async def serving(**groups):
    async with GatewayWorld(settings(**groups)) as world:
        await world.add_pool()
        await world.start_gateway()
        await world.add_worker("w1")
        await world.until_usable("w1")
        yield world


@asynccontextmanager
async def connected(world, **more):
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port, **more)
    try:
        yield reader, writer
    finally:
        writer.close()


async def connect_slowly(world, *, buffer=4096):
    """Return a socket that buffers little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(0)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", world.gateway.port))
    return connection


async def read_all(reader):
    async with asyncio.timeout(10):
        return await reader.read()


async def test_slow_headers_are_cut_off():
    async with serving() as world, connected(world) as (reader, writer):
        writer.write(b"POST /v1/completions HT")
        assert await read_all(reader) == b""


async def test_slow_headers_on_a_kept_connection_are_cut_off():
    async with serving() as world, connected(world) as (reader, writer):
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        await asyncio.sleep(0.05)
        writer.write(b"GET /v1/mod")
        assert b"compact" in await read_all(reader)


async def test_a_kept_connection_is_not_cut_off_between_requests():
    async with (
        serving(limits={"header_seconds": 0.1}) as world,
        connected(world) as (reader, writer),
    ):
        for _ in range(2):
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in answer
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split()[0]))
            await asyncio.sleep(0.3)


async def test_a_slow_body_is_answered_408():
    async with serving() as world, connected(world) as (reader, writer):
        writer.write(HEAD % 100 + b"\r\n{")
        answer = await read_all(reader)
        assert b" 408 " in answer
        assert b"slow_body" in answer


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_large_body_is_answered_413(declared):
    async with serving(limits={"body_bytes": 1000}) as world:
        data = b"x" * 2000

        async def parts():
            yield data

        body = data if declared else parts()
        async with world.http.post(f"{world.url}/v1/completions", data=body) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "body_too_large"
        assert world.workers["w1"].got == []


async def test_bodies_together_are_bounded():
    async with serving(limits={"buffered_bytes": 1000}) as world:
        status, headers, body = await world.ask(prompt="x" * 2000)
        assert (status, body["error"]["code"]) == (429, "too_many_bytes")
        assert headers["Retry-After"]
        assert (await world.ask())[0] == 200


async def test_encoded_bodies_are_not_decoded():
    async with serving() as world:
        headers = {"Content-Encoding": "gzip"}
        url = f"{world.url}/v1/completions"
        async with world.http.post(url, data=b"\x1f\x8b", headers=headers) as response:
            assert response.status == 415


async def test_curl_s_expect_is_answered():
    async with serving() as world, connected(world) as (reader, writer):
        writer.write(HEAD % len(REQUEST) + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(REQUEST)
        answer = await read_all(reader)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"[DONE]" in answer


@pytest.mark.parametrize(
    "rude",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\n",
    ],
    ids=["tls", "no-path", "version", "smuggling", "length", "long-line", "many-headers"],
)
async def test_what_is_not_http_gets_an_openai_error(rude):
    async with serving() as world, connected(world) as (reader, writer):
        writer.write(rude)
        head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert (await world.ask())[0] == 200


async def test_a_stream_to_a_client_that_knows_no_chunks_ends_with_its_connection(world):
    body = json.dumps({"model": "compact", "prompt": "x", "stream": True, "max_tokens": 3}).encode()
    head = b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
    await usable(world, "w1")
    async with connected(world) as (reader, writer):
        writer.write(head % len(body) + body + b"GET /health HTTP/1.0\r\n\r\n")
        answer = await read_all(reader)
    assert answer.endswith(b"data: [DONE]\n\n")
    assert answer.count(b"HTTP/1.") == 1


async def test_connections_are_bounded():
    async with serving(limits={"connections": 3}) as world:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connected(world))
            reader, _ = await stack.enter_async_context(connected(world))
            answer = await read_all(reader)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too_many_connections" in answer
        async with asyncio.timeout(5):
            while (await world.ask())[0] != 200:
                pass  # the places become free when the gateway sees the connections end


async def test_slow_readers_hold_up_nobody_and_are_dropped():
    async with serving() as world:
        worker = world.workers["w1"]
        worker.script = ["flood"] * 5
        slow = []
        for _ in range(5):
            connection = await connect_slowly(world)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, HEAD % len(REQUEST) + b"\r\n" + REQUEST)
            slow.append(connection)
        await until(lambda: len(worker.got) == 5)
        for _ in range(10):
            assert (await world.ask())[0] == 200
        await until(lambda: len(world.request_lines()) == 15)
        dropped = [line for line in world.request_lines() if line["outcome"] == "slow_reader"]
        assert len(dropped) == 5
        await until(lambda: worker.ended == 5)
        for connection in slow:
            connection.close()


async def test_who_reads_no_whole_answer_gives_the_place_back():
    loop = asyncio.get_running_loop()
    whole = json.dumps({"model": "compact", "prompt": "x"}).encode()
    async with serving(limits={"connections": 1}) as world:
        world.workers["w1"].script = ["huge"]
        client = await connect_slowly(world)
        await loop.sock_sendall(client, HEAD % len(whole) + b"\r\n" + whole)
        await until(world.request_lines)
        assert (await world.ask())[0] == 503
        async with asyncio.timeout(10):
            while (await world.ask())[0] != 200:
                pass
        client.close()


async def test_a_slow_but_steady_reader_gets_a_whole_answer():
    loop = asyncio.get_running_loop()
    whole = json.dumps({"model": "compact", "prompt": "x"}).encode()
    async with serving(limits={"slow_reader_seconds": 0.1}) as world:
        world.workers["w1"].script = ["huge"]
        client = await connect_slowly(world, buffer=65536)
        await loop.sock_sendall(client, HEAD % len(whole) + b"Connection: close\r\n\r\n" + whole)
        taken = 0
        while data := await loop.sock_recv(client, 100_000):
            taken += len(data)
            await asyncio.sleep(0.002)
        assert taken > HUGE
        client.close()


async def test_a_slow_reader_hides_no_frozen_worker():
    loop = asyncio.get_running_loop()
    patient = {"slow_reader_seconds": 30.0}
    async with serving(limits=patient) as world:
        worker = world.workers["w1"]
        worker.script = ["flood"]
        client = await connect_slowly(world, buffer=65536)
        await loop.sock_sendall(client, HEAD % len(REQUEST) + b"\r\n" + REQUEST)
        seen = -1
        while seen != worker.flooded:  # until all buffers are full
            seen = worker.flooded
            await asyncio.sleep(0.1)
        worker.frozen = True
        taken = 0

        async def read_slowly():
            nonlocal taken
            while data := await loop.sock_recv(client, 10_000):
                taken += len(data)
                await asyncio.sleep(0.001)

        reading = asyncio.create_task(read_slowly())
        await until(lambda: any(line.get("after") == "suspect" for line in world.lines))
        assert 0 < taken < worker.flooded / 2  # it was not the end of the buffered tokens that told
        reading.cancel()
        client.close()


async def test_a_drain_finishes_what_runs():
    async with serving() as world:
        worker = world.workers["w1"]
        worker.step = 0.1
        asked = asyncio.create_task(world.ask())
        await until(lambda: worker.got)
        stop = asyncio.Event()
        stop.set()
        await world.gateway.run_until(stop)
        async with world.http.get(f"{world.admin}/readyz") as response:
            assert (response.status, await response.text()) == (503, "draining\n")
        await world.gateway.__aexit__()
        assert (await asked)[0] == 200
