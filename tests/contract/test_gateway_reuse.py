"""What workers write without being asked is nobody's answer, on whatever connection it comes."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
from contextlib import suppress

import pytest

from ..unit.gateway.gatewayworld import join_text
from ..unit.gateway.polling import until
from .rawbackend import RawBackend, answer_to, chunk, serve

OTHERS = b"<somebody else's>"


@pytest.fixture
async def backend(world):
    async with RawBackend("w1") as backend:
        await world.publish(backend)
        await world.until_usable("w1")
        yield backend


async def ask(world, prompt, *, stream=False):
    """Return the text of an answer."""
    if stream:
        return join_text(await world.stream(prompt=prompt))
    status, _, body = await world.ask(prompt=prompt)
    assert status == 200, body
    return body["choices"][0]["text"]


def leftovers(backend):
    second = backend.completion(OTHERS.decode())
    return {
        "answer": second,
        "stream": backend.stream({"choices": [{"index": 0, "text": OTHERS.decode()}]}),
        "half a head": second[:20],
        "half a body": second[:-20],
        "chunk": chunk(OTHERS) + b"0\r\n\r\n",
        "text": OTHERS,
        "line": OTHERS + b"\r\n\r\n",
        "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n",
        "zero": b"\0",
        "many": second * 2000,
    }


KINDS = list(leftovers(RawBackend("w0")))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("pause", [None, 0.0, 0.05], ids=["at once", "next", "later"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_comes_on_an_idle_connection_is_nobody_s_answer(
    world, backend, kind, pause, stream
):
    extra = leftovers(backend)[kind]

    async def say_more(line, document):
        if pause is None:
            plain, line.write = line.write, lambda data: plain(data + extra)
            await serve(line, document)
            return
        await serve(line, document)
        await asyncio.sleep(pause)
        await line.write(extra)

    backend.plays = [say_more]
    assert await ask(world, "first", stream=stream) == answer_to("first")
    await asyncio.sleep(0.1 if pause else 0)
    for prompt in ("second", "third", "fourth"):
        assert await ask(world, prompt, stream=stream) == answer_to(prompt)
    # What came in one piece with the end of an answer may have spoiled that one, too.
    spoilt, used = backend.lines
    assert len(spoilt.got) == 1
    assert [one["prompt"] for one in used.got][-3:] == ["second", "third", "fourth"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_connection_on_which_all_is_well_is_used_again(world, backend, stream):
    for prompt in ("first", "second", "third"):
        assert await ask(world, prompt, stream=stream) == answer_to(prompt)
    assert [len(line.got) for line in backend.lines] == [3]


async def test_a_connection_that_ended_while_idle_costs_no_attempt(world, backend):
    async def serve_and_end(line, document):
        await serve(line, document)
        await line.finish()

    backend.plays = [serve_and_end]
    for prompt in ("first", "second"):
        assert await ask(world, prompt) == answer_to(prompt)
        await asyncio.sleep(0.05)
    assert [len(line.got) for line in backend.lines] == [1, 1]


@pytest.mark.parametrize("kind", ["answer", "many", "half a head"])
async def test_a_worker_that_speaks_unasked_is_cut_off_at_once(world, backend, kind):
    """It could fill the memory with answers that nobody wants."""
    assert await ask(world, "first") == answer_to("first")
    (line,) = backend.lines
    with suppress(ConnectionError):
        await line.write(leftovers(backend)[kind])
    await until(lambda: not line.is_open)
