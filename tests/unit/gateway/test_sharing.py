"""How requests are shared when workers are full: full is not the same as unable to serve."""

import asyncio
from collections import Counter

import pytest

from . import objects
from .test_fleet import World, send
from .test_line import fill, name_found, wait


@pytest.fixture
async def world():
    """Two settled variants and a worker that comes back; each worker takes two requests."""
    world = World()
    world.start("m1", "back")
    world.start("g1", variant="gpu")
    return world


def decide(world, maia, gpu, step):
    ramps = {"maia": {"share": step, "pods": ["back"]}}
    world.pools.put(objects.pool(shares={"maia": maia, "gpu": gpu}, ramps=ramps))


def free(world, full):
    for running in full.values():
        for worker, attempt in running:
            world.fleet.stop_running(worker, attempt)


async def test_a_worker_whose_gate_failed_gets_nothing_while_settled_ones_are_full(world):
    decide(world, "60%", "40%", "0%")
    full = fill(world, "m1", "g1")
    waiting = await wait(world, 2)
    assert not any(task.done() for task in waiting)
    free(world, {"g1": full["g1"]})
    assert [await name_found(task) for task in waiting] == ["g1", "g1"]


@pytest.mark.parametrize("step", [5, 10, 25])
async def test_a_step_holds_however_often_settled_workers_are_full(world, step):
    decide(world, "60%", "40%", f"{step}%")
    sent = Counter()
    for turn in range(200):
        full = fill(world, *[("m1",), ("g1",), (), ("m1", "g1")][turn % 4])
        behind = world.fleet.choose_worker(
            world.fleet.pools["default/chat"], excluded=(), counted=True, tie=0.0
        )
        sent[behind.worker.pod.name if behind else "waits"] += 1
        free(world, full)
    given = sent.total() - sent["waits"]
    assert sent["waits"] > 0
    assert 0.5 * step / 100 * given <= sent["back"] <= step / 100 * given + 1


async def test_where_no_settled_worker_is_healthy_the_returning_ones_take_all(world):
    decide(world, "60%", "40%", "10%")
    for name in ("m1", "g1"):
        world.fleet.workers[f"uid-{name}"].health.note_broken_request(world.clock())
    assert await send(world, 10) == {"back": 10}


async def test_what_a_full_group_leaves_to_others_is_not_made_up_for(world):
    world.start("back", ready=False)
    decide(world, "60%", "40%", "0%")
    full = fill(world, "m1")
    assert await send(world, 30) == {"g1": 30}
    free(world, full)
    sent = await send(world, 10)
    assert (sent["m1"], sent["g1"]) in {(6, 4), (7, 3)}


async def test_a_settled_group_without_a_share_takes_what_others_have_no_room_for(world):
    decide(world, "100%", "0%", "10%")
    fill(world, "m1")
    sent = await send(world, 20)
    assert (sent["back"], sent["g1"]) == (1, 19)


async def test_a_retry_finds_the_worker_that_failed_it_rather_than_none(world):
    decide(world, "100%", "0%", "0%")
    world.start("g1", variant="gpu", ready=False)
    retrying = world.exchange()
    retrying.excluded.add("uid-m1")
    assert (await world.find(retrying)).worker.pod.name == "m1"
    pool = world.fleet.pools["default/chat"]
    assert not world.fleet.has_other(pool, retrying.excluded)


async def test_retries_take_no_more_of_a_returning_worker_than_its_step(world):
    decide(world, "100%", "0%", "10%")
    world.start("g1", variant="gpu", ready=False)
    _, attempt = world.run_on("m1")
    sent = Counter()
    for _ in range(20):
        retrying = world.exchange()
        retrying.attempts.append(attempt)
        retrying.excluded.add("uid-m1")
        sent[(await world.find(retrying)).worker.pod.name] += 1
    assert sent == {"back": 1, "m1": 19}


def start(world, choice):
    """Run what was chosen, as the relay does at once."""
    return world.run_on(choice.worker.pod.name)


async def test_who_waits_is_woken_when_a_dispatch_makes_returning_workers_due(world):
    decide(world, "100%", "0%", "50%")
    world.start("g1", variant="gpu", ready=False)
    pool = world.fleet.pools["default/chat"]
    fill(world, "m1")
    start(world, await world.find())  # the returning worker has its half, and more
    [waiting] = await wait(world)
    for _ in range(2):
        pool.window.add("maia", world.clock())
    world.run_on("m1")
    assert await name_found(waiting) == "back"


async def test_who_waits_is_woken_when_a_returning_worker_is_due_by_time(world):
    decide(world, "100%", "0%", "10%")
    world.start("g1", variant="gpu", ready=False)
    pool = world.fleet.pools["default/chat"]
    fill(world, "m1")
    await world.find()  # from here on these rules hold
    for _ in range(5):
        pool.window.add("maia (returning)", world.clock())
    for _ in range(50):
        pool.window.add("maia", world.clock())
    world.clock.now += 9.9
    [waiting] = await wait(world)
    world.clock.now += 0.2  # what is beyond the last fifty is forgotten
    async with asyncio.timeout(2.0):
        assert (await waiting).worker.pod.name == "back"


@pytest.mark.parametrize("how", ["removed", "doubted"])
async def test_who_waits_is_woken_when_the_last_settled_worker_is_out(world, how):
    decide(world, "100%", "0%", "0%")
    world.start("g1", variant="gpu", ready=False)
    fill(world, "m1")
    [waiting] = await wait(world)
    if how == "removed":
        world.workers.remove(objects.worker("m1"))
    else:
        world.fleet.doubt_worker(world.fleet.workers["uid-m1"])
    assert await name_found(waiting) == "back"


async def test_places_that_returning_workers_may_not_give_wake_nobody(world):
    decide(world, "60%", "40%", "0%")
    fill(world, "m1", "g1")
    await wait(world, 3)
    pool = world.fleet.pools["default/chat"]
    before = list(pool.waiters)
    world.fleet.wake_waiters(pool)
    await asyncio.sleep(0)
    assert list(pool.waiters) == before
