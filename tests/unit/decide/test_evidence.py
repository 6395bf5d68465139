"""What speaks against workers and nodes, how much it weighs, and what comes of it."""

from dataclasses import replace

import pytest

from sluice.decide import evidence
from sluice.model.memory import WorkerState
from sluice.model.snapshot import Distribution, KnownAnswers, Probe, WorkerSignals

from .samples import BOUNDS, one_bucket
from .settled import settle


@pytest.fixture
def world():
    return settle()


def states(world, node):
    return {
        world.memory.workers[w.uid].state
        for w in world.workers.values()
        if w.node == node and w.uid in world.memory.workers
    }


def give(world, node, **seen):
    """Let all workers of a node be seen otherwise, for one more pass."""
    for uid, worker in world.workers.items():
        if worker.node == node:
            world.workers[uid] = replace(worker, **seen)


def test_a_wrong_answer_fails_the_worker_and_latches_its_node_at_once(world):
    world.wrong = {"maia-0"}
    world.step()
    assert states(world, "maia-0") == {WorkerState.FAILED}
    assert world.marks["maia-0"].state == "Latched"
    assert "prompt 1: expected 4 17, got 4 99" in world.marks["maia-0"].reason
    assert world.told("CapacityLost")


def test_a_wrong_answer_of_one_worker_takes_its_siblings_on_the_node_out_of_traffic(world):
    node = "maia-0"
    on_node = sorted(w.name for w in world.workers.values() if w.node == node)
    assert len(on_node) == 2
    answer, now = world._answer, world.now + world.tick
    wrong = KnownAnswers(wrong=1, at=now, detail="prompt 1: expected 4, got 9", wrong_at=now)
    world._probe = lambda worker, **_: worker
    for uid, worker in world.workers.items():
        if worker.name == on_node[0]:
            world.workers[uid] = replace(worker, answers=wrong)
    world.step()
    assert world.marks[node].state == "Latched"
    assert on_node[0] in world.marks[node].reason
    assert on_node[1] not in world.marks[node].reason
    assert sorted(world.quarantined()) == on_node
    sibling = next(w for w in world.workers.values() if w.name == on_node[1])
    assert "its node maia-0 is latched" in world.memory.workers[sibling.uid].reason
    del world._probe
    world._answer = answer
    world.run(10)
    assert not [w for w in world.workers.values() if w.node == node]
    world.release = {node}
    world.run(60)
    assert node not in world.marks


def test_a_worker_that_missed_its_probes_leaves_its_sibling_in_service(world):
    world._probe = lambda worker, **_: worker
    (first, *_) = [uid for uid, w in world.workers.items() if w.node == "maia-0"]
    world.workers[first] = replace(world.workers[first], probe=Probe(3, 50, None))
    world.step()
    assert world.marks["maia-0"].state == "Failed"
    assert world.quarantined() == [world.workers[first].name]


def test_a_false_condition_of_a_node_that_lives_takes_it_out_with_its_workers(world):
    world.broken = {"maia-0"}
    world.step()
    assert "XID79: device 0 fell off the bus" in world.marks["maia-0"].reason
    assert states(world, "maia-0") == {WorkerState.FAILED}


def test_a_condition_of_a_node_whose_lease_is_old_says_nothing(world):
    world.broken = {"maia-0"}
    world.leases["maia-0"] = world.now - 100
    world.dead = {"maia-0"}
    world.step()
    assert "XID79" not in world.marks.get("maia-0", "").__repr__()


def test_conditions_that_flap_every_pass_take_a_node_out_once_and_keep_it_out(world):
    for _ in range(120):
        world.broken = set() if world.broken else {"maia-0"}
        world.step()
    assert world.marks["maia-0"].state == "Failed"
    assert len(world.marks["maia-0"].outs) == 1


