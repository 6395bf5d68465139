"""Nodes that fail again after they came back: later and later, then only by hand."""

import pytest

from sluice.decide.limits import RELAPSE_AFTER
from sluice.model.snapshot import NodeMark

from .settled import settle

RETURN_AFTER = 20.0
PROOF = 20.0
"""Longest a proof takes here: the pod's start of 4 s, three rounds, and the ticks in between."""


@pytest.fixture
def world():
    return settle()


def find_return(world, node="maia-0"):
    """Let a node fail and heal; return the seconds from its healing to its return."""
    world.dead = {node}
    world.run(12)
    assert node in world.marks
    world.dead = set()
    healed = world.now
    for _ in range(400):
        if node not in world.marks:
            return world.now - healed
        world.step()
    return None


def test_each_flap_doubles_the_stable_window_and_the_last_one_latches(world):
    for doubled in (1, 2, 4):
        waited = find_return(world)
        assert RETURN_AFTER * doubled <= waited <= RETURN_AFTER * doubled + PROOF
        world.run(60)
    assert find_return(world) is None
    assert world.marks["maia-0"].state == "Latched"
    assert "latched after 3 flaps" in world.marks["maia-0"].reason


def test_a_latched_node_is_named_in_the_pool_with_what_to_do(world):
    world.marks["maia-0"] = NodeMark("Latched", world.now, "latched after 3 flaps", (world.now,))
    world.restart_operator()
    world.step()
    told = [p.message for p in world.chat().problems if p.finding == "NodeLatched"]
    assert told == ["node maia-0: latched after 3 flaps"]


def test_a_hand_releases_a_latched_node_and_its_flaps_are_forgotten(world):
    outs = tuple(world.now - ago for ago in (30, 20, 10, 0))
    world.marks["maia-0"] = NodeMark("Latched", world.now, "latched after 3 flaps", outs)
    world.restart_operator()
    world.run(400)
    assert "maia-0" in world.marks
    world.release = {"maia-0"}
    world.step()
    assert not world.release
    assert world.marks["maia-0"].state == "Probation"
    world.run(PROOF)
    assert not world.marks
    assert find_return(world) <= RETURN_AFTER + PROOF


def test_a_release_of_a_node_that_is_back_already_forgets_its_flaps(world):
    find_return(world)
    world.run(60)
    assert world.returned["maia-0"].state == "Healthy"
    world.release = {"maia-0"}
    world.step()
    assert not world.release
    assert not world.returned
    assert find_return(world) <= RETURN_AFTER + PROOF


def test_a_restart_of_the_operator_forgets_no_flap(world):
    find_return(world)
    world.run(60)
    assert world.returned["maia-0"].outs
    world.restart_operator()
    world.run(60)
    assert find_return(world) >= 2 * RETURN_AFTER


def test_a_node_that_was_good_for_an_hour_begins_anew(world):
    world.tick = 10.0
    find_return(world)
    assert "maia-0" in world.returned
    world.run(3700)
    assert not world.returned
    assert find_return(world) <= RETURN_AFTER + 80


def test_a_node_that_registers_anew_keeps_its_flaps(world):
    find_return(world)
    kind = world.nodes.pop("maia-0")
    world.returned.clear()
    world.run(30)
    world.nodes = {"maia-0": kind, **world.nodes}
    world.run(60)
    assert find_return(world) >= 2 * RETURN_AFTER


def test_a_release_that_nothing_needs_is_used_up(world):
    world.release = {"gpu-1"}
    world.step()
    assert not world.release
    assert not world.marks


def test_times_to_come_in_a_mark_are_taken_for_now(world):
    world.marks["maia-0"] = NodeMark("Failed", world.now, "by a hand", (1e12, 2e12))
    world.restart_operator()
    world.run(20 * 2 + 30)
    assert not world.marks


def test_flaps_of_a_node_count_for_as_long_as_it_is_out_whatever_its_name(world):
    outs = tuple(world.now - ago for ago in (20, 10, 0))
    for node in ("maia-0", "maia-1"):
        world.marks[node] = NodeMark("Failed", world.now, "dead", outs)
    world.dead = {"maia-0", "maia-1"}
    world.restart_operator()
    world.tick = 120.0
    world.run(4000)
    world.tick, world.dead = 2.0, set()
    world.run(4 * RETURN_AFTER - 6)
    assert {world.marks[node].state for node in ("maia-0", "maia-1")} == {"Failed"}
    world.run(12)
    assert {world.marks[node].state for node in ("maia-0", "maia-1")} == {"Probation"}


def come_and_go(world, times, up=10.0):
    """Let a node go down for ten seconds and come back, over and over."""
    for _ in range(times):
        world.kill_for("maia-0", 10)
        world.run(up)


def test_what_goes_down_again_and_again_while_it_is_out_is_latched(world):
    come_and_go(world, 7)
    assert not world.returned
    assert world.marks["maia-0"].state == "Latched"
    assert "s, then it was started anew; latched after 3 flaps" in world.marks["maia-0"].reason


def test_one_that_is_started_anew_in_its_proof_has_failed_it(world):
    world.kill_for("maia-0", 10)
    while world.marks["maia-0"].state != "Probation":
        world.step()
    world.boots["maia-0"] += 1
    world.step()
    assert world.marks["maia-0"].state == "Failed"
    assert "went bad in probation: it was started anew" in world.marks["maia-0"].reason


def test_an_operator_that_starts_takes_no_boot_for_a_new_one(world):
    world.kill_for("maia-0", 10)
    world.run(15)
    world.restart_operator()
    world.run(60)
    assert "maia-0" not in world.marks
    assert len(world.returned["maia-0"].outs) == 1


def state(world, node="maia-0"):
    mark = world.marks.get(node) or world.returned.get(node)
    return mark.state if mark else "Healthy"


@pytest.mark.parametrize("restarted", [False, True])
def test_each_failed_proof_doubles_the_wait_for_the_next_and_the_last_one_latches(world, restarted):
    world.kill_for("maia-0", 12)
    world.startup, world.tick = 1e9, 5.0
    waits, began, before = [], world.now, "Failed"
    while state(world) != "Latched":
        world.step()
        if (before, state(world)) == ("Failed", "Probation"):
            waits.append(world.now - began)
        elif (before, state(world)) == ("Probation", "Failed"):
            began = world.now
            if restarted:
                world.restart_operator()
        before = state(world)
    for number, waited in enumerate(waits):
        assert RETURN_AFTER * 2**number <= waited <= RETURN_AFTER * 2**number + 30
    assert len(waits) == 3
    assert "no proof within" in world.marks["maia-0"].reason
    assert "latched after 3 flaps" in world.marks["maia-0"].reason
    world.startup, world.release = 4.0, {"maia-0"}
    world.run(100)
    assert "maia-0" not in world.marks


@pytest.mark.parametrize("up", [10.0, 3.0])
def test_what_comes_and_goes_while_it_is_out_is_latched_if_it_looked_good_meanwhile(world, up):
    world.kill_for("maia-0", 12)
    for _ in range(6):
        world.broken = {"maia-0"}
        world.run(10)
        world.broken = set()
        world.run(up)
    assert not world.returned
    assert state(world) == ("Latched" if up > RELAPSE_AFTER else "Failed")
    if up > RELAPSE_AFTER:
        assert "s, then AcceleratorHealthy is False" in world.marks["maia-0"].reason
