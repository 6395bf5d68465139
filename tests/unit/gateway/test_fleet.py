"""What the fleet knows of pools and workers, and what a request may use."""

import asyncio
import time
from collections import Counter
from dataclasses import replace

import pytest
import structlog

from sluice_gateway.admission import Admission
from sluice_gateway.answers import Refusal
from sluice_gateway.attempts import Attempt, Exchange
from sluice_gateway.cluster import PoolSink, WorkerSink
from sluice_gateway.fleet import Fleet
from sluice_gateway.forecast import Need
from sluice_gateway.goals import Goal, RequestClass
from sluice_gateway.settings import Patience, Relaying
from sluice_gateway.waits import Wait

from . import objects
from .clock import Clock
from .polling import until


class World:
    """A fleet with its sinks, on a clock of its own."""

    def __init__(self):
        self.clock = Clock()
        self.fleet = Fleet(
            clock=self.clock, inflight_most=2, failures_to_fail=3, patience=Patience()
        )
        capture = structlog.testing.LogCapture()
        log = structlog.wrap_logger(None, processors=[capture])
        self.capture = capture
        self.lines = capture.entries
        self.pools = PoolSink(self.fleet, log)
        self.workers = WorkerSink(self.fleet, log)
        self.relaying = Relaying(wait_for_worker=5.0, waiting_most=3)
        self.admission = Admission(
            self.fleet, relaying=self.relaying, clock=self.clock, random=lambda: 0.0
        )

    def start(self, *names, **more):
        for name in names:
            self.workers.put(objects.worker(name, **more))

    def exchange(self):
        return Exchange(request_id="r", path="/v1/completions", arrival=0.0, arrived_at=0.0)

    def usable(self, key="default/chat"):
        pool = self.fleet.pools[key]
        return {
            worker.pod.name
            for worker in pool.workers.values()
            if self.fleet.is_usable(pool, worker, self.clock())
        }

    def run_on(self, name, **more):
        worker = self.fleet.workers[f"uid-{name}"]
        attempt = Attempt(
            worker=worker, reason="", dispatched=0.0, dispatched_at=0.0, pending_since=None, **more
        )
        self.fleet.start_running(worker, attempt)
        return worker, attempt

    async def find(self, exchange=None):
        pool = self.admission.find_pool("compact")
        return await self.admission.find_worker(exchange or self.exchange(), pool, None)

    async def wait_until_waiting(self, count):
        pool = self.admission.find_pool("compact")
        await until(lambda: pool.waiting == count)


@pytest.fixture
def world():
    world = World()
    world.pools.put(objects.pool())
    return world


def test_a_worker_is_usable_when_nothing_speaks_against_it(world):
    world.start("ok", "unready", ready=True)
    world.start("unready", ready=False)
    world.start("ending", deleting=True)
    world.start("other", pool="elsewhere")
    world.start("foreign", namespace="other")
    assert world.usable() == {"ok"}


def test_quarantined_suspect_held_and_full_workers_are_not_usable(world):
    world.start("taken", "suspect", "held", "full", "ok")
    world.pools.put(objects.pool(shares={"maia": "100%"}, quarantined=["taken"]))
    world.fleet.workers["uid-suspect"].health.note_broken_request(world.clock())
    world.fleet.workers["uid-held"].held_until = world.clock() + 1
    world.run_on("full")
    world.run_on("full")
    assert world.usable() == {"ok"}
    world.clock.now += 2
    world.fleet.note_progress(world.fleet.workers["uid-suspect"])
    assert world.usable() == {"ok", "held", "suspect"}


def test_a_request_takes_a_place_for_each_of_its_sequences(world):
    world.start("one", "two")
    goal = Goal(RequestClass.STANDARD, ttft=1.0, tpot=0.1)
    need = Need(prompt=8, output=8, goal=goal, ttft=1.0, choices=2, prompts=2)
    worker, attempt = world.run_on("one", need=need)
    world.run_on("two")
    assert world.usable() == {"two"}
    for _ in range(2):
        world.fleet.stop_running(worker, attempt)
    assert worker.sequences == 0
    assert world.usable() == {"one", "two"}


def test_workers_may_come_before_their_pool():
    world = World()
    world.start("w1")
    world.pools.put(objects.pool())
    assert world.usable() == {"w1"}


def test_a_list_removes_what_it_lacks(world):
    world.start("w1", "w2")
    world.workers.replace_all([objects.worker("w2"), objects.worker("w3")])
    assert world.usable() == {"w2", "w3"}
    world.pools.replace_all([objects.pool("other", model="other")])
    assert list(world.fleet.pools) == ["default/other"]
    assert world.fleet.find_pool("compact") is None


def test_the_older_pool_wins_a_model_name(world):
    world.pools.put(objects.pool("older", created=1_600_000_000))
    assert world.admission.find_pool("compact").spec.key == "default/older"
    world.pools.remove(objects.pool("older"))
    assert world.admission.find_pool("compact").spec.key == "default/chat"


