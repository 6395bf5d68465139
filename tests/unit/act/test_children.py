"""Children are made, mended and removed; what is not ours stays as it is."""

import pytest

from sluice.act.children import Children
from sluice.kube.errors import NotFoundError, RejectedError, make_error
from sluice.model.keys import PoolKey
from sluice.model.plan import DeleteWorker

UID = "pool-uid"


def child(replicas=2, owner=UID, name="chat-maia"):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "default",
            "ownerReferences": [{"kind": "InferencePool", "uid": owner, "controller": True}],
        },
        "spec": {"replicas": replicas},
    }


def observed(item, manager="sluice", version="1000"):
    live = {**item, "metadata": {**item["metadata"], "uid": "u1", "resourceVersion": version}}
    live["metadata"]["managedFields"] = [{"manager": manager, "time": "2026-01-01T00:00:00Z"}]
    return live


class FakeWriter:
    def __init__(self, live=None, refuse=None, refused=""):
        self.applied, self.deleted, self.tries = [], [], 0
        self._live, self._refuse, self._refused = live, refuse, refused

    async def apply(self, resource, manifest, subresource=""):
        self.tries += 1
        if self._refuse and self._refused in manifest["metadata"]["name"]:
            raise self._refuse
        self.applied.append(manifest)
        version = str(10 * len(self.applied))
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}

    async def read(self, resource, namespace, name):
        if self._live is None:
            raise NotFoundError(404, "NotFound", name)
        return self._live

    async def delete(self, resource, live):
        self.deleted.append(live["metadata"]["name"])


def make_children(writer, clock=lambda: 0.0):
    return Children(writer, clock)


async def test_makes_what_is_missing_and_leaves_what_is_right():
    writer = FakeWriter()
    children = make_children(writer)
    await children.apply([child()], [], [], UID)
    assert writer.applied == [child()]
    await children.apply([child()], [observed(child())], [], UID)
    assert len(writer.applied) == 1


async def test_puts_back_an_edit_of_somebody_else_and_says_whose():
    writer = FakeWriter()
    children = make_children(writer)
    await children.apply([child()], [], [], UID)
    results = await children.apply([child()], [observed(child(7), "kubectl-scale")], [], UID)
    assert writer.applied[-1] == child()
    assert results.put_back == (
        "Deployment chat-maia: spec.replicas 7 (set by kubectl-scale) put back to 2",
    )


async def test_makes_again_what_somebody_deleted_and_says_so_once():
    writer = FakeWriter()
    children = make_children(writer)
    await children.apply([child()], [], [], UID)
    unseen = await children.apply([child()], [], [], UID)
    await children.apply([child()], [observed(child())], [], UID)
    results = await children.apply([child()], [], [], UID)
    again = await children.apply([child()], [], [], UID)
    assert writer.applied[-1] == child()
    assert results.put_back == ("Deployment chat-maia: deleted by somebody, made again",)
    assert unseen.put_back == again.put_back == ()


async def test_what_went_with_its_pool_was_not_deleted_by_somebody():
    children = make_children(FakeWriter())
    await children.apply([child()], [observed(child())], [], UID)
    children.forget({"another-uid"})
    results = await children.apply([child()], [], [], UID)
    assert results.put_back == ()


async def test_a_watch_behind_our_own_write_is_no_edit_of_somebody():
    writer = FakeWriter()
    children = make_children(writer)
    await children.apply([child(2)], [], [], UID)
    await children.apply([child(3)], [observed(child(2), version="10")], [], UID)
    results = await children.apply([child(3)], [observed(child(2), version="10")], [], UID)
    assert (len(writer.applied), results.put_back) == (2, ())
    results = await children.apply([child(3)], [observed(child(9), "hpa", "21")], [], UID)
    assert len(writer.applied) == 3
    assert len(results.put_back) == 1


async def test_a_change_of_our_own_is_not_put_back():
    children = make_children(FakeWriter())
    await children.apply([child(2)], [], [], UID)
    results = await children.apply([child(3)], [observed(child(2))], [], UID)
    assert results.put_back == ()


