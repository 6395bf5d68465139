"""What clients saw, scraped from the admin port: by pool, by class of request, and by worker."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..unit.gateway import objects
from ..unit.gateway.fakekube import PODS, POOLS
from ..unit.gateway.gatewayworld import GatewayWorld, settings, usable
from ..unit.gateway.polling import until
from .streamcases import TEXT, Stream

POOL = "default/chat"
ON_W1 = {"pool": POOL, "accelerator_class": "maia", "worker": "w1"}


@pytest.fixture
async def world():
    async with GatewayWorld(settings(relaying={"inflight_most": 1})) as world:
        await world.add_pool()
        await world.start_gateway()
        yield world


async def scrape(world):
    """Return the values of all samples, by name and labels."""
    async with world.http.get(f"{world.admin}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        samples = [sample for family in families for sample in family.samples]
    found = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)

    def read(name, **labels):
        return found.get((f"sluice_gateway_{name}", frozenset(labels.items())))

    read.workers = {s.labels["worker"] for s in samples if "worker" in s.labels}
    read.pools = {s.labels["pool"] for s in samples if s.labels.get("pool")}
    return read


async def test_a_request_that_waited_in_line_is_told_apart_from_one_that_did_not(world):
    (worker,) = await usable(world, "w1")
    worker.step = 0.05
    running = asyncio.create_task(world.stream(max_tokens=8))
    await until(lambda: worker.got)
    read = await scrape(world)
    assert read("worker_inflight_requests", **ON_W1) == 1
    await asyncio.gather(running, world.ask(max_tokens=1))
    waited = [line["waited"] for line in world.request_lines()]
    assert max(waited) > 0.2
    read = await scrape(world)
    labels = {"pool": POOL, "request_class": "standard"}
    assert read("queue_wait_seconds_count", **labels) == 2
    assert read("queue_wait_seconds_sum", **labels) == pytest.approx(max(waited), abs=1e-3)
    assert read("queue_wait_seconds_bucket", le="0.001", **labels) == 1
    assert read("worker_inflight_requests", **ON_W1) == 0
    signals = await world.signals()
    waits = signals["pools"][POOL]["classes"]["standard"]["queueWait"]
    assert len(waits) == len(signals["bounds"]["queueWait"]) + 1
    assert (sum(waits), waits[0]) == (2, 1)


async def test_a_stall_in_mid_stream_is_a_gap_of_its_length(world):
    (worker,) = await usable(world, "w1")
    worker.step = 0.01
    stream = Stream(world, TEXT, {"max_tokens": 12})
    await stream.until(4)
    worker.mute = True
    await asyncio.sleep(0.6)
    worker.mute = False
    await stream.end()
    read = await scrape(world)
    labels = {"pool": POOL, "accelerator_class": "maia"}
    gaps = read("itl_seconds_count", **labels)
    assert 2 <= gaps <= 11  # what a busy machine reads together is one
    assert read("itl_seconds_bucket", le="0.3", **labels) < gaps
    assert read("itl_seconds_sum", **labels) > 0.5
    assert read("worker_tpot_seconds_bucket", le="0.2", **ON_W1) == 1  # the mean hides it


async def test_the_pause_of_a_stream_that_moves_is_a_gap_of_the_class_that_goes_on(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["known:3"]
    stream = Stream(world, TEXT, {"max_tokens": 8})
    await stream.until(3)
    await worker.kill()
    await asyncio.sleep(0.4)
    other = await world.add_worker("w2", variant="gpu", start=False)
    other.script = ["404"]  # it goes on from prompt and output
    other.step = 0.02
    await world.publish(other)
    await stream.end()
    assert world.request_lines()[-1]["continuations"] == 1
    read = await scrape(world)
    labels = {"pool": POOL, "accelerator_class": "gpu"}
    gaps = read("itl_seconds_count", **labels)
    assert gaps >= 1
    assert read("itl_seconds_bucket", le="0.3", **labels) < gaps
    before = read("itl_seconds_count", pool=POOL, accelerator_class="maia") or 0
    assert before <= 2
    assert read("queue_wait_seconds_sum", pool=POOL, request_class="standard") == 0
    assert read("worker_requests_total", **ON_W1, result="error") == 1
    on_w2 = {"pool": POOL, "accelerator_class": "gpu", "worker": "w2"}
    assert read("worker_requests_total", **on_w2, result="met") == 1


async def test_what_each_worker_did_is_told_until_it_is_gone(world):
    await usable(world, "w1")
    await world.stream(max_tokens=6)
    await world.ask(max_tokens=4)
    read = await scrape(world)
    assert read("worker_requests_total", **ON_W1, result="met") == 2
    assert read("worker_tokens_total", **ON_W1, kind="output") == 10
    assert read("worker_ttft_seconds_count", **ON_W1) == 1
    assert read("worker_tpot_seconds_count", **ON_W1) == 1
    assert read.workers == {"w1"}
    worker = world.workers["w1"]
    worker.step = 0.1
    running = asyncio.create_task(world.stream(max_tokens=5))
    await until(lambda: len(worker.got) == 3)
    await world.kube.delete(PODS, await world.publish(worker))
    await until(lambda: not world.gateway.fleet.workers)
    assert (await scrape(world)).workers == set()
    await running
    assert world.request_lines()[-1]["outcome"] == "ok"
    assert (await scrape(world)).workers == set()


async def test_what_ends_after_its_pool_is_gone_leaves_nothing_behind(world):
    (worker,) = await usable(world, "w1")
    worker.step = 0.1
    running = asyncio.create_task(world.stream(max_tokens=5))
    await until(lambda: worker.got)
    assert (await scrape(world)).pools == {POOL}
    await world.kube.delete(POOLS, objects.pool("chat"))
    await until(lambda: not world.gateway.fleet.pools)
    await running
    assert world.request_lines()[-1]["outcome"] == "ok"
    assert (await scrape(world)).pools == set()
