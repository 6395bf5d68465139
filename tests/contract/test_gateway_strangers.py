"""Many clients at a time, killed workers, rude clients: each gets what is its own, or nothing."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from ..unit.gateway.gatewayworld import SETTINGS, GatewayWorld, settings
from ..unit.gateway.polling import until_async
from ..unit.gateway.secrets import MountedFiles, entry_of
from .rawbackend import RawBackend, chunk, render, token

KEY = "sk-strangers-77aa"
CLIENTS = 30
SECONDS = 60
STEP = 0.004


def prompt_of(number):
    return f"client-{number:02}-secret-{number * 7919}|"


def answer_of(prompt):
    return f"answer of {prompt} " * 4


async def echo(line, document):
    """Answer token by token, a character each; go on where a prompt of ids says so."""
    prompt = document["prompt"]
    given = 0
    if isinstance(prompt, list):
        place = prompt.index(ord("|")) + 1
        given, prompt = len(prompt) - place, "".join(map(chr, prompt[:place]))
    text = answer_of(prompt)
    if not document.get("stream"):
        await asyncio.sleep(STEP * 5)
        await line.write(line.backend.completion(text))
        return
    head = line.backend.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
    await line.write(head)
    for number, character in enumerate(text[given:]):
        beside = {} if number else {"prompt_token_ids": [*map(ord, prompt)]}
        await line.write(chunk(render(token(character, token_ids=[ord(character)], **beside))))
        await asyncio.sleep(STEP)
    await line.write(chunk(render(token("", finish_reason="stop"))))
    await line.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@pytest.fixture
async def scene(tmp_path):
    """A gateway that wants keys, and three workers that echo."""
    limits = json.dumps({"concurrency": CLIENTS})
    files = MountedFiles(tmp_path / "keys", one=f"{entry_of(KEY)} {limits}")
    told = settings(relaying={"inflight_most": 16}, limits={"slow_reader_seconds": 5.0})
    told = replace(told, api_keys_dir=files.path, mount_period=SETTINGS.mount_period)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(GatewayWorld(told))
        await world.add_pool(ttft="60s", tpot="10s")
        await world.start_gateway()
        backends = []
        for name in ("w1", "w2", "w3"):
            backend = await stack.enter_async_context(RawBackend(name))
            backend.play = echo
            await world.publish(backend)
            backends.append(backend)
        await world.until_usable("w1", "w2", "w3")
        yield world, backends


def read_text(raw):
    """Return the text in as much of a stream as came."""
    parts = raw.decode(errors="ignore").split("\n\n")[:-1]
    documents = [json.loads(part[6:]) for part in parts if part.startswith("data: {")]
    assert [one for one in documents if "error" in one] == []
    return "".join(one["choices"][0]["text"] for one in documents if one["choices"])


class Client:
    """One of the clients; what it does is decided by its number."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.prompt = prompt_of(number)
        self.expected = answer_of(self.prompt)

    async def run(self):
        await getattr(self, KINDS[self.number % len(KINDS)])()

    def post(self, *, stream=True):
        headers = {"Authorization": f"Bearer {KEY}"}
        return self.world.post(headers=headers, prompt=self.prompt, stream=stream)

    async def plain(self):
        for _ in range(6):
            async with self.post(stream=False) as response:
                body = await response.json()
            assert body["choices"][0]["text"] == self.expected

    async def steady(self):
        async with self.post() as response:
            raw = await response.read()
        assert read_text(raw) == self.expected
        assert raw.endswith(b"data: [DONE]\n\n")

    async def slow(self):
        raw = b""
        async with self.post() as response:
            async for data in response.content.iter_chunked(2000):
                raw += data
                await asyncio.sleep(0.02)
        assert read_text(raw) == self.expected

    async def fickle(self):
        for size in (200, 2000, 5000):
            async with self.post() as response:
                raw = await response.content.readexactly(size)
                response.close()
            text = read_text(raw)
            assert text
            assert self.expected.startswith(text)

    async def half_closed(self):
        body = json.dumps({"model": "compact", "prompt": self.prompt, "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.world.gateway.port)
        writer.write(
            b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        raw = await reader.read()
        writer.close()
        assert self.expected.startswith(read_text(raw))


KINDS = ("plain", "steady", "slow", "fickle", "half_closed")


async def test_each_client_gets_its_own_answer_alone_and_all_places_become_free(scene):
    world, backends = scene
    asked = [asyncio.create_task(Client(world, number).run()) for number in range(CLIENTS)]
    await asyncio.sleep(0.15)
    begun = sum(len(line.got) for line in backends[0].lines)
    await backends[0].kill()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*asked)
    assert begun > 0
    lines = world.request_lines()
    assert any(line["continuations"] for line in lines)
    assert {line["outcome"] for line in lines} <= {"ok", "cancelled"}

    async def all_is_free():
        pool = (await world.signals())["pools"]["default/chat"]
        running = [worker["inflight"] for worker in pool["workers"].values()]
        classes = [one["inflight"] for one in pool.get("classes", {}).values() if "inflight" in one]
        return not sum(running) + sum(classes) + pool["waiting"]

    await until_async(all_is_free)
    await until_async(lambda: no_worker_is_busy(backends))
    # As many at a time as the key may have: none of its places is lost.
    again = [Client(world, number) for number in range(CLIENTS)]
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(client.steady() for client in again))
    said = "\n".join(map(str, world.lines))
    assert KEY not in said
    assert "secret" not in said


async def no_worker_is_busy(backends):
    return not any(backend.busy for backend in backends)
