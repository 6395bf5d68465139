"""What clients saw, as metrics tell it: waits in line and gaps between tokens, in virtual time."""

import math
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from sluice_gateway.gaps import BOUNDS, Gaps
from sluice_gateway.goals import Asked, RequestClass
from sluice_gateway.metrics import Metrics

from . import objects
from .simworld import Ask, simulate
from .test_fleet import World

ONE_AT_A_TIME = {"inflight_most": 1}
POOL = "default/chat"


@pytest.fixture
def world():
    world = World()
    world.pools.put(objects.pool())
    world.start("m1", "m2")
    world.registry = CollectorRegistry()
    world.metrics = Metrics(world.registry, world.fleet)
    world.fleet.on_workers_changed.append(world.metrics.workers.forget_departed)
    world.fleet.on_pool_removed.append(world.metrics.forget_pool)
    return world


def ask(at, *, output=8, kind=None):
    return Ask(at, prompt=8, output=output, most=160, asked=Asked(kind=kind))


def read(registry, name, **labels):
    return registry.get_sample_value(f"sluice_gateway_{name}", labels)


def read_waits(door, kind="standard"):
    labels = {"pool": POOL, "request_class": kind}
    name = "queue_wait_seconds"
    count, total = (read(door.registry, f"{name}_{end}", **labels) for end in ("count", "sum"))
    return count, total, read(door.registry, f"{name}_bucket", le="0.001", **labels)


def read_signalled(door, kind="standard"):
    document = door.signals.render(300)
    waits = document["pools"][POOL]["classes"][kind]["queueWait"]
    return dict(zip((*document["bounds"]["queueWait"], math.inf), waits, strict=True))


def test_who_waits_in_line_is_seen_to_have_waited_that_long():
    asks = [ask(0.0), ask(0.02), ask(0.03, kind=RequestClass.BATCH)]
    results, (door,) = simulate(asks, ["maia"], told=ONE_AT_A_TIME)
    first, second, last = results
    assert [result.status for result in results] == [200, 200, 200]
    waited = first.took - 0.02
    assert waited > 0.1
    assert read_waits(door) == (2, pytest.approx(waited), 1)  # the first was sent at once
    batch = second.arrival + second.took - last.arrival
    assert read_waits(door, "batch") == (1, pytest.approx(batch), 0)
    signalled = read_signalled(door)
    bound = min(end for end in signalled if end >= waited)
    assert {end: count for end, count in signalled.items() if count} == {0.01: 1, bound: 1}
    assert sum(read_signalled(door, "batch").values()) == 1


def test_who_is_turned_away_after_a_wait_is_counted_and_who_is_at_once_is_not():
    told = {**ONE_AT_A_TIME, "wait_while_busy": 0.2, "waiting_least": 1, "waiting_per_worker": 1}
    asks = [ask(0.0, output=60), ask(0.02), ask(0.03)]
    results, (door,) = simulate(asks, ["maia"], told=told)
    assert [result.status for result in results] == [200, 429, 429]
    assert results[2].took == 0.0
    assert read_waits(door) == (2, pytest.approx(0.2), 1)
    assert sum(read_signalled(door).values()) == 2


def test_gaps_of_streams_add_up_to_the_time_between_first_and_last_token():
    results, (door,) = simulate([ask(0.0, output=30), ask(0.1, output=12)], ["gpu"])
    labels = {"pool": POOL, "accelerator_class": "gpu"}
    assert read(door.registry, "itl_seconds_count", **labels) == 29 + 11
    between = sum(r.tpot * (n - 1) for r, n in zip(results, (30, 12), strict=True))
    assert read(door.registry, "itl_seconds_sum", **labels) == pytest.approx(between)


def test_a_gap_is_in_the_bucket_of_its_bound_and_in_all_above():
    world = SimpleNamespace(pools={POOL: None})
    registry = CollectorRegistry()
    metrics = Metrics(registry, world)
    gaps = Gaps()
    for seconds in (0.004, 0.05, 0.051, 7.0, 99.0):
        gaps.add(seconds)
    for _ in range(2):
        metrics.observe_gaps(POOL, "maia", gaps)
    labels = {"pool": POOL, "accelerator_class": "maia"}
    found = [
        read(registry, "itl_seconds_bucket", le=le, **labels)
        for le in ("0.005", "0.05", "0.075", "5.0", "10.0", "+Inf")
    ]
    assert found == [2, 4, 6, 6, 8, 10]
    assert read(registry, "itl_seconds_sum", **labels) == pytest.approx(2 * sum((99, 7, 0.105)))
    assert len(gaps.counts) == len(BOUNDS) + 1
    del world.pools[POOL]
    metrics.forget_pool(POOL)
    metrics.observe_gaps(POOL, "maia", gaps)
    assert read(registry, "itl_seconds_count", **labels) is None


