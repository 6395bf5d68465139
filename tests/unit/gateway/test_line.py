"""Who waits in line is woken by whatever makes a place for it, in turn, and by nothing else."""

import asyncio
import json

import pytest

from sluice_gateway.answers import Refusal, answer_unavailable
from sluice_gateway.calls import parse_call
from sluice_gateway.forecast import Need
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.line import Line, Waiter

from . import objects
from .test_fleet import World

LAST = answer_unavailable("lost", code="worker_lost", retry_after=1)


@pytest.fixture
async def world():
    world = World()
    world.pools.put(objects.pool())
    return world


def fill(world, *names):
    """Let workers be full (two requests in this world); return what runs on each."""
    return {name: [world.run_on(name), world.run_on(name)] for name in names}


async def wait(world, count=1):
    """Return so many requests that wait in line."""
    pool = world.fleet.pools["default/chat"]
    tasks = []
    for _ in range(count):
        before = pool.waiting
        tasks.append(asyncio.create_task(world.find()))
        await world.wait_until_waiting(before + 1)
    return tasks


async def name_found(task):
    """Return the pod that a waiting request gets at once."""
    async with asyncio.timeout(0.2):
        return (await task).worker.pod.name


async def doubt(world, name):
    worker, attempt = world.run_on(name)
    world.fleet.doubt_worker(worker)
    world.fleet.stop_running(worker, attempt)
    return worker


async def test_a_doubted_worker_is_tried_as_soon_as_the_last_healthy_one_misses_a_probe(world):
    world.start("doubted", "full")
    fill(world, "full")
    await doubt(world, "doubted")
    world.clock.now += 3.0  # past its early trial, which is for when nobody is healthy
    [waiting] = await wait(world)
    last = world.fleet.workers["uid-full"]
    last.health.note_missed_probe(started=world.clock())
    world.fleet.note_verdict(last)
    assert await name_found(waiting) == "doubted"


async def test_those_woken_and_yet_to_look_have_a_claim_on_their_places(world):
    world.start("w1")
    full = fill(world, "w1")
    tasks = await wait(world, 3)
    pool = world.fleet.pools["default/chat"]
    world.fleet.stop_running(*full["w1"][0])
    world.fleet.wake_waiters(pool)
    assert (len(pool.waiters), pool.woken) == (2, 1)
    assert await name_found(tasks[0]) == "w1"
    assert (len(pool.waiters), pool.woken) == (2, 0)


async def test_the_claim_of_one_who_leaves_is_given_up(world):
    world.start("w1")
    full = fill(world, "w1")
    first, second = await wait(world, 2)
    world.fleet.stop_running(*full["w1"][0])
    first.cancel()
    assert await name_found(second) == "w1"
    assert world.fleet.pools["default/chat"].woken == 0


async def test_who_was_woken_and_finds_nothing_keeps_the_head_of_the_line_and_sleeps(world):
    world.start("w1")
    full = fill(world, "w1")
    tasks = await wait(world, 2)
    pool = world.fleet.pools["default/chat"]
    _, second = pool.waiters
    world.fleet.stop_running(*full["w1"][0])
    _, taken = world.run_on("w1")  # somebody else was quicker
    for _ in range(5):
        await asyncio.sleep(0)
    head = next(iter(pool.waiters))
    assert list(pool.waiters) == [head, second]
    for _ in range(5):
        await asyncio.sleep(0)
    assert list(pool.waiters) == [head, second]
    world.fleet.stop_running(world.fleet.workers["uid-w1"], taken)
    assert await name_found(tasks[0]) == "w1"


def waiter(kind=RequestClass.STANDARD, key="", **more):
    return Waiter(wake=lambda: None, turn_away=lambda: None, kind=kind, key=key, **more)


def line_of(*waiters):
    line = Line()
    for one in waiters:
        line.put(one)
    return line


def drain(line):
    return [line.pop() for _ in range(len(line))]


def test_streams_that_move_then_classes_by_urgency():
    batch, standard = waiter(RequestClass.BATCH), waiter()
    urgent, moving = waiter(RequestClass.INTERACTIVE), waiter(RequestClass.BATCH, moving=True)
    line = line_of(batch, standard, urgent, moving)
    assert list(line) == [moving, urgent, standard, batch]
    assert line.urgent_sequences == 3
    assert drain(line) == [moving, urgent, standard, batch]
    assert (len(line), line.urgent_sequences) == (0, 0)


@pytest.mark.parametrize("moving", [False, True])
def test_who_was_woken_in_vain_has_its_old_place(moving):
    ours = [waiter(key="a", cost=10.0, moving=moving) for _ in range(3)]
    others = [waiter(key="b", cost=10.0, moving=moving) for _ in range(3)]
    line = line_of(*(one for pair in zip(ours, others, strict=True) for one in pair))
    before = list(line)
    for woken in [line.pop() for _ in range(4)]:
        line.put(woken)
    assert list(line) == before
    assert drain(line) == before


