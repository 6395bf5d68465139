"""The document at /signals, from its parts. Its shape is a contract: see tests/contract."""

import json

import pytest

from sluice_gateway.signals import Signals

from .test_fleet import World


@pytest.fixture
def world():
    from . import objects

    world = World()
    world.pools.put(objects.pool())
    world.start("m1")
    world.start("g1", variant="gpu")
    world.signals = Signals(world.fleet, uid="gw", clock=world.clock, started_at=1.5e9)
    return world


def chat(world, window=30):
    return json.loads(json.dumps(world.signals.render(window)))["pools"]["default/chat"]


def finish(world, name, **more):
    told = {"met": True, "tpot": 0.05, "tokens": (10, 20), **more}
    pool = world.fleet.pools["default/chat"]
    world.signals.observe_finish(pool, world.fleet.workers[f"uid-{name}"], **told)


def test_counts_leave_the_window(world):
    pool = world.fleet.pools["default/chat"]
    world.signals.count_request(pool, "arrived")
    finish(world, "m1")
    assert chat(world)["arrived"] == 1
    assert chat(world)["variants"]["maia"]["finished"] == 1
    world.clock.now += 40
    assert chat(world)["arrived"] == 0
    assert chat(world, 60)["arrived"] == 1


def test_finished_requests_are_counted_where_they_ran(world):
    finish(world, "m1")
    finish(world, "m1", met=False, tpot=None)
    finish(world, "g1")
    seen = chat(world)
    assert (seen["finished"], seen["met"]) == (3, 2)
    assert (seen["promptTokens"], seen["outputTokens"]) == (30, 60)
    assert (seen["variants"]["maia"]["finished"], seen["variants"]["maia"]["met"]) == (2, 1)
    assert sum(seen["variants"]["maia"]["tpot"]) == 1
    assert seen["workers"]["uid-g1"]["finished"] == 1


def test_gauges_show_the_present(world):
    worker, attempt = world.run_on("m1")
    attempt.pending_since = world.clock() - 3.5
    world.signals.count_worker(worker, "errors")
    worker.health.note_broken_request(world.clock())
    seen = chat(world)
    assert seen["variants"]["maia"]["inflight"] == 1
    assert seen["variants"]["maia"]["oldestPendingSeconds"] == 3.5
    assert seen["variants"]["gpu"]["oldestPendingSeconds"] == 0.0
    told = seen["workers"]["uid-m1"]
    assert (told["errors"], told["consecutiveFailures"], told["suspect"]) == (1, 1, True)
    world.clock.now += 10
    assert chat(world)["workers"]["uid-m1"]["lastSuccessAgeSeconds"] == 10.0


def test_windows_of_the_departed_are_dropped(world):
    from . import objects

    finish(world, "m1")
    world.workers.remove(objects.worker("m1"))
    world.pools.remove(objects.pool())
    assert world.signals.render(30)["pools"] == {}
    world.pools.put(objects.pool())
    assert chat(world)["finished"] == 0


def test_sequence_and_observed_time_tell_a_restart_from_silence(world):
    world.clock.now += 12
    first = world.signals.render(30)
    world.clock.now += 100
    second = world.signals.render(30)
    assert (first["seq"], second["seq"]) == (1, 2)
    assert (first["observedSeconds"], second["observedSeconds"]) == (12.0, 30.0)
