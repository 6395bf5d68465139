"""Probation pods are made once, and deleted only if they are still the ones that were meant."""

import pytest

from sluice.act.probations import (
    ForeignPodError,
    RelabelledPodError,
    end_probation,
    start_probation,
)
from sluice.kube.errors import ConflictError, NotFoundError
from sluice.model.plan import EndProbation

END = EndProbation("maia-0", "sluice-probe-maia-0", "u1", "its node is Ramp")


class FakeWriter:
    """Holds at most one pod."""

    def __init__(self, live=None):
        self.live, self.deleted = live, []

    async def create(self, resource, manifest):
        if self.live is not None:
            raise ConflictError(409, "AlreadyExists", "it is there")
        self.live = manifest

    async def read(self, resource, namespace, name):
        if self.live is None:
            raise NotFoundError(404, "NotFound", name)
        return self.live

    async def delete(self, resource, live):
        self.deleted.append(live["metadata"]["uid"])


LABEL = "app.kubernetes.io/name"
OURS = {
    "labels": {LABEL: "sluice-probe"},
    "ownerReferences": [
        {"apiVersion": "sluice.dev/v1alpha1", "kind": "AcceleratorClass", "controller": True}
    ],
}


def pod(uid, **meta):
    return {"metadata": {"namespace": "sluice-system", "name": END.name, "uid": uid, **meta}}


async def test_a_pod_that_is_there_already_is_not_made_again():
    writer = FakeWriter()
    assert await start_probation(writer, pod("u1", **OURS))
    assert not await start_probation(writer, pod("u2", **OURS))
    assert writer.live["metadata"]["uid"] == "u1"
    assert writer.deleted == []


@pytest.mark.parametrize("labels", [None, {LABEL: "something-else"}])
async def test_a_pod_that_a_hand_relabelled_is_deleted_and_named(labels):
    writer = FakeWriter(pod("u1", **OURS | {"labels": labels}))
    with pytest.raises(RelabelledPodError, match="sluice-system/sluice-probe-maia-0 had the label"):
        await start_probation(writer, pod("u2", **OURS))
    assert writer.deleted == ["u1"]
    writer.live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not await start_probation(writer, pod("u2", **OURS))
    assert writer.deleted == ["u1"]


async def test_a_pod_of_somebody_else_is_left_alone_and_named():
    other = {"kind": "ReplicaSet", "apiVersion": "apps/v1", "controller": True}
    for owners in ([], [other]):
        writer = FakeWriter(pod("u1", ownerReferences=owners))
        with pytest.raises(ForeignPodError, match="is not Sluice's, and has the name"):
            await start_probation(writer, pod("u2", **OURS))
        assert writer.deleted == []


async def test_only_the_pod_that_was_meant_is_deleted_and_once():
    for live in (None, pod("another"), pod("u1", deletionTimestamp="2026-01-01T00:00:00Z")):
        writer = FakeWriter(live)
        assert not await end_probation(writer, END, "sluice-system")
        assert writer.deleted == []
    writer = FakeWriter(pod("u1"))
    assert await end_probation(writer, END, "sluice-system")
    assert writer.deleted == ["u1"]
