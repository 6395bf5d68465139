"""Which workers are silent, as the sweep sees it; the attempts are real, the clock is not."""

import asyncio

import pytest
import structlog

from sluice_gateway.attempts import Attempt
from sluice_gateway.health import Verdict
from sluice_gateway.pace import Mean, Phase
from sluice_gateway.settings import Patience
from sluice_gateway.sweep import Sweep

from . import objects
from .test_fleet import World


@pytest.fixture
async def world():
    world = World()
    world.pools.put(objects.pool())
    world.start("m1", "m2")
    world.start("g1", variant="gpu")
    world.probed = []
    world.sweep = Sweep(
        world.fleet,
        patience=Patience(),
        probe_now=lambda worker: world.probed.append(worker.pod.name),
        clock=world.clock,
        log=structlog.wrap_logger(None, processors=[world.capture]),
    )
    return world


def run(world, name, phase=Phase.NEXT):
    worker = world.fleet.workers[f"uid-{name}"]
    worker.pace.token = Mean(0.04, 9)
    now = world.clock()
    attempt = Attempt(
        worker=worker,
        reason="",
        dispatched=now,
        dispatched_at=now,
        pending_since=now,
        phase=phase,
        streaming=True,
        size=100,
        waiting_since=now,
    )
    world.fleet.start_running(worker, attempt)
    return worker, attempt


def look(world, *, after, slept=0.0):
    world.clock.now += after
    world.sweep.sweep(world.clock(), slept=slept)


async def test_a_silent_worker_is_suspect_and_probed_and_all_its_requests_end(world):
    silent, decoding = run(world, "m1")
    _, queued = run(world, "m1", Phase.FIRST)
    other, _ = run(world, "g1")
    look(world, after=0.9)
    assert silent.health.verdict is Verdict.LIVE
    world.fleet.note_progress(other)
    look(world, after=0.2)
    assert silent.health.verdict is Verdict.SUSPECT
    assert other.health.verdict is Verdict.LIVE
    assert world.probed == ["m1"]
    assert "nothing came of the worker for 1.1 s" in decoding.silent_why
    assert queued.silent_why
    world.fleet.note_answer(silent)  # its health endpoint lies
    assert world.usable() == {"m2", "g1"}


async def test_when_nobody_speaks_all_get_twice_the_time(world):
    workers = [run(world, name)[0] for name in ("m1", "m2", "g1")]
    look(world, after=1.5)
    assert {worker.health.verdict for worker in workers} == {Verdict.LIVE}
    look(world, after=0.6)
    assert {worker.health.verdict for worker in workers} == {Verdict.SUSPECT}


async def test_a_worker_that_nobody_can_compare_is_judged_alone(world):
    worker, _ = run(world, "m1")
    look(world, after=1.1)
    assert worker.health.verdict is Verdict.SUSPECT


async def test_our_own_sleep_is_not_held_against_workers(world):
    worker, _ = run(world, "m1")
    look(world, after=5.0, slept=4.75)
    look(world, after=0.25)
    assert worker.health.verdict is Verdict.LIVE
    look(world, after=1.0)
    assert worker.health.verdict is Verdict.SUSPECT


async def test_a_doubted_worker_is_tried_by_one_request_at_a_time(world):
    worker, attempt = run(world, "m1")
    look(world, after=1.1)
    world.fleet.stop_running(worker, attempt)
    assert world.usable() == {"m2", "g1"}
    world.clock.now += 10
    assert world.usable() == {"m1", "m2", "g1"}
    run(world, "m1", Phase.FIRST)
    assert world.usable() == {"m2", "g1"}
    world.fleet.note_progress(worker)
    assert world.usable() == {"m1", "m2", "g1"}
    look(world, after=0.25)
    assert [line["event"] for line in world.lines] == ["worker silent", "worker serves again"]


async def test_where_all_are_silent_the_first_that_may_is_tried_and_who_waits_is_woken(world):
    for name in ("m1", "m2", "g1"):
        worker, attempt = run(world, name)
        world.fleet.doubt_worker(worker)
        world.fleet.stop_running(worker, attempt)
    finding = asyncio.create_task(world.find())
    await world.wait_until_waiting(1)
    world.clock.now += 2.1
    pool = world.fleet.pools["default/chat"]
    world.fleet.wake_waiters(pool)
    assert (await finding).worker.health.doubted
    quarantined = objects.pool(shares={"maia": "100%"}, quarantined=["m1", "m2", "g1"])
    world.pools.put(quarantined)
    assert not world.fleet.has_other(pool, ())


async def test_a_client_that_reads_slowly_keeps_no_doubted_worker_from_its_trial(world):
    silent, decoding = run(world, "m1")
    _, slow = run(world, "m1", Phase.CLIENT)
    look(world, after=1.2)
    assert decoding.silent_why
    assert not slow.silent_why
    world.fleet.stop_running(silent, decoding)
    assert "m1" not in world.usable()
    world.clock.now += Patience().hold_first
    assert "m1" in world.usable()
    _, trial = run(world, "m1", Phase.FIRST)
    assert "m1" not in world.usable()
    world.fleet.stop_running(silent, trial)
    slow.phase = Phase.NEXT  # its client has caught up: now it is the trial
    assert "m1" not in world.usable()