def test_requests_that_fail_outweigh_a_health_endpoint_that_is_content(world):
    # The world's workers answer every liveness probe here.
    give(world, "maia-0", gateway_failures=3)
    world.step()
    assert states(world, "maia-0") == {WorkerState.SUSPECT}
    assert not world.marks
    give(world, "maia-0", gateway_failures=6)
    world.step()
    assert states(world, "maia-0") == {WorkerState.FAILED}
    assert "6 requests in a row failed at the gateway" in world.marks["maia-0"].reason


@pytest.mark.parametrize(
    ("ours", "theirs", "state"),
    [(2, 0, "Suspect"), (2, 1, "Suspect"), (2, 2, "Failed"), (1, 5, "Suspect"), (0, 9, "Healthy")],
)
def test_probes_that_a_gateway_misses_too_save_the_third_look(world, ours, theirs, state):
    node = "maia-0"
    world._probe = lambda worker, **_: worker
    probe = Probe(ours, 50, None if ours else 1.0)
    give(world, node, probe=probe, gateway_misses=theirs)
    world.step()
    assert {one.value for one in states(world, node)} == {state}


@pytest.mark.parametrize(
    ("misses", "stuck", "needed", "state"),
    [
        (1, 1, 3, "Suspect"),
        (2, 0, 3, "Suspect"),  # silence: it may be full
        (2, 1, 3, "Suspect"),  # one noisy answer in it
        (2, 2, 3, "Failed"),
        (3, 0, 3, "Failed"),
        (1, 1, 2, "Suspect"),
        (3, 3, 5, "Suspect"),
        (4, 4, 5, "Failed"),
    ],
)
def test_a_worker_that_says_it_is_stuck_needs_fewer_looks_than_a_silent_one(
    world, misses, stuck, needed, state
):
    maia = world.classes["maia"]
    liveness = maia.health.liveness.model_copy(update={"failures": needed})
    health = maia.health.model_copy(update={"liveness": liveness})
    world.classes["maia"] = maia.model_copy(update={"health": health})
    world._probe = lambda worker, **_: worker
    said = "503: device call late: 2.1 s, expected 0.02 s"
    give(world, "maia-0", probe=Probe(misses, 50, None, said, stuck))
    world.step()
    assert {one.value for one in states(world, "maia-0")} == {state}
    reasons = {
        world.memory.workers[w.uid].reason for w in world.workers.values() if w.node == "maia-0"
    }
    assert all("own word that it is stuck" in reason for reason in reasons) == bool(stuck)


def test_one_answer_that_it_is_stuck_and_a_gateway_that_misses_too_fail_nobody_yet(world):
    world._probe = lambda worker, **_: worker
    give(world, "maia-0", probe=Probe(1, 50, None, "503: no step for 11 s", 1), gateway_misses=5)
    world.step()
    assert states(world, "maia-0") == {WorkerState.SUSPECT}


def test_a_hang_behind_a_lying_health_endpoint_is_told_by_clients_and_silence_together(world):
    heard = KnownAnswers(right=9, at=1.0, silent=3)
    world._answer = lambda *_: heard
    world.step()
    assert states(world, "maia-0") == {WorkerState.SUSPECT}
    assert not world.marks
    give(world, "maia-0", gateway_failures=3)
    world.step()
    assert states(world, "maia-0") == {WorkerState.FAILED}
    assert "3 rounds of known answers in a row timed out" in world.marks["maia-0"].reason


def test_a_worker_slower_than_its_siblings_is_suspect_and_never_failed_for_that(world):
    slow = WorkerSignals(
        30.0,
        20,
        0,
        0,
        Distribution(BOUNDS, one_bucket(0, 20)),
        Distribution(BOUNDS, one_bucket(4, 20)),
    )
    uid = next(uid for uid, w in world.workers.items() if w.node == "maia-0")
    measure = world._measure
    world._measure = lambda worker: slow if worker.uid == uid else measure(worker)
    for _ in range(60):
        world.step()
        assert world.memory.workers[uid].state is WorkerState.SUSPECT
    assert "2 s a token, its siblings 0.1 s" in world.memory.workers[uid].reason
    assert not world.marks


