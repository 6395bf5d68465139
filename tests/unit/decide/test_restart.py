"""What a new process makes of what the last one left: it releases nothing and repeats nothing."""

from dataclasses import replace

import pytest

from sluice.decide.planner import plan
from sluice.model.snapshot import NodeMark, Probe

from .settled import settle
from .world import World, record


@pytest.fixture
def world():
    return World()


def test_a_restart_of_the_operator_releases_and_repeats_nothing():
    world = settle()
    world.dead = {"maia-0"}
    world.run(20)
    before, told = world.wanted(), len(world.told("FallBack"))
    world.restart_operator()
    world.run(10)
    assert world.wanted() == before
    assert "maia-0" in world.marks
    assert len(world.told("FallBack")) == told
    assert len(world.told("CapacityLost")) == 1


def test_a_new_operator_waits_for_its_first_probes_before_it_calls_workers_lost(world):
    world.rate["chat"] = 2.0
    world.run(120)
    before = world.wanted(), world.shares()
    world.restart_operator()
    world.deaf = True
    world.step()
    assert (world.wanted(), world.shares()) == before
    assert world.chat().decisions == ()
    world.deaf = False
    world.run(20)
    assert (world.wanted(), world.shares()) == before


@pytest.mark.parametrize("theirs", [0, 2, 3])
def test_what_does_not_answer_a_new_operator_fails_only_if_a_gateway_misses_it_too(world, theirs):
    world.rate["chat"] = 2.0
    world.run(120)
    world.restart_operator()
    lost = {uid for uid, worker in world.workers.items() if worker.node == "maia-0"}
    for uid, worker in world.workers.items():
        misses = theirs if uid in lost else 0
        world.workers[uid] = replace(worker, probe=Probe(0, 0, None), gateway_misses=misses)
    world.dead = {"maia-0"}
    world.run(8)
    assert world.wanted()["gpu"] > 0
    assert world.chat().fallback
    deleted = {d.name for _, p in world.history for d in p.pools[world.chat().key].deletes}
    assert (set(world.marks), deleted) == (({"maia-0"}, lost) if theirs >= 3 else (set(), set()))


def test_an_operator_that_starts_again_and_again_calls_nothing_back_that_it_has_not_seen(world):
    world.rate["chat"] = 2.0
    world.run(120)
    world.dead = {"maia-0"}
    for _ in range(4):
        world.restart_operator()
        for uid, worker in world.workers.items():
            if worker.node == "maia-0":
                world.workers[uid] = replace(worker, probe=Probe(0, 0, None))
        world.run(8)
        assert world.chat().fallback
    assert not world.told("CapacityBack")


def test_a_new_operator_deletes_what_failed_on_a_node_that_is_already_out(world):
    world.rate["chat"] = 2.0
    world.run(120)
    there = [worker for worker in world.workers.values() if worker.node == "maia-0"]
    world.restart_operator()
    for worker in there:
        world.workers[worker.uid] = replace(worker, probe=Probe(0, 0, None))
    world.marks["maia-0"] = NodeMark("Failed", world.now, "three probes missed")
    world.dead = {"maia-0"}
    world.step()
    assert world.chat().deletes == ()
    world.step()
    assert {delete.name for delete in world.chat().deletes} == {worker.name for worker in there}


def test_a_hand_edited_memory_is_forgotten_not_fatal(world):
    world.status["chat"] = {
        "memory": {"variants": {"maia": {"wanted": "lots", "lastStep": 7}, "gpu": []}},
        "decisions": [{"time": "yesterday"}, 5],
    }
    world.run(20)
    assert world.wanted() == {"maia": 1, "gpu": 0}


def test_a_pool_made_anew_under_the_same_name_begins_with_nothing(world):
    world.rate["chat"] = 7.0
    world.run(60)
    assert world.wanted()["maia"] > 1
    snapshot = world.snapshot()
    namesake = replace(
        snapshot.pools[0], uid="another", deployments={}, workers=(), signals=None, status={}
    )
    planned, _ = plan(replace(snapshot, pools=(namesake,)), world.memory)
    chat = planned.pools[namesake.key]
    assert [variant.wanted for variant in chat.variants] == [1, 0]
    assert chat.decisions == ()


def test_times_to_come_hold_nothing_for_ever():
    world = settle()
    world.restart_operator()
    later = "9999-12-31T23:59:59-23:59"
    remembered = world.status["chat"]["memory"]["variants"]
    assert remembered["maia"]["wanted"] > 1
    remembered["maia"]["lastStep"] = {"direction": "Up", "time": later}
    world.status["chat"]["decisions"] = [{"time": later, "action": "ScaleUp", "reason": "r"}]
    world.marks["gpu-1"] = NodeMark("Failed", 1e12, "a clock that ran ahead")
    world.rate["chat"] = 0.0
    world.run(400)
    assert world.wanted() == {"maia": 1, "gpu": 0}
    assert world.marks == {}
    record(world.memory.pools[world.chat().key])


def test_a_return_that_a_hand_dated_ahead_is_no_reason_to_look_at_the_node_in_every_pass():
    world = settle()
    world.returned["maia-0"] = NodeMark("Ramp", world.now + 1e6, "proven")
    world.restart_operator()
    world.step()
    assert world.memory.nodes["maia-0"].state == "Ramp"
    assert not world.plan.nodes
