"""Streams of workers that are none of ours, or that answer nonsense when they are to go on."""

# ruff: noqa: TID252 - the helpers live with the unit tests; tests are no installed package

from contextlib import AsyncExitStack

import pytest

from ..unit.gateway.polling import until
from .foreignbackend import CONTINUE, ForeignBackend
from .streamcases import CASES, TEXT, Stream
from .test_gateway_streams import (
    check_same,
    checkpoint,
    hold,
    release,
    start,
    tell_undisturbed,
    world,
)

__all__ = ["checkpoint", "start", "world"]


async def begin_and_kill(world, start, backend, chosen):
    """Return what streams are told whose worker is killed; `backend` is asked first to go on."""
    (worker,) = [start.processes["w1"]]
    expected = await tell_undisturbed(world, chosen)
    await world.publish(backend)
    await world.until_usable(*start.processes, backend.name)
    others = [name for name in start.processes if name != "w1"]
    hold(world, backend.name, *others)
    streams = {name: Stream(world, *CASES[name]) for name in chosen}
    for stream in streams.values():
        await stream.until(5)
    release(world, backend.name)
    worker.process.kill()
    await until(lambda: backend.asked)
    release(world, *others)
    return expected, {name: await stream.end() for name, stream in streams.items()}


async def test_a_foreign_worker_goes_on_and_that_is_said(world, start):
    await start("w1")
    (behind,) = await start("w2", publish=False)
    chosen = ("greedy", "greedy chat of two", "chat with scores")
    async with ForeignBackend("f1", behind) as backend:
        expected, told = await begin_and_kill(world, start, backend, chosen)
    assert backend.asked.count(CONTINUE) <= len(chosen)  # until it is known
    assert backend.asked.count(TEXT) >= len(chosen)
    for name in chosen:
        assert [mark["continuation"] for mark in told[name].marks] == ["approximate"]
        for index in expected[name].choices:
            # What stands behind it computes the same, so that here the text must be the same, too.
            assert told[name].join_text(index) == expected[name].join_text(index)
        assert len(told[name].heads) == 1
        assert told[name].rest[-1] == "[DONE]"
    (usage, _) = told["greedy chat of two"].rest
    assert usage["usage"] == expected["greedy chat of two"].rest[0]["usage"]
    scores = [said["choices"][0]["logprobs"] for said in told["chat with scores"].choices[0]]
    assert all(len(one["content"][0]["top_logprobs"]) >= 2 for one in scores if one)


@pytest.mark.parametrize("answer", ["data: {nonsense\n\n", "data: [DONE]\n\n", "no events", 400])
async def test_nonsense_instead_of_a_continuation_is_made_up_for_elsewhere(world, start, answer):
    whole = await start("w1", "w3")
    async with ForeignBackend("f1", whole[1], answers=answer) as backend:
        expected, told = await begin_and_kill(world, start, backend, ["sampled, with usage"])
    check_same(told["sampled, with usage"], expected["sampled, with usage"])


async def test_a_stream_that_ends_its_workers_does_not_end_all_of_them(world, start):
    """Its first worker gave tokens, so it counts as killed by somebody else."""
    (worker,) = await start("w1")
    (behind,) = await start("w2", publish=False)
    async with AsyncExitStack() as stack:
        breakers = [
            await stack.enter_async_context(ForeignBackend(f"f{n}", behind, answers=": bye\n\n"))
            for n in range(5)
        ]
        for breaker in breakers:
            await world.publish(breaker)
        await world.until_usable("w1", *(breaker.name for breaker in breakers))
        hold(world, *(breaker.name for breaker in breakers))
        stream = Stream(world, *CASES["sampled, with usage"])
        await stream.until(5)
        release(world, *(breaker.name for breaker in breakers))
        worker.process.kill()
        told = await stream.end()
    assert told.rest[-1]["error"]["code"] == "workers_lost"
    assert sum(bool(breaker.asked) for breaker in breakers) == 3


async def test_a_stream_without_token_ids_ends_with_an_error_event(world, start):
    (worker,) = await start("w1", publish=False)
    async with ForeignBackend("f1", worker, forgets=["return_token_ids"]) as backend:
        await world.publish(backend)
        await world.until_usable("f1")
        stream = Stream(world, *CASES["sampled, with usage"])
        await stream.until(5)
        worker.process.kill()
        told = await stream.end()
    assert told.rest[-1]["error"]["code"] == "worker_lost"
    assert told.count >= 5