def test_the_pace_of_a_large_fleet_is_measured_once_a_worker(world, monkeypatch):
    measure, asked = evidence.find_pace, []
    monkeypatch.setattr(evidence, "find_pace", lambda worker: asked.append(1) or measure(worker))
    (uid, worker), *_ = world.workers.items()
    fleet = [replace(worker, uid=f"{uid}-{i}") for i in range(100)]
    assert len(evidence.find_usual_paces(fleet)) == 100
    assert len(asked) == 100


@pytest.mark.parametrize(
    ("buckets", "usual"),
    [([0], {}), ([0, 3], {"0": 1.0, "1": 0.1}), ([0, 2, 3], {"0": 1.0, "1": 1.0, "2": 0.5})],
)
def test_siblings_are_all_but_the_worker_itself(world, buckets, usual):
    worker = next(iter(world.workers.values()))
    fleet = [
        replace(
            worker,
            uid=str(i),
            signals=replace(worker.signals, tpot=Distribution(BOUNDS, one_bucket(bucket, 20))),
        )
        for i, bucket in enumerate(buckets)
    ]
    found = evidence.find_usual_paces(fleet)
    assert {uid: round(pace, 1) for uid, pace in found.items()} == usual


def test_a_hand_takes_a_node_out_and_only_a_release_brings_it_back(world):
    world.banned = {"maia-0": "new firmware"}
    world.step()
    assert world.marks["maia-0"].state == "Latched"
    assert world.marks["maia-0"].reason.startswith("taken out by hand: new firmware")
    assert states(world, "maia-0") == {WorkerState.FAILED}
    world.run(300)
    world.banned = {}
    world.run(300)
    assert world.marks["maia-0"].state == "Latched"
    world.release = {"maia-0"}
    world.run(40)
    assert "maia-0" not in world.marks
    assert not (world.returned["maia-0"].outs if "maia-0" in world.returned else ())


def test_a_release_soon_after_a_quarantine_skips_the_wait_also_between_two_lease_beats(world):
    world.frozen_leases = True
    world.banned = {"maia-0": "a mistake"}
    world.step()
    world.banned = {}
    world.release = {"maia-0"}
    world.run(30)
    assert "maia-0" not in world.marks
    assert not world.told("NodeFailed")


def test_a_hand_also_takes_out_what_our_own_sight_cannot_judge(world):
    world.observer_ok = False
    world.banned = {"maia-0": "new firmware"}
    world.step()
    assert "maia-0" in world.marks
    assert not world.chat().deletes


def test_what_a_health_agent_says_needs_no_sight_of_ours(world):
    world.observer_ok = False
    world.broken = {"maia-0"}
    world.step()
    assert world.marks["maia-0"].state == "Failed"
    assert states(world, "maia-0") == {WorkerState.FAILED}
    assert not world.chat().deletes


def test_a_worker_that_failed_before_the_operator_started_gets_no_traffic_after(world):
    world.wrong = {"maia-0", "maia-1"}
    world.run(4)
    kept = set(world.quarantined())
    assert kept
    world.restart_operator()
    world.step()
    live = {w.name for w in world.workers.values() if not w.terminating}
    assert kept & live
    assert kept & live <= set(world.quarantined())


def test_after_a_storm_no_further_worker_is_deleted_until_it_has_cooled_down(world):
    world.dead = {"maia-0", "maia-1"}
    world.run(8)
    world.dead = {"maia-1"}
    held = [p.message for p in world.chat().problems if p.finding == "BreakerOpen"]
    assert "maxUnhealthy allows 1" in held[0]
    began = world.now
    on_maia_1 = [w for w in world.workers.values() if w.node == "maia-1"]
    bound = {w.name for w in on_maia_1 if not w.terminating}
    while not bound & {delete.name for delete in world.chat().deletes}:
        assert not [name for name in bound if world.workers[name].terminating]
        world.step()
        assert world.now - began < 300
    # maia-0 had to prove itself, and the storm to cool down, before maia-1 was touched.
    assert "maia-0" not in world.marks
    assert world.now - began >= 60
