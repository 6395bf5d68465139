"""Objects as the API server has them become what decisions read."""

import json

import pytest

from sluice.model.keys import PoolKey
from sluice.model.snapshot import KnownAnswers, NodeCondition, NodeReady, Probe
from sluice.observe.leases import LeaseBook
from sluice.observe.signals import NOTHING
from sluice.observe.snapshot import Sight, build_snapshot, read_mark
from sluice.observe.store import Kind, Store

KEY = PoolKey("default", "chat")
CLASS = {
    "metadata": {"name": "maia-200", "uid": "c"},
    "spec": {
        "nodeSelector": {"accelerator": "maia"},
        "resourceName": "sluice.dev/maia",
        "price": {"onDemand": "10"},
    },
}
POOL = {
    "metadata": {
        "namespace": "default",
        "name": "chat",
        "uid": "p",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "model": {"name": "m", "source": {"path": "/models/compact"}},
        "slo": {"ttft": "2s", "tpot": "200ms"},
        "variants": [{"acceleratorClass": "maia-200", "max": 2}],
    },
}


def pod(name="chat-maia-200-x", **status):
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{name}",
            "labels": {"sluice.dev/pool": "chat", "sluice.dev/accelerator-class": "maia-200"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": "maia-0"},
        "status": status,
    }


def see(**over):
    """Return what was observed besides the store, with some of it replaced."""
    seen = {
        "at": 50.0,
        "probes": {},
        "signals": NOTHING,
        "leases": LeaseBook(lambda: 50.0),
        "observer_ok": True,
        "gateways": 1,
        "endpoint": "http://g/v1",
        "worker_image": "w:1",
        "namespace": "sluice-system",
    }
    return Sight(**seen | over)


def take(probes=None, **objects):
    store = Store(lambda _: None)
    for kind, items in objects.items():
        for item in items:
            store.put(Kind(kind), item)
    return build_snapshot(store, see(probes=probes or {}))


def only_worker(item, probes=None):
    snapshot, _ = take(probes, pools=[POOL], classes=[CLASS], workers=[item])
    return snapshot.pools[0].workers[0]


def test_ready_is_the_kubelets_own_word():
    silent_agent = [
        {"type": "Ready", "status": "False"},
        {"type": "ContainersReady", "status": "True"},
    ]
    assert only_worker(pod(conditions=silent_agent)).ready


def test_a_worker_carries_its_probe_and_why_it_waits():
    state = {
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "no checkpoint directory"}},
    }
    probe = Probe(1, 5, None)
    worker = only_worker(pod(containerStatuses=[state]), {"uid-chat-maia-200-x": probe})
    assert worker.waiting == "CrashLoopBackOff: no checkpoint directory"
    assert (worker.restarts, worker.probe) == (4, probe)


def test_an_ordinary_start_waits_for_nothing():
    state = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert only_worker(pod(containerStatuses=[state])).waiting == ""


def test_what_cannot_be_read_is_named_and_left_out():
    odd = {**POOL, "spec": {**POOL["spec"], "slo": {"ttft": "soon", "tpot": "1s"}}}
    snapshot, unreadable = take(pools=[odd], classes=[CLASS])
    assert snapshot.pools == ()
    found = unreadable["InferencePool default/chat"]
    assert "'soon'" in found.why
    assert (found.key, found.uid) == (KEY, "p")


def test_a_class_that_cannot_be_read_is_not_taken_for_one_that_is_gone():
    odd = {**CLASS, "spec": {**CLASS["spec"], "price": {"onDemand": "dear"}}}
    snapshot, unreadable = take(pools=[POOL], classes=[odd])
    assert snapshot.classes == {}
    assert "'dear'" in snapshot.unreadable["maia-200"]
    assert unreadable["AcceleratorClass maia-200"].why == snapshot.unreadable["maia-200"]


def test_nodes_of_a_class_and_nodes_with_our_mark_are_seen():
    def node(name, labels, **spec):
        return {
            "metadata": {"name": name, "uid": name, "labels": labels},
            "spec": spec,
            "status": {
                "allocatable": {"sluice.dev/maia": "2", "cpu": "8"},
                "nodeInfo": {"bootID": "b7"},
            },
        }

    taint = {"key": "sluice.dev/quarantine", "effect": "NoSchedule"}
    snapshot, _ = take(
        classes=[CLASS],
        nodes=[
            node("maia-0", {"accelerator": "maia"}),
            node("system-0", {}),
            node("left-over", {}, taints=[taint]),
        ],
    )
    found = {one.name: one for one in snapshot.nodes}
    assert set(found) == {"maia-0", "left-over"}
    assert found["maia-0"].allocatable == {"sluice.dev/maia": 2}
    assert found["maia-0"].boot_id == "b7"
    assert found["maia-0"].ready is NodeReady.UNKNOWN
    assert found["left-over"].tainted


