"""How many nodes of a class may be acted on, when some of them wait for a person."""

from dataclasses import replace

import pytest

from sluice.decide.breaker import open_breaker, remember_storms
from sluice.decide.limits import LATCHED_ASIDE
from sluice.model.memory import NodeHealth, NodeState

from .samples import pool_spec
from .world import World

FAILED, LATCHED = NodeState.FAILED, NodeState.LATCHED


@pytest.fixture
def world():
    world = World()
    world.nodes = {f"maia-{i}": "maia" for i in range(10)}
    world.leases = dict.fromkeys(world.nodes, world.now)
    return world


def out(world, state, numbers, ago):
    """Return the health of some nodes that have been out for `ago` seconds."""
    since = world.now - ago
    return {f"maia-{i}": NodeHealth(state, since, "why", failed=since) for i in numbers}


def names(numbers):
    return {f"maia-{i}" for i in numbers}


def occupy(snapshot, numbers):
    """Return a snapshot with a worker on each of some nodes, bypassed and not deleted."""
    world = World()
    world.run(20)
    worker = next(iter(world.workers.values()))
    (pool,) = snapshot.pools
    bound = tuple(replace(worker, uid=f"w-{i}", node=f"maia-{i}") for i in numbers)
    return replace(snapshot, pools=(replace(pool, workers=bound),))


def test_a_node_latched_long_ago_does_not_hold_back_the_next_failure(world):
    nodes = out(world, LATCHED, range(5), 2 * LATCHED_ASIDE) | out(world, FAILED, [5, 6], 10)
    allowed, held = open_breaker(world.snapshot(), nodes, "maia")
    assert (allowed, held) == (names([5, 6]), "")
    assert remember_storms(world.snapshot(), nodes, {}) == {}


def test_what_is_left_of_the_class_is_the_measure_once_nodes_are_set_aside(world):
    nodes = out(world, LATCHED, range(5), 2 * LATCHED_ASIDE) | out(world, FAILED, [5, 6, 7], 10)
    allowed, held = open_breaker(world.snapshot(), nodes, "maia")
    assert allowed == names([5, 6])
    assert held.startswith(
        "3 of 5 nodes of class maia (besides maia-0, maia-1, maia-2, maia-3, maia-4, latched"
        " before) are out, maxUnhealthy allows 2: workers on maia-7 are not deleted"
    )
    assert "maia" in remember_storms(world.snapshot(), nodes, {})


def test_nodes_latched_a_moment_ago_count_like_any_other(world):
    nodes = out(world, LATCHED, range(5), 60) | out(world, FAILED, [5], 10)
    allowed, held = open_breaker(world.snapshot(), nodes, "maia")
    assert allowed == names(range(5))
    assert "6 of 10 nodes" in held


def test_a_fault_that_latched_the_fleet_at_once_empties_no_more_of_it_ever(world):
    # Five were acted on, and are empty; the breaker holds back the other five.
    nodes = out(world, LATCHED, range(10), 100 * LATCHED_ASIDE)
    seen = occupy(world.snapshot(), range(5, 10))
    allowed, held = open_breaker(seen, nodes, "maia")
    assert allowed == names(range(5))
    assert "10 of 10 nodes of class maia are out, maxUnhealthy allows 5" in held


def test_a_fault_that_latches_one_node_after_the_other_ends_at_a_rest_of_the_fleet(world):
    emptied = set()
    nodes = {}
    for number in range(10):
        nodes |= out(world, LATCHED, [number], 0)
        allowed, _ = open_breaker(occupy(world.snapshot(), {number} - emptied), nodes, "maia")
        emptied |= {number} & {int(name.removeprefix("maia-")) for name in allowed}
        world.now += 2 * LATCHED_ASIDE
    assert emptied == set(range(7))


def test_what_a_hand_took_out_is_known_and_counts_no_longer_once_it_is_empty(world):
    nodes = out(world, LATCHED, range(5), 60) | out(world, FAILED, [5], 10)
    world.banned = dict.fromkeys(names(range(5)), "new firmware")
    seen = world.snapshot()
    assert open_breaker(seen, nodes, "maia") == (names([5]), "")
    allowed, held = open_breaker(occupy(seen, range(5)), nodes, "maia")
    assert (allowed, "6 of 10 nodes" in held) == (names(range(5)), True)


def test_of_two_nodes_one_may_fail_while_the_other_waits_for_a_person():
    world = World(specs={"chat": pool_spec()})
    world.rate["chat"] = 4.0
    world.run(80)
    world.wrong = {"maia-0"}
    world.run(10)
    assert world.marks["maia-0"].state == "Latched"
    world.tick = 60.0
    world.run(LATCHED_ASIDE)
    world.tick = 2.0
    world.run(20)
    assert "maia-0" in world.chat().fallback
    world.dead = {"maia-1"}
    world.run(10)
    deleted = {
        world.workers[d.uid].node
        for _, p in world.history
        for d in p.pools[world.chat().key].deletes
        if d.uid in world.workers
    }
    assert "maia-1" in deleted
    assert "quarantined: maia-0, maia-1" in world.chat().fallback
    assert "BreakerOpen" not in {p.finding for p in world.chat().problems}