def test_an_unreadable_pool_keeps_what_was_known_and_is_told_once(world):
    world.pools.put(objects.pool(shares={"maia": "100%"}))
    bad = objects.pool(shares={"maia": "much"}, ttft="1s")
    for _ in range(3):
        world.pools.put(bad)
    pool = world.fleet.pools["default/chat"]
    assert pool.spec.slo.ttft == 1.0
    assert pool.decision.shares == {"maia": 1.0}
    world.pools.put(objects.pool(ttft="soon"))
    assert world.fleet.pools["default/chat"].spec.slo.ttft == 1.0
    told = [line["reason"] for line in world.lines]
    assert len(told) == 2
    assert "'much' is not a percentage" in told[0]
    assert "'soon' is not a duration" in told[1]


def test_an_unreadable_pod_is_ignored(world):
    world.workers.put({"metadata": "odd"})
    world.workers.put(objects.worker("w1", port="high"))
    assert world.fleet.workers == {}
    assert len(world.lines) == 2


def test_unknown_models_are_told_what_is_served(world):
    with pytest.raises(Refusal) as caught:
        world.admission.find_pool("gpt-9")
    assert b"served: compact" in caught.value.answer.body


async def test_retries_do_not_count_towards_the_shares(world):
    world.start("m1")
    world.start("g1", variant="gpu")
    world.pools.put(objects.pool(shares={"maia": "50%", "gpu": "50%"}))
    retrying = world.exchange()
    _, attempt = world.run_on("m1")
    retrying.attempts.append(attempt)
    retrying.excluded.add("uid-m1")
    assert [(await world.find(retrying)).worker.uid for _ in range(3)] == ["uid-g1"] * 3
    fresh = [(await world.find()).worker.uid for _ in range(4)]
    assert fresh == ["uid-m1", "uid-g1", "uid-m1", "uid-g1"]


async def send(world, count):
    """Return how many of so many requests went to each worker."""
    return Counter([(await world.find()).worker.pod.name for _ in range(count)])


async def test_pods_that_come_back_get_their_part_of_the_pool_s_traffic_and_no_more(world):
    world.start("m1", "m2", "m3")
    world.start("g1", variant="gpu")
    ramps = {"maia": {"share": "10%", "pods": ["m2", "unknown", "g1"]}}
    world.pools.put(objects.pool(shares={"maia": "60%", "gpu": "40%"}, ramps=ramps))
    sent = await send(world, 100)
    assert (sent["m2"], sent["m1"] + sent["m3"], sent["g1"]) == (10, 50, 40)
    world.start("m1", "m3", ready=False)
    sent = await send(world, 100)
    assert (sent["m2"], sent["g1"]) == (10, 90)
    world.start("g1", variant="gpu", ready=False)
    assert await send(world, 10) == {"m2": 10}


async def test_a_ramp_ends_when_the_status_says_so(world):
    world.start("m1", "m2")
    ramps = {"maia": {"share": "0%", "pods": ["m1"]}}
    world.pools.put(objects.pool(shares={"maia": "100%"}, ramps=ramps))
    world.start("m1")  # a change of the pod forgets nothing
    assert await send(world, 10) == {"m2": 10}
    world.pools.put(objects.pool(shares={"maia": "100%"}))
    world.run_on("m2")
    assert (await world.find()).worker.pod.name == "m1"


@pytest.mark.parametrize(
    ("ramp", "sentence"),
    [
        ({"share": "lots", "pods": ["m1"]}, "[maia].ramp.share: 'lots' is not a percentage"),
        ({"pods": ["m1"]}, "[maia].ramp.share: "),
        ({"share": "5%", "pods": "m1"}, "[maia].ramp.pods is not a list of pod names"),
        ("soon", "[maia].ramp is not an object: 'soon'"),
    ],
)
def test_a_ramp_that_is_nonsense_is_told_and_what_was_known_stays(world, ramp, sentence):
    good = {"maia": {"share": "5%", "pods": ["m1"]}}
    world.pools.put(objects.pool(shares={"maia": "100%"}, ramps=good))
    world.pools.put(objects.pool(shares={"maia": "100%"}, ramps={"maia": ramp}))
    decision = world.fleet.pools["default/chat"].decision
    assert decision.find_group("maia", "m1") == "maia (returning)"
    assert [sentence in line["reason"] for line in world.lines] == [True]


async def test_a_request_waits_for_a_worker(world):
    finding = asyncio.create_task(world.find())
    await world.wait_until_waiting(1)
    world.start("w1", ready=False)
    await asyncio.sleep(0)
    assert not finding.done()
    world.start("w1")
    assert (await finding).worker.pod.name == "w1"
    assert world.fleet.pools["default/chat"].waiting == 0


