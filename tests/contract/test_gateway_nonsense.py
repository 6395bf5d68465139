"""Workers that answer nonsense: another one answers, or an error says so; none of it gets out."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import gzip
import json

import pytest

from ..unit.gateway.gatewayworld import GatewayWorld, settings
from .rawbackend import RawBackend, answer_to, chunk, render, token

POISON = "POISON"
IMPATIENT = {"tokens": 2.0, "next_least": 0.4, "first_least": 0.4, "margin": 1.0, "hold_first": 0.2}
RELAYING = {
    "first_token_seconds": 1.0,
    "idle_stream_seconds": 0.6,
    "whole_seconds": 1.0,
    "event_bytes": 64 << 10,
    "answer_bytes": 256 << 10,
}
SECONDS = 20


@pytest.fixture
async def world():
    async with GatewayWorld(settings(patience=IMPATIENT, relaying=RELAYING)) as world:
        await world.add_pool(ttft="30s")
        await world.start_gateway()
        yield world


@pytest.fixture
async def backends(world):
    """Two workers with one list of what their next requests get."""
    async with RawBackend("w1") as one, RawBackend("w2") as two:
        two.plays = one.plays
        for backend in (one, two):
            await world.publish(backend)
        await world.until_usable("w1", "w2")
        yield one


async def ask(world, **document):
    """Return status, attempts and text of an answer, whatever it is."""
    async with asyncio.timeout(SECONDS), world.post(prompt="mine", **document) as response:
        return response, (await response.read()).decode()


def check_log(world):
    """Nothing went wrong with the gateway itself."""
    for line in world.lines:
        assert "exc_info" not in line
        assert POISON not in str(line)
    assert {line["outcome"] for line in world.request_lines()} <= {"ok", "broken", "client_error"}


def endless(head, piece):
    """Return a play that never ends by itself."""

    async def play(line, document):
        await line.write(head)
        while line.is_open:
            await line.write(piece)
            await asyncio.sleep(0)

    return play


def then_hang(data):
    async def play(line, document):
        await line.write(data)
        await asyncio.sleep(3600)

    return play


def then_end(data):
    async def play(line, document):
        await line.write(data)
        await line.finish()

    return play


def list_heads(backend):
    """What is wrong before any body, for requests of both kinds."""
    good = {"choices": [{"index": 0, "text": POISON, "finish_reason": "stop"}]}
    sse = {"Content_Type": "text/event-stream"}
    return {
        "nothing": then_end(b""),
        "garbage": then_end(b"\0\xff" * 50),
        "html": backend.whole(b"<html>POISON", kind="text/html"),
        "ssh banner": then_end(b"SSH-2.0-POISON\r\n"),
        "http/0.9": then_end(b"POISON"),
        "status word": then_end(b"HTTP/1.1 POISON OK\r\n\r\n"),
        "status 99": then_end(b"HTTP/1.1 99 POISON\r\n\r\n"),
        "status 999": then_end(backend.whole(good, status="999 POISON")),
        "long header": then_end(backend.head(X_Long="P" * 100_000)),
        "many headers": then_end(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n"),
        "endless headers": endless(b"HTTP/1.1 200 OK\r\n", b"A: POISON\r\n" * 50),
        "endless header": endless(b"HTTP/1.1 200 OK\r\nA: ", b"P" * 5000),
        "endless hints": endless(b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 20),
        "half a head": then_hang(b"HTTP/1.1 200 OK\r\nContent-"),
        "204": backend.head("204 No Content"),
        "205": backend.head("205 Reset Content", Content_Length=0),
        "206": backend.whole(good, status="206 Partial Content"),
        "301": backend.whole(good, "301 Moved", Location="http://127.0.0.1:9/POISON"),
        "302 to itself": backend.head("302 Found", Location="/v1/completions", Content_Length=0),
        "304": backend.head("304 Not Modified"),
        "101": then_hang(backend.head("101 Switching", Upgrade="POISON", Connection="upgrade")),
        "401": backend.whole({"error": {"message": POISON}}, status="401 Unauthorized"),
        "two lengths": then_end(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 6\r\n\r\n{}"
        ),
        "bad length": then_end(backend.head(Content_Length="POISON") + b"{}"),
        "negative length": then_end(backend.head(Content_Length="-5") + b"{}"),
        "gzip that is none": backend.whole(b"POISON", Content_Encoding="gzip"),
        "gzip": backend.whole(gzip.compress(json.dumps(good).encode()), Content_Encoding="gzip"),
        "gzip stream": backend.whole(
            gzip.compress(render(good)), kind="text/event-stream", Content_Encoding="gzip"
        ),
        "chunk size": then_end(
            backend.head(Transfer_Encoding="chunked", **sse) + b"POISON\r\nx\r\n"
        ),
        "chunk size overflow": then_end(
            backend.head(Transfer_Encoding="chunked", **sse) + b"F" * 17 + b"\r\nPOISON\r\n"
        ),
        "half a chunk": then_end(backend.head(Transfer_Encoding="chunked", **sse) + b"ff\r\nPO"),
        "half a chunk, open": then_hang(
            backend.head(Transfer_Encoding="chunked", **sse) + b"ff\r\nPO"
        ),
        "unknown coding": then_end(backend.head(Transfer_Encoding="POISON", **sse) + b"x"),
        "error": backend.whole({"error": {"message": POISON, "type": "t"}}),
        "array": backend.whole([POISON]),
        "error in a stream": backend.stream({"error": {"message": POISON, "type": "t"}}),
        "error, bare": backend.stream({"error": POISON}),
        "error as event": backend.stream(b'event: error\ndata: {"message": "POISON"}\n\n'),
        "only the end": backend.stream(),
        "empty stream": backend.stream(done=False),
    }


def list_wholes(backend):
    """What is wrong with a whole answer."""

    def of(**over):
        choice = {"index": 0, "text": POISON, "finish_reason": "stop", **over}
        return backend.whole({"id": "x", "choices": [choice]})

    deep = b'{"choices":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    text = json.dumps({"choices": [{"index": 0, "text": POISON}]}).encode()
    long = backend.head(Content_Type="application/json", Content_Length=len(text) + 100) + text
    return {
        "not json": backend.whole(b"POISON"),
        "half json": backend.whole(text[:-3]),
        "two documents": backend.whole(text + text),
        "utf-16": backend.whole(text.decode().encode("utf-16")),
        "no utf-8": backend.whole(text.replace(b"POISON", b"POISON\xff\xfe")),
        "nan": backend.whole(text.replace(b"0", b"NaN")),
        "deep": backend.whole(deep),
        "too long": backend.whole(b'{"choices": [], "x": "' + b"P" * (300 << 10) + b'"}'),
        "endless": endless(backend.head(Transfer_Encoding="chunked"), chunk(b" " * 5000)),
        "longer than said": then_end(backend.whole(text)[:-5]),
        "longer than said, open": then_hang(long),
        "shorter than said": backend.head(Content_Length=len(text) - 5) + text,
        "choices a text": backend.whole({"choices": POISON}),
        "choices a map": backend.whole({"choices": {"0": POISON}}),
        "no choices": backend.whole({"choices": []}),
        "a choice a text": backend.whole({"choices": [POISON]}),
        "a text a number": of(text=5),
        "a text missing": backend.whole({"choices": [{"index": 0, POISON: 1}]}),
        "a chat": of(text=None, message={"content": POISON}),
        "a negative index": of(index=-1),
        "a huge index": of(index=10**30),
        "an index outside": of(index=1),
        "an index a text": of(index="0"),
        "too many choices": backend.whole({"choices": [{"index": 0, "text": POISON}] * 2}),
        "an error beside": backend.whole(
            {"error": {"message": "x"}, "choices": [{"index": 0, "text": POISON}]}
        ),
    }


HEADS, WHOLES = ([*make(RawBackend("w"))] for make in (list_heads, list_wholes))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", HEADS)
async def test_what_is_no_answer_is_made_up_for_elsewhere(world, backends, case, stream):
    backends.plays.append(list_heads(backends)[case])
    response, text = await ask(world, stream=stream)
    assert (response.status, answer_to("mine") in text) == (200, True), text
    assert POISON not in text
    assert backends.plays == []
    check_log(world)


@pytest.mark.parametrize("case", WHOLES)
async def test_a_wrong_answer_is_made_up_for_elsewhere(world, backends, case):
    backends.plays.append(list_wholes(backends)[case])
    response, text = await ask(world)
    assert json.loads(text)["choices"][0]["text"] == answer_to("mine")
    assert response.headers["x-sluice-attempts"] == "2"
    check_log(world)


GOOD = token("good ", token_ids=[1], prompt_token_ids=[5, 6])
UNTOLD = token("good ")
END = token("", finish_reason="stop")
DONE = b"data: [DONE]\n\n"


def bad(**over):
    return token(POISON, token_ids=[2]) | over


def list_events(backend):
    """What is wrong with an event."""
    ours = token(POISON, token_ids=[2])
    line = json.dumps(ours, separators=(",", ":")).encode()
    return {
        "not json": b"data: POISON\n\n",
        "half json": b"data: " + line[:-2] + b"\n\n",
        "no utf-8": b"data: " + line.replace(b"POISON", b"POISON\xff") + b"\n\n",
        "control character": b"data: " + line.replace(b"POISON", b"POISON\x01") + b"\n\n",
        "nan": b"data: " + line.replace(b"null", b"NaN", 1) + b"\n\n",
        "bad escape": b"data: " + line.replace(b"POISON", rb"POISON\x") + b"\n\n",
        "bad scores": b"data: " + line.replace(b"null", b"{POISON}", 1) + b"\n\n",
        "scores a text": token(POISON, logprobs="x"),
        "deep": b"data: " + b"[" * 30_000 + b"\n\n",
        "array": b"data: [1]\n\n",
        "choices a text": bad(choices=POISON),
        "choices a map": bad(choices={"0": POISON}),
        "a choice a text": bad(choices=[POISON]),
        "a text a number": token(5, POISON=1),
        "a text a list": token([POISON]),
        "a delta a text": bad(choices=[{"index": 0, "delta": POISON}]),
        "a content a map": bad(choices=[{"index": 0, "delta": {"content": {"x": POISON}}}]),
        "a negative index": token(POISON, index=-1),
        "a huge index": token(POISON, index=10**30),
        "an index outside": token(POISON, index=1),
        "an index a text": token(POISON, index="0"),
        "an index true": token(POISON, index=True),
        "another id": bad(id="y"),
        "another model": bad(model="other"),
        "an error": {"error": {"message": "out of memory", "type": "t"}},
        "an error beside": bad(error={"message": "out of memory"}),
        "a long event": b"data: " + b"P" * (80 << 10),
    }


def list_endings(backend):
    """What is wrong with how a stream goes on after a proper beginning."""
    return {
        "a chunk size": then_end(b"POISON\r\nx\r\n"),
        "half a chunk": then_end(b"ff\r\ndata: PO"),
        "half a chunk, open": then_hang(b"ff\r\ndata: PO"),
        "an end": then_end(b"0\r\n\r\n"),
        "a line without end": endless(b"", chunk(b"P" * 5000)),
        "comments without end": endless(b"", chunk(b": hello\n\n")),
        "events of nothing": endless(b"", chunk(render({**GOOD, "choices": []}))),
        "an answer": then_end(backend.completion(POISON)),
    }


EVENTS, ENDINGS = ([*make(RawBackend("w"))] for make in (list_events, list_endings))


@pytest.mark.parametrize("case", EVENTS)
async def test_an_event_that_is_none_is_made_up_for_elsewhere(world, backends, case):
    backends.plays.append(backends.stream(list_events(backends)[case], END))
    _, text = await ask(world, stream=True)
    assert_right(text, answer_to("mine"))
    check_log(world)


@pytest.mark.parametrize("case", [*EVENTS, *ENDINGS])
async def test_nonsense_in_a_stream_is_where_another_goes_on(world, backends, case):
    backends.plays.append(begin(backends, case, GOOD))
    _, text = await ask(world, stream=True)
    assert_right(text, "good " + answer_to([5, 6, 1]))
    assert "data: [DONE]" in text
    check_log(world)


@pytest.mark.parametrize("case", EVENTS)
async def test_nonsense_in_a_stream_of_unknown_tokens_ends_it_with_an_error(world, backends, case):
    backends.plays.append(begin(backends, case, UNTOLD))
    _, text = await ask(world, stream=True)
    *events, last = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]
    assert [event["choices"][0]["text"] for event in events] == ["good "]
    assert set(last) == {"error"}
    assert POISON not in text
    check_log(world)


def begin(backend, case, first):
    """Return a play in which a stream begins well, and its client sees it begin."""
    head = backend.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")

    async def play(line, document):
        await line.write(head + chunk(render(first)))
        await asyncio.sleep(0.03)
        if case in ENDINGS:
            await list_endings(backend)[case](line, document)
            return
        event = list_events(backend)[case]
        bad = event if isinstance(event, bytes) else render(event)
        await line.write(chunk(bad) + chunk(render(END)) + chunk(DONE) + b"0\r\n\r\n")

    return play


def assert_right(text, expected):
    assert POISON not in text
    documents = [json.loads(one[6:]) for one in text.split("\n\n") if one.startswith("data: {")]
    said = "".join(one["choices"][0]["text"] for one in documents if one.get("choices"))
    assert said == expected


@pytest.mark.parametrize("known", [True, False], ids=["ids", "no ids"])
@pytest.mark.parametrize("extra", ["text", "end", "done", "endless", "usage"])
async def test_what_comes_after_the_end_is_left_out(world, backends, extra, known):
    first = GOOD if known else UNTOLD
    done = DONE
    head = backends.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
    plays = {
        "text": backends.stream(first, END, done, token(POISON)),
        "end": backends.stream(first, END, token("", finish_reason="length"), done),
        "done": backends.stream(first, END, done, done),
        "endless": endless(
            head + chunk(render(first) + render(END) + done), chunk(render(token(POISON)))
        ),
        "usage": backends.stream(
            first, END, {**first, "choices": [], "usage": {"prompt_tokens": POISON}}
        ),
    }
    backends.plays.append(plays[extra])
    response, text = await ask(world, stream=True)
    assert_right(text, "good ")
    assert text.count("[DONE]") == 1
    assert text.count('finish_reason":"stop') + text.count('finish_reason": "stop') == 1
    assert response.headers["x-sluice-attempts"] == "1"
    check_log(world)


async def test_tokens_after_a_choice_s_end_are_nonsense(world, backends):
    head = backends.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")

    async def play(line, document):
        await line.write(head + chunk(render(GOOD)) + chunk(render(END)))
        await asyncio.sleep(0.03)
        await line.write(chunk(render(token(POISON, token_ids=[2]))))
        await asyncio.sleep(3600)

    backends.plays.append(play)
    _, text = await ask(world, stream=True)
    assert_right(text, "good ")
    assert "data: [DONE]" in text
    check_log(world)


async def test_a_stream_of_more_tokens_than_were_asked_for_is_cut_off(world, backends):
    head = backends.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
    backends.plays.append(endless(head, chunk(render(token("x ")))))
    _, text = await ask(world, stream=True, max_tokens=20)
    assert text.count("x ") <= 30
    assert "worker_error" in text
    check_log(world)


@pytest.mark.parametrize(
    "body",
    [
        b"no such thing",
        b"",
        b"\xff\xfe",
        b'{"detail": "no such thing"}',
        b'{"object": "error", "message": "no such thing", "type": "BadRequestError", "code": 400}',
        b'{"error": "no such thing"}',
        b'{"error": {"message": "no such thing"}}',
        b"[" * 20_000,
        b"<html>no such thing",
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_worker_s_refusal_has_openai_s_form(world, backends, body, stream, status):
    backends.plays.append(backends.whole(body, status=f"{status} No", kind="text/html"))
    response, text = await ask(world, stream=stream)
    assert response.status == status
    assert response.content_type == "application/json"
    error = json.loads(text)["error"]
    assert isinstance(error["message"], str)
    assert set(error) >= {"message", "type", "code", "param"}
    assert ("no such thing" in error["message"]) == (b"no such thing" in body and b"<" not in body)
    check_log(world)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1},
        "many",
        {"completion_tokens": "7"},
        {"prompt_tokens": 10**40, "completion_tokens": 1e300},
        [1],
        None,
    ],
)
async def test_absurd_usage_counts_nothing(world, backends, usage):
    body = {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "usage": usage}
    backends.plays.append(backends.whole(body))
    response, _ = await ask(world)
    assert response.status == 200
    assert world.request_lines()[-1]["prompt_tokens"] == 0
    check_log(world)


UNWELL = [case for case in HEADS if case not in {"html", "gzip that is none", "206"}]
UNWELL = UNWELL[: UNWELL.index("gzip")]


@pytest.mark.parametrize("case", UNWELL)
async def test_health_that_is_nonsense_is_no_health(world, backends, case):
    backends.health = list_heads(backends)[case]
    await world.until_usable("w2")
    _, text = await ask(world)
    assert json.loads(text)["choices"][0]["text"] == answer_to("mine")
    backends.health = None
    await world.until_usable("w1", "w2")
    check_log(world)


async def test_who_says_that_it_is_well_and_fails_everything_costs_its_clients_nothing(
    world, backends
):
    """A lie of a health endpoint. It is idle, as it fails at once, and yet draws nobody."""

    async def fail(line, document):
        await line.write(line.backend.whole(b"POISON", status="500 No"))

    liar = backends
    liar.plays, liar.play = [], fail
    for _ in range(60):
        response, text = await ask(world)
        assert (response.status, POISON in text) == (200, False)
    assert len(liar.got) < 12
    check_log(world)