async def test_never_takes_over_what_belongs_to_another():
    writer = FakeWriter()
    results = await make_children(writer).apply([child()], [observed(child(owner="else"))], [], UID)
    assert writer.applied == []
    assert "does not take it over" in results.errors["Deployment chat-maia"]


async def test_looks_for_an_unlabelled_namesake_before_it_makes_a_child():
    writer = FakeWriter(live=observed(child(owner="else")))
    results = await make_children(writer).apply([child()], [], [], UID)
    assert writer.applied == []
    assert "does not take it over" in results.errors["Deployment chat-maia"]
    mine = FakeWriter(live=observed(child()))
    await make_children(mine).apply([child()], [], [], UID)
    assert mine.applied == [child()]


async def test_a_refusal_is_kept_as_a_sentence():
    refusal = RejectedError(422, "Invalid", "spec.replicas: must not be odd")
    results = await make_children(FakeWriter(refuse=refusal)).apply([child()], [], [], UID)
    assert results.errors == {"Deployment chat-maia": "spec.replicas: must not be odd"}


async def test_what_is_refused_is_tried_again_ever_more_rarely_and_its_change_at_once():
    now = [1000.0]
    refusal = RejectedError(422, "Invalid", "spec.replicas: must not be odd")
    writer = FakeWriter(refuse=refusal)
    children = make_children(writer, lambda: now[0])
    for _ in range(300):
        results = await children.apply([child(3)], [], [], UID)
        assert results.errors == {"Deployment chat-maia": "spec.replicas: must not be odd"}
        now[0] += 0.2
    assert writer.tries <= 6
    before = writer.tries
    await children.apply([child(4)], [], [], UID)
    assert writer.tries == before + 1


async def test_an_edit_that_comes_back_at_once_is_put_back_ever_more_rarely():
    now = [1000.0]
    writer = FakeWriter()
    children = make_children(writer, lambda: now[0])
    await children.apply([child()], [], [], UID)
    told = 0
    for _ in range(300):
        now[0] += 0.2
        results = await children.apply([child()], [observed(child(7), "an-autoscaler")], [], UID)
        told += len(results.put_back)
    assert 2 <= told <= 6
    assert len(writer.applied) == told + 1
    await children.apply([child(8)], [observed(child(7), "an-autoscaler")], [], UID)
    assert writer.applied[-1] == child(8)


async def test_a_broken_webhook_keeps_no_other_child_and_is_told():
    broken = make_error(500, "InternalError", "failed calling webhook: no endpoints")
    writer = FakeWriter(refuse=broken, refused="chat-maia")
    results = await make_children(writer).apply([child(), child(name="chat-gpu")], [], [], UID)
    assert [item["metadata"]["name"] for item in writer.applied] == ["chat-gpu"]
    assert results.errors == {"Deployment chat-maia": "failed calling webhook: no endpoints"}


async def test_removes_what_is_no_longer_wanted_but_keeps_the_frozen():
    gone, frozen = observed(child(name="chat-old")), observed(child(name="chat-gone"))
    writer = FakeWriter(live=gone)
    await make_children(writer).apply([child()], [gone, frozen], ["chat-gone"], UID)
    assert writer.deleted == ["chat-old"]


@pytest.mark.parametrize(
    ("live", "deleted"),
    [
        ({"name": "w", "uid": "w1", "resourceVersion": "1"}, True),
        ({"name": "w", "uid": "another", "resourceVersion": "1"}, False),
        ({"name": "w", "uid": "w1", "resourceVersion": "1", "deletionTimestamp": "now"}, False),
        (None, False),
    ],
    ids=["the failed one", "a namesake", "already going", "already gone"],
)
async def test_deletes_a_worker_only_if_it_is_still_the_one(live, deleted):
    writer = FakeWriter(live={"metadata": live} if live else None)
    done = await make_children(writer).delete_worker(
        DeleteWorker(PoolKey("default", "chat"), "w", "w1", "three misses")
    )
    assert done is deleted
    assert writer.deleted == (["w"] if deleted else [])