def test_a_mark_edited_into_nonsense_is_a_sentence():
    mark, said = read_mark('{"state": "Fai')
    assert mark is None
    assert "cannot be read" in said
    assert read_mark(None) == (None, "")


@pytest.mark.parametrize("outs", ["[1, null]", "5", '["soon"]', "[NaN]", f"{[1] * 2000}"])
def test_flaps_edited_into_nonsense_are_a_sentence(outs):
    mark, said = read_mark(f'{{"state": "Failed", "since": 1, "reason": "r", "outs": {outs}}}')
    assert mark is None
    assert "cannot be read" in said


def test_a_mark_edited_into_something_very_deep_is_a_sentence_too():
    mark, said = read_mark("[" * 200_000)
    assert mark is None
    assert "cannot be read" in said


def test_a_mark_edited_into_a_book_is_told_in_part():
    mark, _ = read_mark(json.dumps({"state": "Failed", "since": 1, "reason": "x\n" * 9000}))
    assert len(mark.reason) <= 2000
    assert "\n" not in mark.reason


def test_a_mark_remembers_when_the_node_was_taken_out():
    mark, _ = read_mark('{"state": "Healthy", "since": 9, "reason": "r", "outs": [1, 5.5]}')
    assert mark.outs == (1.0, 5.5)
    assert read_mark("[]")[0] is None


@pytest.mark.parametrize("since", ["NaN", "Infinity", '"soon"', "1" + "0" * 400])
def test_a_mark_without_a_real_time_is_none(since):
    mark, said = read_mark(f'{{"state": "Failed", "since": {since}, "reason": "r"}}')
    assert mark is None
    assert "cannot be read" in said


def probe_pod(name="sluice-probe-maia-0", namespace="sluice-system", **status):
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": f"uid-{namespace}",
            "labels": {"sluice.dev/accelerator-class": "maia-200"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": "maia-0", "containers": [{"name": "slot-0"}, {"name": "slot-1"}]},
        "status": status,
    }


def test_a_probation_pod_names_its_node_and_what_each_slot_answered():
    store = Store(lambda _: None)
    store.put(
        Kind.PROBATIONS, probe_pod(conditions=[{"type": "ContainersReady", "status": "True"}])
    )
    store.put(Kind.PROBATIONS, probe_pod(namespace="a-tenant"))
    heard = KnownAnswers(right=2, at=49.0)
    answers = {"uid-sluice-system/slot-1": heard}
    (found,) = build_snapshot(store, see(answers=answers))[0].probations
    assert (found.node, found.accelerator_class, found.ready) == ("maia-0", "maia-200", True)
    assert found.slots == {"slot-0": None, "slot-1": heard}


@pytest.mark.parametrize(
    ("container", "started"),
    [
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, False),
        ({"state": {"waiting": {"reason": "ErrImagePull"}}, "restartCount": 0}, False),
        ({"state": {"running": {}}}, True),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}, True),
        ({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}, True),
    ],
)
def test_a_probation_pod_has_started_once_a_container_of_it_has_run(container, started):
    store = Store(lambda _: None)
    store.put(Kind.PROBATIONS, probe_pod(containerStatuses=[container]))
    (found,) = build_snapshot(store, see())[0].probations
    assert found.started is started


def test_a_probation_pod_that_has_ended_says_why():
    ended = probe_pod(phase="Failed", reason="OutOfcpu", message="no cpu")
    store = Store(lambda _: None)
    store.put(Kind.PROBATIONS, ended)
    (found,) = build_snapshot(store, see())[0].probations
    assert found.waiting == "Failed: OutOfcpu no cpu"


def test_a_node_carries_the_conditions_that_its_class_names_and_the_hands_on_it():
    item = {
        "metadata": {
            "name": "maia-0",
            "uid": "n",
            "labels": {"accelerator": "maia"},
            "annotations": {"sluice.dev/quarantine": " new\n firmware " + "x" * 500},
        },
        "spec": {},
        "status": {
            "conditions": [
                {
                    "type": "AcceleratorHealthy",
                    "status": "False",
                    "reason": "XID79",
                    "message": "bus \x1b[31m\n" + "y" * 30_000,
                },
                {"type": "MemoryPressure", "status": "False"},
            ]
        },
    }
    snapshot, _ = take(classes=[CLASS], nodes=[item])
    (node,) = snapshot.nodes
    # What somebody else wrote must fit into a mark, a status and a terminal.
    told = "bus [31m " + "y" * 190 + "…"
    assert node.conditions == {"AcceleratorHealthy": NodeCondition("False", "XID79", told)}
    assert node.banned.startswith("new firmware xxx")
    assert len(node.banned) == 200
