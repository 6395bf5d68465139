"""Promises that hold also where several things go wrong at once, or an operator starts anew."""

from dataclasses import replace

import pytest

from sluice.decide.breaker import open_breaker
from sluice.decide.limits import LATCHED_ASIDE, PROOF_PATIENCE
from sluice.decide.planner import plan
from sluice.decide.ramp import find_failed_gate
from sluice.model.memory import WorkerState
from sluice.model.snapshot import Distribution, WorkerSignals

from .settled import settle
from .world import World


@pytest.fixture
def world():
    return settle()


def state(world, node="maia-0"):
    health = world.memory.nodes.get(node)
    return health.state.value if health is not None else "Healthy"


def bring_to(world, wanted, node="maia-0"):
    """Break a node, mend it, and go on until it is in a state."""
    world.broken = {node}
    world.run(4)
    world.broken = set()
    for _ in range(200):
        if state(world, node) == wanted:
            return
        world.step()
    raise AssertionError(f"{node} did not come to {wanted}")


def test_a_node_that_fails_again_gives_its_place_in_the_breaker_to_no_other(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(8)
    first = "maia-0"
    held = {w.name for w in world.workers.values() if w.node == "maia-1" and not w.terminating}
    assert held
    world.dead = set()
    world.run(30)  # long enough to have looked good, too short to be back
    assert state(world, first) in ("Failed", "Probation")
    world.broken = {first}
    world.run(6)
    assert len(world.memory.outs[first]) == 2
    assert not [name for name in held if world.workers[name].terminating]


def test_a_worker_is_deleted_only_when_the_mark_says_why(world):
    bring_to(world, "Probation", "maia-1")
    world.marks["maia-1"] = replace(world.marks["maia-1"], reason="as it was written")
    snapshot = world.snapshot()
    worker = next(w for w in world.workers.values() if w.node == "gpu-0")
    here = replace(worker, name="late", uid="late", node="maia-1")
    answers = replace(here.answers, wrong=1, wrong_at=world.now + 0.5, right=0, detail="3, not 4")
    (pool,) = snapshot.pools
    pool = replace(pool, workers=(*pool.workers, replace(here, answers=answers)))
    planned, _ = plan(replace(snapshot, pools=(pool,), at=world.now + 1), world.memory)
    (action,) = planned.nodes
    assert action.state == "Latched"
    assert [d.name for d in planned.pools[pool.key].deletes] == []


def test_a_wrong_answer_latches_also_where_the_node_says_itself_that_it_is_broken(world):
    world.broken = world.wrong = {"maia-0"}
    world.run(6)
    assert state(world) == "Latched"
    assert "wrong answer" in world.marks["maia-0"].reason


def test_a_wrong_answer_in_the_proof_latches_also_if_the_node_goes_bad_with_it(world):
    bring_to(world, "Probation")
    world.run(4)
    assert state(world) == "Probation"
    world.wrong = {"maia-0"}
    world.broken = {"maia-0"}
    world.step()
    assert state(world) == "Latched"
    assert len(world.memory.outs["maia-0"]) == 2


@pytest.mark.parametrize("blind", ["observer", "leases"])
def test_what_we_cannot_see_in_a_proof_is_no_failure_of_the_node(world, blind):
    world.startup = 500.0
    bring_to(world, "Probation")
    if blind == "observer":
        world.observer_ok = False
        world.run(PROOF_PATIENCE * 3)
        assert state(world) == "Probation"
    else:
        world.frozen_leases = True
        world.run(30)
        assert state(world) == "Failed"
    assert len(world.memory.outs["maia-0"]) == 1
    world.startup, world.observer_ok, world.frozen_leases = 4.0, True, False
    world.run(120)
    assert state(world) == "Healthy"


def test_a_node_is_set_aside_an_hour_after_it_was_latched_not_after_it_first_failed(world):
    world.broken, world.tick = {"maia-0"}, 60.0
    world.run(2 * LATCHED_ASIDE)
    world.broken, world.tick, world.wrong = set(), 2.0, {"maia-0"}
    world.run(60)
    assert state(world) == "Latched"
    world.nodes["maia-2"] = "maia"
    allowed, held = open_breaker(
        world.snapshot(),
        {**world.memory.nodes, "maia-1": replace(world.memory.nodes["maia-0"], since=world.now)},
        "maia",
    )
    assert allowed == {"maia-0"}
    assert "maia-1" in held


def test_a_restart_does_not_end_the_cool_down_of_a_storm(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(8)
    world.dead = {"maia-1"}
    held = {w.name for w in world.workers.values() if w.node == "maia-1" and not w.terminating}
    assert held
    while state(world, "maia-0") != "Ramp":
        world.step()
    world.restart_operator()
    world.run(20)
    assert not [name for name in held if world.workers[name].terminating]
    world.run(60)
    assert all(world.workers[name].terminating for name in held)


def test_what_is_latched_is_so_after_its_class_was_gone_and_the_operator_too(world):
    world.wrong = {"maia-0"}
    world.run(6)
    assert state(world) == "Latched"
    world.wrong = set()
    maia = world.classes.pop("maia")
    world.run(4)
    assert "maia-0" not in world.marks  # no taint of ours on what is not ours
    assert world.returned["maia-0"].state == "Latched"
    world.restart_operator()
    world.run(4)
    world.classes["maia"] = maia
    world.run(10)
    assert state(world) == "Latched"
    assert world.marks["maia-0"].state == "Latched"


def test_a_beat_seen_late_does_not_make_two_failures_of_one(world):
    world.dead = {"maia-0"}
    world.run(6)
    assert state(world) == "Failed"
    world.leases["maia-0"] = world.now + 1  # the last one before it died, seen only now
    world.run(8)
    world.dead = set()
    world.run(4)
    assert len(world.memory.outs["maia-0"]) == 1


def test_a_group_that_only_fails_requests_fails_its_gate(world):
    nothing = Distribution((1.0,), (0, 0))
    one = WorkerSignals(30.0, 0, 1, 0, ttft=nothing, tpot=nothing)
    (pool,) = world.snapshot().pools
    assert find_failed_gate(pool, one, None) == "1 of 1 attempts ended in an error or a timeout"
    assert find_failed_gate(pool, replace(one, finished=1), None) == ""


def test_a_worker_is_judged_by_the_conditions_of_all_classes_of_its_node():
    world = settle()
    maia = world.classes["maia"]
    bare = maia.health.model_copy(update={"node_conditions": []})
    world.classes["z-spare"] = maia
    world.classes["maia"] = maia.model_copy(update={"health": bare})
    world.broken = {"maia-0"}
    world.step()
    here = [w.uid for w in world.workers.values() if w.node == "maia-0"]
    assert here
    assert {world.memory.workers[uid].state for uid in here} == {WorkerState.FAILED}


@pytest.mark.parametrize(("share", "nodes", "limit"), [(0.29, 100, 29), (0.58, 50, 29)])
def test_a_share_of_nodes_loses_none_to_rounding(share, nodes, limit):
    world = World()
    maia = world.classes["maia"]
    health = maia.health.model_copy(update={"max_unhealthy": share})
    world.classes["maia"] = maia.model_copy(update={"health": health})
    world.nodes = {f"maia-{i}": "maia" for i in range(nodes)}
    world.leases = dict.fromkeys(world.nodes, world.now)
    settled = settle()
    bring_to(settled, "Failed")
    out = dict.fromkeys(world.nodes, settled.memory.nodes["maia-0"])
    assert len(open_breaker(world.snapshot(), out, "maia")[0]) == limit
