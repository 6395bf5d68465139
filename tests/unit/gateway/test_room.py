"""Batch work fills a pool, but for the places that urgent requests lately wanted."""

import asyncio
import json
from dataclasses import replace

import pytest

from sluice_gateway.calls import parse_call
from sluice_gateway.goals import Asked, RequestClass
from sluice_gateway.line import Line, Waiter
from sluice_gateway.room import Room

from . import objects
from .simworld import draw_requests, find_capacity, find_met, simulate
from .test_fleet import World

CLASSES = ("maia", "maia", "gpu", "gpu")
SECONDS = 20


class Asking:
    """Requests of a world that are sent where they find a place."""

    def __init__(self, world):
        self._world = world
        self._sent = {}

    def _begin(self, kind):
        exchange = self._world.exchange()
        exchange.arrival = self._world.clock()
        body = json.dumps({"model": "compact", "prompt": "x", "stream": True}).encode()
        exchange.asked = Asked(kind=kind)
        call = parse_call("/v1/completions", body, seed=1)
        self._world.admission.prepare(exchange, call, self._world.fleet.pools["default/chat"])
        return exchange

    async def ask(self, kind):
        """Return the worker that a request was sent to, and what runs there."""
        choice = await self._world.find(self._begin(kind))
        return self._world.run_on(choice.worker.pod.name, need=choice.need)

    async def ask_all(self, kind, most):
        """Ask until somebody has to wait; return who was sent, and who waits."""
        sent = []
        for _ in range(most):
            task = asyncio.create_task(self.ask(kind))
            done, _ = await asyncio.wait({task}, timeout=0.05)
            if not done:
                return sent, task
            sent.append(task.result())
        return sent, None


@pytest.fixture
async def world():
    world = World()
    world.pools.put(objects.pool(ttft="30s"))
    world.start("w1", "w2")
    world.asking = Asking(world)
    return world


async def test_where_nobody_is_urgent_batch_work_gets_all_places(world):
    sent, waiting = await world.asking.ask_all(RequestClass.BATCH, most=5)
    assert len(sent) == 4  # two on each
    waiting.cancel()


@pytest.mark.parametrize("urgent", [RequestClass.INTERACTIVE, RequestClass.STANDARD])
async def test_where_somebody_was_urgent_there_is_room_for_the_next(world, urgent):
    world.fleet.stop_running(*await world.asking.ask(urgent))
    sent, waiting = await world.asking.ask_all(RequestClass.BATCH, most=5)
    assert len(sent) == 2
    passed, another = await world.asking.ask_all(urgent, most=3)  # though batch work waits
    assert len(passed) == 2
    world.fleet.stop_running(*passed[0])
    await asyncio.wait_for(another, 1.0)
    assert not waiting.done()
    world.fleet.stop_running(*sent[0])
    await asyncio.wait_for(waiting, 1.0)


async def test_a_wish_for_room_is_forgotten(world):
    world.fleet.stop_running(*await world.asking.ask(RequestClass.INTERACTIVE))
    world.clock.now += 120.0
    sent, waiting = await world.asking.ask_all(RequestClass.BATCH, most=5)
    assert len(sent) == 4
    waiting.cancel()


async def test_a_request_that_nobody_could_serve_leaves_no_lasting_wish(world):
    world.fleet.note_urgency(world.fleet.pools["default/chat"], 128 * 64)
    world.clock.now += 150.0
    sent, waiting = await world.asking.ask_all(RequestClass.BATCH, most=5)
    assert len(sent) == 4
    waiting.cancel()


async def test_a_batch_stream_that_has_moved_is_batch_work_all_the_same(world):
    worker, attempt = await world.asking.ask(RequestClass.BATCH)
    goal = replace(attempt.need.goal, kind=RequestClass.INTERACTIVE)
    world.fleet.stop_running(worker, attempt)
    attempt.need = replace(attempt.need, goal=goal)  # as what is left of it has it
    world.fleet.start_running(worker, attempt)
    assert worker.batch == 1


async def test_a_place_that_batch_work_may_not_have_any_more_is_not_left_free(world):
    pool = world.fleet.pools["default/chat"]
    sent, waiting = await world.asking.ask_all(RequestClass.BATCH, most=5)
    world.fleet.stop_running(*sent[0])
    assert pool.woken == 1  # the waiting one, which has not looked
    urgent = asyncio.create_task(world.asking.ask(RequestClass.INTERACTIVE))
    await asyncio.wait_for(urgent, 0.3)  # sooner than who waits looks by itself
    waiting.cancel()


def test_batch_work_always_has_a_place():
    room = Room()
    room.note(1000, now=0.0)
    assert room.find_batch_most(9, workers=2, now=0.0) == 1
    assert room.find_batch_most(9, workers=0, now=0.0) == 9


def test_the_place_that_waits_in_a_worker_is_no_room():
    room = Room()
    room.note(1, now=0.0)
    assert room.find_batch_most(9, workers=4, now=0.0) == 7


def test_who_is_urgent_is_next_where_only_such_have_room():
    line = Line()
    batch, moving, urgent = (
        Waiter(wake=list, turn_away=list, kind=kind, moving=moving)
        for kind, moving in (
            (RequestClass.BATCH, False),
            (RequestClass.BATCH, True),
            (RequestClass.STANDARD, False),
        )
    )
    for waiter in (batch, moving, urgent):
        line.put(waiter)
    assert line.urgent_sequences == 2
    assert line.count_before(RequestClass.STANDARD, "") == 2
    taken = [line.pop(urgent=True) for _ in range(3)]
    assert taken == [moving, urgent, None]
    assert (len(line), line.pop()) == (1, batch)


@pytest.fixture(scope="module")
def capacity():
    return find_capacity(CLASSES)


def mix(capacity, batch, interactive, longer=1):
    """Return batch and interactive requests; answers of the former may be `longer`."""
    asks = []
    for kind, load, seed in (
        (RequestClass.BATCH, batch, 1),
        (RequestClass.INTERACTIVE, interactive, 2),
    ):
        asks += draw_requests(load * capacity, SECONDS, seed=seed, asked=Asked(kind=kind))
    for ask in asks:
        if ask.asked.kind is RequestClass.BATCH:
            ask.output, ask.most = ask.output * longer, ask.most * longer
    return sorted(asks, key=lambda ask: ask.at)


def test_batch_work_for_twice_the_pool_costs_interactive_requests_next_to_nothing(capacity):
    results = simulate(mix(capacity, batch=2.0, interactive=0.3), CLASSES)[0]
    urgent = [result for result in results if result.kind == "interactive"]
    assert find_met(urgent) >= 0.95
    batch = [result for result in results if result.kind == "batch" and result.status == 200]
    assert len(batch) >= 0.5 * capacity * SECONDS


@pytest.mark.parametrize("interactive", [0.02, 0.05])
def test_few_interactive_requests_beside_long_batch_answers_have_room_too(capacity, interactive):
    results = simulate(mix(capacity, 0.2, interactive, longer=20), CLASSES)[0]
    urgent = [result for result in results if result.kind == "interactive"]
    assert find_met(urgent[1:]) >= 0.9  # nobody knew that the first would come
