"""Who waits in line is woken by whatever makes a place for it, in turn, and by nothing else."""

import asyncio

import pytest

from . import objects
from .test_fleet import World


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
