"""A pool's part of a plan is carried out in an order that survives what may go wrong."""

# ruff: noqa: TID252 - the world lives with the planner's tests; tests are no installed package

from collections import Counter

import pytest

from sluice.control.applying import Applier
from sluice.decide.planner import plan
from sluice.kube.errors import ConflictError, KubeError, NotFoundError, RejectedError
from sluice.model.keys import PoolKey
from sluice.model.plan import EndProbation, StartProbation
from sluice.observe.store import Kind, Store

from ..decide.world import World


class FakeWriter:
    """Notes writes as (verb, kind); refuses the kinds that are broken."""

    def __init__(self):
        self.requests, self.broken, self.statuses, self.events = [], set(), [], []
        self.gone, self.written = set(), Counter()
        self.pods, self.refusal, self.namesake = [], "", None

    async def apply(self, resource, manifest, subresource=""):
        if resource.kind in self.gone:
            raise NotFoundError(404, "NotFound", "no such pool")
        if resource.kind in self.broken:
            raise KubeError(503, "ServiceUnavailable", "try later")
        self.requests.append(("apply", resource.kind))
        self.written["apply", resource.kind] += 1
        if subresource:
            self.statuses.append(manifest["status"])
        return manifest

    async def create(self, resource, manifest):
        if manifest["kind"] == "Pod":
            self.pods.append(manifest["metadata"]["name"])
            if self.refusal:
                raise RejectedError(403, "Forbidden", self.refusal)
            if self.namesake is not None:
                raise ConflictError(409, "AlreadyExists", "it is there")
            return
        self.events.append(manifest["reason"])

    async def read(self, resource, namespace, name):
        if resource.kind == "Pod" and self.namesake is not None:
            return {"metadata": {"name": name, "uid": "n", **self.namesake}}
        raise NotFoundError(404, "NotFound", name)

    async def delete(self, resource, live):
        self.namesake = None


@pytest.fixture
def writer():
    return FakeWriter()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def applier(writer, world):
    store = Store(lambda _: None)
    return Applier(
        writer,
        store,
        lambda: world.now,
        worker_image="w:1",
        instance="me",
        namespace="sluice-system",
    )


def decide(world):
    """Return what `apply_pool` takes, for one more pass over the world."""
    world.now += world.tick
    snapshot = world.snapshot()
    planned, world.memory = plan(snapshot, world.memory)
    (pool,) = snapshot.pools
    return snapshot, pool, planned.pools[pool.key], world.memory.pools[pool.key]


async def test_traffic_moves_also_while_children_cannot_be_written(applier, writer, world):
    world.run(20)
    await applier.apply_pool(*decide(world))
    assert writer.statuses[-1]["variants"][0]["share"] == "100%"
    world.status["chat"] = writer.statuses[-1]
    writer.broken = {"Deployment"}
    for uid in list(world.workers):
        del world.workers[uid]
    with pytest.raises(KubeError):
        await applier.apply_pool(*decide(world))
    assert writer.statuses[-1]["variants"][0]["share"] == "0%"


async def test_what_is_decided_is_recorded_before_it_is_done(applier, writer, world):
    await applier.apply_pool(*decide(world))
    assert writer.requests[0] == ("apply", "InferencePool")
    assert ("apply", "Deployment") in writer.requests[1:]


async def test_a_decision_is_told_also_when_a_newer_job_replaced_the_one_it_came_with(
    applier, writer, world
):
    world.run(20)
    world.rate["chat"] = 4.0
    _, pool, replaced, _ = decide(world)
    told = [decision.action for decision in replaced.decisions]
    assert "ScaleUp" in told
    applier.note(pool.key, replaced.decisions)
    newer = decide(world)
    assert newer[2].decisions == ()
    applier.note(pool.key, newer[2].decisions)
    await applier.apply_pool(*newer)
    await applier.apply_pool(*newer)
    assert writer.events == told


async def test_a_watch_that_says_nothing_causes_no_second_write(applier, writer, world):
    world.run(20)
    await applier.apply_pool(*decide(world))
    before = len(writer.statuses)
    for uid in list(world.workers):
        del world.workers[uid]
    for _ in range(5):
        await applier.apply_pool(*decide(world))
    assert len(writer.statuses) == before + 1


async def test_nothing_is_made_for_a_pool_that_is_gone(applier, writer, world):
    writer.gone = {"InferencePool"}
    await applier.apply_pool(*decide(world))
    assert writer.requests == []


CHAT = PoolKey("default", "chat")
START = StartProbation("maia-0", "maia", CHAT, 2)


def take_class(applier):
    applier._store.put(Kind.CLASSES, {"metadata": {"name": "maia", "uid": "c", "generation": 1}})


async def test_a_probation_pod_is_made_for_a_class_and_a_pool_that_are_still_there(
    world, applier, writer
):
    world.step()
    await applier.apply_probation(world.seen, START)
    assert writer.pods == []
    take_class(applier)
    await applier.apply_probation(world.seen, START)
    assert writer.pods == ["sluice-probe-maia-0"]
    end = EndProbation("maia-0", "sluice-probe-maia-0", "u", "its node is Failed")
    await applier.apply_probation(world.seen, end)  # gone already


async def test_a_refused_probation_pod_is_told_once_and_tried_again_now_and_then(
    world, applier, writer
):
    take_class(applier)
    writer.refusal = "exceeded quota"
    for _ in range(40):
        world.step()
        await applier.apply_probation(world.seen, START)
    assert 2 <= len(writer.pods) <= 4
    pool = world.seen.pools[0]
    await applier.apply_pool(world.seen, pool, world.chat(), world.memory.pools[CHAT])
    assert writer.events.count("ProbationRefused") == 1
    writer.refusal = ""
    world.run(40)
    await applier.apply_probation(world.seen, START)
    assert applier._refused == {}


async def test_a_probation_pod_without_its_label_is_told_and_made_again(world, applier, writer):
    take_class(applier)
    world.step()
    owner = {"apiVersion": "sluice.dev/v1alpha1", "kind": "AcceleratorClass", "controller": True}
    writer.namesake = {"ownerReferences": [owner]}
    await applier.apply_probation(world.seen, START)
    await applier.apply_probation(world.seen, START)
    assert writer.pods == ["sluice-probe-maia-0"] * 2
    pool = world.seen.pools[0]
    await applier.apply_pool(world.seen, pool, world.chat(), world.memory.pools[CHAT])
    assert writer.events.count("ProbationRemade") == 1


async def test_a_namesake_of_a_probation_pod_is_told_once_and_stays(world, applier, writer):
    take_class(applier)
    writer.namesake = {}
    for _ in range(40):
        world.step()
        await applier.apply_probation(world.seen, START)
    assert 2 <= len(writer.pods) <= 4
    assert writer.namesake is not None
    pool = world.seen.pools[0]
    await applier.apply_pool(world.seen, pool, world.chat(), world.memory.pools[CHAT])
    assert writer.events.count("ProbationRefused") == 1


async def test_nodes_that_are_gone_are_not_remembered_for_a_refusal(world, applier, writer):
    take_class(applier)
    writer.refusal = "exceeded quota"
    for number in range(5):
        world.nodes[f"spot-{number}"] = "maia"
        world.leases[f"spot-{number}"] = world.now
        world.step()
        start = StartProbation(f"spot-{number}", "maia", CHAT, 2)
        await applier.apply_probation(world.seen, start)
        del world.nodes[f"spot-{number}"]
    assert len(applier._refused) == 1
