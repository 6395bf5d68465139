"""Classes and deadlines of requests, what is told to workers of them, and why a request went where
it went: on a gateway process's own ports.
"""

# ruff: noqa: TID252 - the fakes live with the unit tests; tests are no installed package

import asyncio
import json

import pytest
from click.testing import CliRunner

from sluice.cli.main import sluice
from sluice.observe.signals import GatewayReport

from ..unit.gateway.gatewayworld import (
    GatewayWorld,
    expected_text,
    join_text,
    parse_events,
    settings,
)
from ..unit.gateway.polling import until
from ..unit.gateway.simworld import ENGINES, list_arguments


async def add_known(world, name="w1", variant="maia"):
    """Add a worker that says what engine it has, as the operator's do."""
    worker = await world.add_worker(name, variant=variant, start=False)
    await world.publish(worker, args=list_arguments(ENGINES[variant]))
    await until(lambda: worker.uid in world.gateway.fleet.workers)
    return worker


async def ask_as(world, headers, **document):
    async with world.post(headers=headers, **document) as response:
        return response.status, response.headers, await response.json()


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"X-Sluice-Class": "urgent"}, "use one of interactive, standard, batch"),
        ({"X-Sluice-Deadline": "soon"}, "give milliseconds from 1 to 3600000"),
        ({"X-Sluice-Deadline": "0"}, "X-Sluice-Deadline is '0'"),
        ({"X-Sluice-Deadline": "9" * 400}, "give milliseconds from 1 to 3600000"),
    ],
)
async def test_nonsense_in_a_header_is_told(world, headers, sentence):
    await add_known(world)
    status, _, body = await ask_as(world, headers)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert sentence in body["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "own", "sent"),
    [
        ({"X-Sluice-Class": "interactive"}, None, -10),
        ({"X-Sluice-Class": "Batch"}, None, 10),
        ({"X-Sluice-Deadline": "100"}, None, -10),
        ({"X-Sluice-Deadline": "60000"}, None, 10),
        ({}, None, None),
        ({}, 5, 5),
        ({}, -5, 0),
        ({"X-Sluice-Class": "batch"}, 3, 10),
    ],
)
async def test_workers_are_told_the_priority_of_the_class_and_no_better_one(
    world, headers, own, sent
):
    worker = await add_known(world)
    document = {} if own is None else {"priority": own}
    assert (await ask_as(world, headers, **document))[0] == 200
    assert worker.got[-1].get("priority") == sent


async def test_a_pool_s_rule_is_for_requests_that_say_nothing(world):
    await world.add_pool(annotations={"sluice.dev/request-class": "batch"})
    worker = await add_known(world)
    pool = world.gateway.fleet.pools["default/chat"]
    await until(lambda: pool.spec.request_class == "batch")
    await ask_as(world, {})
    await ask_as(world, {"X-Sluice-Class": "standard"})
    assert [got.get("priority") for got in worker.got] == [10, None]


async def test_a_foreign_backend_gets_the_body_as_the_client_wrote_it(world):
    worker = await world.add_worker("w1")
    await world.until_usable("w1")
    assert (await ask_as(world, {"X-Sluice-Class": "interactive"}))[0] == 200
    assert "priority" not in worker.got[-1]


async def test_what_cannot_meet_its_deadline_is_told_at_once_and_when_to_come_back(world):
    worker = await add_known(world)
    worker.step = 0.1
    running = asyncio.create_task(world.stream(max_tokens=20))
    await until(lambda: worker.got)
    status, headers, body = await ask_as(world, {"X-Sluice-Deadline": "20"})
    assert (status, body["error"]["code"]) == (429, "would_be_late")
    assert body["error"]["type"] == "rate_limit_error"
    assert int(headers["Retry-After"]) >= 1
    assert not running.done()
    assert len(worker.got) == 1
    await running
    pool = (await world.signals())["pools"]["default/chat"]
    assert (pool["shed"], pool["rejected"], pool["failed"]) == (1, 1, 0)
    counts = {"ended": 1, "finished": 0, "met": 0, "shed": 1}
    assert pool["classes"]["interactive"].items() >= counts.items()
    assert not any(pool["classes"]["interactive"]["queueWait"])
    assert pool["classes"]["standard"]["finished"] == 1


async def test_the_operator_reads_signals_as_before(world):
    await add_known(world)
    await world.ask()
    report = GatewayReport.model_validate(await world.signals())
    assert [pool.finished for pool in report.pools.values()] == [1]


HEARTENED = settings(relaying={"hearten_seconds": 0.05, "wait_for_worker": 0.9})


async def test_a_stream_that_waits_for_a_first_worker_is_kept_alive():
    async with GatewayWorld(HEARTENED) as world:
        await world.add_pool()
        await world.start_gateway()
        async with world.post(stream=True) as response:
            assert response.status == 200
            assert await response.content.readline() == b": waiting for a worker\n"
            await add_known(world)
            rest = (await response.read()).decode()
        events = [part.strip() for part in rest.split("\n\n") if "data: " in part]
        assert join_text(parse_events("\n\n".join(events).encode())) == expected_text()


async def test_who_was_kept_alive_in_vain_gets_the_error_as_an_event():
    async with GatewayWorld(HEARTENED) as world:
        await world.add_pool()
        await world.start_gateway()
        async with world.post(stream=True) as response:
            last = (await response.read()).decode().strip().split("\n\n")[-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert (response.status, error["code"]) == (200, "no_worker")
        assert (await world.ask())[0] == 503
        assert [line["status"] for line in world.request_lines()] == [503, 503]


async def explain(world, request_id, *more):
    arguments = ["route", "explain", request_id, "--url", world.admin, *more]
    return await asyncio.to_thread(CliRunner().invoke, sluice, arguments)


async def test_it_is_told_why_a_request_went_where_it_went(world):
    await add_known(world, "w1")
    await add_known(world, "w2", "gpu")
    async with world.post(stream=True, headers={"x-request-id": "abc"}) as response:
        served_by = response.headers["x-sluice-worker"]
        await response.read()
    result = await explain(world, "abc", "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    (attempt,) = told["attempts"]
    assert (told["gateway"], told["outcome"], attempt["pod"]) == ("gateway-1", "ok", served_by)
    assert {look["pod"] for look in attempt["candidates"]} == {"w1", "w2"}
    assert attempt["predicted"]["ttft"] > 0
    assert attempt["real"]["ttft"] > 0
    text = (await explain(world, "abc")).stdout
    assert f"attempt 1: {served_by}" in text
    assert "no shares decided; 2 workers" in text
    assert "compared: w2 (gpu), 0 in flight" in text
    assert "hello" not in text + result.stdout


async def test_what_no_gateway_remembers_is_said_so(world):
    result = await explain(world, "never/seen")
    assert result.exit_code != 0
    assert "remembers the request 'never/seen'" in str(result.exception)
