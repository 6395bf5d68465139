"""Clients that send what is no request, or not quite one: an error, or the right answer."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
import random
import re

import pytest

from ..unit.gateway.gatewayworld import GatewayWorld, settings
from .rawbackend import RawBackend, answer_to, serve

SMUGGLED = "smuggled"
SECONDS = 10


@pytest.fixture
async def backend(world):
    async with RawBackend("w1") as backend:
        await world.publish(backend)
        await world.until_usable("w1")
        yield backend


@pytest.fixture
async def world():
    told = settings(limits={"body_bytes": 64 << 10, "idle_connection_seconds": 0.5})
    async with GatewayWorld(told) as world:
        await world.add_pool(ttft="30s")
        await world.start_gateway()
        yield world


def body_of(prompt, **over):
    return json.dumps({"model": "compact", "prompt": prompt, **over}).encode()


def request_of(prompt, *headers, line=b"POST /v1/completions HTTP/1.1", **over):
    body = body_of(prompt, **over)
    fields = [line, b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*fields, b"", body])


INNER = request_of(SMUGGLED)
MINE = body_of("mine")
LINE = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


def with_headers(*headers, body=MINE):
    return LINE + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def chunked(*parts):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


LENGTH = b"Content-Length: %d" % len(MINE)
CODED = b"Transfer-Encoding: chunked"
TRICKS = {
    "both": with_headers(LENGTH, CODED, body=b"0\r\n\r\n" + INNER),
    "both, turned": with_headers(CODED, LENGTH, body=b"0\r\n\r\n" + INNER),
    "both, small": with_headers(CODED, b"Content-Length: 4", body=chunked(MINE) + INNER),
    "two lengths": with_headers(LENGTH, b"Content-Length: 0", body=MINE + INNER),
    "two lengths, turned": with_headers(b"Content-Length: 0", LENGTH, body=INNER),
    "a list of lengths": with_headers(b"Content-Length: 0, %d" % len(INNER), body=INNER),
    "a signed length": with_headers(b"Content-Length: +%d" % len(MINE), body=MINE + INNER),
    "a negative length": with_headers(b"Content-Length: -1", body=INNER),
    "a hex length": with_headers(b"Content-Length: 0x10", body=INNER),
    "a huge length": with_headers(b"Content-Length: " + b"9" * 40, body=INNER),
    "a length in other digits": with_headers("Content-Length: ٣".encode(), body=INNER),
    "a length and a space": with_headers(b"Content-Length : 0", body=INNER),
    "a length folded": with_headers(b"Content-Length:\r\n 0", body=INNER),
    "coding and a space": with_headers(b"Transfer-Encoding : chunked", LENGTH, body=INNER),
    "coding folded": with_headers(b"Transfer-Encoding:\r\n chunked", LENGTH, body=INNER),
    "coding twice": with_headers(CODED, CODED, body=chunked(MINE) + INNER),
    "coding and identity": with_headers(CODED + b", identity", body=chunked(MINE) + INNER),
    "coding unknown": with_headers(b"Transfer-Encoding: xchunked", LENGTH, body=INNER),
    "coding quoted": with_headers(b'Transfer-Encoding: "chunked"', LENGTH, body=INNER),
    "coding with a tab": with_headers(b"Transfer-Encoding:\x0bchunked", LENGTH, body=INNER),
    "coding by underscore": with_headers(b"Transfer_Encoding: chunked", body=INNER),
    "chunk overflow": with_headers(CODED, body=b"1" + b"0" * 16 + b"\r\n" + MINE + INNER),
    "chunk negative": with_headers(CODED, body=b"-1\r\n" + INNER),
    "chunk hex prefix": with_headers(CODED, body=b"0x5\r\nhello\r\n0\r\n\r\n" + INNER),
    "chunk without end": with_headers(CODED, body=b"5\r\nhelloX0\r\n\r\n" + INNER),
    "chunk bare line feed": with_headers(CODED, body=b"5\nhello\n0\n\n" + INNER),
    "chunk extension": with_headers(CODED, body=b"0;a\nb\r\n\r\n" + INNER),
    "chunk long extension": with_headers(CODED, body=b"0;" + b"x" * 100_000),
    "chunk trailers": with_headers(CODED, body=b"0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n"),
    "bare line feeds": INNER.replace(b"\r\n", b"\n"),
    "bare returns": INNER.replace(b"\r\n", b"\r"),
    "a line feed in a header": with_headers(LENGTH, b"A: b\nContent-Length: 0"),
    "zero in a name": with_headers(LENGTH, b"A\0b: c"),
    "zero in a value": with_headers(LENGTH, b"A: b\0c"),
    "folded": with_headers(LENGTH, b"A: b\r\n c"),
    "no name": with_headers(LENGTH, b": b"),
    "no colon": with_headers(LENGTH, b"abc"),
    "space before": with_headers(b" A: b", LENGTH),
    "no host": request_of(SMUGGLED).replace(b"Host: x\r\n", b""),
    "two hosts": with_headers(LENGTH, b"Host: y"),
    "http/0.9": b"GET /v1/models\r\n\r\n",
    "http/1.2": request_of(SMUGGLED, line=b"POST /v1/completions HTTP/1.2"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 30,
    "h2c": with_headers(LENGTH, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings"),
    "websocket": with_headers(LENGTH, b"Upgrade: websocket", b"Connection: Upgrade"),
    "absolute": request_of("mine", line=b"POST http://x/v1/completions HTTP/1.1"),
    "absolute elsewhere": request_of(
        "mine", line=b"POST http://169.254.169.254/v1/completions HTTP/1.1"
    ),
    "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n" + INNER,
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "no slash": b"GET v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "dots": b"GET /v1/../../healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "percent": b"GET /%ff%00%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad port": b"GET http://x:99999999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad address": b"GET http://[::1/v1/models HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "long url": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long method": b"A" * 100_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd method": b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": with_headers(LENGTH, *(b"A: b" for _ in range(5000))),
    "expect nonsense": with_headers(LENGTH, b"Expect: everything"),
    "body of a get": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n\r\n" + MINE,
    "too large": with_headers(b"Content-Length: 70000", body=b" " * 70_000),
    "too large, in chunks": with_headers(CODED, body=chunked(*[b" " * 7000] * 10)),
}
ALLOWED = {"coding by underscore", "bare line feeds", "no host", "http/1.2"}
"""Whole requests, if odd ones, in which no other can hide: they may be answered, or refused."""


async def exchange(world, data, *, end=False):
    """Return all that the gateway says to some bytes, until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.gateway.port)
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(data)
            if end:
                writer.write_eof()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def split(raw):
    """Return status and body of each answer."""
    answers = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        status = int(re.match(rb"HTTP/[01]\.\d (\d{3}) ", head)[1])
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        length = int(size[1]) if size else 0
        if status >= 200:
            answers.append((status, rest[:length]))
            raw = rest[length:]
        else:
            raw = rest
    return answers


