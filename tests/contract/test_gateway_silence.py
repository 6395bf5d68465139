"""What a user notices of workers that hang while their health endpoint says that all is well."""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio

import pytest

from ..unit.gateway.gatewayworld import GatewayWorld, expected_text, join_text, settings, usable
from ..unit.gateway.polling import until

IMPATIENT = {
    "tokens": 2.0,  # 0.4 s at the pool's objective
    "next_least": 0.4,
    "first_least": 0.4,
    "margin": 1.0,
    "hold_first": 60.0,
}


@pytest.fixture
async def world():
    told = settings(patience=IMPATIENT, relaying={"inflight_most": 16})
    async with GatewayWorld(told) as world:
        await world.add_pool()
        await world.start_gateway()
        yield world


async def told(world, worker):
    signals = await world.signals()
    return signals["pools"]["default/chat"]["workers"][worker.uid]


async def test_a_hung_worker_s_requests_end_or_move_and_it_gets_no_more(world):
    hung, other = await usable(world, "w1", "w2")
    hung.step = other.step = 0.02
    streams = [asyncio.create_task(world.stream(max_tokens=60)) for _ in range(4)]
    await until(lambda: len(hung.got) == 2 == len(other.got))
    await asyncio.sleep(0.3)
    hung.mute = True
    fresh = [asyncio.create_task(world.stream(max_tokens=3)) for _ in range(4)]
    ended = await asyncio.gather(*streams)
    broken = [events[-1]["error"] for events in ended if events[-1] != "[DONE]"]
    assert len(broken) == 2
    assert "nothing came of the worker for" in broken[0]["message"]
    whole = await asyncio.gather(*fresh)
    assert {join_text(events) for events in whole} == {expected_text(tokens=3)}
    seen = len(hung.got)
    for _ in range(10):
        assert (await world.ask())[1]["x-sluice-worker"] == other.name
    assert len(hung.got) == seen
    document = await told(world, hung)
    assert document["suspect"]
    assert document["missedProbes"] == 0
    assert document["timeouts"] == document["consecutiveFailures"] == seen
    assert (await told(world, other))["timeouts"] == 0
    async with world.http.get(f"{world.admin}/metrics") as response:
        metrics = await response.text()
    labels = 'accelerator_class="maia",phase="{}",pool="default/chat"'
    assert f"worker_timeouts_total{{{labels.format('next')}}} 2.0" in metrics
    assert f"worker_timeouts_total{{{labels.format('first')}}} {seen - 2}.0" in metrics


async def test_moving_off_a_hung_worker_costs_no_budget(world):
    hung, other = await usable(world, "w1", "w2")
    hung.mute = True
    asked = [asyncio.create_task(world.stream()) for _ in range(30)]
    await until(lambda: len(hung.got) > 12)
    assert {join_text(events) for events in await asyncio.gather(*asked)} == {expected_text()}
    assert len(other.got) == 30


async def test_it_comes_back_by_one_request_when_it_serves_again():
    patience = {**IMPATIENT, "hold_first": 0.5, "hold_most": 0.5}
    async with GatewayWorld(settings(patience=patience)) as world:
        await world.add_pool()
        await world.start_gateway()
        hung, _ = await usable(world, "w1", "w2")
        hung.mute = True
        await asyncio.gather(*(world.stream() for _ in range(4)))
        first, hung.most = len(hung.got), 0
        trials = []
        while len(hung.got) == first:
            trials = await asyncio.gather(*(world.stream() for _ in range(4)))
        assert hung.most == 1  # of four at once, one was the trial, and was made up for
        assert {join_text(events) for events in trials} == {expected_text()}
        hung.mute = False
        async with asyncio.timeout(20):
            while (await told(world, hung))["suspect"]:
                await world.stream()
        assert (await told(world, hung))["consecutiveFailures"] == 0
        await until(lambda: any(line["event"] == "worker serves again" for line in world.lines))


async def test_a_lone_hung_worker_is_tried_early():
    patience = {**IMPATIENT, "hold_first": 5.0}
    async with GatewayWorld(settings(patience=patience)) as world:
        await world.add_pool()
        await world.start_gateway()
        (worker,) = await usable(world, "w1")
        worker.mute = True
        asked = asyncio.create_task(world.stream())
        await until(lambda: any(line["event"] == "worker silent" for line in world.lines))
        worker.mute = False
        assert join_text(await asked) == expected_text()
        assert world.request_lines()[-1]["waited"] < 4


async def test_a_worker_that_only_has_too_much_to_do_is_not_blamed(world):
    (worker,) = await usable(world, "w1")
    worker.step = 0.04
    worker.slots = asyncio.Semaphore(2)
    asked = [world.stream(max_tokens=12) for _ in range(12)]
    answers = await asyncio.gather(*asked)
    assert {join_text(events) for events in answers} == {expected_text(tokens=12)}
    assert max(line["ttft"] for line in world.request_lines()) > 1.0
    document = await told(world, worker)
    assert (document["timeouts"], document["errors"], document["suspect"]) == (0, 0, False)
    assert not any(line["event"] == "worker silent" for line in world.lines)
    pace = world.gateway.fleet.workers[worker.uid].pace
    assert (pace.first.count, pace.token.count > 50) == (12, True)


async def test_a_worker_that_breaks_every_connection_is_asked_ever_more_rarely(world):
    broken, other = await usable(world, "w1", "w2")
    broken.script = ["reset"] * 1000

    async def count_in_a_while():
        before = len(broken.got)
        deadline = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < deadline:
            assert (await world.ask())[0] == 200
        return len(broken.got) - before

    first = await count_in_a_while()
    assert 0 < await count_in_a_while() < first
    assert (await told(world, broken))["consecutiveFailures"] == len(broken.got)
    assert len(other.got) > len(broken.got)


async def test_refusals_are_no_evidence(world):
    (worker,) = await usable(world, "w1")
    worker.script = ["429", "503"]
    assert (await world.ask())[0] == 200
    document = await told(world, worker)
    assert (document["errors"], document["timeouts"], document["consecutiveFailures"]) == (0, 0, 0)


async def test_a_long_prompt_after_short_ones_makes_no_worker_look_hung():
    patience = {**IMPATIENT, "margin": 3.0}
    async with GatewayWorld(settings(patience=patience)) as world:
        await world.add_pool()
        await world.start_gateway()
        [worker] = await usable(world, "w1")
        worker.prefill = 0.005
        for number in range(6):
            await world.stream(prompt=f"short {number}", max_tokens=2)
        events = await world.stream(prompt="long" * 75, max_tokens=2)
        assert events[-1] == "[DONE]"
        assert len(worker.got) == 7
        assert (await told(world, worker))["timeouts"] == 0


async def test_refusing_wrong_requests_is_no_sign_that_a_worker_serves(world):
    (hung,) = await usable(world, "w1")
    hung.mute = True
    stream = asyncio.create_task(world.ask(stream=True))
    await until(lambda: hung.got)
    statuses = []
    async with asyncio.timeout(10):
        while not (await told(world, hung))["suspect"]:
            hung.script = ["400"]
            statuses.append((await world.ask())[0])
            await asyncio.sleep(0.05)
    stream.cancel()
    # Suspected between a look and a request, it gets none more, and nobody else is there; suspected
    # while one is on its way, it is given up under that one.
    assert 400 in statuses
    assert set(statuses[:-1]) <= {400}
    assert statuses[-1] in (400, 503, 504)