def test_tokens_that_come_together_are_one_gap_and_a_pause_belongs_to_who_goes_on(world):
    exchange = world.exchange()
    (_, first), (_, second) = world.run_on("m1"), world.run_on("m2")
    for attempt, at in ((first, 1.0), (first, 1.5), (first, 1.5), (second, 5.5), (second, 6.0)):
        exchange.note_token(attempt, at)
    assert (sum(first.gaps.counts), first.gaps.seconds) == (1, 0.5)
    assert (sum(second.gaps.counts), second.gaps.seconds) == (2, 4.5)


def serve(world, worker):
    """Let all happen on a worker that metrics tell of it."""
    metrics = world.metrics
    metrics.observe_first_token(POOL, worker, 0.3)
    metrics.observe_finish(POOL, worker, met=True, tpot=0.02, tokens=(3, 9))
    metrics.observe_finish(POOL, worker, met=False, tpot=None, tokens=(1, 1))
    metrics.workers.count_fault(worker, "error")
    metrics.workers.count_fault(worker, "timeout")


def list_workers(world):
    """Return the workers that series are about."""
    samples = [sample for family in world.registry.collect() for sample in family.samples]
    return {sample.labels["worker"] for sample in samples if "worker" in sample.labels}


def test_what_a_worker_did_is_told_under_its_name(world):
    serve(world, world.fleet.workers["uid-m1"])
    labels = {"pool": POOL, "accelerator_class": "maia", "worker": "m1"}
    results = [
        read(world.registry, "worker_requests_total", **labels, result=result)
        for result in ("met", "missed", "error", "timeout")
    ]
    assert results == [1, 1, 1, 1]
    tokens = [
        read(world.registry, "worker_tokens_total", **labels, kind=kind)
        for kind in ("prompt", "output")
    ]
    assert tokens == [4, 10]
    assert read(world.registry, "worker_ttft_seconds_sum", **labels) == 0.3
    assert read(world.registry, "worker_tpot_seconds_count", **labels) == 1
    assert list_workers(world) == {"m1"}


def test_series_of_a_worker_that_is_gone_are_removed_and_do_not_come_back(world):
    gone, stays = (world.fleet.workers[f"uid-{name}"] for name in ("m1", "m2"))
    serve(world, gone)
    serve(world, stays)
    _, attempt = world.run_on("m1")
    world.workers.remove(objects.worker("m1"))
    assert list_workers(world) == {"m2"}
    serve(world, gone)  # a stream on it goes on for a while
    world.fleet.stop_running(gone, attempt)
    assert list_workers(world) == {"m2"}


def test_a_worker_of_the_same_name_begins_anew(world):
    old = world.fleet.workers["uid-m1"]
    serve(world, old)
    world.workers.remove(objects.worker("m1"))
    world.workers.put(objects.worker("m1", uid="uid-new"))
    serve(world, world.fleet.workers["uid-new"])
    serve(world, old)
    labels = {"pool": POOL, "accelerator_class": "maia", "worker": "m1", "result": "met"}
    assert read(world.registry, "worker_requests_total", **labels) == 1


def test_series_of_a_pool_that_is_gone_are_removed_and_do_not_come_back(world):
    worker = world.fleet.workers["uid-m1"]
    exchange = world.exchange()
    call = SimpleNamespace(priority=None)
    world.admission.prepare(exchange, call, world.fleet.pools[POOL])
    gaps = Gaps()
    gaps.add(0.1)

    def serve_all():
        world.metrics.workers.count_fault(worker, "error")
        world.metrics.workers.observe_first_token(worker, 0.3)
        world.metrics.workers.observe_finish(worker, met=True, tpot=0.1, tokens=(1, 1))
        world.metrics.observe_queue_wait(POOL, exchange)
        world.metrics.observe_gaps(POOL, "maia", gaps)

    def samples():
        return [sample for family in world.registry.collect() for sample in family.samples]

    serve_all()
    assert {sample.labels["pool"] for sample in samples()} == {POOL}
    world.pools.remove(objects.pool())
    assert samples() == []
    serve_all()
    assert samples() == []