def check_log(world):
    assert [line for line in world.lines if "exc_info" in line] == []
    assert {line["outcome"] for line in world.request_lines()} <= {
        "ok",
        "unknown_model",
        "invalid",
        "cancelled",
        "client_error",
    }


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_trick_gets_an_error_or_its_own_answer(world, backend, trick):
    others = asyncio.create_task(world.ask(prompt="another's"))
    raw = await exchange(world, TRICKS[trick])
    answers = split(raw)
    for status, body in answers:
        assert 200 <= status < 500, body
        if status >= 400 and body:
            assert json.loads(body)["error"]["message"]
    status, _, body = await others
    assert (status, body["choices"][0]["text"]) == (200, answer_to("another's"))
    if trick not in ALLOWED:
        assert SMUGGLED not in [one["prompt"] for one in backend.got]
        assert len(answers) <= 1
    check_log(world)


async def test_requests_in_one_piece_are_answered_in_their_order(world, backend):
    names = [f"number {number}" for number in range(20)]
    data = b"".join(request_of(name) for name in names)
    last = request_of("last", b"Connection: close")
    answers = split(await exchange(world, data + last))
    texts = [json.loads(body)["choices"][0]["text"] for _, body in answers]
    assert texts == [answer_to(name) for name in [*names, "last"]]
    check_log(world)


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_that_are_nearly_a_request(world, backend, seed):
    """Seeded, and bounded: 40 mutations of a request, with its own answer or an error each."""
    draw = random.Random(seed)
    raws = await asyncio.gather(
        *(exchange(world, mutate(draw), end=draw.random() < 0.5) for _ in range(40))
    )
    for raw in raws:
        for status, _ in split(raw):
            assert status < 500
    status, _, body = await world.ask(prompt="another's")
    assert (status, body["choices"][0]["text"]) == (200, answer_to("another's"))
    check_log(world)


