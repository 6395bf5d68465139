"""Workers that answer nonsense: another one answers, or an error says so; none of it gets out."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json

import pytest

from ..unit.gateway.gatewayworld import GatewayWorld, settings
from .nonsense import (
    DONE,
    END,
    GOOD,
    POISON,
    UNTOLD,
    endless,
    list_endings,
    list_events,
    list_heads,
    list_wholes,
)
from .rawbackend import RawBackend, answer_to, chunk, render, token

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
