"""Events fill the store, lists rule it, and only what matters wakes the planner."""

import copy

import pytest

from sluice.observe.store import Kind, Store


def pool(version="1", generation=1, status=None, uid="u1", name="chat"):
    meta = {
        "namespace": "default",
        "name": name,
        "uid": uid,
        "resourceVersion": version,
        "generation": generation,
        "managedFields": [version],
    }
    return {"metadata": meta, "spec": {}, "status": status or {}}


@pytest.fixture
def woken():
    return []


@pytest.fixture
def store(woken):
    return Store(woken.append)


def test_a_new_spec_wakes_and_our_own_status_write_does_not(store, woken):
    store.put(Kind.POOLS, pool())
    assert woken == [Kind.POOLS]
    store.put(Kind.POOLS, pool("2", status={"reason": "Settled"}))
    assert woken == [Kind.POOLS]
    assert store.get(Kind.POOLS, "default", "chat")["status"] == {"reason": "Settled"}
    store.put(Kind.POOLS, pool("3", generation=2))
    assert woken == [Kind.POOLS, Kind.POOLS]


def test_a_late_event_does_not_bring_the_past_back(store):
    store.put(Kind.POOLS, pool("9", generation=5))
    store.put(Kind.POOLS, pool("4", generation=2))
    assert store.get(Kind.POOLS, "default", "chat")["metadata"]["generation"] == 5


def test_a_list_removes_what_was_deleted_while_nobody_watched(store, woken):
    store.put(Kind.POOLS, pool(name="gone", uid="u2"))
    store.begin_list(Kind.POOLS)
    store.replace(Kind.POOLS, [pool()], at=5.0)
    assert [item["metadata"]["name"] for item in store.list(Kind.POOLS)] == ["chat"]
    woken.clear()
    store.replace(Kind.POOLS, [pool()], at=6.0)
    assert woken == []


def test_a_list_does_not_undo_what_events_told_while_it_was_read(store):
    store.put(Kind.POOLS, pool(name="dying", uid="u2"))
    store.put(Kind.POOLS, pool(name="old", uid="u3"))
    store.begin_list(Kind.POOLS)
    listed = [pool(name="dying", uid="u2"), pool(name="old", uid="u3")]
    store.drop(Kind.POOLS, pool(name="dying", uid="u2"))
    store.put(Kind.POOLS, pool(name="new", uid="u4"))
    store.drop(Kind.POOLS, pool(name="old", uid="u3"))
    store.put(Kind.POOLS, pool(name="old", uid="u5"))
    store.replace(Kind.POOLS, listed, at=5.0)
    assert [(p["metadata"]["name"], p["metadata"]["uid"]) for p in store.list(Kind.POOLS)] == [
        ("new", "u4"),
        ("old", "u5"),
    ]
    store.begin_list(Kind.POOLS)
    store.replace(Kind.POOLS, [pool(name="new", uid="u4")], at=6.0)
    assert [p["metadata"]["name"] for p in store.list(Kind.POOLS)] == ["new"]


def test_the_deletion_of_a_namesake_is_not_ours(store):
    store.put(Kind.POOLS, pool(uid="new"))
    store.drop(Kind.POOLS, pool(uid="old"))
    assert store.get(Kind.POOLS, "default", "chat") is not None
    store.drop(Kind.POOLS, pool(uid="new"))
    assert store.get(Kind.POOLS, "default", "chat") is None


def test_heartbeats_of_a_node_wake_nobody_but_its_taints_do(store, woken):
    node = {
        "metadata": {"name": "maia-0", "uid": "n", "resourceVersion": "1"},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "a"}]},
    }
    store.put(Kind.NODES, node)
    beat = copy.deepcopy(node)
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "b"
    store.put(Kind.NODES, beat)
    assert len(woken) == 1
    tainted = copy.deepcopy(node)
    tainted["spec"]["taints"] = [{"key": "sluice.dev/quarantine"}]
    store.put(Kind.NODES, tainted)
    assert len(woken) == 2


def test_is_complete_only_when_every_kind_was_listed(store):
    for kind in Kind:
        assert not store.is_complete()
        store.replace(kind, [], at=1.0)
    assert store.is_complete()