def mutate(draw):
    data = bytearray(request_of("mine", b"Connection: close"))
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data))
        kind = draw.randrange(4)
        if kind == 0:
            data[place] = draw.randrange(256)
        elif kind == 1:
            del data[place : place + draw.randint(1, 8)]
        elif kind == 2:
            data[place:place] = draw.choice([b"\r\n", b"\n", b"\0", b":", b" ", b"\xff", b"0"])
        else:
            data[place:place] = data[place : place + draw.randint(1, 40)]
    return bytes(data)


FIELDS = (
    *("model", "prompt", "messages", "stream", "stream_options", "n", "max_tokens", "seed"),
    *("max_completion_tokens", "priority", "temperature", "logprobs", "stop", "echo", "best_of"),
    "return_token_ids",
)
VALUES = {
    "null": b"null",
    "true": b"true",
    "-1": b"-1",
    "1e308": b"1e308",
    "1e999": b"1e999",
    "digits": b"9" * 400,
    "more digits": b"9" * 5000,
    "text": b'"x"',
    "surrogate": rb'"\ud800"',
    "zero": rb'"\u0000"',
    "list": b"[]",
    "lists": b"[[[1]], null]",
    "map": b"{}",
    "odd map": b'{"role": 5, "content": {"": []}}',
    "maps": b'[{"role": 5, "content": {"": []}}, {"content": [null, {"text": 7}]}]',
    "deep": b"[" * 500 + b"]" * 500,
    "too deep": b"[" * 20_000 + b"]" * 20_000,
    "nan": b"NaN",
    "half": b"[1,",
    "no utf-8": b'"\xff"',
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("value", VALUES)
async def test_fields_of_any_type_are_no_surprise(world, backend, value, path):
    async def answer(line, document):
        await serve(line, {**document, "prompt": "whatever"})

    backend.plays = [answer] * 2000
    rest = {"model": b'"compact"', "prompt": b'"mine"', "stream": b"false"}
    answers = []
    for field in FIELDS:
        given = {**rest, field: VALUES[value]}
        data = b"{" + b",".join(b'"%s":%s' % (key.encode(), told) for key, told in given.items())
        async with world.http.post(world.url + path, data=data + b"}") as response:
            answers.append((field, response.status, await response.read()))
    for field, status, body in answers:
        # A chat's answer of this backend is none: that is for the gateway to see.
        assert status in (200, 400, 404, 502), (field, body)
        assert status != 502 or "chat" in path, (field, body)
        assert status == 200 or json.loads(body)["error"]["message"]
    assert [line for line in world.lines if "exc_info" in line] == []


async def test_of_keys_that_come_twice_the_last_is_meant(world, backend):
    """By the worker, too: what was checked is what it gets."""
    data = b'{"model":"other","model":"compact","prompt":"first","prompt":"second"}'
    async with world.http.post(world.url + "/v1/completions", data=data) as response:
        assert (await response.json())["choices"][0]["text"] == answer_to("second")


@pytest.mark.parametrize("prompt", ["\ud800", "a\udfffb", "\u0000", "\u2028", "😀" * 1000])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_odd_characters_come_back_as_they_were(world, backend, prompt, stream):
    async with world.post(prompt=prompt, stream=stream) as response:
        text = (await response.read()).decode()
    said = json.loads(text.split("\n\n")[0].removeprefix("data: "))["choices"][0]["text"]
    assert said == answer_to(prompt)
    assert backend.got[-1]["prompt"] == prompt