async def test_requests_of_several_choices_are_served_as_they_come(world):
    """A place that is free for one of them is no place for each of those that wait."""
    world.start("w1")
    running = world.run_on("w1", need=need_of(2))
    pool = world.fleet.pools["default/chat"]
    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(world.find(ask_for(world, 2))))
        await world.wait_until_waiting(number + 1)
    for number, task in enumerate(tasks):
        assert [one.done() for one in tasks].count(True) == number
        world.fleet.stop_running(*running)
        assert await name_found(task) == "w1"
        running = world.run_on("w1", need=need_of(2))
        assert (pool.woken, pool.claimed) == (0, 0)


def need_of(sequences):
    goal = Goal(RequestClass.STANDARD, ttft=1.0, tpot=0.1)
    return Need(prompt=8, output=8, goal=goal, ttft=1.0, choices=sequences)


def ask_for(world, sequences):
    """Return a request of so many choices."""
    body = {"model": "compact", "prompt": "x", "n": sequences}
    exchange = world.exchange()
    exchange.arrival = world.clock()
    call = parse_call("/v1/completions", json.dumps(body).encode(), seed=1)
    world.admission.prepare(exchange, call, world.fleet.pools["default/chat"])
    return exchange


def test_within_a_key_who_is_due_first_comes_first():
    late, soon = waiter(due=9.0), waiter(due=3.0)
    assert drain(line_of(late, soon)) == [soon, late]


def test_keys_take_turns_by_what_they_ask_for():
    large = [waiter(key="large", cost=30.0) for _ in range(3)]
    small = [waiter(key="small", cost=10.0) for _ in range(6)]
    line = line_of(*large, *small)
    keys = [one.key for one in drain(line)]
    assert keys[:4].count("small") == 3
    assert keys[:8].count("small") == 6


def test_a_key_that_comes_again_owes_what_it_had():
    line = line_of(waiter(key="a", cost=50.0), waiter(key="b", cost=10.0), waiter(key="b"))
    assert [line.pop().key, line.pop().key] == ["a", "b"]
    line.put(waiter(key="a"))
    assert [one.key for one in drain(line)] == ["b", "a"]


def test_the_least_urgent_do_not_starve():
    line = line_of(*(waiter(RequestClass.INTERACTIVE) for _ in range(40)))
    line.put(waiter(RequestClass.BATCH))
    kinds = [one.kind for one in drain(line)]
    assert 5 < kinds.index(RequestClass.BATCH) < 20


def test_who_makes_room_is_the_least_urgent_or_of_the_key_with_the_most():
    batch, flood = waiter(RequestClass.BATCH), [waiter(key="flood", due=n) for n in range(3)]
    line = line_of(batch, *flood)
    assert line.find_less_urgent(RequestClass.STANDARD) is batch
    assert line.find_less_urgent(RequestClass.BATCH) is None
    assert line.find_greedy(RequestClass.STANDARD, "modest") is flood[-1]
    assert line.find_greedy(RequestClass.STANDARD, "flood") is None
    line.remove(flood[-1])
    line.remove(flood[-2])
    assert line.find_greedy(RequestClass.STANDARD, "modest") is None
    assert list(line) == [flood[0], batch]


async def test_a_full_line_makes_room_for_a_key_that_has_none_in_it(world):
    flood = [asyncio.create_task(world.find(by("flood", world))) for _ in range(3)]
    await world.wait_until_waiting(3)
    modest = asyncio.create_task(world.find(by("modest", world)))
    with pytest.raises(Refusal) as caught:
        await flood[-1]
    assert (caught.value.answer.status, caught.value.outcome) == (429, "queue_full")
    world.start("w1", "w2")
    names = [await name_found(task) for task in (*flood[:-1], modest)]
    assert len(names) == 3
    assert world.fleet.pools["default/chat"].waiting == 0


def by(key, world):
    exchange = world.exchange()
    exchange.key = key
    return exchange


async def test_nobody_passes_those_who_wait_but_a_stream_that_moves(world):
    world.start("w1")
    full = fill(world, "w1")
    [waiting] = await wait(world)
    moving = asyncio.create_task(
        world.admission.find_worker(world.exchange(), world.admission.find_pool("compact"), LAST)
    )
    await world.wait_until_waiting(2)
    world.fleet.stop_running(*full["w1"][0])
    assert await name_found(moving) == "w1"
    world.run_on("w1")
    assert not waiting.done()
    world.fleet.stop_running(*full["w1"][1])
    assert await name_found(waiting) == "w1"


async def test_a_strict_deadline_is_an_end_of_waiting_whoever_is_healthy(world):
    exchange = world.exchange()
    exchange.arrival = world.clock()
    exchange.goal = Goal(RequestClass.STANDARD, 0.5, 0.2, strict=True)
    finding = asyncio.create_task(world.find(exchange))
    await world.wait_until_waiting(1)
    world.clock.now += 0.6
    with pytest.raises(Refusal) as caught:
        async with asyncio.timeout(2.0):
            await finding
    assert caught.value.outcome == "no_worker"
