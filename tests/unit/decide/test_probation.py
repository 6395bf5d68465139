"""A node that was out proves itself before it returns; what it says of itself is no proof."""

import pytest

from sluice.decide.limits import LEASE_STALE, PROOF_PATIENCE
from sluice.model.snapshot import NodeMark, Worker

from .samples import pool_spec
from .settled import settle

RETURN_AFTER = 20.0


@pytest.fixture
def world():
    return settle()


def fail(world, node="maia-0"):
    """Let a node die and heal; its devices come back as they are."""
    world.dead = {node}
    world.run(12)
    assert world.marks[node].state == "Failed"
    world.dead = set()


def state(world, node="maia-0"):
    mark = world.marks.get(node) or world.returned.get(node)
    return mark.state if mark else "Healthy"


def test_a_node_goes_through_probation_and_a_ramp_and_is_healthy_in_the_end(world):
    fail(world)
    seen = []
    for _ in range(60):
        world.step()
        if not seen or state(world) != seen[-1]:
            seen.append(state(world))
    assert seen == ["Failed", "Probation", "Ramp", "Healthy"]
    assert world.told("NodeProbation")[0].startswith(
        "maia-0 Failed → Probation: looked good for 20"
    )
    assert "3 rounds of known answers right on" in world.told("NodeReturned")[0]


def test_the_probation_pod_takes_every_free_device_and_goes_when_it_is_over(world):
    fail(world)
    while "maia-0" in world.marks:
        world.step()
        slots = {name: len(p.slots) for name, p in world.probations.items() if not p.terminating}
        assert slots in ({}, {"sluice-probe-maia-0": 2})
        if slots:
            assert state(world) == "Probation"
    world.run(6)
    assert not world.probations


def test_a_worker_that_still_runs_there_is_asked_through_its_own_slot(world):
    # The breaker holds the second node back, so its workers stay.
    world.dead = {"maia-0", "maia-1"}
    world.run(12)
    world.dead = set()
    bound = [w.name for w in world.workers.values() if w.node == "maia-1" and not w.terminating]
    assert bound
    world.run(60)
    assert state(world, "maia-1") in ("Ramp", "Healthy")
    told = [one for one in world.told("NodeReturned") if one.startswith("maia-1")]
    assert all(name in told[0] for name in bound)