async def test_waiting_requests_are_woken_as_places_become_free_the_oldest_first(world):
    found = []

    async def wait(name):
        choice = await world.find()
        _, attempt = world.run_on("w1")
        found.append((name, attempt))
        return choice

    waiting = []
    for name in ("first", "second", "third"):
        waiting.append(asyncio.create_task(wait(name)))
        await world.wait_until_waiting(len(waiting))
    world.start("w1")
    await asyncio.gather(*waiting[:2])
    assert [name for name, _ in found] == ["first", "second"]
    assert not waiting[2].done()
    world.fleet.stop_running(world.fleet.workers["uid-w1"], found[0][1])
    await waiting[2]


async def test_the_line_is_bounded(world):
    waiting = [asyncio.create_task(world.find()) for _ in range(3)]
    await world.wait_until_waiting(3)
    with pytest.raises(Refusal) as caught:
        await world.find()
    assert (caught.value.answer.status, caught.value.outcome) == (429, "queue_full")
    assert caught.value.answer.retry_after
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    pool = world.fleet.pools["default/chat"]
    assert (pool.waiting, list(pool.waiters)) == (0, [])


async def test_the_line_is_shorter_while_somebody_moves_it(world):
    patient(world, waiting_most=9, waiting_per_worker=2, waiting_least=3)
    world.start("w1", "w2")
    for name in ("w1", "w2"):
        world.run_on(name)
        world.run_on(name)
    waiting = [asyncio.create_task(world.find()) for _ in range(4)]
    await world.wait_until_waiting(4)
    with pytest.raises(Refusal) as caught:
        await world.find()
    assert (caught.value.answer.status, caught.value.outcome) == (429, "queue_full")
    world.start("w1", ready=False)
    with pytest.raises(Refusal):
        await world.find()
    world.start("w2", ready=False)  # now nobody knows how fast it will move
    waiting.append(asyncio.create_task(world.find()))
    await world.wait_until_waiting(5)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_waits_too_long_for_busy_workers_is_told_to_come_back(world):
    patient(world, wait_while_busy=0.05, wait_for_worker=30.0)
    world.admission = Admission(
        world.fleet, relaying=world.relaying, clock=time.monotonic, random=lambda: 0.0
    )
    world.start("w1")
    world.run_on("w1")
    world.run_on("w1")
    with pytest.raises(Refusal) as caught:
        await world.find()
    assert (caught.value.answer.status, caught.value.outcome) == (429, "too_busy")
    assert caught.value.answer.retry_after
    assert b"all 1 healthy workers are busy" in caught.value.answer.body
    pool = world.fleet.pools["default/chat"]
    assert (pool.waiting, list(pool.waiters)) == (0, [])


def test_time_without_a_healthy_worker_is_not_held_against_who_waits():
    wait = Wait(Relaying(wait_for_worker=30.0, wait_while_busy=10.0), 100.0)
    wait.note(119.0, busy=False)
    assert wait.find_left(119.0, busy=True) == 10.0
    wait.note(125.0, busy=True)
    assert wait.find_left(125.0, busy=True) == 4.0
    assert wait.find_left(125.0, busy=False) == 5.0
    assert wait.find_left(129.5, busy=True) == 0.5


def patient(world, **more):
    world.relaying = replace(world.relaying, **more)
    world.admission = Admission(
        world.fleet, relaying=world.relaying, clock=world.clock, random=lambda: 0.0
    )


async def test_waiting_ends_with_a_sentence():
    world = World()
    world.relaying = replace(world.relaying, wait_for_worker=0.01)
    world.admission = Admission(
        world.fleet, relaying=world.relaying, clock=time.monotonic, random=lambda: 0.0
    )
    world.pools.put(objects.pool())
    world.start("w1", ready=False)
    with pytest.raises(Refusal) as caught:
        await world.find()
    assert caught.value.answer.status == 503
    assert b"none of its 1 workers is ready and healthy" in caught.value.answer.body


async def test_whoever_waits_in_a_deleted_pool_is_told(world):
    finding = asyncio.create_task(world.find())
    await world.wait_until_waiting(1)
    world.pools.remove(objects.pool())
    with pytest.raises(Refusal) as caught:
        await finding
    assert caught.value.answer.status == 404


async def test_a_place_given_to_one_who_left_goes_to_the_next(world):
    first = asyncio.create_task(world.find())
    await world.wait_until_waiting(1)
    second = asyncio.create_task(world.find())
    await world.wait_until_waiting(2)
    world.start("w1", ready=False)
    worker, attempt = world.run_on("w1")
    world.run_on("w1")
    world.start("w1")
    world.fleet.stop_running(worker, attempt)  # wakes the first
    first.cancel()
    assert (await second).worker.pod.name == "w1"


def test_a_removed_worker_is_probed_until_its_requests_have_ended(world):
    world.start("w1")
    worker, attempt = world.run_on("w1")
    world.workers.remove(objects.worker("w1"))
    assert world.usable() == set()
    assert world.fleet.list_probed() == [worker]
    world.fleet.stop_running(worker, attempt)
    assert world.fleet.list_probed() == []
