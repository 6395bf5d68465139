"""Clocks that differ by minutes, and times to come, fail nobody and let nobody back."""

from dataclasses import replace

import pytest

from sluice.api.accelerator import AcceleratorClassSpec
from sluice.decide.evidence import gather_node, is_wrong_since
from sluice.decide.limits import LEASE_STALE
from sluice.decide.recall import format_time
from sluice.model.memory import WorkerState
from sluice.model.snapshot import KnownAnswers, NodeMark, Probe
from sluice.observe.leases import LeaseBook
from sluice.observe.signals import NOTHING
from sluice.observe.snapshot import Sight, build_snapshot
from sluice.observe.store import Kind, Store

from .world import World

AHEAD, BEHIND = 300.0, -300.0
SPEC = {
    "nodeSelector": {"accelerator": "maia"},
    "resourceName": "sluice.dev/maia",
    "price": {"onDemand": "10"},
}
RULES = AcceleratorClassSpec.model_validate(SPEC).health


@pytest.fixture
def world():
    world = World()
    world.rate["chat"] = 4.0
    world.run(80)
    return world


def see_node(skew, passed, *, renews):
    """Return what is seen of a broken node whose clock is off, `passed` seconds after its start."""
    now = [1_000_000.0]
    book = LeaseBook(lambda: now[0])

    def beat():
        book.note({"maia-0": format_time(now[0] + skew)}, now[0])

    beat()
    began = format_time(now[0] + skew)
    for _ in range(int(passed // 5)):
        now[0] += 5.0
        if renews:
            beat()
        else:
            book.note({"maia-0": began}, now[0])
    store = Store(lambda _: None)
    store.put(Kind.CLASSES, {"metadata": {"name": "maia", "uid": "c"}, "spec": SPEC})
    stamp = format_time(now[0] + skew)
    condition = {"type": "AcceleratorHealthy", "status": "False", "reason": "XID79"}
    condition |= {"lastTransitionTime": stamp, "lastHeartbeatTime": stamp}
    meta = {"name": "maia-0", "uid": "n", "labels": {"accelerator": "maia"}}
    store.put(Kind.NODES, {"metadata": meta, "status": {"conditions": [condition]}})
    sight = Sight(now[0], {}, NOTHING, book, True, 1, "", "w:1")  # noqa: FBT003
    (node,) = build_snapshot(store, sight)[0].nodes
    return node


@pytest.mark.parametrize("skew", [AHEAD, BEHIND, 0.0])
def test_a_node_whose_clock_is_off_is_judged_by_whether_its_lease_changes(skew):
    renewed = see_node(skew, 60, renews=True)
    assert renewed.lease_age == 0
    assert [piece.text for piece in gather_node(renewed, RULES)] == [
        "AcceleratorHealthy is False on maia-0: XID79"
    ]
    silent = see_node(skew, LEASE_STALE + 5, renews=False)
    assert silent.lease_age > LEASE_STALE
    assert gather_node(silent, RULES) == ()


@pytest.mark.parametrize("skew", [AHEAD, BEHIND, 0.0])
def test_a_false_condition_on_a_node_whose_lease_just_went_stale_counts_until_then(skew):
    fresh = see_node(skew, LEASE_STALE, renews=False)
    assert gather_node(fresh, RULES)


def test_a_wrong_answer_from_the_future_counts_also_after_a_release():
    wrong = KnownAnswers(wrong=1, at=100.0, wrong_at=100.0 + AHEAD)
    assert is_wrong_since(wrong, 200.0)
    assert is_wrong_since(wrong, None)


def test_a_wrong_answer_from_the_future_latches_again_and_says_so(world):
    world.wrong = {"maia-0"}
    world.run(8)
    world.wrong = set()
    answer = world._answer
    later = {"wrong": 1, "detail": "prompt 1: expected 4, got 9"}
    world._answer = lambda before, node: replace(
        answer(before, node), wrong_at=world.now + AHEAD, **later
    )
    world.release = {"maia-0"}
    world.run(30)
    assert world.marks["maia-0"].state == "Latched"
    assert "gave a wrong answer in probation" in world.marks["maia-0"].reason


def test_right_answers_from_the_future_prove_nothing_and_say_so(world):
    world.kill_for("maia-0", 12)
    answer = world._answer
    ahead = (world.now + 10 * AHEAD,) * 3
    world._answer = lambda before, node: replace(answer(before, node), right_at=ahead)
    world.run(150)
    assert world.marks["maia-0"].state == "Failed"
    (said,) = (one for one in world.told("NodeFailed") if "Probation → Failed" in one)
    assert "has answered 0 of 3 rounds right, and 3 at times to come, which prove nothing" in said


def test_a_mark_from_a_clock_ahead_keeps_a_node_out_no_longer_than_one_of_ours(world):
    world.marks["maia-0"] = NodeMark("Failed", world.now + AHEAD, "dead", (world.now + AHEAD,))
    world.restart_operator()
    world.run(70)
    assert "maia-0" not in world.marks


def test_a_failed_worker_that_answers_since_a_time_to_come_stays_failed(world):
    # Its class's node bears no mark, so a stable window of its own answers is all there is.
    uid, worker = next(iter(world.workers.items()))
    health = replace(world.memory.workers[uid], state=WorkerState.FAILED, reason="dead")
    workers = {**world.memory.workers, uid: health}
    world.memory = replace(world.memory, workers=workers)
    world._probe = lambda worker, **_: worker
    world.workers[uid] = replace(worker, probe=Probe(0, 9, world.now + AHEAD))
    world.step()
    assert world.memory.workers[uid].state is WorkerState.FAILED
    assert world.memory.workers[uid].reason == "dead"
