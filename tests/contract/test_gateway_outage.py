"""The gateway while the API server is away: it serves on, wrongs nobody, and recovers by itself."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
from contextlib import asynccontextmanager

import pytest

from ..unit.gateway import objects
from ..unit.gateway.fakekube import POOLS
from ..unit.gateway.gatewayworld import usable
from ..unit.gateway.polling import until


@asynccontextmanager
async def away(world):
    """Take the API server away for a block; the gateway knows it when the block begins."""
    world.kube.fail_status = 503
    world.kube.breaks += 1
    await until(lambda: not any(watch.connected for watch in watches(world)))
    yield
    world.kube.fail_status = 0
    await until(lambda: all(watch.connected for watch in watches(world)))


def watches(world):
    return world.gateway._source.watches


async def ask_all(world, count=12):
    """Return who answered how often; every request must be answered."""
    by = {}
    for _ in range(count):
        status, headers, _ = await world.ask()
        assert status == 200
        by[headers["x-sluice-worker"]] = by.get(headers["x-sluice-worker"], 0) + 1
    return by


async def rest(world, periods=8):
    """Let probes pass."""
    await asyncio.sleep(periods * world.settings.probing.period)


async def add_unready(world, name, **more):
    """Add a worker that its kubelet does not call ready, and wait until the gateway knows it."""
    worker = await world.add_worker(name, start=False)
    await world.publish(worker, ready=False, **more)
    await until(lambda: worker.uid in world.gateway.fleet.workers)
    return worker


async def test_a_pod_that_was_starting_is_taken_by_its_own_word(world):
    await usable(world, "old")
    young = await add_unready(world, "young")
    young.warm = 503
    async with away(world):
        await rest(world)
        await world.until_usable("old")
        young.warm = 200
        await world.until_usable("old", "young")
        assert set(await ask_all(world)) == {"old", "young"}
    # What the list says of it is what it said before: no reason to take it out and in again.
    await rest(world)
    await world.until_usable("old", "young")
    await world.publish(young)
    await rest(world)
    await world.until_usable("old", "young")
    assert [line["pod"] for line in world.lines if line["event"].endswith("its own word")] == [
        "young"
    ]


async def test_a_pod_that_is_not_ready_is_not_asked_while_the_api_server_is_there(world):
    await usable(world, "old")
    await add_unready(world, "young")
    await rest(world)
    assert set(await ask_all(world)) == {"old"}


@pytest.mark.parametrize("uid", ["uid-somebody-else", ""])
async def test_who_answers_under_another_uid_or_none_is_not_believed(world, uid):
    await usable(world, "old")
    young = await add_unready(world, "young")
    young.uid = uid
    async with away(world):
        await rest(world)
        assert set(await ask_all(world)) == {"old"}
        assert young.got == []


async def test_a_pod_that_was_deleted_is_not_asked(world):
    await usable(world, "old")
    await add_unready(world, "gone", deleting=True)
    async with away(world):
        await rest(world)
        assert set(await ask_all(world)) == {"old"}


async def test_a_container_that_begins_anew_is_used_again_when_it_is_ready(world):
    one, two = await usable(world, "one", "two")
    async with away(world):
        await two.kill()
        await world.until_usable("one")
        two.warm = 503
        await two.start()
        await rest(world)
        await world.until_usable("one")
        assert set(await ask_all(world)) == {"one"}
        two.warm = 200
        await world.until_usable("one", "two")
        assert set(await ask_all(world)) == {"one", "two"}
    assert one.got
    assert two.got


async def test_an_address_that_somebody_else_has_now_gets_nothing(world):
    _, two = await usable(world, "one", "two")
    got = len(two.got)
    async with away(world):
        two.uid = ""  # a server that knows nothing of uids
        await world.until_usable("one")
        two.uid = "uid-three"
        await rest(world)
        assert set(await ask_all(world)) == {"one"}
    assert len(two.got) == got


async def test_the_last_plan_holds_and_a_quarantine_too(world):
    await usable(world, "one", "two=gpu", "three=gpu")
    shares = {"maia": "0%", "gpu": "100%"}
    await world.kube.put(POOLS, objects.pool(shares=shares, quarantined=["three"]))
    await world.until_usable("one", "two")
    async with away(world):
        await rest(world)
        assert set(await ask_all(world)) == {"two"}
    await rest(world)
    assert set(await ask_all(world)) == {"two"}


async def test_what_was_deleted_meanwhile_is_gone_when_the_api_server_is_back(world):
    await usable(world, "one", "two")
    raw = await world.publish(world.workers["two"])
    async with away(world):
        await world.kube.delete("/api/v1/pods", raw)
        await rest(world)
        assert set(await ask_all(world)) == {"one", "two"}  # it answers: nothing speaks against it
    await world.until_usable("one")
    assert set(await ask_all(world)) == {"one"}
    await world.add_worker("three")
    await world.until_usable("one", "three")