def test_what_a_worker_answered_before_its_node_failed_is_no_proof(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(12)
    world.dead = set()
    bound = {w.name for w in world.workers.values() if w.node == "maia-1" and not w.terminating}
    assert bound
    world.mute = bound
    world.run(60)
    assert state(world, "maia-1") == "Probation"
    world.mute = set()
    world.run(60)
    assert state(world, "maia-1") in ("Ramp", "Healthy")


def test_a_dead_node_s_last_beat_seen_late_is_no_sign_of_life(world):
    world.dead = {"maia-0"}
    world.run(6)
    out = world.marks["maia-0"].since
    world.workers = {u: w for u, w in world.workers.items() if w.node != "maia-0"}
    world.leases["maia-0"] = out + 4
    while world.now - world.leases["maia-0"] < LEASE_STALE - 3:
        world.step()
        assert world.marks["maia-0"].state == "Failed"
    assert world.now - out > RETURN_AFTER


def test_a_last_beat_that_was_seen_very_late_is_no_sign_of_life_either(world):
    # Leases are read late: the setting is long, or the API server does not answer.
    world.lease_lag = 20.0
    world.dead = {"maia-0"}
    world.run(6)
    out = world.marks["maia-0"].since
    world.workers = {u: w for u, w in world.workers.items() if w.node != "maia-0"}
    world.leases["maia-0"] = out + 16
    while world.now - out < 16 + LEASE_STALE - 3:
        world.step()
        assert world.marks["maia-0"].state == "Failed"


def test_wrong_answers_in_probation_latch(world):
    fail(world)
    world.wrong = {"maia-0"}
    world.run(60)
    assert state(world) == "Latched"
    assert "gave a wrong answer in probation" in world.marks["maia-0"].reason
    assert "sluice node release maia-0" in world.marks["maia-0"].reason
    world.wrong = set()
    world.run(400)
    assert state(world) == "Latched"
    assert not world.probations


def test_what_was_wrong_before_a_release_does_not_latch_a_repaired_node_again(world):
    # The breaker keeps the second node's workers, and they remember what they answered.
    world.wrong = {"maia-0", "maia-1"}
    world.run(8)
    assert {state(world, node) for node in ("maia-0", "maia-1")} == {"Latched"}
    world.wrong = set()
    world.release = {"maia-0", "maia-1"}
    world.run(60)
    assert {state(world, node) for node in ("maia-0", "maia-1")} <= {"Ramp", "Healthy"}


def test_what_is_wrong_after_a_release_latches_again(world):
    world.wrong = {"maia-0", "maia-1"}
    world.run(8)
    world.release = {"maia-0", "maia-1"}
    world.run(40)
    assert {state(world, node) for node in ("maia-0", "maia-1")} == {"Latched"}


def test_devices_that_do_not_answer_are_no_proof_and_the_window_begins_anew(world):
    fail(world)
    world.startup = 1e9
    world.run(RETURN_AFTER + PROOF_PATIENCE + 60)
    assert "maia-0" in world.marks
    failed = [one for one in world.told("NodeFailed") if "Probation → Failed" in one]
    assert "no proof within" in failed[0]
    assert "is starting" in failed[0]
    world.startup = 4.0
    world.run(60)
    assert "maia-0" not in world.marks


def test_what_goes_bad_in_probation_is_out_again_and_has_flapped(world):
    fail(world)
    while state(world) != "Probation":
        world.step()
    world.broken = {"maia-0"}
    world.run(4)
    assert state(world) == "Failed"
    assert "went bad in probation: AcceleratorHealthy is False" in world.marks["maia-0"].reason
    assert len(world.marks["maia-0"].outs) == 2
    world.broken = set()
    world.run(90)
    assert "maia-0" not in world.marks


@pytest.mark.parametrize(
    ("waiting", "latched"),
    [("CrashLoopBackOff: back-off restarting", True), ("ErrImagePull: no such image", False)],
)
def test_a_proof_that_could_not_begin_is_not_held_against_the_node(world, waiting, latched):
    fail(world)
    world.probation_waiting = waiting
    world.run(700)
    assert (state(world) == "Latched") == latched
    assert any(waiting in one.reason for _, p in world.history for one in p.nodes)


def test_a_proof_that_nobody_could_begin_is_not_held_against_the_node(world):
    fail(world)
    world.specs["chat"] = pool_spec(variants=[{"acceleratorClass": "gpu", "min": 1, "max": 4}])
    world.run(400)
    assert any("no proof within" in one.reason for _, p in world.history for one in p.nodes)
    assert len(world.marks["maia-0"].outs) == 1


def test_without_known_answers_staying_alive_is_all_the_proof_and_says_so(world):
    world.unasked = "probes.json is of another model"
    world.run(10)
    (problem,) = (
        p
        for p in world.chat().problems
        if p.finding == "KnownAnswersMissing" and "maia" in p.message
    )
    assert "probes.json is of another model" in problem.message
    fail(world)
    world.run(60)
    assert "maia-0" not in world.marks
    assert "has no known answers" in world.told("NodeReturned")[0]


def test_a_node_of_a_class_that_no_pool_uses_waits_for_one(world):
    fail(world)
    world.specs["chat"] = pool_spec(variants=[{"acceleratorClass": "gpu", "min": 1, "max": 4}])
    world.run(200)
    assert "maia-0" in world.marks
    world.specs["chat"] = pool_spec()
    world.run(200)
    assert "maia-0" not in world.marks


@pytest.mark.parametrize("moment", ["Failed", "Probation", "Ramp"])
def test_an_operator_that_restarts_releases_nothing_and_repeats_nothing(world, moment):
    fail(world)
    while state(world) != moment:
        world.step()
    mark = world.marks.get("maia-0") or world.returned["maia-0"]
    world.restart_operator()
    world.step()
    assert state(world) == moment
    assert (world.marks.get("maia-0") or world.returned["maia-0"]) == mark
    world.run(120)
    assert state(world) == "Healthy"
    assert world.returned["maia-0"].outs == mark.outs
    assert not world.probations


def test_a_node_that_is_deleted_in_probation_takes_its_pod_along_and_has_proven_nothing(world):
    fail(world)
    while not world.probations:
        world.step()
    kind = world.nodes.pop("maia-0")
    world.marks.clear()
    world.run(6)
    assert not world.probations
    world.nodes = {"maia-0": kind, **world.nodes}
    world.run(4)
    assert state(world) in ("Failed", "Probation")
    world.run(80)
    assert "maia-0" not in world.marks


@pytest.mark.parametrize("nonsense", ["Ramp", "Healthy"])
def test_a_mark_that_a_hand_has_edited_does_not_let_a_tainted_node_back(world, nonsense):
    fail(world)
    world.marks["maia-0"] = NodeMark(nonsense, world.now, "edited by hand")
    world.restart_operator()
    world.run(4)
    assert state(world) == "Failed"


def test_a_node_that_is_gone_for_long_and_registers_anew_has_proven_nothing(world):
    fail(world)
    world.dead = {"maia-0"}
    world.tick = 120.0
    world.run(3000)
    kind = world.nodes.pop("maia-0")
    world.run(1200)
    world.marks.clear()
    world.dead = set()
    world.tick = 2.0
    world.nodes = {"maia-0": kind, **world.nodes}
    world.step()
    assert state(world) == "Failed"


def test_a_node_that_never_comes_back_is_forgotten(world):
    fail(world)
    world.nodes.pop("maia-0")
    world.tick = 120.0
    world.run(4000)
    assert "maia-0" not in world.memory.nodes
    assert "maia-0" not in world.memory.outs


@pytest.mark.parametrize("gone", ["labels", "class"])
def test_labels_or_a_class_that_go_and_come_back_let_no_node_back(world, gone):
    fail(world)
    if gone == "class":
        maia = world.classes.pop("maia")
    else:
        world.unlabelled = {"maia-0"}
    world.run(4)
    assert "maia-0" not in world.marks
    world.unlabelled = set()
    if gone == "class":
        world.classes["maia"] = maia
    world.step()
    assert state(world) == "Failed"
    world.run(80)
    assert "maia-0" not in world.marks


@pytest.mark.parametrize("restarted", [False, True])
def test_a_class_that_goes_brings_no_traffic_back_to_what_has_failed(world, restarted):
    # The breaker holds the second node back, so its workers stay.
    world.wrong = {"maia-0", "maia-1"}
    world.run(8)
    kept_away = set(world.quarantined()) & {w.name for w in world.workers.values() if w.ready}
    assert kept_away
    del world.classes["maia"]
    if restarted:
        world.restart_operator()
    world.run(4)
    assert set(world.quarantined()) == kept_away
    (frozen,) = (v for v in world.chat().variants if v.accelerator_class == "maia")
    ready = {w.name for w in world.workers.values() if w.accelerator_class == "maia" and w.ready}
    assert frozen.serving == len(ready - kept_away)


def test_a_device_that_comes_back_during_the_proof_has_to_prove_itself_too(world):
    fail(world)
    world.devices = {"maia": 1}
    while not world.probations:
        world.step()
    world.devices = {}
    world.run(60)
    assert "maia-0" not in world.marks
    told = world.told("NodeReturned")[0]
    assert "slot-0" in told
    assert "slot-1" in told


def test_a_device_that_a_worker_holds_while_it_ends_is_not_proven_yet(world):
    fail(world)
    key = next(iter(world.workers.values())).pool
    ending = Worker("old", "old", key, "maia", "maia-0", world.now, ready=False, terminating=True)
    world.lingering = {"old"}
    world.workers["old"] = ending
    world.run(60)
    assert state(world) == "Probation"
    world.lingering = set()
    world.run(60)
    assert "maia-0" not in world.marks
    assert "slot-1" in world.told("NodeReturned")[0]


def test_a_pool_that_gets_no_workers_proves_no_node(world):
    fail(world)
    world.specs["late"] = pool_spec(priority=100)
    while not world.plan.probations:
        world.step()
    assert {action.pool.name for action in world.plan.probations} == {"chat"}


def test_a_node_of_two_classes_is_proven_with_the_one_that_is_used(world):
    world.classes["a-spare"] = world.classes["maia"]
    fail(world)
    world.run(60)
    assert "maia-0" not in world.marks


def test_a_hand_lets_a_node_go_that_no_class_selects_any_more(world):
    fail(world)
    world.unlabelled = {"maia-0"}
    world.run(4)
    world.release = {"maia-0"}
    world.run(4)
    assert "maia-0" not in world.memory.nodes
    assert not world.release
    world.unlabelled = set()
    world.step()
    assert state(world) == "Healthy"
